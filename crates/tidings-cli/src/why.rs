//! `tidings why`: what a key waits for, since when, and the command that would free it.

use std::process::ExitCode;

use serde_json::{Value, json};
use tidings_client::{Error, Format, Target, output};

use crate::draw;
use crate::list::Query;
use crate::services::Services;

pub(crate) async fn run(key: &str, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let answers = services.get(Query::new("/admin/why").with("key", Some(key)).path()).await?;
    let waits = merged(&answers);
    // A service of an earlier release does not say.
    let is_known = answers.iter().any(|answer| answer["known"].as_bool().unwrap_or(true));
    output::print(match format {
        Format::Json => json!({"key": key, "known": is_known, "waits": waits}).to_string(),
        Format::Text => text(key, is_known, &waits),
    })?;
    Ok(services.code())
}

/// The waits of all answers, each once: instances of a service tell the same.
fn merged(answers: &[Value]) -> Vec<Value> {
    let mut waits = Vec::new();
    for wait in answers.iter().flat_map(|answer| answer["waits"].as_array().into_iter().flatten()) {
        if !waits.contains(wait) {
            waits.push(wait.clone());
        }
    }
    waits
}

fn text(key: &str, is_known: bool, waits: &[Value]) -> String {
    let key = output::printable(key);
    match waits {
        [] if is_known => return format!("{key} waits for nothing"),
        [] => return format!("no service that was asked has published or handled an event of {key}"),
        _ => {}
    }
    let wait = |wait: &Value| {
        let mut text = draw::fields(wait, &["service", "what", "stream", "since", "detail"], &["since"]);
        if let Some(command) = wait["command"].as_str() {
            text += &format!("\n  {}\n", output::printable(command));
        }
        text
    };
    waits.iter().map(wait).collect::<Vec<_>>().join("\n")
}
