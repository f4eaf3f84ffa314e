//! `tidings pause`, `resume` and `pauses`: what is held back, and by whom.

use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Value, json};
use tidings_client::{Error, Format, Target, output};

use crate::change::Change;
use crate::draw;
use crate::list::whole;
use crate::services::Services;

const PATH: &str = "/admin/pauses";

/// A part of a service to hold back or to let go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A service reads nothing; a topic is not read; events of a type or of a key wait; effects are not performed
    scope: Scope,
    /// The topic, the event type, the key, or the kind of effects (all kinds if it is left out)
    #[arg(
        required_if_eq_any = [("scope", "topic"), ("scope", "type"), ("scope", "key")],
        allow_hyphen_values = true
    )]
    name: Option<String>,
    /// The services, repeated or with commas
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    service: Vec<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    Service,
    Topic,
    Type,
    Key,
    Effects,
}

/// The direction of a change.
#[derive(Clone, Copy)]
pub(crate) enum Verb {
    Pause,
    Resume,
}

/// Pauses or resumes.
pub(crate) async fn run(args: Args, verb: Verb, target: &Target, format: Format) -> Result<ExitCode, Error> {
    if args.scope == Scope::Service && args.name.is_some() {
        crate::misuse("a service has no NAME beside --service");
    }
    let mut services = Services::of(target);
    let named = services.by_name().await?;
    let scope = args.scope.to_possible_value().map(|scope| scope.get_name().to_owned()).unwrap_or_default();
    let path = match verb {
        Verb::Pause => PATH.to_owned(),
        Verb::Resume => format!("{PATH}/resume"),
    };
    // All are known before one is changed.
    let wanted: Vec<_> = args.service.iter().map(|name| named.service(name)).collect::<Result<_, _>>()?;
    let mut done = Vec::new();
    for mut service in wanted {
        let mut body = json!({"service": service.name, "scope": scope});
        if let Some(name) = &args.name {
            body["name"] = json!(name);
        }
        match service.post(&path, &args.change.body(body.clone())).await {
            Ok(_) => done.push(body),
            Err(error) => services.tell(&error),
        }
    }
    output::print(match format {
        Format::Json => Value::Array(done).to_string(),
        Format::Text => done.iter().map(|one| told(verb, one)).collect(),
    })?;
    Ok(services.code())
}

fn told(verb: Verb, one: &Value) -> String {
    let [service, scope, name] = ["service", "scope", "name"].map(|field| output::cell(&one[field]));
    let part = match scope.as_str() {
        "service" => String::new(),
        scope => format!(" {scope} {name}").trim_end().to_owned(),
    };
    match verb {
        Verb::Pause => {
            format!("{service}:{part} pauses within five seconds, until `tidings resume` says so\n")
        }
        Verb::Resume => format!("{service}:{part} goes on within five seconds\n"),
    }
}

/// Lists pauses.
pub(crate) async fn list(target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let rows = whole(PATH, &["service", "scope", "name"], &mut services).await?;
    rows.print(format, &services, |rows| {
        draw::table(
            &[
                ("SERVICE", &["service"]),
                ("SCOPE", &["scope"]),
                ("NAME", &["name"]),
                ("SINCE", &["since"]),
                ("BY", &["actor"]),
                ("REASON", &["reason"]),
            ],
            &["since"],
            rows,
            "nothing is paused",
        )
    })
}
