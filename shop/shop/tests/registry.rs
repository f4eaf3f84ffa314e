//! A schema registry beside the services: what is published is registered and framed, who reads needs none of it,
//! and Confluent's own client reads and writes the same messages.

#![cfg(all(feature = "kafka", feature = "registry"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;
mod programs;
mod python;
mod schema_registry;

use std::io::Write as _;
use std::process::{Command, Stdio};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use expect_test::{Expect, expect};
use process::eventually;
use programs::{Backends, Program, run, said};
use python::{python, workspace};
use schema_registry::Registry;
use serde_json::{Value, json};
use tidings::broker::{Outgoing, Record};
use tidings::{Broker, Headers, Message};
use tidings_testkit::servers::{FreshDatabase, FreshTopics};
use tidings_testkit::wire;

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":2}]}"#;

fn backends() -> Backends {
    Backends { database: FreshDatabase::new(), topics: FreshTopics::new() }
}

/// Everything on a topic, once there are so many messages.
async fn records(broker: &Broker, topic: &str, count: usize) -> Vec<Record> {
    eventually(async || {
        let mut found = Vec::new();
        for partition in 0..6 {
            found.extend(broker.read(topic, partition, 0, 1000).await.map_err(|e| e.to_string())?);
        }
        found.sort_by_key(|record| record.timestamp_us);
        if found.len() >= count { Ok(found) } else { Err(format!("{} of {count} messages", found.len())) }
    })
    .await
}

/// The id and the JSON in a frame.
#[track_caller]
fn unframed(value: &[u8]) -> (usize, Value) {
    let (frame, json) = value.split_at(5);
    assert_eq!(frame[0], 0);
    let id = u32::from_be_bytes(frame[1..].try_into().unwrap());
    (id as usize, serde_json::from_slice(json).unwrap())
}

