//! `tidings status`: whether all is well, first; then what every service has before it.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Map, Value, json};
use tidings_client::output::{self, grouped, printable};
use tidings_client::{Client, Endpoint, Error, Format, Target, client};
use tokio::time::timeout;

use crate::services::{STATUS_WAIT_MAX, read};

/// Show whether all is well, and every service's backlog and lag
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show everything that services say of themselves
    #[arg(long)]
    full: bool,
}

/// Asks every address. The exit code is 1 when one is away or something is wrong, so that a script can wait for it.
pub(crate) async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let ask = |endpoint: &Endpoint| tokio::spawn(timeout(STATUS_WAIT_MAX, ask(endpoint.clone())));
    let asked: Vec<_> = target.endpoints().iter().map(ask).collect();
    let mut all = Map::new();
    let mut wrong = Vec::new();
    for (Endpoint { url, .. }, answer) in target.endpoints().iter().zip(asked) {
        let late =
            || Error::no_answer(format!("no answer from {url} within {} s", STATUS_WAIT_MAX.as_secs()));
        let answer = answer.await.expect("no question panics, and nothing cancels one");
        match answer.unwrap_or_else(|_| Err(late())) {
            Err(error) if target.endpoints().len() == 1 => return Err(error),
            Err(error) => {
                let error = error.at(url).to_string();
                wrong.push(error.clone());
                all.insert(url.clone(), json!({"error": error}));
            }
            Ok(Process { services, not_ready }) => {
                wrong.extend(not_ready.map(|why| format!("{url} is not ready: {why}")));
                for (name, status) in services {
                    wrong.extend(troubles(&name, &status));
                    // An instance more counts for itself.
                    let name = if all.contains_key(&name) { format!("{name} at {url}") } else { name };
                    all.insert(name, status);
                }
            }
        }
    }
    output::print(match format {
        Format::Json => Value::Object(all).to_string(),
        Format::Text => text(&all, &wrong, args.full),
    })?;
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The services of one process, and why it is not ready, if so.
struct Process {
    services: Map<String, Value>,
    not_ready: Option<String>,
}

async fn ask(endpoint: Endpoint) -> Result<Process, Error> {
    let mut client = Client::to(endpoint);
    let services = read("/statusz", &client.get("/statusz").await?)?;
    let ready = client.send(client::request(Method::GET, "/readyz")?).await?;
    let health: Value = serde_json::from_slice(ready.body()).unwrap_or_default();
    let why = ["detail", "status"].iter().find_map(|field| health[field].as_str());
    let not_ready = why.filter(|_| !ready.status().is_success()).map(str::to_owned);
    Ok(Process { services, not_ready })
}

/// The parts of a service's status that somebody has to look at, each with the command that shows more.
fn troubles(name: &str, status: &Value) -> Vec<String> {
    let mut troubles = Vec::new();
    for field in ["refusal", "error"] {
        troubles.extend(status[field].as_str().map(|why| format!("{name}: {why}")));
    }
    for wait in status["waiting"].as_array().into_iter().flatten() {
        let [of, error, seconds] = ["loop", "error", "seconds"].map(|field| output::cell(&wait[field]));
        troubles.push(format!("{name}: {of} waits for {seconds} s now: {error}"));
    }
    for part in status["paused"].as_array().into_iter().flatten() {
        let [scope, held, actor, reason] =
            ["scope", "name", "actor", "reason"].map(|field| output::cell(&part[field]));
        let part = format!("{scope} {held}");
        troubles.push(format!(
            "{name}: {} is paused by {actor}: {reason}; see `tidings pauses`",
            part.trim_end()
        ));
    }
    for (pointer, said, command) in [
        ("/outbox/blocked", "events that the broker refuses", "outbox list"),
        ("/parked/dead", "dead letters", "dlq summary"),
        ("/effects/failing", "effects that fail", "effects list"),
        ("/effects/conflict", "effects that their provider contradicts", "effects list --state conflict"),
    ] {
        match status.pointer(pointer).and_then(Value::as_u64) {
            None | Some(0) => {}
            Some(count) => {
                let count = grouped(count);
                troubles.push(format!("{name}: {count} {said}; see `tidings {command} --service {name}`"));
            }
        }
    }
    troubles
}

fn text(all: &Map<String, Value>, wrong: &[String], is_full: bool) -> String {
    let mut text = match wrong {
        [] => "all is well\n".to_owned(),
        wrong => {
            let lines: String = wrong.iter().map(|line| format!("  {}\n", printable(line))).collect();
            format!("something is wrong\n{lines}")
        }
    };
    let known: Vec<Value> =
        all.iter().filter(|(_, status)| status["consumer"].is_object()).map(row).collect();
    if !known.is_empty() {
        text += "\n";
        text += &output::table(
            &[
                ("SERVICE", &["service"]),
                ("LAG", &["/consumer/lag"]),
                ("UNSENT", &["/outbox/pending"]),
                ("REFUSED", &["/outbox/blocked"]),
                ("WAITING", &["/parked/waiting"]),
                ("DEAD", &["/parked/dead"]),
                ("EFFECTS", &["/effects/open"]),
                ("FAILING", &["/effects/failing"]),
            ],
            &known,
        );
    }
    if is_full {
        text += "\n";
        text += &output::tree(&Value::Object(all.clone()), 0);
    }
    text
}

/// The numbers of a service, under the pointers to them.
fn row((name, status): (&String, &Value)) -> Value {
    let pointers = [
        "/consumer/lag",
        "/outbox/pending",
        "/outbox/blocked",
        "/parked/waiting",
        "/parked/dead",
        "/effects/open",
        "/effects/failing",
    ];
    let mut row = Map::from_iter([("service".to_owned(), json!(name))]);
    for pointer in pointers {
        if let Some(value) = status.pointer(pointer) {
            row.insert(pointer.to_owned(), value.clone());
        }
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_waits_for_nobody_has_no_troubles() {
        let well = json!({"refusal": null, "waiting": [], "outbox": {"blocked": 0}, "parked": {"dead": 0, "waiting": 3},
            "effects": {"failing": 0}});
        assert_eq!(troubles("order", &well), [""; 0]);
        let ill = json!({"refusal": "its table is gone", "waiting": [{"loop": "send", "error": "away", "seconds": 7}],
            "paused": [{"scope": "key", "name": "k", "actor": "ada", "reason": "a dispute"}],
            "outbox": {"blocked": 1}, "parked": {"dead": 1300}, "effects": {"failing": 2, "conflict": 1}});
        assert_eq!(
            troubles("order", &ill),
            [
                "order: its table is gone",
                "order: send waits for 7 s now: away",
                "order: key k is paused by ada: a dispute; see `tidings pauses`",
                "order: 1 events that the broker refuses; see `tidings outbox list --service order`",
                "order: 1,300 dead letters; see `tidings dlq summary --service order`",
                "order: 2 effects that fail; see `tidings effects list --service order`",
                "order: 1 effects that their provider contradicts; see `tidings effects list --state conflict --service order`",
            ]
        );
    }
}
