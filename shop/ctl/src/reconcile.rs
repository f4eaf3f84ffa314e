//! `shopctl reconcile`: the payment provider's book beside the shop's ledger.

use std::process::ExitCode;

use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings_client::{Error, Format, Target, output, percent_encoded};

/// The period that is compared, if nothing is said.
const SINCE_DEFAULT: &str = "24h";
/// Exit code where the books differ; 2 is an error.
const DIFFER: u8 = 1;
/// Keys of effects under way that are shown.
const KEYS_MAX: usize = 5;

/// Arguments of `shopctl reconcile`.
#[derive(clap::Args)]
pub struct Args {
    /// Compare payments from this time on: 2026-01-02T03:04:05Z, or how long ago, 24h
    #[arg(long, value_name = "TIME", default_value = SINCE_DEFAULT, value_parser = time)]
    since: Timestamp,
    /// Compare payments before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// A page of the payment service's answer.
#[derive(Deserialize)]
struct Answered {
    since: Timestamp,
    until: Timestamp,
    items: Vec<Value>,
    seen_at_provider: u64,
    seen_here: u64,
    under_way: Vec<String>,
    next_cursor: Option<String>,
}

/// All pages together.
#[derive(Serialize)]
struct Findings {
    since: Timestamp,
    until: Timestamp,
    items: Vec<Value>,
    seen_at_provider: u64,
    seen_here: u64,
    under_way: Vec<String>,
}

/// Compares the books. Exits with 0 if they agree and with 1 if they differ.
///
/// # Errors
/// No answer, or a refusal: a book that cannot be read.
pub async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut payments = target.client("/payments?limit=1").await?;
    let mut period = format!("since={}", encoded(args.since));
    if let Some(until) = args.until {
        period += &format!("&until={}", encoded(until));
    }
    let first = read(&payments.get(&path(&period, None)).await?)?;
    // The first answer says until when: the pages after it are of the same period.
    let period = format!("since={}&until={}", encoded(first.since), encoded(first.until));
    let mut found = Findings::new(&first);
    let mut next = found.add(first);
    while let Some(cursor) = next {
        next = found.add(read(&payments.get(&path(&period, Some(&cursor))).await?)?);
    }
    output::print(match format {
        Format::Json => json!(found).to_string(),
        Format::Text => found.text(),
    })?;
    Ok(if found.items.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFER) })
}

fn path(period: &str, cursor: Option<&str>) -> String {
    let cursor = cursor.map_or_else(String::new, |cursor| format!("&cursor={}", percent_encoded(cursor)));
    format!("/admin/reconciliation?{period}{cursor}")
}

fn encoded(time: Timestamp) -> String {
    percent_encoded(&time.to_string())
}

fn read(body: &Bytes) -> Result<Answered, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::new(format!("cannot read the answer to GET /admin/reconciliation: {error}")))
}

fn time(text: &str) -> Result<Timestamp, String> {
    let moment = moment(text, Timestamp::now());
    moment.ok_or_else(|| "expected a time (2026-01-02T03:04:05Z) or how long ago (24h)".to_owned())
}

/// A time, or how long before `now`.
fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    let ago = || now.checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    text.parse().ok().or_else(ago)
}

impl Findings {
    fn new(first: &Answered) -> Self {
        let (since, until) = (first.since, first.until);
        Self { since, until, items: Vec::new(), seen_at_provider: 0, seen_here: 0, under_way: Vec::new() }
    }

    /// Adds a page; returns the beginning of the next one.
    fn add(&mut self, page: Answered) -> Option<String> {
        self.items.extend(page.items);
        self.under_way.extend(page.under_way);
        self.seen_at_provider += page.seen_at_provider;
        self.seen_here += page.seen_here;
        page.next_cursor
    }

    fn text(&self) -> String {
        let verdict = match self.items.len() {
            0 => "the books agree".to_owned(),
            1 => "1 difference".to_owned(),
            count => format!("{} differences", output::grouped(count as u64)),
        };
        let [there, here] = [self.seen_at_provider, self.seen_here].map(output::grouped);
        let mut text = format!(
            "{verdict}: {there} payments at the provider, {here} here, from {} until {}\n",
            self.since, self.until
        );
        if !self.under_way.is_empty() {
            let shown: Vec<&str> = self.under_way.iter().take(KEYS_MAX).map(String::as_str).collect();
            let more = if self.under_way.len() > KEYS_MAX { ", …" } else { "" };
            text += &format!(
                "{} still under way, no difference yet: {}{more}; see `tidings effects list --service payment`\n",
                output::grouped(self.under_way.len() as u64),
                output::printable(&shown.join(", "))
            );
        }
        if !self.items.is_empty() {
            let rows: Vec<Value> = self.items.iter().map(row).collect();
            text += "\n";
            text += &output::table(
                &[
                    ("ORDER", &["order_id"]),
                    ("PAYMENT", &["provider_ref"]),
                    ("DIFFERENCE", &["difference"]),
                    ("HERE", &["here"]),
                    ("AT THE PROVIDER", &["there"]),
                    ("TO DO", &["todo"]),
                ],
                &rows,
            );
        }
        text
    }
}

