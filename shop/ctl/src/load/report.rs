//! The result of a load, for people, programs and, in [`super::page`], browsers.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde::Serialize;
use tidings_client::output::{grouped, printable};

use super::post::Placed;
use super::settle::Outcomes;

/// The whole report; its JSON is this struct.
#[derive(Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) setup: Setup,
    pub(crate) accepted: u64,
    pub(crate) settled: u64,
    /// Accepted, and still open when nothing moved any more.
    pub(crate) unsettled: u64,
    /// Accepted, and not to be found afterwards.
    pub(crate) missing: u64,
    pub(crate) accepted_per_minute: f64,
    pub(crate) settled_per_minute: f64,
    /// From the first POST to the last acceptance.
    pub(crate) accept_seconds: f64,
    /// From the first POST, by our clock, to the end of the last order, by the shop's.
    pub(crate) duration_seconds: f64,
    pub(crate) post_ms: Percentiles,
    pub(crate) settle_ms: Percentiles,
    pub(crate) outcomes: Ends,
    pub(crate) retries: u64,
    /// The number of retries, by what had gone wrong.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The load that was asked for.
#[derive(Serialize)]
pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) orders: u64,
    pub(crate) connections: u32,
    pub(crate) rate_per_second: Option<f64>,
    pub(crate) seed: u64,
    pub(crate) payment_method: String,
    pub(crate) started_at: Timestamp,
}

/// The ends of the settled orders.
#[derive(Serialize)]
pub(crate) struct Ends {
    pub(crate) completed: u64,
    /// By reason.
    pub(crate) cancelled: BTreeMap<String, u64>,
}

/// Milliseconds.
#[derive(Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Report {
    /// Draws the sums.
    pub(crate) fn new(setup: Setup, placed: &Placed, outcomes: &Outcomes) -> Report {
        let (accepted, settled) = (placed.accepted, outcomes.settled());
        let accept_seconds = rounded(placed.duration.as_secs_f64());
        let duration_seconds = outcomes
            .last_ended
            .map_or(0.0, |end| rounded(end.duration_since(setup.started_at).as_secs_f64().max(0.0)));
        Report {
            accepted,
            settled,
            unsettled: outcomes.unsettled,
            // Also one of two orders that were answered with the same id.
            missing: accepted - settled - outcomes.unsettled,
            accepted_per_minute: per_minute(accepted, accept_seconds),
            settled_per_minute: per_minute(settled, duration_seconds),
            accept_seconds,
            duration_seconds,
            post_ms: Percentiles::of(&placed.latency_us),
            settle_ms: Percentiles::of(&outcomes.latency_us),
            outcomes: Ends { completed: outcomes.completed, cancelled: outcomes.cancelled.clone() },
            retries: placed.retries.values().sum(),
            errors: placed.retries.clone(),
            setup,
        }
    }

    /// Returns what went wrong, if anything did.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.missing + self.unsettled == 0 {
            return None;
        }
        Some(format!(
            "of {} accepted orders {} are missing and {} have not settled: see `shopctl orders list --status processing` and `tidings status`",
            self.accepted, self.missing, self.unsettled
        ))
    }

    /// For programs: one object on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and finite numbers serialise")
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!("{}\n\n{}\n{}", self.headline(), self.rates(), self.ends())
    }

    fn rates(&self) -> String {
        right_aligned(&[
            ["", "orders", "per minute", "p50", "p95", "p99", "max"].map(str::to_owned),
            row("accepted", self.accepted, self.accepted_per_minute, &self.post_ms),
            row("settled", self.settled, self.settled_per_minute, &self.settle_ms),
        ])
    }

    fn ends(&self) -> String {
        let counts = self.counts();
        let numbers =
            right_aligned(&counts.each_ref().map(|(name, count, _)| [(*name).to_owned(), grouped(*count)]));
        let lines = numbers.lines().zip(&counts);
        lines.map(|(line, (_, _, why))| format!("{line}  {why}").trim_end().to_owned() + "\n").collect()
    }

    /// A sentence that tells what was done.
    pub(crate) fn headline(&self) -> String {
        let Setup { url, orders, connections, rate_per_second, seed, payment_method, .. } = &self.setup;
        let pace = rate_per_second.map(|rate| format!("at {rate}/s ")).unwrap_or_default();
        format!(
            "{} orders {pace}over {connections} connections to {} in {:.1} s (seed {seed}, {})",
            grouped(*orders),
            printable(url),
            self.duration_seconds.max(self.accept_seconds),
            printable(payment_method),
        )
    }

    /// Each count with its details.
    pub(crate) fn counts(&self) -> [(&'static str, u64, String); 5] {
        let cancelled = &self.outcomes.cancelled;
        [
            ("completed", self.outcomes.completed, String::new()),
            ("cancelled", cancelled.values().sum(), listed(cancelled)),
            ("unsettled", self.unsettled, String::new()),
            ("missing", self.missing, String::new()),
            ("retries", self.retries, listed(&self.errors)),
        ]
    }
}

