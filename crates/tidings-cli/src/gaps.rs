//! `tidings gaps`: events that have not arrived, and what becomes of the wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings_client::output::{self, grouped};
use tidings_client::{Client, Endpoint, Error, Format, Target};

use crate::change::Change;
use crate::draw;
use crate::list::{Limit, List, Order, Query};
use crate::services::{Services, read};

const PATH: &str = "/admin/gaps";
/// Events of one request, in the admin API.
const EVENTS_MAX: usize = 200;
/// Events that go together; one that is larger goes alone, and any event fits into a body of this route.
const FILL_BYTES_MAX: usize = 192 * 1024;
/// Missing events that are fetched at once; what is beyond is fetched when the command is run again.
const FETCH_MAX: u64 = 10_000;
/// Streams with gaps that are looked through.
const GAPS_MAX: usize = 100_000;

/// Find events that have not arrived, fetch them from who published them, or skip them
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List streams that wait for missing events, longest first
    List {
        /// Only of this service
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only with this key
        #[arg(long, allow_hyphen_values = true)]
        key: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Go on without the missing events; they are lost to this service
    Skip(Gap),
    /// Look for the missing events in the event logs of all services, and give the service those that are found
    Fetch(Gap),
}

#[derive(clap::Args)]
struct Gap {
    /// The service that waits
    service: String,
    /// The stream as `gaps list` shows it
    stream: String,
    #[command(flatten)]
    change: Change,
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    match args.command {
        Command::List { service, key, limit } => {
            let query = Query::new(PATH).with("key", key.as_deref());
            let order = Order::Oldest("since");
            let list = List { query, service, order, limit: limit.limit, page: None };
            list.read(&mut services).await?.print(format, &services, listing)
        }
        Command::Skip(gap) => skip(&gap, &mut services, format).await,
        Command::Fetch(gap) => fetch(&gap, &mut services, format).await,
    }
}

fn listing(rows: &[Value]) -> String {
    draw::table(
        &[
            ("SERVICE", &["service"]),
            ("GROUP", &["group"]),
            ("STREAM", &["stream"]),
            ("EXPECTED", &["expected"]),
            ("LAST MISSING", &["last_missing"]),
            ("WAITING", &["waiting"]),
            ("SINCE", &["since"]),
        ],
        &["since"],
        rows,
        "no gaps",
    )
}

async fn skip(gap: &Gap, services: &mut Services, format: Format) -> Result<ExitCode, Error> {
    let mut service = services.by_name().await?.service(&gap.service)?;
    let body = gap.change.body(json!({"service": gap.service, "stream": gap.stream}));
    let answer = service.post(&format!("{PATH}/skip"), &body).await?;
    let stream = output::printable(&gap.stream);
    output::print(match format {
        Format::Json => answer.to_string(),
        Format::Text => {
            let [first, last] = [0, 1].map(|end| output::cell(&answer["skipped"][end]));
            format!("skipped {first} to {last} of {stream}; what waited behind them goes on")
        }
    })?;
    Ok(services.code())
}

/// An event of a log. The rest of it goes on as it came.
struct Logged {
    seq: u64,
    service: String,
    text: Box<RawValue>,
}

async fn fetch(gap: &Gap, services: &mut Services, format: Format) -> Result<ExitCode, Error> {
    let mut reader = services.by_name().await?.service(&gap.service)?;
    let (first, last) = missing(gap, services).await?;
    let found = logged(&gap.stream, first, last, services).await?;
    let mut filled = 0;
    for events in bodies(&found) {
        // The events go as the log has them.
        let mut body = gap.change.body(json!({"service": gap.service, "stream": gap.stream})).to_string();
        body.insert_str(1, &format!("\"events\":[{events}],"));
        let path = format!("{PATH}/fill");
        let answer: Value = read(&path, &reader.send(&path, Some(body)).await?.success()?)?;
        filled += answer["filled"].as_u64().unwrap_or(0);
    }
    let absent: Vec<u64> = (first..=last).filter(|seq| !found.contains_key(seq)).collect();
    let had: BTreeSet<&str> = found.values().map(|event| &*event.service).collect();
    output::print(match format {
        Format::Json => {
            json!({"missing": [first, last], "filled": filled, "from": had, "absent": absent}).to_string()
        }
        Format::Text => told(&gap.stream, (first, last), filled, &had, &absent),
    })?;
    Ok(if absent.is_empty() { services.code() } else { ExitCode::FAILURE })
}

/// Events as they stand in a list, as many together as a request may hold.
fn bodies(events: &BTreeMap<u64, Logged>) -> Vec<String> {
    let mut bodies: Vec<String> = Vec::new();
    let mut count = 0;
    for Logged { text, .. } in events.values() {
        let text = text.get();
        match bodies.last_mut() {
            Some(body) if count < EVENTS_MAX && body.len() + text.len() < FILL_BYTES_MAX => {
                body.push(',');
                body.push_str(text);
                count += 1;
            }
            _ => {
                bodies.push(text.to_owned());
                count = 1;
            }
        }
    }
    bodies
}

