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
    output::print(match format {
        Format::Json => json!({"key": key, "waits": waits}).to_string(),
        Format::Text => text(key, &waits),
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

fn text(key: &str, waits: &[Value]) -> String {
    if waits.is_empty() {
        return format!("{} waits for nothing", output::printable(key));
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
