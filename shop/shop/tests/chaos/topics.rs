//! Topics that are not what services were written for: nothing is guessed.

use std::time::Instant;

use serde_json::json;
use tidings::broker::Outgoing;
use tidings::{Broker, Headers, Message};
use tidings_servers::Kafka;
use tidings_testkit::servers::execute;

use crate::deployment::{Deployment, Programs, SERVICES};
use crate::load::seed;
use crate::process::{Client, LOOK_EVERY, PATIENCE, eventually};
use crate::programs::{Program, run, said};
use crate::streams;

/// Runs one of Kafka's own tools for the Kafka that tests share.
#[track_caller]
fn kafka(class: &str, arguments: &[&str]) {
    let mut tool = Kafka::tool(class).unwrap();
    said(tool.args(["--bootstrap-server", &tidings_servers::kafka()]).args(arguments));
}

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const SETTINGS: &str = "org.apache.kafka.tools.ConfigCommand";

/// What a program says that must give up at once: one line.
#[track_caller]
fn refusal(deployment: &Deployment, name: &str) -> String {
    let output = run(&mut deployment.command(name));
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().to_owned()
}

/// Waits until a program says that it is not ready; returns why.
pub async fn unready(program: &Program) -> String {
    let mut client = Client::to(&program.address);
    eventually(async || {
        let answer = client.get("/readyz").await;
        if answer.status == 503 {
            Ok(answer.json()["detail"].as_str().unwrap().to_owned())
        } else {
            Err(answer.text())
        }
    })
    .await
}