/// The numbers that a service waits for.
async fn missing(gap: &Gap, services: &mut Services) -> Result<(u64, u64), Error> {
    let list = List {
        query: Query::new(PATH),
        service: Some(gap.service.clone()),
        order: Order::Oldest("since"),
        limit: GAPS_MAX,
        page: None,
    };
    let rows = list.read(services).await?;
    let row = rows.items.iter().find(|row| row["stream"] == gap.stream && row["service"] == gap.service);
    let numbers = row.and_then(|row| Some((row["expected"].as_u64()?, row["last_missing"].as_u64()?)));
    let Some((first, last)) = numbers.filter(|(first, last)| first <= last) else {
        let Gap { service, stream, .. } = gap;
        return Err(Error::new(format!("{service} waits for nothing of {stream}; see `tidings gaps list`")));
    };
    Ok((first, last.min(first.saturating_add(FETCH_MAX - 1))))
}

/// The events of a stream that any service has in its log, by their numbers.
async fn logged(
    stream: &str,
    first: u64,
    last: u64,
    services: &mut Services,
) -> Result<BTreeMap<u64, Logged>, Error> {
    let stream: Arc<str> = stream.into();
    let answers = services.ask(|endpoint| log_of(endpoint, stream.clone(), first, last)).await?;
    let events = answers.into_iter().flatten().filter(|event| (first..=last).contains(&event.seq));
    Ok(events.map(|event| (event.seq, event)).collect())
}

#[derive(Deserialize)]
struct LogPage {
    items: Vec<Box<RawValue>>,
    /// The number at which it goes on, where the answer has become too long.
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    seq: u64,
    service: String,
}

/// The events that an address has, a stretch at a time.
async fn log_of(endpoint: Endpoint, stream: Arc<str>, first: u64, last: u64) -> Result<Vec<Logged>, Error> {
    let mut client = Client::to(endpoint);
    let mut events = Vec::new();
    for start in (first..=last).step_by(EVENTS_MAX) {
        let end = last.min(start.saturating_add(EVENTS_MAX as u64 - 1)).to_string();
        let mut next = Some(start.to_string());
        while let Some(begin) = next {
            let query = Query::new("/admin/log")
                .with("stream", Some(&stream))
                .with("first", Some(&begin))
                .with("last", Some(&end));
            let page: LogPage = read(query.path(), &client.get(query.path()).await?)?;
            for text in page.items {
                let Head { seq, service } = read(query.path(), text.get().as_bytes())?;
                events.push(Logged { seq, service, text });
            }
            // It only ever goes on.
            next = page.next_cursor.filter(|next| next.parse::<u64>().ok() > begin.parse().ok());
        }
    }
    Ok(events)
}

fn told(
    stream: &str,
    (first, last): (u64, u64),
    filled: u64,
    had: &BTreeSet<&str>,
    absent: &[u64],
) -> String {
    let stream = output::printable(stream);
    let all = grouped(last - first + 1);
    if had.is_empty() {
        return format!(
            "nobody has {first} to {last} of {stream} in its event log: is the service that publishes it among the \
             addresses? If they are lost, `tidings gaps skip` goes on without them"
        );
    }
    let had: Vec<String> = had.iter().map(|name| output::printable(name)).collect();
    let mut text =
        format!("filled {} of {all} missing events of {stream}, from {}", grouped(filled), had.join(", "));
    if let Some(example) = absent.first() {
        text += &format!("; nobody has {} of them, such as {example}", grouped(absent.len() as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn events_go_together_as_far_as_a_body_holds_them() {
        let counts = |events: u64, size: usize| {
            let event = |seq: u64| {
                let text = serde_json::value::to_raw_value(&"x".repeat(size)).unwrap();
                (seq, Logged { seq, service: "order".into(), text })
            };
            let bodies = bodies(&(1..=events).map(event).collect());
            bodies.iter().map(|body| body.matches(',').count() + 1).collect::<Vec<_>>()
        };
        assert_eq!(counts(7, 60 * 1024), [3, 3, 1]);
        assert_eq!(counts(450, 10), [200, 200, 50]);
    }

    #[test]
    fn a_fetch_says_who_had_the_events() {
        let told = |had: &[&str], filled, absent: &[u64]| {
            told("orders/o-1", (2, 4), filled, &had.iter().copied().collect(), absent)
        };
        expect!["filled 3 of 3 missing events of orders/o-1, from order"].assert_eq(&told(
            &["order"],
            3,
            &[],
        ));
        expect!["filled 2 of 3 missing events of orders/o-1, from a, b; nobody has 1 of them, such as 4"]
            .assert_eq(&told(&["b", "a"], 2, &[4]));
        expect!["nobody has 2 to 4 of orders/o-1 in its event log: is the service that publishes it among the addresses? If they are lost, `tidings gaps skip` goes on without them"]
            .assert_eq(&told(&[], 0, &[2, 3, 4]));
    }
}
