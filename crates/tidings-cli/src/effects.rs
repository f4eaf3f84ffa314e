//! `tidings effects`: calls to the outside world, and the outcomes that nobody knows.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tidings_client::{Error, Format, Target, output};

use crate::change::Change;
use crate::draw;
use crate::list::{Limit, List, Order, PAGE, Query};
use crate::services::{Service, Services, read};

const PATH: &str = "/admin/effects";
/// In the order in which one effect shows them.
const TIMES: &[&str] = &["asked_at", "due_at", "conflict_since", "done_at"];

/// Find calls to the outside world, try them now, or say how one ended
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List effects that are not done, oldest first
    List {
        /// Only of this service
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only of this state; all but done if nothing is said
        #[arg(long)]
        state: Option<EffectState>,
        /// Only of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only with this key
        #[arg(long, allow_hyphen_values = true)]
        key: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one with its request
    Show(Effect),
    /// Make its next try now
    Retry {
        #[command(flatten)]
        which: Effect,
        #[command(flatten)]
        change: Change,
    },
    /// Say how one ended that is unknown or in conflict, as the provider's own books tell
    Resolve {
        #[command(flatten)]
        which: Effect,
        /// It was done, with this outcome
        #[arg(long, value_name = "JSON", required_unless_present = "absent", conflicts_with = "absent", value_parser = outcome)]
        outcome: Option<Value>,
        /// It was never done: it is tried anew
        #[arg(long)]
        absent: bool,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(clap::Args)]
struct Effect {
    /// The effect's key as `effects list` shows it
    #[arg(allow_hyphen_values = true)]
    key: String,
    /// The service, where several have this key
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum EffectState {
    New,
    Calling,
    Unknown,
    Conflict,
    Failing,
    Done,
}

fn outcome(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    match args.command {
        Command::List { service, state, kind, key, limit } => {
            let state = state.as_ref().and_then(EffectState::to_possible_value);
            let query = Query::new(PATH)
                .with("state", state.as_ref().map(|state| state.get_name()))
                .with("kind", kind.as_deref())
                .with("key", key.as_deref());
            let order = Order::Oldest("asked_at");
            let list = List { query, service, order, limit: limit.limit, page: Some(PAGE) };
            list.read(&mut services).await?.print(format, &services, listing)
        }
        Command::Show(which) => {
            let (_, effect) = find(&which, &mut services).await?;
            output::print(match format {
                Format::Json => effect,
                Format::Text => details(&effect)?.into(),
            })?;
            Ok(services.code())
        }
        Command::Retry { which, change } => {
            let said = "its next try is now";
            post("retry", &which, json!({}), &change, said, &mut services, format).await
        }
        Command::Resolve { which, outcome, change, .. } => {
            let (body, said) = match outcome {
                Some(outcome) => (json!({"outcome": outcome}), "it is done, with this outcome"),
                None => (json!({"absent": true}), "it was never done, and is tried anew"),
            };
            post("resolve", &which, body, &change, said, &mut services, format).await
        }
    }
}

fn listing(rows: &[Value]) -> String {
    draw::table(
        &[
            ("SERVICE", &["service"]),
            ("KEY", &["key"]),
            ("KIND", &["kind"]),
            ("PROVIDER", &["provider"]),
            ("STATE", &["state"]),
            ("ATTEMPTS", &["attempts"]),
            ("ASKED", &["asked_at"]),
            ("DUE", &["due_at"]),
            ("DONE", &["done_at"]),
            ("ERROR", &["error"]),
        ],
        TIMES,
        rows,
        "no effects",
    )
}

fn details(effect: &[u8]) -> Result<String, Error> {
    let value: Value = read(PATH, effect)?;
    let names = ["service", "key", "kind", "provider", "state", "attempts", "error"];
    let mut text = draw::fields(&value, &[&names[..], TIMES].concat(), TIMES);
    if let Some(request) = value.get("request") {
        text += &format!("\nrequest\n{}", output::tree(request, 2));
    }
    Ok(text)
}

/// The service that has the effect, and the effect.
async fn find(which: &Effect, services: &mut Services) -> Result<(Service, Bytes), Error> {
    let key = &which.key;
    let named = services.by_name().await?;
    let mut found = Vec::new();
    for mut service in named.chosen(which.service.as_deref())? {
        let query =
            Query::new(&format!("{PATH}/show")).with("service", Some(&service.name)).with("key", Some(key));
        match service.find(query.path()).await {
            Ok(Some(effect)) => found.push((service, effect)),
            Ok(None) => {}
            Err(error) => services.tell(&error),
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(Error::new(format!("no effect {key}; `tidings effects list` shows those not done"))),
        (Some((last, _)), false) => {
            let names: Vec<&str> = found.iter().map(|(service, _)| &*service.name).collect();
            Err(Error::new(format!(
                "{} and {} have an effect {key}; say which with --service",
                names.join(", "),
                last.name
            )))
        }
    }
}

async fn post(
    verb: &str,
    which: &Effect,
    mut body: Value,
    change: &Change,
    said: &str,
    services: &mut Services,
    format: Format,
) -> Result<ExitCode, Error> {
    let (mut service, _) = find(which, services).await?;
    body["service"] = json!(service.name);
    body["key"] = json!(which.key);
    let answer = service.post(&format!("{PATH}/{verb}"), &change.body(body)).await?;
    output::print(match format {
        Format::Json => answer.to_string(),
        Format::Text => format!("{}: {said}", output::printable(&which.key)),
    })?;
    Ok(services.code())
}
