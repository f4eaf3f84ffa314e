//! What the images run is what the tests run: `deploy/` is read, checked, and acted out without a container.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;
mod programs;
mod python;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use programs::{Program, run, said};
use python::{python, workspace};
use serde_json::{Map, Value, json};
use tempfile::tempdir;
use tidings_servers::Kafka;
use tidings_testkit::servers::{FreshDatabase, FreshTopics};

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";
/// What the image is called.
const IMAGE: &str = "tidings";

#[test]
fn the_compose_file_is_one() {
    let Some(mut python) = in_python() else { return };
    let file = workspace("deploy/compose.yaml");
    let check = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"];
    said(python.args(check).arg(&file));
    let mut compose = Command::new("docker");
    if compose.args(["compose", "version"]).output().is_ok_and(|output| output.status.success()) {
        said(Command::new("docker").args(["compose", "--file"]).arg(&file).args(["config", "--quiet"]));
    }
}

#[test]
fn what_deployment_names_exists() {
    let Some(deployment) = Deployment::read() else { return };
    let dockerfile = fs::read_to_string(workspace("deploy/Dockerfile")).unwrap();
    let words: Vec<&str> = dockerfile.split_whitespace().collect();

    // Every program that is run is built, from a package that exists, and put into the image.
    let cmd = dockerfile.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let cmd: Vec<String> = serde_json::from_str(cmd).unwrap();
    let installed: BTreeSet<&str> =
        words.iter().filter_map(|word| word.strip_prefix("target/release/")).collect();
    let ours: Vec<(&str, &Value)> = deployment.ours().collect();
    assert_eq!(ours.len(), 5, "three services, their topics, and the provider");
    for program in ours.iter().map(|(_, service)| text(&service["command"][0])).chain([&*cmd[0]]) {
        assert!(installed.contains(program), "{program} is not in the image: {installed:?}");
    }
    let packages: Vec<&str> =
        words.windows(2).filter(|pair| pair[0] == "--package").map(|pair| pair[1]).collect();
    assert!(packages.len() > 3, "{packages:?}");
    let manifests =
        said(Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version", "1"]));
    let manifests: Value = serde_json::from_str(&manifests).unwrap();
    let known = manifests["packages"].as_array().unwrap();
    for package in packages {
        assert!(known.iter().any(|known| known["name"] == package), "there is no package {package}");
    }

    // Compiled by a Rust that is new enough, for the libc that is there.
    let [rust, debian] = ["FROM rust:", "FROM debian:"]
        .map(|base| dockerfile.lines().find_map(|line| line.strip_prefix(base)).unwrap());
    let (version, release) = rust.strip_suffix(" AS build").unwrap().split_once('-').unwrap();
    assert_eq!(debian, format!("{release}-slim"));
    let least = known.iter().find(|package| package["name"] == "order").unwrap()["rust_version"].clone();
    let number = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
    assert!(number(version) >= number(text(&least)), "Rust {version} is older than {least}");

    // What the build needs is not ignored.
    let ignored = fs::read_to_string(workspace(".dockerignore")).unwrap();
    let ignored: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    for needed in ["Cargo.toml", "Cargo.lock", ".cargo", "bench", "crates", "examples", "shop", "xtask"] {
        assert!(workspace(needed).exists() && !ignored.contains(&needed), "{needed} is needed");
    }

    for (name, service) in deployment.services() {
        for needed in service["depends_on"].as_object().into_iter().flat_map(Map::keys) {
            assert_ne!(deployment.service(needed), &Value::Null, "{name} needs {needed}");
        }
        let volumes = service["volumes"].as_array().into_iter().flatten();
        for volume in volumes.map(|volume| text(volume).split(':').next().unwrap()) {
            assert!(deployment.0["volumes"].as_object().unwrap().contains_key(volume), "volume {volume}");
        }
        assert_ne!(service["restart"], Value::Null, "{name} comes back");
    }
    for (name, service) in &ours {
        assert_eq!(service["build"], json!({"context": "..", "dockerfile": "deploy/Dockerfile"}));
        let listen = deployment.variable(name, "TIDINGS_LISTEN");
        let port = listen.strip_prefix("0.0.0.0:").expect("it can be reached from other containers");
        for published in service["ports"].as_array().into_iter().flatten() {
            assert!(text(published).ends_with(&format!(":{port}")), "{name} listens at {port}");
        }
    }
}

#[test]
fn what_its_parts_are_told_of_each_other_is_so() {
    let Some(deployment) = Deployment::read() else { return };
    let variable = |service: &str, name: &str| deployment.variable(service, name);
    let [user, password, database] =
        ["USER", "PASSWORD", "DB"].map(|what| variable("postgres", &format!("POSTGRES_{what}")));
    let kafka = variable("kafka", "KAFKA_ADVERTISED_LISTENERS").split_once("://").unwrap().1.to_owned();
    let port = kafka.strip_prefix("kafka:").expect("it is called like its service");
    assert!(variable("kafka", "KAFKA_LISTENERS").contains(&format!("BROKER://:{port},")));
    assert!(text(&deployment.service("kafka")["healthcheck"]["test"][3]) == kafka);
    for service in ["order", "payment", "inventory"] {
        let store = variable(service, "TIDINGS_STORE");
        assert_eq!(store, format!("postgres://{user}:{password}@postgres:5432/{database}"));
        assert_eq!(variable(service, "TIDINGS_BROKER"), format!("kafka://{kafka}"));
    }
    let (_, psp) = variable("psp-sandbox", "TIDINGS_LISTEN").split_once(':').map(own).unwrap();
    let gateway = &deployment.service("payment")["command"][2];
    assert_eq!(*gateway, format!("stripe:http://psp-sandbox:{psp}"));
    let ready = &deployment.service("postgres")["healthcheck"]["test"];
    let ready: Vec<&str> = ready.as_array().unwrap().iter().map(text).collect();
    assert!(ready.ends_with(&["--username", &user, "--dbname", &database]), "{ready:?}");
}

#[test]
fn every_command_line_in_it_is_understood() {
    let Some(deployment) = Deployment::read() else { return };
    let data = tempdir().unwrap();
    let nowhere = [
        ("postgres:5432", NOWHERE),
        ("kafka:9092", NOWHERE),
        ("psp-sandbox:8090", NOWHERE),
        ("/data", data.path().to_str().unwrap()),
    ];
    // At the same time: each waits for a broker that does not come.
    thread::scope(|scope| {
        for (name, service) in deployment.ours() {
            let command = deployment.command(name, &nowhere);
            scope.spawn(move || assert_understood(text(&service["command"][0]), command));
        }
    });
}

#[tokio::test]
async fn its_services_settle_orders_as_they_stand_there() {
    let Some(deployment) = Deployment::read() else { return };
    let (database, topics, data) = (FreshDatabase::new(), FreshTopics::new(), tempdir().unwrap());
    let (store, broker) = (database.url(), topics.url());
    let stores = deployment.variable("order", "TIDINGS_STORE");
    let mut here =
        vec![(&*stores, &*store), ("kafka://kafka:9092", &*broker), ("/data", data.path().to_str().unwrap())];
    let made = said(&mut deployment.command("topics", &here));
    assert!(made.ends_with("6 topics are as they should be\n"), "{made}");
    let psp = Program::start("psp-sandbox", &mut deployment.command("psp-sandbox", &here));
    here.push(("psp-sandbox:8090", &psp.address));
    let [order, payment, inventory] = ["order", "payment", "inventory"]
        .map(|name| Program::start(name, &mut deployment.command(name, &here)));

    let mut client = order.client();
    for (method, status, reason) in [
        ("pm_card_visa", "completed", Value::Null),
        ("pm_card_visa_chargeDeclined", "cancelled", json!("declined")),
        ("pm_sandbox_reply_lost", "completed", Value::Null),
        ("pm_sandbox_capture_fails", "cancelled", json!("capture_failed")),
    ] {
        let body = json!({"items": [{"product_id": "tea", "quantity": 2}], "payment_method": method});
        let id = client.place(&body.to_string()).await;
        let ended = client.ended(&id).await;
        assert_eq!((&ended["status"], &ended["reason"]), (&json!(status), &reason), "{ended}");
    }
    assert!(fs::read_to_string(data.path().join("book.jsonl")).unwrap().contains("pm_card_visa"));

    // The image's health check asks each of them this.
    let dockerfile = fs::read_to_string(workspace("deploy/Dockerfile")).unwrap();
    let check = dockerfile.lines().find(|line| line.contains("curl --fail")).unwrap();
    let (_, path) =
        check.trim_end_matches('"').rsplit_once("##*:}").expect("it takes the port from the setting");
    for program in [&order, &payment, &inventory, &psp] {
        assert_eq!(program.client().json(path).await["status"], "live");
    }
    for program in [order, payment, inventory, psp] {
        program.terminate();
        program.ended();
    }
    // Compose kills what takes longer.
    assert_eq!(deployment.service("order")["stop_grace_period"], "30s");
    assert!(process::PATIENCE >= Duration::from_secs(30));
}

#[test]
fn kafka_knows_its_settings() {
    let Some(deployment) = Deployment::read() else { return };
    let mut command = kafka_tools("org.apache.kafka.tools.ConfigCommand");
    let described =
        said(command.args(["--describe", "--all", "--entity-type", "brokers", "--entity-name", "1"]));
    let known: BTreeSet<&str> =
        described.lines().filter_map(|line| Some(line.trim_start().split_once('=')?.0)).collect();
    let data = tempdir().unwrap();
    let mut properties = String::new();
    let environment = deployment.service("kafka")["environment"].as_object().unwrap();
    for name in environment.keys().filter(|name| *name != "CLUSTER_ID") {
        // As the image's documentation says it makes properties of variables.
        let property = name.strip_prefix("KAFKA_").unwrap().to_lowercase().replace('_', ".");
        assert!(known.contains(&*property), "Kafka has no setting {property}");
        let value = deployment.variable("kafka", name);
        let value = if property == "log.dirs" { data.path().display().to_string() } else { value };
        properties += &format!("{property}={value}\n");
    }
    let file = data.path().join("server.properties");
    fs::write(&file, properties).unwrap();
    let mut format = Kafka::tool("kafka.tools.StorageTool").unwrap();
    format.args(["format", "--cluster-id", &deployment.variable("kafka", "CLUSTER_ID"), "--config"]);
    said(format.arg(&file));
    let volume = text(&deployment.service("kafka")["volumes"][0]);
    assert_eq!(
        volume.split_once(':').unwrap().1,
        deployment.variable("kafka", "KAFKA_LOG_DIRS"),
        "it is kept"
    );
}

/// It gets as far as the connections.
fn assert_understood(program: &str, mut command: Command) {
    if program == "psp-sandbox" {
        // It has none.
        let psp = Program::start("psp-sandbox", &mut command);
        psp.terminate();
        return psp.ended();
    }
    let is_service = program != "shop";
    let output = run(if is_service { command.arg("check") } else { &mut command });
    let said = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(if is_service { 2 } else { 1 }), "{command:?}: {said}{error}");
    if is_service {
        let store = format!("store of {program}: cannot connect to postgres://tidings@{NOWHERE}/tidings: ");
        assert!(said.starts_with(&store), "{command:?}: {said}");
        assert!(said.contains("\nbroker: cannot list the topics: "), "{command:?}: {said}");
    } else {
        assert!(error.starts_with("cannot list the topics: "), "{command:?}: {error}");
    }
}

