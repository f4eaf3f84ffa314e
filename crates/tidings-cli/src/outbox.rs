//! `tidings outbox`: events that the broker refuses.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings_client::output::grouped;
use tidings_client::{Error, Format, Target, output, percent_encoded};

use crate::change::Change;
use crate::draw;
use crate::list::{Limit, List, Order, PAGE, Query};
use crate::services::{Service, Services, read};

const PATH: &str = "/admin/outbox";
const TIMES: &[&str] = &["recorded_at"];

/// Find events that the broker refuses, send them again or give them up
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List refused events, oldest first
    List {
        /// Only of this service
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only for this topic
        #[arg(long)]
        topic: Option<String>,
        /// Only with this key
        #[arg(long, allow_hyphen_values = true)]
        key: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one with its headers and its payload
    Show {
        /// `order:42`
        id: String,
    },
    /// Send them again now
    Retry {
        /// Ids as `outbox list` shows them, such as order:42
        #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All that are refused
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Give them up; a tidings.discarded.v1 takes the number of each, so that no reader waits for it
    Discard {
        /// Ids as `outbox list` shows them, such as order:42
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    match args.command {
        Command::List { service, topic, key, limit } => {
            let query = Query::new(PATH).with("topic", topic.as_deref()).with("key", key.as_deref());
            let order = Order::Oldest("recorded_at");
            let list = List { query, service, order, limit: limit.limit, page: Some(PAGE) };
            list.read(&mut services).await?.print(format, &services, listing)
        }
        Command::Show { id } => show(&id, &mut services, format).await,
        Command::Retry { ids, all: false, change } => {
            let work = services.by_name().await?.owners(&ids)?;
            let work = work.into_iter().map(|(service, ids)| (service, json!({"ids": ids}))).collect();
            let count = post(work, "retry", &change, &mut services).await;
            told(
                json!({"retried": count}),
                format!("sends {} events again", grouped(count)),
                &services,
                format,
            )
        }
        Command::Retry { all: true, change, .. } => {
            let everywhere = services.by_name().await?.covering()?;
            let work = everywhere.into_iter().map(|service| (service, json!({"all": true}))).collect();
            let count = post(work, "retry", &change, &mut services).await;
            told(
                json!({"retried": count}),
                format!("sends {} events again", grouped(count)),
                &services,
                format,
            )
        }
        Command::Discard { ids, change } => {
            let work = services.by_name().await?.owners(&ids)?;
            let work = work.into_iter().map(|(service, ids)| (service, json!({"ids": ids}))).collect();
            let count = post(work, "discard", &change, &mut services).await;
            told(
                json!({"discarded": count}),
                format!("discarded {} events", grouped(count)),
                &services,
                format,
            )
        }
    }
}

fn listing(rows: &[Value]) -> String {
    draw::table(
        &[
            ("ID", &["id"]),
            ("TOPIC", &["topic"]),
            ("TYPE", &["event_type"]),
            ("KEY", &["key"]),
            ("SEQ", &["seq"]),
            ("FOR GOOD", &["for_good"]),
            ("BEHIND", &["behind"]),
            ("RECORDED", &["recorded_at"]),
            ("ERROR", &["error"]),
        ],
        TIMES,
        rows,
        "no refused events",
    )
}

async fn show(id: &str, services: &mut Services, format: Format) -> Result<ExitCode, Error> {
    let path = format!("{PATH}/{}", percent_encoded(id));
    let Some(event) = services.find(&path).await? else {
        return Err(Error::new(format!(
            "no refused event {id}; `tidings outbox list` shows those there are"
        )));
    };
    let text = match format {
        Format::Json => event,
        Format::Text => details(&path, &event)?,
    };
    output::print(text)?;
    Ok(services.code())
}

/// The part of an event that is shown as it came.
#[derive(Deserialize)]
struct Sent {
    payload: Option<Box<RawValue>>,
}

fn details(path: &str, event: &[u8]) -> Result<Bytes, Error> {
    let value: Value = read(path, event)?;
    let sent: Sent = read(path, event)?;
    let names = [
        "id",
        "service",
        "topic",
        "event_type",
        "event_id",
        "key",
        "stream",
        "seq",
        "error",
        "for_good",
        "recorded_at",
        "behind",
    ];
    let mut text = draw::fields(&value, &names, TIMES);
    if let Some(headers) = value.get("headers") {
        text += &format!("\nheaders\n{}", output::tree(headers, 2));
    }
    if let Some(payload) = sent.payload {
        text += &format!("\npayload\n  {}\n", output::printable(payload.get()));
    }
    Ok(text.into())
}

/// The number of events that all services together did it to.
async fn post(work: Vec<(Service, Value)>, verb: &str, change: &Change, services: &mut Services) -> u64 {
    let mut count = 0;
    for (mut service, body) in work {
        match service.post(&format!("{PATH}/{verb}"), &change.body(body)).await {
            Ok(answer) => {
                count += answer["retried"].as_u64().or_else(|| answer["discarded"].as_u64()).unwrap_or(0);
            }
            Err(error) => services.tell(&error),
        }
    }
    count
}

fn told(json: Value, text: String, services: &Services, format: Format) -> Result<ExitCode, Error> {
    output::print(match format {
        Format::Json => json.to_string(),
        Format::Text => text,
    })?;
    Ok(services.code())
}
