//! The report as one page without scripts, for those who were not there.

use tidings_client::output::grouped;

use super::report::{Percentiles, Report, in_ms};

const BAR_WIDTH_MAX: f64 = 420.0;
const BAR_LEFT: f64 = 50.0;
const ROW_HEIGHT: f64 = 26.0;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1d2430}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem 1.2rem .2rem 0;text-align:left;font-weight:normal}\
td.n{text-align:right;font-variant-numeric:tabular-nums}td.w{color:#667}\
h2{font-size:1rem;margin:2rem 0 .3rem}svg{width:100%;height:auto}svg text{font-size:14px;fill:#1d2430}rect{fill:#3b73b9}";

impl Report {
    /// A self-contained page.
    pub(crate) fn html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>shopctl load</title>\n\
             <style>{STYLE}</style>\n<h1>shopctl load</h1>\n<p>{headline}, started {started}</p>\n\
             <table>\n{rates}{counts}</table>\n\
             <h2>POST until accepted</h2>\n{post}<h2>Accepted until settled</h2>\n{settle}</html>\n",
            headline = escaped(&self.headline()),
            started = self.setup.started_at,
            rates = self.rate_lines(),
            counts = self.counts().map(|(name, count, why)| line(name, &grouped(count), &why)).concat(),
            post = chart(&self.post_ms),
            settle = chart(&self.settle_ms),
        )
    }

    fn rate_lines(&self) -> String {
        let whole = |per_minute: f64| grouped(per_minute.round() as u64);
        line("accepted", &whole(self.accepted_per_minute), "a minute")
            + &line("settled", &whole(self.settled_per_minute), "a minute")
    }
}

fn line(name: &str, number: &str, note: &str) -> String {
    let note = escaped(note);
    format!("<tr><th>{name}<td class=\"n\">{number}<td class=\"w\">{note}\n")
}

/// One bar a percentile, the longest as wide as the chart.
fn chart(latency: &Percentiles) -> String {
    let longest = latency.each().iter().fold(f64::MIN_POSITIVE, |longest, (_, ms)| longest.max(*ms));
    let bars: String = latency
        .each()
        .iter()
        .enumerate()
        .map(|(row, (name, ms))| bar(row, name, *ms, ms / longest * BAR_WIDTH_MAX))
        .collect();
    let height = ROW_HEIGHT * 4.0;
    format!("<svg viewBox=\"0 0 600 {height}\" role=\"img\">\n{bars}</svg>\n")
}

fn bar(row: usize, name: &str, ms: f64, width: f64) -> String {
    let top = row as f64 * ROW_HEIGHT;
    let (baseline, height) = (top + 16.0, ROW_HEIGHT - 6.0);
    let after = BAR_LEFT + width + 8.0;
    format!(
        "<text x=\"0\" y=\"{baseline}\">{name}</text><rect x=\"{BAR_LEFT}\" y=\"{top}\" width=\"{width:.1}\" \
         height=\"{height}\"/><text x=\"{after:.1}\" y=\"{baseline}\">{}</text>\n",
        in_ms(ms)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::load::report::tests::example;
    use expect_test::expect;

    #[test]
    fn the_page_stands_alone() {
        let page = example().html();
        assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
        let body = page.split_once("</style>").unwrap().1;
        expect![[r#"

            <h1>shopctl load</h1>
            <p>1,000 orders over 64 connections to http://127.0.0.1:8080 in 1.2 s (seed 1, pm_card_visa), started 2026-01-01T00:00:00Z</p>
            <table>
            <tr><th>accepted<td class="n">60,000<td class="w">a minute
            <tr><th>settled<td class="n">47,952<td class="w">a minute
            <tr><th>completed<td class="n">989<td class="w">
            <tr><th>cancelled<td class="n">10<td class="w">declined 10
            <tr><th>unsettled<td class="n">0<td class="w">
            <tr><th>missing<td class="n">1<td class="w">
            <tr><th>retries<td class="n">4<td class="w">http_503 1, no_answer 3
            </table>
            <h2>POST until accepted</h2>
            <svg viewBox="0 0 600 104" role="img">
            <text x="0" y="16">p50</text><rect x="50" y="0" width="210.0" height="20"/><text x="268.0" y="16">125 ms</text>
            <text x="0" y="42">p95</text><rect x="50" y="26" width="398.9" height="20"/><text x="456.9" y="42">238 ms</text>
            <text x="0" y="68">p99</text><rect x="50" y="52" width="415.7" height="20"/><text x="473.7" y="68">248 ms</text>
            <text x="0" y="94">max</text><rect x="50" y="78" width="420.0" height="20"/><text x="478.0" y="94">250 ms</text>
            </svg>
            <h2>Accepted until settled</h2>
            <svg viewBox="0 0 600 104" role="img">
            <text x="0" y="16">p50</text><rect x="50" y="0" width="210.0" height="20"/><text x="268.0" y="16">125 ms</text>
            <text x="0" y="42">p95</text><rect x="50" y="26" width="398.9" height="20"/><text x="456.9" y="42">238 ms</text>
            <text x="0" y="68">p99</text><rect x="50" y="52" width="415.7" height="20"/><text x="473.7" y="68">248 ms</text>
            <text x="0" y="94">max</text><rect x="50" y="78" width="420.0" height="20"/><text x="478.0" y="94">250 ms</text>
            </svg>
            </html>
        "#]].assert_eq(body);
    }
}
