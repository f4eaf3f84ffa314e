//! `tidings replay`: a stretch of a topic handled once more, or seen through by the shadows of its handlers.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};
use tidings_client::output::{self, grouped};
use tidings_client::{Error, Format, Target};
use tokio::time::Instant;

use crate::change::{Actor, reason};
use crate::draw;
use crate::services::{Service, Services};

/// Events of one answer.
const PAGE: u32 = 500;
/// Failures of a shadow that are shown to people.
const SHOWN_MAX: usize = 20;

/// Handle a stretch of a topic again, or see what would be done
///
/// The inbox decides: what was handled is a duplicate and stays so. With --shadow every event of the stretch is handled
/// in a transaction that is rolled back, whether it was handled or not, and nothing is changed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The service
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The topic
    #[arg(long)]
    topic: String,
    /// The first record: `beginning`, an offset, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// The record before which it ends; those that are there now, if it is left out
    #[arg(long, value_name = "PLACE")]
    until: Option<String>,
    /// Only events of this type, repeated or with commas
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Only events of this key
    #[arg(long)]
    key: Option<String>,
    /// Undo everything, and report what would be done
    #[arg(long)]
    shadow: bool,
    /// At most this many events a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Reason, recorded in the audit
    #[arg(long, value_name = "TEXT", value_parser = reason, required_unless_present = "shadow")]
    reason: Option<String>,
    #[command(flatten)]
    actor: Actor,
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let mut service = services.by_name().await?.service(&args.service)?;
    let mut report = Report::default();
    replay(&args, &mut service, &mut report).await?;
    output::print(match format {
        Format::Json => report.json(),
        Format::Text => report.told(&args),
    })?;
    Ok(if report.has_failures() { ExitCode::FAILURE } else { services.code() })
}

async fn replay(args: &Args, service: &mut Service, report: &mut Report) -> Result<(), Error> {
    let began = Instant::now();
    let mut cursor: Option<String> = None;
    loop {
        let left = args.limit.map_or(u64::MAX, |limit| limit.saturating_sub(report.matched));
        let limit = u64::from(args.rate.unwrap_or(PAGE).min(PAGE)).min(left);
        let answer = service.post("/admin/replay", &body(args, cursor.as_deref(), limit)).await?;
        report.add(&answer);
        cursor = answer["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || args.limit.is_some_and(|limit| report.matched >= limit) {
            report.next_cursor = cursor;
            return Ok(());
        }
        eprintln!("{}: {} read, {} meant", args.service, grouped(report.read), grouped(report.matched));
        if let Some(rate) = args.rate {
            let due = std::time::Duration::from_secs_f64(report.matched as f64 / f64::from(rate));
            tokio::time::sleep_until(began + due).await;
        }
    }
}

fn body(args: &Args, cursor: Option<&str>, limit: u64) -> Value {
    let mut body =
        json!({"service": args.service, "topic": args.topic, "shadow": args.shadow, "limit": limit});
    match cursor {
        Some(cursor) => body["cursor"] = json!(cursor),
        None => body["from"] = json!(args.from),
    }
    if let (Some(until), None) = (&args.until, cursor) {
        body["until"] = json!(until);
    }
    if !args.types.is_empty() {
        body["types"] = json!(args.types);
    }
    if let Some(key) = &args.key {
        body["key"] = json!(key);
    }
    args.actor.body(body, args.reason.as_deref())
}

/// The results so far.
#[derive(Default)]
struct Report {
    read: u64,
    matched: u64,
    results: BTreeMap<String, u64>,
    events: Vec<Value>,
    next_cursor: Option<String>,
}

impl Report {
    fn add(&mut self, answer: &Value) {
        self.read += answer["read"].as_u64().unwrap_or(0);
        self.matched += answer["matched"].as_u64().unwrap_or(0);
        for (result, count) in answer["results"].as_object().into_iter().flatten() {
            *self.results.entry(result.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        self.events.extend(answer["events"].as_array().into_iter().flatten().cloned());
    }

    fn has_failures(&self) -> bool {
        ["failed", "dead"].iter().any(|result| self.results.contains_key(*result))
    }

    fn json(&self) -> String {
        let Self { read, matched, results, events, next_cursor } = self;
        json!({"read": read, "matched": matched, "results": results, "events": events, "next_cursor": next_cursor})
            .to_string()
    }

    fn told(&self, args: &Args) -> String {
        let results: Vec<String> =
            self.results.iter().map(|(result, count)| format!("{} {result}", grouped(*count))).collect();
        let results = if results.is_empty() { "nothing".to_owned() } else { results.join(", ") };
        let counted =
            format!("{} records read, {} meant: {results}", grouped(self.read), grouped(self.matched));
        if !args.shadow {
            return format!("{counted}\n");
        }
        let counts = |field: &str| {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            for one in self.events.iter().flat_map(|event| event[field].as_array().into_iter().flatten()) {
                *counts.entry(output::cell(&one[0])).or_default() += 1;
            }
            counts
        };
        let mut text = format!("{counted}; nothing was changed\n");
        for (field, words) in [("published", "would publish"), ("effects", "would ask for")] {
            for (name, count) in counts(field) {
                text.push_str(&format!("{words} {} {name}\n", grouped(count)));
            }
        }
        let failed: Vec<Value> =
            self.events.iter().filter(|event| event["error"].is_string()).take(SHOWN_MAX).cloned().collect();
        if !failed.is_empty() {
            let columns: [(&str, &[&str]); 6] = [
                ("RESULT", &["result"]),
                ("CODE", &["code"]),
                ("KEY", &["key"]),
                ("PARTITION", &["partition"]),
                ("OFFSET", &["offset"]),
                ("ERROR", &["error"]),
            ];
            text.push_str(&draw::table(&columns, &[], &failed, ""));
            text.push('\n');
        }
        text
    }
}
