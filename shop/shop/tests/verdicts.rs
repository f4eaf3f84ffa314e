//! One verdict on a document, wherever it is asked for: two independent validators by the published schema, the
//! HTTP door and the topic, each with the stores in SQLite and in PostgreSQL.
//!
//! Documents are made from the schemas and broken in one or two places. The seed is printed, and taken from
//! `TIDINGS_SEED` where that is set.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod python;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use contracts::{
    OrderCancelled, OrderConfirmed, OrderCreated, PaymentAuthorized, PaymentCaptureFailed, PaymentDeclined,
    StockRejected, StockReserved,
};
use http_body_util::BodyExt as _;
use python::{python, workspace};
use serde_json::{Map, Value, json};
use shop::ShopSettings;
use tidings::broker::Outgoing;
use tidings::{Broker, Event, Headers, Message, RunningService, Service, reader_schema};
use tidings_schema::{closed, opened, sample};
use tidings_testkit::Scratch;
use tidings_testkit::servers::FreshDatabase;
use tower::ServiceExt as _;

/// Documents of each schema.
const DOCUMENTS: usize = 120;
const DOORS: [&str; 2] = ["POST /orders", "POST /stock/tea/receipts"];

/// A small generator of numbers (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.throw(all.len() as u64) as usize]
    }
}

/// A document as text: numbers keep their spelling.
#[derive(Debug)]
struct Document {
    schema: &'static str,
    text: String,
}

/// What is put in the place of a value.
const STRANGE: [&str; 26] = [
    "null",
    "true",
    "0",
    "-1",
    "1",
    "2.0",
    "1e2",
    "1.5",
    "1000",
    "1001",
    "4294967295",
    "4294967296",
    "4294967296.0",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "\"\"",
    "\"a\\u0000b\"",
    "\"EUR\\n\"",
    "\"eur\"",
    "\"é😀\"",
    "[]",
    "{}",
    "[[\"tea\", 1]]",
    "\"2\"",
];

/// Spells a document out, with something strange at one place of it.
fn spelled(value: &Value, at: &mut Option<u64>, strange: &str) -> String {
    let is_here = matches!(at, Some(0));
    *at = at.and_then(|left| left.checked_sub(1));
    if is_here {
        return strange.to_owned();
    }
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| spelled(item, at, strange)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| format!("{}:{}", json!(name), spelled(value, at, strange));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn places(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(members) => members.values().map(places).sum(),
        _ => 0,
    }
}

/// Takes a member away, adds one nobody knows, turns an object into the list of its values, makes text long.
fn reshaped(value: &mut Value, dice: &mut Dice) {
    let mut found = Vec::new();
    collect(value, &mut String::new(), &mut found);
    let pointer = dice.one_of(&found).clone();
    match value.pointer_mut(&pointer).unwrap() {
        Value::Object(members) => match dice.throw(3) {
            0 if !members.is_empty() => {
                let names: Vec<String> = members.keys().cloned().collect();
                members.remove(dice.one_of(&names));
            }
            1 => drop(members.insert("nobody_knows".to_owned(), json!({"x": [1]}))),
            _ => {
                let values = members.values().cloned().collect();
                *value.pointer_mut(&pointer).unwrap() = Value::Array(values);
            }
        },
        Value::Array(items) => match (dice.throw(2), items.first().cloned()) {
            (0, Some(first)) => items.extend(std::iter::repeat_n(first, 150)),
            _ => items.clear(),
        },
        Value::String(text) => *text = text.repeat(2) + &"x".repeat(dice.throw(3) as usize * 200),
        _ => {}
    }
}

fn collect(value: &Value, at: &mut String, found: &mut Vec<String>) {
    found.push(at.clone());
    let length = at.len();
    let mut below = |name: &str, value: &Value| {
        at.push('/');
        at.push_str(name);
        collect(value, at, found);
        at.truncate(length);
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| below(&n.to_string(), item)),
        Value::Object(members) => members.iter().for_each(|(name, value)| below(name, value)),
        _ => {}
    }
}

fn documents(schemas: &BTreeMap<&'static str, Value>, dice: &mut Dice) -> Vec<Document> {
    let mut documents = Vec::new();
    for (&schema, published) in schemas {
        for n in 0..DOCUMENTS {
            let mut value = sample(&closed(published.clone()), &mut |below| dice.throw(below));
            if n % 3 == 1 {
                reshaped(&mut value, dice);
            }
            let mut at = (n % 3 != 0).then(|| dice.throw(places(&value)));
            let strange = *dice.one_of(&STRANGE);
            let mut text = spelled(&value, &mut at, strange);
            if DOORS.contains(&schema) {
                // What can be ordered is no matter of schemas.
                let mut known: Value = serde_json::from_str(&text).unwrap();
                if name_products(&mut known) {
                    text = text_like(&text, &known);
                }
            }
            documents.push(Document { schema, text });
        }
    }
    documents
}