/// `deploy/compose.yaml`, anchors resolved.
struct Deployment(Value);

impl Deployment {
    /// `None` where there is no Python to read it with.
    fn read() -> Option<Self> {
        const READ: &str = "import json, sys; from ruamel.yaml import YAML; \
            json.dump(YAML(typ='safe', pure=True).load(open(sys.argv[1])), sys.stdout)";
        let json = said(in_python()?.args(["-c", READ]).arg(workspace("deploy/compose.yaml")));
        Some(Self(serde_json::from_str(&json).unwrap()))
    }

    fn services(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["services"].as_object().unwrap().iter().map(|(name, service)| (&**name, service))
    }

    fn service(&self, name: &str) -> &Value {
        &self.0["services"][name]
    }

    /// Those that run the image of this workspace.
    fn ours(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.services().filter(|(_, service)| service["image"] == IMAGE)
    }

    /// A service's variable, with the default of what the environment could say.
    fn variable(&self, service: &str, name: &str) -> String {
        let value = match &self.service(service)["environment"][name] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => panic!("{name} of {service} is {other}"),
        };
        let Some((before, rest)) = value.split_once("${") else { return value };
        let (named, after) = rest.split_once('}').unwrap();
        format!("{before}{}{after}", named.split_once(":-").expect("it has a default").1)
    }

    /// What a container of the service would run, here: addresses and directories replaced, any free port.
    fn command(&self, service: &str, here: &[(&str, &str)]) -> Command {
        let replaced =
            |text: &str| here.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here));
        let words = self.service(service)["command"].as_array().unwrap();
        let mut command = programs::command(text(&words[0]));
        command.args(words[1..].iter().map(|word| replaced(text(word))));
        for name in self.service(service)["environment"].as_object().unwrap().keys() {
            command.env(name, replaced(&self.variable(service, name)));
        }
        command.env("TIDINGS_LISTEN", "127.0.0.1:0");
        command
    }
}

fn in_python() -> Option<Command> {
    python(&workspace("shop/shop/tests/deploy/requirements.txt"))
}

fn kafka_tools(class: &str) -> Command {
    let mut tool = Kafka::tool(class).unwrap();
    tool.args(["--bootstrap-server", &tidings_servers::kafka()]);
    tool
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("it is no text: {value}"))
}