async fn send(broker: &Broker, message: Message) {
    let sent = broker.send(vec![Outgoing::new("orders", message)]).await;
    sent.into_iter().for_each(Result::unwrap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_framed_and_who_reads_needs_no_registry() {
    let (registry, backends) = (Registry::start().await, backends());
    let start =
        |name, more: &[&str]| Program::start(name, backends.command(name).arg("--apply-topics").args(more));
    let url = registry.url();
    let with_registry = ["--schema-registry", &*url];
    let order = start("order", &with_registry);
    let [payment, inventory] = ["payment", "inventory"].map(|name| start(name, &[]));

    // Registered: topic and type, and the schemas as the service tells them.
    let schemas: Value = serde_json::from_str(&said(backends.command("order").arg("schemas"))).unwrap();
    let registered = registry.book().versions.clone();
    let types = ["order.created.v1", "order.confirmed.v1", "order.cancelled.v1", "order.completed.v1"];
    assert_eq!(registered.len(), types.len(), "{registered:?}");
    for event_type in types {
        let subject = format!("{}-{event_type}", backends.wire_name("orders"));
        let (_, id) = registered.iter().find(|(known, _)| *known == subject).unwrap();
        assert_eq!(registry.schema(*id), schemas[event_type]["schema"]);
    }

    let mut client = order.client();
    let id = client.place(TEA).await;
    assert_eq!(client.ended(&id).await["status"], "completed");
    let broker = Broker::open(&backends.topics.url()).unwrap();
    for record in records(&broker, "orders", 3).await {
        let event_type = record.message.header("ce_type").unwrap();
        let (id, json) = unframed(&record.message.value);
        assert_eq!(registry.schema(id)["title"], event_type);
        assert!(json["order_id"].is_string(), "{json}");
    }
    for record in records(&broker, "payments", 2).await {
        assert_eq!(record.message.value[0], b'{', "the payment service has no registry");
    }

    // What a stranger frames is read too, in each form, whatever the id; a dead letter stays as it came.
    let framed = |value: &str| [b"\0\0\0\xff\xff".as_slice(), value.as_bytes()].concat();
    let payload = |id: &str| json!({"order_id": id, "items": [{"product_id": "tea", "quantity": 1}], "total": {"amount": 1299, "currency": "EUR"}});
    let event = |id: &str| {
        wire::Binary { source: "/strangers".into(), ..wire::Binary::foreign(id, 1) }
            .of_type("order.created.v1")
    };
    send(&broker, event("o-1").with_value(framed(&payload("o-1").to_string())).message()).await;
    let structured = json!({"specversion": "1.0", "id": "e-2", "type": "order.created.v1", "source": "/strangers", "data": payload("o-2")});
    let mut message = wire::structured(Some("o-2"), &structured);
    message.value = framed(&structured.to_string()).into();
    send(&broker, message).await;
    let plain = wire::plain(Some("o-3"), "e-3", "order_created", &payload("o-3"));
    send(&broker, Message { value: framed(std::str::from_utf8(&plain.value).unwrap()).into(), ..plain })
        .await;
    for id in ["o-1", "o-2", "o-3"] {
        eventually(async || match client.get(&format!("/orders/{id}")).await.status {
            StatusCode::OK => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
        assert_eq!(client.ended(id).await["status"], "completed", "{id}");
    }
    let broken = framed("{\"order_id\": 4}");
    send(&broker, event("o-4").with_value(broken.clone()).message()).await;
    for topic in ["orders_dlq", "payments_dlq"] {
        assert_eq!(*records(&broker, topic, 1).await[0].message.value, *broken, "{topic}");
    }

    // Shown without the frame, and said in the document.
    let shown = client.json(&format!("/admin/topics/orders/messages?from=beginning&key={id}&limit=1")).await;
    let shown = &shown["messages"][0];
    assert_eq!((&shown["value"]["order_id"], &shown["encoding"]), (&json!(id), &json!("json")));
    assert!(registry.schema(shown["schema_id"].as_u64().unwrap() as usize)["title"] == "order.created.v1");
    let binding = |document: &Value| {
        document["components"]["messages"]["order.created.v1"]["bindings"]["kafka"].clone()
    };
    let document = client.json("/asyncapi.json").await;
    assert_eq!(binding(&document)["schemaIdPayloadEncoding"], "confluent");
    let printed = said(backends.command("order").args(with_registry).arg("asyncapi"));
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), document);
    assert!(binding(&payment.client().json("/asyncapi.json").await)["schemaIdLocation"].is_null());

    // A registry that is away does not matter once a service runs; started anew, it has the same ids.
    registry.book().broken = Some(StatusCode::BAD_GATEWAY);
    let second = client.place(TEA).await;
    assert_eq!(client.ended(&second).await["status"], "completed");
    registry.book().broken = None;
    order.terminate();
    order.ended();
    let order = start("order", &with_registry);
    assert_eq!(registry.book().versions, registered);
    for program in [order, payment, inventory] {
        program.terminate();
        program.ended();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_does_not_take_it_is_told_at_the_start() {
    let (registry, backends) = (Registry::start().await, backends());
    said(backends.command("order").args(["topics", "apply"]));
    let prefix = backends.prefix();
    let redacted = |text: &[u8]| {
        String::from_utf8_lossy(text)
            .replace(&registry.address, "REGISTRY")
            .replace(&prefix, "")
            .replace(&backends.topics.url(), "KAFKA")
    };
    let refused = |url: &str, args: &[&str], expected: Expect| {
        let output = run(backends
            .command("order")
            .args(args)
            .env("TIDINGS_SCHEMA_REGISTRY", url)
            .env("TIDINGS_LOG", "off"));
        assert_eq!(output.status.code(), Some(1), "{}", redacted(&output.stdout));
        expected.assert_eq(&redacted(&output.stderr));
    };
    let checked = |url: &str, code: i32, expected: Expect| {
        let output = run(backends.command("order").arg("check").args(["--schema-registry", url]));
        assert_eq!(output.status.code(), Some(code), "{}", redacted(&output.stderr));
        expected.assert_eq(redacted(&output.stdout).lines().last().unwrap());
    };
    let url = registry.url();
    refused(
        "http://127.0.0.1:1",
        &[],
        expect![[r#"
        cannot ask the schema registry at http://127.0.0.1:1 about orders-order.created.v1: client error (Connect): tcp connect error: Connection refused (os error 111); start it, or leave --schema-registry out
    "#]],
    );
    checked(
        "http://127.0.0.1:1",
        5,
        expect![
            "schema registry: cannot ask the schema registry at http://127.0.0.1:1 about orders-order.created.v1: client error (Connect): tcp connect error: Connection refused (os error 111); start it, or leave --schema-registry out"
        ],
    );
    refused(
        &url,
        &["--broker", "sqlite:/nowhere"],
        expect![[r#"
        --schema-registry is for Kafka, whose topics others read; leave it out, or use --broker kafka://HOST:PORT
    "#]],
    );
    refused(
        "registry:8081",
        &[],
        expect![[r#"
        "registry:8081" is no schema registry; use --schema-registry http://[USER:PASSWORD@]HOST:PORT
    "#]],
    );
    checked(&url, 0, expect!["schema registry: ok"]);

    registry.book().broken = Some(StatusCode::NOT_FOUND);
    refused(
        &url,
        &[],
        expect![[r#"
        the schema registry at http://REGISTRY does not take orders-order.created.v1: 404 Not Found; see to it there, or leave --schema-registry out
    "#]],
    );
    registry.book().broken = Some(StatusCode::OK);
    refused(
        &url,
        &[],
        expect![[r#"
        http://REGISTRY does not answer about orders-order.created.v1 as a schema registry does: expected value at line 1 column 1; check --schema-registry
    "#]],
    );
    registry.book().broken = None;

    registry.book().authorization = Some("Basic dGVhOnBvdC9v");
    refused(
        &url,
        &[],
        expect![[r#"
        the schema registry at http://REGISTRY does not let us see to orders-order.created.v1: 401 Unauthorized; give it a user that may, with TIDINGS_SCHEMA_REGISTRY=https://USER:PASSWORD@HOST:PORT, or a file of that which TIDINGS_SCHEMA_REGISTRY_FILE names
    "#]],
    );
    checked(
        &url,
        5,
        expect![
            "schema registry: the schema registry at http://REGISTRY does not let us see to orders-order.created.v1: 401 Unauthorized; give it a user that may, with TIDINGS_SCHEMA_REGISTRY=https://USER:PASSWORD@HOST:PORT, or a file of that which TIDINGS_SCHEMA_REGISTRY_FILE names"
        ],
    );
    let known = format!("http://tea:pot%2Fo@{}", registry.address);
    checked(&known, 0, expect!["schema registry: ok"]);
    // As a secret in a file.
    let file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file.as_file(), "{known}").unwrap();
    let order =
        Program::start("order", backends.command("order").env("TIDINGS_SCHEMA_REGISTRY_FILE", file.path()));
    order.terminate();
    order.ended();
    assert_eq!(registry.book().versions.len(), 4);

    // Another schema was registered since under that name.
    {
        let mut book = registry.book();
        book.authorization = None;
        book.incompatible = true;
        book.versions.iter_mut().for_each(|(_, id)| *id += 100);
    }
    refused(
        &url,
        &[],
        expect![[r#"
        the schema registry at http://REGISTRY says that the schema of orders-order.created.v1 is incompatible with an earlier one (PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL at #/properties/tip); state a new version of the event beside it, or set another compatibility for the subject there
    "#]],
    );
    checked(
        &url,
        5,
        expect![
            "schema registry: the schema registry at http://REGISTRY says that the schema of orders-order.created.v1 is incompatible with an earlier one (`tip` is gone); state a new version of the event beside it, or set another compatibility for the subject there"
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confluents_own_client_reads_what_we_write_and_writes_what_we_read() {
    let requirements = workspace("shop/shop/tests/external_validators/registry-requirements.txt");
    let Some(mut python) = python(&requirements) else { return };
    let (registry, backends) = (Registry::start().await, backends());
    let url = registry.url();
    let [order, payment, inventory] = ["order", "payment", "inventory"].map(|name| {
        Program::start(name, backends.command(name).args(["--apply-topics", "--schema-registry", &url]))
    });
    let ours = registry.book().versions.clone();
    let mut client = order.client();
    for method in ["pm_card_visa", "pm_card_visa_chargeDeclined"] {
        let body = json!({"items": [{"product_id": "tea", "quantity": 2}], "payment_method": method});
        let id = client.place(&body.to_string()).await;
        client.ended(&id).await;
    }
    let broker = Broker::open(&backends.topics.url()).unwrap();
    let (mut lines, mut count) = (String::new(), 0);
    for (topic, least) in [("orders", 5), ("payments", 3), ("inventory", 4)] {
        for record in records(&broker, topic, least).await {
            let value = BASE64_STANDARD.encode(&record.message.value);
            let event_type = record.message.header("ce_type").unwrap();
            lines += &format!(
                "{}\n",
                json!({"topic": backends.wire_name(topic), "type": event_type, "value": value})
            );
            count += 1;
        }
    }
    python
        .arg(workspace("shop/shop/tests/external_validators/registry.py"))
        .args([&url, &backends.wire_name("orders")]);
    let answers = fed(python, &lines);
    let mut answers = answers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(answers.next().unwrap(), json!({"read": count}));

    let made: Vec<Value> = answers.collect();
    assert_eq!(made.len(), 2);
    for message in &made {
        let text = |name: &str| message[name].as_str().unwrap().to_owned();
        let mut headers = Headers::default();
        for (name, value) in message["headers"].as_object().unwrap() {
            headers.push(name, value.as_str().unwrap().as_bytes());
        }
        let value = BASE64_STANDARD.decode(text("value")).unwrap();
        // Under the name that we registered it by, it is the same schema to them.
        let (id, _) = unframed(&value);
        assert!(
            ours.contains(&(format!("{}-order.created.v1", backends.wire_name("orders")), id)),
            "{id}: {ours:?}"
        );
        send(
            &broker,
            Message { key: Some(text("key").into()), headers, value: value.into(), ..Message::default() },
        )
        .await;
    }
    for message in &made {
        let path = format!("/orders/{}", message["key"].as_str().unwrap());
        eventually(async || match client.get(&path).await.status {
            StatusCode::OK => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
        assert_eq!(client.ended(message["key"].as_str().unwrap()).await["status"], "completed", "{message}");
    }
    drop((payment, inventory));
}

/// What a program says that is given this to read, and must succeed.
#[track_caller]
fn fed(mut command: Command, input: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}