/// Names a product that there is wherever one is named as it should be; returns whether there was one.
fn name_products(body: &mut Value) -> bool {
    let Some(items) = body.get_mut("items").and_then(Value::as_array_mut) else { return false };
    let mut any = false;
    for item in items {
        if let Some(id @ Value::String(_)) = item.get_mut("product_id")
            && (1..=200).contains(&id.as_str().unwrap().chars().count())
            && !id.as_str().unwrap().contains('\0')
        {
            *id = "tea".into();
            any = true;
        }
    }
    any
}

/// A changed document, with numbers as they were spelled.
fn text_like(text: &str, changed: &Value) -> String {
    // Numbers that are no JSON number of ours are kept by spelling the products alone anew.
    let mut kept = text.to_owned();
    let before: Value = serde_json::from_str(text).unwrap();
    for (old, new) in before["items"].as_array().unwrap().iter().zip(changed["items"].as_array().unwrap()) {
        if old["product_id"] != new["product_id"] {
            kept =
                kept.replacen(&format!("\"product_id\":{}", old["product_id"]), "\"product_id\":\"tea\"", 1);
        }
    }
    kept
}

/// The services on one kind of store, and a log.
struct Town {
    running: BTreeMap<String, RunningService>,
    broker: Broker,
    _scratch: Scratch,
    _database: Option<FreshDatabase>,
}

impl Town {
    async fn start(database: Option<FreshDatabase>) -> Self {
        let scratch = Scratch::new();
        let broker = Broker::open(&scratch.url()).unwrap();
        let store = database.as_ref().map_or_else(|| scratch.url(), FreshDatabase::url);
        let services = || shop::services(&ShopSettings::default()).unwrap();
        let specs: Vec<_> = services().iter().flat_map(Service::topic_specs).collect();
        broker.apply_plan(&specs, 3).await.unwrap();
        let mut running = BTreeMap::new();
        for service in services() {
            let name = service.name().to_owned();
            running.insert(name, service.start(&store, &broker).await.unwrap());
        }
        Self { running, broker, _scratch: scratch, _database: database }
    }

