//! `tidings events`: the way of one event through all services.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value, json};
use tidings_client::{Error, Format, Target, output};

use crate::draw;
use crate::list::{Order, Query};
use crate::services::{Services, read};

/// Follow one event through all services
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show where an event was published, sent, handled, parked or given up, and when
    Show {
        /// The event's id
        id: String,
    },
}

pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let Command::Show { id } = args.command;
    let mut services = Services::of(target);
    let query = Query::new("/admin/events").with("id", Some(&id));
    let answers = services.found(query.path()).await?;
    let answers = answers.iter().map(|body| read(query.path(), body)).collect::<Result<Vec<Value>, _>>()?;
    let event = merged(&id, &answers);
    if event["steps"].as_array().is_none_or(Vec::is_empty) {
        return Err(Error::new(format!("no service knows an event {id}")));
    }
    output::print(match format {
        Format::Json => event.to_string(),
        Format::Text => text(&event),
    })?;
    Ok(services.code())
}

/// One event of several answers, its steps by their time, each once.
fn merged(id: &str, answers: &[Value]) -> Value {
    let mut event = Map::from_iter([("event_id".to_owned(), json!(id))]);
    let mut steps: Vec<Value> = Vec::new();
    for answer in answers {
        for name in ["event_type", "stream", "seq"] {
            if let Some(value) = answer.get(name).filter(|value| !value.is_null()) {
                event.entry(name).or_insert_with(|| value.clone());
            }
        }
        for step in answer["steps"].as_array().into_iter().flatten() {
            if !steps.contains(step) {
                steps.push(step.clone());
            }
        }
    }
    Order::Oldest("at").sort(&mut steps);
    event.insert("steps".to_owned(), steps.into());
    Value::Object(event)
}

fn text(event: &Value) -> String {
    let fields = draw::fields(event, &["event_id", "event_type", "stream", "seq"], &[]);
    let steps = event["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let columns: [(&str, &[&str]); 4] =
        [("TIME", &["at"]), ("SERVICE", &["service"]), ("STEP", &["step"]), ("DETAIL", &["detail"])];
    format!("{fields}\n{}", draw::table(&columns, &["at"], steps, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_all_services_are_in_the_order_of_time() {
        let sent = json!({"service": "order", "step": "sent", "at": "2026-01-01T00:00:02Z", "detail": ""});
        let published =
            json!({"service": "order", "step": "published", "at": "2026-01-01T00:00:01Z", "detail": ""});
        let waiting = json!({"service": "payment", "step": "not_arrived", "detail": ""});
        let answers = [
            json!({"event_id": "e", "steps": [waiting]}),
            json!({"event_id": "e", "event_type": "tea.made.v1", "seq": 1, "steps": [published, sent]}),
            json!({"event_id": "e", "event_type": "tea.made.v1", "seq": 1, "steps": [published, sent]}),
        ];
        let event = merged("e", &answers);
        assert_eq!(event["steps"], json!([published, sent, waiting]));
        assert_eq!((&event["event_type"], &event["seq"]), (&json!("tea.made.v1"), &json!(1)));
    }
}
