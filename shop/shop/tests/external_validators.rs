//! Validators that know nothing of the shop but its documents: OpenAPI's and AsyncAPI's own validators, schemathesis
//! against the running shop, generated Pydantic models and the CloudEvents SDK on every message of a real run.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;
mod python;
mod saga;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use process::Shop;
use python::{python, workspace};
use serde_json::{Value, json};
use tidings::Message;

const SERVICES: [&str; 3] = ["order", "payment", "inventory"];

/// Examples that schemathesis tries of each operation, in each of its phases.
const EXAMPLES: &str = "25";

/// A story with each event in it.
const STORY: &str = "
    POST /orders o-1 2×tea 1×coffee
    POST /orders o-2 1×tea card=declined
    POST /orders o-3 1×saffron
    POST /orders o-4 1×tea card=capture_fails
    foreign o-5 1×tea
    stop inventory
    POST /orders o-6 2×tea
    stop payment
    start inventory
    cancel o-6
    start payment";

fn requirements() -> std::path::PathBuf {
    workspace("shop/shop/tests/external_validators/requirements.txt")
}

#[track_caller]
fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn openapis_own_validator_takes_every_document() {
    let Some(mut python) = python(&requirements()) else { return };
    python.args(["-m", "openapi_spec_validator"]);
    python.args(SERVICES.map(|service| workspace(&format!("shop/{service}/openapi.json"))));
    let said = said(&python.output().unwrap());
    assert_eq!(said.matches(": OK").count(), SERVICES.len(), "{said}");
}

#[test]
fn the_running_shop_does_what_its_openapi_says_whatever_it_is_sent() {
    let Some(mut python) = python(&requirements()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    python.args(["-c", "from schemathesis.cli import schemathesis; schemathesis()", "--config-file"]);
    python.arg(workspace("shop/shop/tests/external_validators/schemathesis.toml"));
    python.args(["run", "--checks", "all", "--no-color", "--seed", "1"]);
    python.args(["--max-examples", EXAMPLES, "--generation-database", "none"]);
    // It goes on for as long as one listens.
    python.args(["--exclude-path", "/orders/{id}/events"]);
    // What is valid by itself may still not go with what there is: an unknown product, a key used before.
    python.args(["--exclude-checks", "positive_data_acceptance"]);
    python.arg(format!("http://{}/openapi.json", shop.address)).current_dir(directory.path());
    let said = said(&python.output().unwrap());
    // Its warnings are about what it could not reach, such as an order to cancel.
    assert!(said.contains("Tested: 46") && !said.contains("❌") && !said.contains(" failed"), "{said}");
}

#[test]
fn asyncapis_own_parser_takes_every_document() {
    let Some(home) = node_modules() else { return };
    let mut node = Command::new("node");
    node.current_dir(&home).arg("asyncapi.mjs").stdin(Stdio::null());
    node.args(
        SERVICES.into_iter().chain(["shop"]).map(|who| workspace(&format!("shop/{who}/asyncapi.json"))),
    );
    let said = said(&node.output().unwrap());
    let found: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 4);
    for document in &found {
        assert_eq!(document["wrong"], json!([]), "{document}");
    }
    let shop = &found[3];
    assert_eq!(shop["operations"].as_array().unwrap().len(), 11, "{shop}");
    let messages: BTreeSet<&str> =
        shop["messages"].as_array().unwrap().iter().map(|message| message.as_str().unwrap()).collect();
    assert_eq!(messages.len(), 15, "every event, and a dead letter: {messages:?}");
}

/// A directory with the parser in it, made once; `None`, and a line that says so, where there is no Node.js.
fn node_modules() -> Option<std::path::PathBuf> {
    let is_there =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !is_there("node") || !is_there("npm") {
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no Node.js with npm (Debian: nodejs, npm)");
        return None;
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("asyncapi");
    fs::create_dir_all(&home).unwrap();
    for file in ["package.json", "asyncapi.mjs"] {
        fs::copy(workspace("shop/shop/tests/external_validators").join(file), home.join(file)).unwrap();
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&home).stdin(Stdio::null());
    said(&npm.output().unwrap());
    Some(home)
}

#[tokio::test]
async fn generated_models_read_every_message_and_what_they_make_is_an_order() {
    let Some(mut python) = python(&requirements()) else { return };
    let mut world = saga::played(STORY).await;
    let mut lines = String::new();
    for topic in ["orders", "payments", "inventory"] {
        for record in world.records(topic).await {
            // A plain message of a stranger is no CloudEvent.
            if record.message.header("ce_type").is_some() {
                lines.push_str(&line(&record.message));
            }
        }
    }
    python
        .arg(workspace("shop/shop/tests/external_validators/models.py"))
        .arg(workspace("shop/contracts/schemas"));
    let mut judge =
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    judge.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let said = said(&judge.wait_with_output().unwrap());
    let mut answers = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let seen = answers.next().unwrap();
    assert_eq!(seen["seen"].as_array().unwrap().len(), 14, "each event of the shop was read: {seen}");

    let made: Vec<Value> = answers.collect();
    assert_eq!(made.len(), 3);
    for message in &made {
        world.send("orders", read(message)).await;
    }
    world.settle().await;
    for message in &made {
        let id = message["key"].as_str().unwrap();
        let order = world.get("order", &format!("/orders/{id}")).await;
        assert_eq!(order["status"], "completed", "{message} became {order}");
    }
}

fn line(message: &Message) -> String {
    let headers: serde_json::Map<String, Value> = message
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into()))
        .collect();
    let value = String::from_utf8_lossy(&message.value);
    format!("{}\n", json!({"key": message.key_text(), "headers": headers, "value": value}))
}

fn read(line: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let headers = line["headers"].as_object().unwrap().iter();
    Message {
        key: Some(text(&line["key"]).into()),
        headers: headers.map(|(name, value)| (name, text(value))).collect(),
        value: text(&line["value"]).into(),
        ..Message::default()
    }
}