    /// The verdict of the HTTP door.
    async fn asks(&self, document: &Document) -> bool {
        let (service, path) = match document.schema {
            "POST /orders" => ("order", "/orders"),
            _ => ("inventory", "/stock/tea/receipts"),
        };
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(document.text.clone())).unwrap();
        let answer = self.running[service].router().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        match status {
            StatusCode::OK | StatusCode::CREATED => true,
            StatusCode::UNPROCESSABLE_ENTITY => {
                let problem: Value = serde_json::from_slice(&body).unwrap();
                assert!(problem["errors"][0]["pointer"].is_string(), "a pointer and a rule: {problem}");
                false
            }
            other => panic!("{other} for {document:?}: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// The verdicts of the topic, one for each document: whether it became a dead letter for what it says.
    async fn reads(&self, documents: &[Document]) -> Vec<bool> {
        let topic = |document: &Document| match document.schema.split('.').next() {
            Some("order") => "orders",
            Some("payment") => "payments",
            _ => "inventory",
        };
        let messages = documents.iter().enumerate().map(|(n, document)| {
            let (id, key) = (format!("verdict-{n}"), format!("key-{n}"));
            let headers = Headers::from([
                ("ce_specversion", "1.0"),
                ("ce_id", &id),
                ("ce_type", document.schema),
                ("ce_source", &format!("/{}", topic(document))),
                ("ce_subject", &key),
                ("ce_streamseq", "1"),
            ]);
            let message = Message {
                key: Some(key.into()),
                headers,
                value: document.text.clone().into(),
                ..Message::default()
            };
            Outgoing::new(topic(document), message)
        });
        let sent = self.broker.send(messages.collect()).await;
        sent.into_iter().for_each(|sent| sent.unwrap());
        tidings_testkit::eventually("all is read", async || {
            let mut idle = true;
            for running in self.running.values() {
                idle &= running.is_idle().await.unwrap();
            }
            idle
        })
        .await;
        let mut verdicts = vec![true; documents.len()];
        for running in self.running.values() {
            let sql = "SELECT event_id, error_code, error_message FROM parked WHERE state = 'dead'";
            for row in running.store().query(sql, &[]).await.unwrap() {
                let (id, code): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
                let n: usize = id.strip_prefix("verdict-").unwrap().parse().unwrap();
                let message: String = row.get(2).unwrap();
                assert!(code.starts_with("payload_"), "{code}: {message} for {:?}", documents[n]);
                verdicts[n] = false;
            }
        }
        verdicts
    }

    async fn stop(self) {
        for running in self.running.into_values() {
            tokio::time::timeout(Duration::from_secs(30), running.stop()).await.unwrap().unwrap();
        }
    }
}

/// The schemas as they are published: of events for their readers, of bodies in the OpenAPI documents.
fn schemas() -> BTreeMap<&'static str, Value> {
    let mut schemas = BTreeMap::from([
        read::<OrderCreated>(),
        read::<OrderConfirmed>(),
        read::<OrderCancelled>(),
        read::<PaymentAuthorized>(),
        read::<PaymentDeclined>(),
        read::<PaymentCaptureFailed>(),
        read::<StockReserved>(),
        read::<StockRejected>(),
    ]);
    for (door, service, name) in [(DOORS[0], "order", "NewOrder"), (DOORS[1], "inventory", "Receipt")] {
        let text = std::fs::read_to_string(workspace(&format!("shop/{service}/openapi.json"))).unwrap();
        let document: Value =
            serde_json::from_str(&text.replace("#/components/schemas/", "#/$defs/")).unwrap();
        let defs = document["components"]["schemas"].clone();
        let mut schema: Map<String, Value> = defs[name].as_object().unwrap().clone();
        schema.insert("$defs".to_owned(), defs);
        schemas.insert(door, Value::Object(schema));
    }
    schemas
}

/// An event type, and its schema for those who read it: they take what may come later.
fn read<E: Event>() -> (&'static str, Value) {
    (E::TYPE, opened(reader_schema::<E>()))
}

/// The verdicts of two validators that know nothing of us.
fn judged(schemas: &BTreeMap<&'static str, Value>, documents: &[Document]) -> Option<Vec<bool>> {
    let mut python = python(&workspace("shop/shop/tests/external_validators/requirements.txt"))?;
    python.arg(workspace("shop/shop/tests/external_validators/verdicts.py"));
    let mut judge = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = format!("{}\n", json!({ "schemas": schemas }));
    for Document { schema, text } in documents {
        input += &format!("{}\n", json!({"schema": schema, "document": text}));
    }
    let mut stdin = judge.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let said = judge.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(said.status.success());
    let said = String::from_utf8(said.stdout).unwrap();
    let verdict = |(line, document): (&str, &Document)| {
        let verdict: Value = serde_json::from_str(line).unwrap();
        assert_eq!(verdict["python"], verdict["rust"], "the validators differ about {document:?}");
        verdict["python"].as_bool().unwrap()
    };
    Some(said.lines().zip(documents).map(verdict).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_has_the_same_verdict_everywhere() {
    let seed = std::env::var("TIDINGS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(fresh_seed);
    eprintln!("TIDINGS_SEED={seed}");
    let schemas = schemas();
    let documents = documents(&schemas, &mut Dice(seed));
    let Some(published) = judged(&schemas, &documents) else { return };
    let valid = published.iter().filter(|valid| **valid).count();
    assert!(
        valid > documents.len() / 4 && valid < documents.len() * 9 / 10,
        "{valid} of {}",
        documents.len()
    );
    for database in [None, Some(FreshDatabase::new())] {
        let store = if database.is_some() { "PostgreSQL" } else { "SQLite" };
        let town = Town::start(database).await;
        let (bodies, events): (Vec<_>, Vec<_>) =
            documents.iter().zip(&published).partition(|(document, _)| DOORS.contains(&document.schema));
        for (document, published) in bodies {
            let answered = town.asks(document).await;
            assert_eq!(answered, *published, "HTTP on {store}, TIDINGS_SEED={seed}: {document:?}");
        }
        let (events, verdicts): (Vec<Document>, Vec<bool>) = events
            .into_iter()
            .map(|(document, verdict)| {
                (Document { schema: document.schema, text: document.text.clone() }, *verdict)
            })
            .unzip();
        let read = town.reads(&events).await;
        for ((document, read), published) in events.iter().zip(read).zip(verdicts) {
            assert_eq!(read, published, "the topic on {store}, TIDINGS_SEED={seed}: {document:?}");
        }
        town.stop().await;
    }
}

/// A seed that differs from run to run.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
