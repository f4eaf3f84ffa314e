//! `tidings dlq`: dead letters, and events that wait for another try.

mod chosen;
mod filter;
mod replay;

pub(crate) use filter::time;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings_client::{Error, Format, Target, output, percent_encoded};

use crate::change::Change;
use crate::draw;
use crate::input;
use crate::list::{Limit, List, Order, PAGE};
use crate::services::{Services, read};
use chosen::Summary;
use filter::{Filter, Stage};

const PATH: &str = "/admin/dead-letters";
const TIMES: &[&str] = &["first_failed_at", "last_failed_at", "due_at", "timestamp"];

/// Find dead letters, bring them back, discard or edit them
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List dead letters, oldest first
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        stage: Stage,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one with its headers and its payload
    Show {
        /// `payment:17`
        id: String,
    },
    /// Count them by the kind of failure, largest first
    Summary {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        stage: Stage,
    },
    /// Bring them back to the group that failed; safe to interrupt and to run again
    #[command(visible_alias = "redrive")]
    Replay(replay::Args),
    /// Give them up; what waits behind them goes on
    Discard(chosen::Args),
    /// Replace the payload of one; the original is kept
    Edit {
        /// `payment:17`
        id: String,
        /// The new payload, JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        payload: PathBuf,
        #[command(flatten)]
        change: Change,
    },
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    match args.command {
        Command::List { mut filter, stage, limit } => {
            let service = filter.service.take();
            let query = stage.of(filter.query(PATH));
            let order = Order::Oldest("first_failed_at");
            let list = List { query, service, order, limit: limit.limit, page: Some(PAGE) };
            list.read(&mut services).await?.print(format, &services, listing)
        }
        Command::Show { id } => show(&id, &mut services, format).await,
        Command::Summary { filter, stage } => summary(&filter, &stage, &mut services, format).await,
        Command::Replay(args) => replay::run(args, &mut services, format).await,
        Command::Discard(args) => chosen::discard(args, &mut services, format).await,
        Command::Edit { id, payload, change } => {
            edit(&id, &input::json(&payload)?, &change, &mut services, format).await
        }
    }
}

fn listing(rows: &[Value]) -> String {
    draw::table(
        &[
            ("ID", &["id"]),
            ("STATE", &["state"]),
            ("GROUP", &["group"]),
            ("TYPE", &["event_type"]),
            ("KEY", &["key"]),
            ("SEQ", &["seq"]),
            ("CODE", &["code"]),
            ("ATTEMPTS", &["attempts"]),
            ("BEHIND", &["behind"]),
            ("LAST FAILED", &["last_failed_at"]),
            ("MESSAGE", &["message"]),
        ],
        TIMES,
        &draw::without_code(rows),
        "no dead letters",
    )
}

async fn show(id: &str, services: &mut Services, format: Format) -> Result<ExitCode, Error> {
    let path = format!("{PATH}/{}", percent_encoded(id));
    let Some(letter) = services.find(&path).await? else {
        return Err(Error::new(format!("no dead letter {id}; `tidings dlq list` shows those there are")));
    };
    match format {
        Format::Json => output::print(letter)?,
        Format::Text => output::print(details(&path, &letter)?)?,
    };
    Ok(services.code())
}

/// The parts of a dead letter that are shown as they came: a payload is not ours to write anew.
#[derive(Deserialize)]
struct Payloads {
    payload: Option<Box<RawValue>>,
    original_payload: Option<Box<RawValue>>,
}

fn details(path: &str, letter: &[u8]) -> Result<String, Error> {
    let value: Value = read(path, letter)?;
    let payloads: Payloads = read(path, letter)?;
    let mut text = draw::fields(
        &value,
        &[
            "id",
            "state",
            "service",
            "group",
            "code",
            "message",
            "fingerprint",
            "event_type",
            "event_id",
            "key",
            "stream",
            "seq",
            "topic",
            "partition",
            "offset",
            "timestamp",
            "attempts",
            "redrives",
            "first_failed_at",
            "last_failed_at",
            "due_at",
            "blocks",
            "behind",
        ],
        TIMES,
    );
    if let Some(headers) = value.get("headers").filter(|headers| headers != &&json!({})) {
        text += &format!("\nheaders\n{}", output::tree(headers, 2));
    }
    for (name, payload) in [("payload", payloads.payload), ("original payload", payloads.original_payload)] {
        if let Some(payload) = payload {
            text += &format!("\n{name}\n  {}\n", output::printable(payload.get()));
        }
    }
    for name in ["payload_base64", "original_payload_base64"] {
        if let Some(payload) = value.get(name) {
            text += &format!("\n{}\n  {}\n", name.replace('_', " "), output::cell(payload));
        }
    }
    Ok(text)
}

async fn summary(
    filter: &Filter,
    stage: &Stage,
    services: &mut Services,
    format: Format,
) -> Result<ExitCode, Error> {
    let named = services.by_name().await?;
    let mut all = Summary::default();
    for mut service in named.chosen(filter.service.as_deref())? {
        let query = stage.of(filter.of(&service.name).query(&format!("{PATH}/summary")));
        match service.get(query.path()).await.and_then(Summary::read) {
            Ok(one) => all.add(one),
            Err(error) => services.tell(&error),
        }
    }
    output::print(match format {
        Format::Json => all.json().to_string(),
        Format::Text => all.draw("no dead letters"),
    })?;
    Ok(services.code())
}

async fn edit(
    id: &str,
    payload: &RawValue,
    change: &Change,
    services: &mut Services,
    format: Format,
) -> Result<ExitCode, Error> {
    let (mut service, _) = services.by_name().await?.owners(&[id.to_owned()])?.remove(0);
    let path = format!("{PATH}/{}/edit", percent_encoded(id));
    // The payload goes as it is in the file: digits of numbers mean something.
    let mut body = change.body(json!({})).to_string();
    body.insert_str(1, &format!("\"payload\":{payload},"));
    let letter = service.send(&path, Some(body)).await?.success()?;
    match format {
        Format::Json => output::print(letter)?,
        Format::Text => {
            let shown = output::printable(id);
            output::print(format!(
                "replaced the payload of {shown}; bring it back with `tidings dlq replay {shown} --reason TEXT`"
            ))?
        }
    };
    Ok(services.code())
}