#[test]
fn a_missing_topic_is_a_refusal_that_says_what_to_do() {
    let deployment = Deployment::new();
    let expected = "there is no topic orders; make it with: topics apply (or start with --apply-topics)";
    assert_eq!(refusal(&deployment, "order"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_stops_its_services_and_nothing_is_guessed() {
    let deployment = Deployment::new();
    let (programs, load) = deployment.open(seed());
    load.more(100).await;
    kafka(TOPICS, &["--delete", "--topic", &deployment.backends.wire_name("payments")]);
    for program in [programs.order(), programs.payment()] {
        let why = unready(program).await;
        assert!(why.contains("payments") || why.contains("topic is gone"), "{why}");
        assert!(why.contains("topics apply"), "{why}");
    }
    // What customers want is written down all the same.
    load.more(50).await;
    assert_eq!(load.busy(), Vec::<String>::new());
    load.end().await;
    let broker = Broker::open(&deployment.backends.topics.url()).unwrap();
    let topics = broker.topics().await.unwrap();
    assert!(topics.iter().all(|topic| topic.name != "payments"), "nobody makes it by accident");
    assert_eq!(Client::to(&programs.inventory().address).get("/readyz").await.status, 200);
    assert!(
        refusal(&deployment, "payment").contains("there is no topic payments; make it with: topics apply")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_partitions_is_refused() {
    let deployment = Deployment::new();
    let (programs, load) = deployment.open(seed());
    load.more(50).await;
    kafka(TOPICS, &["--alter", "--topic", &deployment.backends.wire_name("inventory"), "--partitions", "5"]);
    let expected = "topic inventory had 3 partitions and has 5 now, so keys have moved; go on with a new topic, or take the new number as docs/kafka.md says (\"More partitions\")";
    for program in [programs.order(), programs.inventory()] {
        assert_eq!(unready(program).await, expected);
    }
    load.end().await;
    assert_eq!(refusal(&deployment, "inventory"), expected);
}

/// As docs/kafka.md says it ("More partitions"), with nothing left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_get_more_partitions_as_the_documentation_says() {
    let deployment = Deployment::new();
    let (programs, load) = deployment.open(seed());
    load.more(100).await;
    let mut accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
    for program in &programs.0 {
        program.idle().await;
        program.terminate();
    }
    programs.0.into_iter().for_each(Program::ended);

    let with = |name: &'static str| {
        let mut command = deployment.command(name);
        command.env("TIDINGS_PARTITIONS", "5");
        command
    };
    let more = |topic: &str| {
        kafka(TOPICS, &["--alter", "--topic", &deployment.backends.wire_name(topic), "--partitions", "5"]);
    };
    more("orders");
    let told = with("payment").args(["topics", "apply"]).output().unwrap();
    assert!(!told.status.success(), "one number is for all topics");
    for topic in ["payments", "inventory", "orders_dlq", "payments_dlq", "inventory_dlq"] {
        more(topic);
    }
    for service in SERVICES {
        execute(
            &deployment.backends.database.url(),
            &format!("UPDATE \"{service}\".topic SET partitions = 5"),
        );
        let told = said(with(service).args(["topics", "plan"]));
        assert!(told.contains("topics are as they should be"), "{told}");
    }
    let programs = Programs(SERVICES.map(|name| Program::start(name, &mut with(name))));
    let load = deployment.customers(programs.order(), seed());
    load.more(100).await;
    accepted.extend(load.end().await);
    deployment.adds_up(&programs, &accepted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_for_its_topic_waits_and_the_rest_flows() {
    let deployment = Deployment::new();
    deployment.make_topics();
    let programs = deployment.start_all();
    let limit = |bytes: &str| {
        let topic = deployment.backends.wire_name("orders");
        let setting = format!("max.message.bytes={bytes}");
        kafka(SETTINGS, &["--alter", "--topic", &topic, "--add-config", &setting]);
    };
    limit("5000");
    let load = deployment.customers(programs.order(), seed());
    load.more(50).await;
    let mut client = Client::to(&programs.order().address);
    let lines: Vec<_> = (0..100).map(|_| json!({"product_id": "tea", "quantity": 1})).collect();
    let large = client.place(&json!({"items": lines}).to_string()).await;
    eventually(async || {
        let outbox = client.json("/statusz").await["order"]["outbox"].take();
        if outbox["blocked"] == 1 { Ok(()) } else { Err(format!("nothing is blocked: {outbox}")) }
    })
    .await;
    // Its key waits …
    assert_eq!(client.post(&format!("/orders/{large}/cancel"), "").await.status, 202);
    load.more(200).await;
    let mut accepted = load.end().await;
    // … and every other order ends.
    for id in &accepted {
        client.ended(id).await;
    }
    let outbox = client.json("/statusz").await["order"]["outbox"].take();
    assert_eq!((&outbox["pending"], &outbox["blocked"]), (&json!(2), &json!(1)), "{outbox}");
    assert!(programs.order().has_said("the broker refuses an event; its stream waits"), "an alarm is raised");
    let broker = Broker::open(&deployment.backends.topics.url()).unwrap();
    let sent = streams::read(&broker, "orders").await;
    assert!(
        sent.iter().all(|record| record.message.key_text() != large),
        "the second is not sent before the first"
    );

    // There is room: it passes by itself.
    limit("1048576");
    accepted.push(large);
    deployment.adds_up(&programs, &accepted).await;
}

/// Deleted, made anew and filled past where its reader had come to, while that one stands still: its position
/// names other records now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_anew_is_not_read_at_the_old_place() {
    let deployment = Deployment::new();
    let (programs, load) = deployment.open(seed());
    load.more(50).await;
    load.end().await;
    programs.payment().idle().await;
    let broker = Broker::open(&deployment.backends.topics.url()).unwrap();
    let orders = broker.topics().await.unwrap().into_iter().find(|topic| topic.name == "orders").unwrap();
    programs.payment().pause();
    kafka(TOPICS, &["--delete", "--topic", &deployment.backends.wire_name("orders")]);
    eventually(async || broker.apply_topics(std::slice::from_ref(&orders)).await.map_err(|e| e.to_string()))
        .await;
    let burst = (0..3000)
        .map(|n: u32| Outgoing::new("orders", Message { key: Some(n.to_string().into()), ..plain() }));
    let burst: Vec<Outgoing> = burst.collect();
    eventually(async || {
        let sent = broker.send(burst.clone()).await;
        sent.into_iter().collect::<Result<Vec<()>, _>>().map_err(|e| e.to_string())
    })
    .await;
    programs.payment().resume();
    let why = unready(programs.payment()).await;
    assert!(why.contains("topic orders is not the one that group payments has read"), "{why}");
    assert!(why.contains("--reset-offsets --to-earliest"), "{why}");
}

/// An event of a type that nobody handles.
fn plain() -> Message {
    let event =
        json!({"event_id": "1", "event_type": "x.y.v1", "timestamp": "2026-01-02T03:04:05Z", "payload": {}});
    Message { key: None, headers: Headers::default(), value: event.to_string().into(), ..Message::default() }
}

#[test]
fn a_topic_that_loses_events_is_warned_of() {
    let deployment = Deployment::new();
    deployment.make_topics();
    for setting in ["cleanup.policy=compact", "unclean.leader.election.enable=true"] {
        kafka(
            SETTINGS,
            &["--alter", "--topic", &deployment.backends.wire_name("orders"), "--add-config", setting],
        );
    }
    kafka(
        SETTINGS,
        &[
            "--alter",
            "--topic",
            &deployment.backends.wire_name("payments"),
            "--add-config",
            "retention.ms=5000",
        ],
    );
    let order = deployment.start("order");
    let begun = Instant::now();
    let warnings = loop {
        let warnings = order.lines(|line| line.contains("loses events"));
        if warnings.len() >= 3 || begun.elapsed() > PATIENCE {
            break warnings.join("\n");
        }
        std::thread::sleep(LOOK_EVERY);
    };
    for expected in [
        "topic orders loses events: cleanup.policy is compact",
        "topic orders loses events: unclean.leader.election.enable",
        "topic payments loses events: retention.ms is 5000",
    ] {
        assert!(warnings.contains(expected), "{warnings}");
    }
}