/// A line, with each side in one cell.
fn row(line: &Value) -> Value {
    let mut row = line.clone();
    for (side, status) in [("here", "status"), ("there", "standing")] {
        row[side] = match &line[side] {
            Value::Null => json!("nothing"),
            known => json!(cell(known, status)),
        };
    }
    row["difference"] = json!(output::cell(&line["difference"]).replace('_', " "));
    row
}

/// `captured, 12.99 EUR`; and the parts that were collected and given back, where they are parts.
fn cell(side: &Value, status: &str) -> String {
    let mut cell = format!("{}, {}", output::cell(&side[status]), output::cell(&side["amount"]));
    let whole = side["amount"]["amount"].as_i64();
    for (name, words) in [("captured", "collected"), ("refunded", "given back")] {
        let part = side[name].as_i64().filter(|part| *part != 0 && Some(*part) != whole);
        if let Some(part) = part {
            let part = json!({"amount": part, "currency": side["amount"]["currency"]});
            cell += &format!(", {words} {}", output::cell(&part));
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn page(items: Value, next_cursor: Option<&str>) -> Answered {
        let page = json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "items": items,
            "seen_at_provider": 2, "seen_here": 1, "under_way": ["void/o-9"], "next_cursor": next_cursor});
        serde_json::from_value(page).expect("it is one")
    }

    #[test]
    fn pages_are_told_together() {
        let paid = json!({"amount": 2598, "currency": "EUR"});
        let missing = json!({"difference": "missing_at_provider", "order_id": "o-1", "provider_ref": "pi_1",
            "here": {"status": "captured", "amount": paid, "captured": 2598, "refunded": 0}, "todo": "look for pi_1"});
        let part = json!({"difference": "amount_differs", "order_id": "o-2", "provider_ref": "pi_2",
            "here": {"status": "captured", "amount": paid, "captured": 2598, "refunded": 0},
            "there": {"standing": "succeeded, refunded in part", "amount": paid, "captured": 2598, "refunded": 98},
            "todo": "write it off"});
        let first = page(json!([missing]), Some("provider.pi_1"));
        let mut found = Findings::new(&first);
        assert_eq!(found.add(first).as_deref(), Some("provider.pi_1"));
        assert_eq!(found.add(page(json!([part]), None)), None);
        expect![[r#"
            2 differences: 4 payments at the provider, 2 here, from 2026-01-01T00:00:00Z until 2026-01-02T00:00:00Z
            2 still under way, no difference yet: void/o-9, void/o-9; see `tidings effects list --service payment`

            ORDER  PAYMENT  DIFFERENCE           HERE                 AT THE PROVIDER                                              TO DO
            o-1    pi_1     missing at provider  captured, 25.98 EUR  nothing                                                      look for pi_1
            o-2    pi_2     amount differs       captured, 25.98 EUR  succeeded, refunded in part, 25.98 EUR, given back 0.98 EUR  write it off
        "#]]
        .assert_eq(&found.text());
        let agreeing = page(json!([]), None);
        let mut found = Findings::new(&agreeing);
        found.add(Answered { under_way: Vec::new(), ..agreeing });
        expect![[r#"
            the books agree: 2 payments at the provider, 1 here, from 2026-01-01T00:00:00Z until 2026-01-02T00:00:00Z
        "#]]
        .assert_eq(&found.text());
    }

    #[test]
    fn a_time_is_one_or_how_long_ago() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let told = |text| moment(text, now).map(|time| time.to_string());
        assert_eq!(told("2026-01-02T03:04:05+01:00").as_deref(), Some("2026-01-02T02:04:05Z"));
        assert_eq!(told("24h").as_deref(), Some("2026-01-01T03:04:05Z"));
        assert_eq!(told("90m").as_deref(), Some("2026-01-02T01:34:05Z"));
        assert_eq!((told("yesterday"), told("")), (None, None));
    }
}