impl Percentiles {
    fn of(latency_us: &Histogram<u64>) -> Percentiles {
        let ms = |us: u64| us as f64 / 1000.0;
        Percentiles {
            p50: ms(latency_us.value_at_quantile(0.50)),
            p95: ms(latency_us.value_at_quantile(0.95)),
            p99: ms(latency_us.value_at_quantile(0.99)),
            max: ms(latency_us.max()),
        }
    }

    /// In the order in which reports show them.
    pub(crate) fn each(&self) -> [(&'static str, f64); 4] {
        [("p50", self.p50), ("p95", self.p95), ("p99", self.p99), ("max", self.max)]
    }
}

/// Milliseconds to three digits: more would be noise.
pub(crate) fn in_ms(ms: f64) -> String {
    match ms {
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 100.0 => format!("{ms:.1} ms"),
        _ => format!("{} ms", grouped(ms.round() as u64)),
    }
}

fn row(name: &str, count: u64, per_minute: f64, latency: &Percentiles) -> [String; 7] {
    let [p50, p95, p99, max] = latency.each().map(|(_, ms)| in_ms(ms));
    [name.to_owned(), grouped(count), grouped(per_minute.round() as u64), p50, p95, p99, max]
}

/// Names to the left, numbers to the right.
fn right_aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let line = |row: &[String; COLUMNS]| {
        let numbers = row.iter().zip(widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
        format!("{:first$}{}\n", row[0], numbers.collect::<String>(), first = widths[0])
    };
    rows.iter().map(line).collect()
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    let parts = counts.iter().map(|(name, count)| format!("{} {}", printable(name), grouped(*count)));
    parts.collect::<Vec<_>>().join(", ")
}

fn per_minute(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count as f64 * 60.0 / seconds) } else { 0.0 }
}

/// To the thousandth.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::post::latencies;
    use expect_test::expect;
    use std::collections::HashSet;
    use std::time::Duration;

    /// A run of 1000 orders: ten were declined and one is lost.
    pub(crate) fn example() -> Report {
        let started_at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut latency_us = latencies();
        (1..=1000).for_each(|ms| latency_us.record(ms * 250).unwrap());
        let placed = Placed {
            accepted: 1000,
            ids: HashSet::new(),
            latency_us: latency_us.clone(),
            duration: Duration::from_millis(1_000),
            retries: [("http_503".to_owned(), 1), ("no_answer".to_owned(), 3)].into(),
        };
        let outcomes = Outcomes {
            completed: 989,
            cancelled: [("declined".to_owned(), 10)].into(),
            unsettled: 0,
            latency_us,
            last_ended: Some(started_at + Duration::from_millis(1_250)),
        };
        let setup = Setup {
            url: "http://127.0.0.1:8080".to_owned(),
            orders: 1000,
            connections: 64,
            rate_per_second: None,
            seed: 1,
            payment_method: "pm_card_visa".to_owned(),
            started_at,
        };
        Report::new(setup, &placed, &outcomes)
    }

    #[test]
    fn people_get_an_aligned_text() {
        expect![[r#"
            1,000 orders over 64 connections to http://127.0.0.1:8080 in 1.2 s (seed 1, pm_card_visa)

                      orders  per minute     p50     p95     p99     max
            accepted   1,000      60,000  125 ms  238 ms  248 ms  250 ms
            settled      999      47,952  125 ms  238 ms  248 ms  250 ms

            completed  989
            cancelled   10  declined 10
            unsettled    0
            missing      1
            retries      4  http_503 1, no_answer 3
        "#]]
        .assert_eq(&example().text());
    }

    #[test]
    fn programs_get_one_object_with_units_in_its_names() {
        expect![[r#"{"url":"http://127.0.0.1:8080","orders":1000,"connections":64,"rate_per_second":null,"seed":1,"payment_method":"pm_card_visa","started_at":"2026-01-01T00:00:00Z","accepted":1000,"settled":999,"unsettled":0,"missing":1,"accepted_per_minute":60000.0,"settled_per_minute":47952.0,"accept_seconds":1.0,"duration_seconds":1.25,"post_ms":{"p50":125.055,"p95":237.567,"p99":247.551,"max":250.111},"settle_ms":{"p50":125.055,"p95":237.567,"p99":247.551,"max":250.111},"outcomes":{"completed":989,"cancelled":{"declined":10}},"retries":4,"errors":{"http_503":1,"no_answer":3}}"#]].assert_eq(&example().json());
    }

    #[test]
    fn a_missing_order_is_a_failure() {
        let failure = example().failure().unwrap();
        assert!(failure.starts_with("of 1000 accepted orders 1 are missing and 0 have not settled"));
    }
}
