//! What the shop says about itself: golden documents, and whether they are true.
//!
//! `cargo xtask contracts --record` writes them anew; their difference is the review of a change.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use contracts::{
    OrderCancelled, OrderCompleted, OrderConfirmed, OrderCreated, PaymentAuthorized, PaymentCaptureFailed,
    PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided, StockCommitted, StockRejected,
    StockReleased, StockReserved,
};
use expect_test::{ExpectFile, expect_file};
use hyper::StatusCode;
use process::Shop;
use serde_json::{Value, json};
use shop::ShopSettings;
use tidings::{Document, Event, Service, contract, document, reader_schema};
use tidings_schema::{Baseline, Contract, changes, check, gate, opened, sample};

/// Documents made for each revision of each event.
const SAMPLES: usize = 50;

fn services() -> Vec<Service> {
    shop::services(&ShopSettings::default()).unwrap()
}

fn service(name: &str) -> [Service; 1] {
    let found = services().into_iter().find(|service| service.name() == name);
    [found.unwrap()]
}

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts/schemas")
}

#[track_caller]
fn golden(services: &[Service], which: Document, file: ExpectFile) {
    file.assert_eq(&format!("{:#}\n", document(services, which)));
}

#[test]
fn each_service_has_its_openapi() {
    golden(&service("order"), Document::Openapi, expect_file!["../../order/openapi.json"]);
    golden(&service("payment"), Document::Openapi, expect_file!["../../payment/openapi.json"]);
    golden(&service("inventory"), Document::Openapi, expect_file!["../../inventory/openapi.json"]);
}

#[test]
fn each_service_and_the_shop_have_their_asyncapi() {
    golden(&service("order"), Document::Asyncapi, expect_file!["../../order/asyncapi.json"]);
    golden(&service("payment"), Document::Asyncapi, expect_file!["../../payment/asyncapi.json"]);
    golden(&service("inventory"), Document::Asyncapi, expect_file!["../../inventory/asyncapi.json"]);
    golden(&services(), Document::Asyncapi, expect_file!["../asyncapi.json"]);
}

#[test]
fn what_is_said_today_was_released_and_breaks_nobody() {
    let began = Instant::now();
    let contract = contract(&services());
    let baseline = Baseline::read(&schemas()).unwrap();
    let report = gate(&baseline, &contract);
    assert!(began.elapsed() < Duration::from_secs(1), "the gate takes {:?}", began.elapsed());
    assert!(report.is_compatible(), "{report}");
    assert!(!report.has_changes(), "{report}\nto release it: cargo xtask contracts --record");
    assert_eq!(contract.len(), 14);
    for (event_type, event) in &contract {
        assert!(!event.written_by.is_empty(), "{event_type} is stated by nobody");
        assert!(baseline.of(event_type).iter().any(|revision| revision.schema == event.schema));
    }
}

#[test]
fn who_reads_what_is_known() {
    let contract = contract(&services());
    let groups =
        |event_type: &str| contract[event_type].read_by.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(groups("order.created.v1"), ["inventory", "orders", "payments"]);
    assert_eq!(groups("order.completed.v1"), [""; 0]);
    assert_eq!(groups("stock.rejected.v1"), ["orders"]);
}

/// An example, an old revision's example, and whatever could be published under an old revision is what the type says it is: by its schema and in Rust.
fn is_read<E: Event>(contract: &Contract, baseline: &Baseline) {
    let writer = &contract[E::TYPE].schema;
    let today = examples(writer);
    assert!(!today.is_empty(), "{} has no example", E::TYPE);
    for example in &today {
        assert_eq!(check(writer, example), [], "{} {example}", E::TYPE);
    }
    let former = baseline.of(E::TYPE).iter().flat_map(|revision| {
        let mut throw = 0;
        let mut dice = |below: u64| {
            throw += 1;
            // A sequence that visits every number: what is made of it is the same every time.
            (throw * 7919) % below.max(1)
        };
        let made: Vec<Value> = (0..SAMPLES).map(|_| sample(&revision.schema, &mut dice)).collect();
        made.iter().for_each(|made| assert_eq!(check(&revision.schema, made), [], "{made}"));
        [examples(&revision.schema), made].concat()
    });
    for example in today.into_iter().chain(former) {
        let event: E = serde_json::from_value(example.clone())
            .unwrap_or_else(|e| panic!("{} cannot be read: {e}: {example}", E::TYPE));
        event.validate().unwrap_or_else(|e| panic!("{} is invalid: {e}: {example}", E::TYPE));
        assert_eq!(check(&reader_schema::<E>(), &example), []);
    }
    // What Rust reads is what the mechanically opened writer schema says that readers read.
    let mut reader = reader_schema::<E>();
    reader["title"] = E::TYPE.into();
    let written = opened(tidings_schema::written(reader));
    let harmful: Vec<_> = changes(&written, &opened(writer.clone()))
        .into_iter()
        .filter(|change| change.breaks.is_any() && !change.words.starts_with("the writer is open"))
        .collect();
    assert_eq!(harmful, [], "{}", E::TYPE);
}

fn examples(schema: &Value) -> Vec<Value> {
    schema["examples"].as_array().cloned().unwrap_or_default()
}

#[test]
fn every_event_of_every_revision_is_read_today() {
    let contract = contract(&services());
    let baseline = Baseline::read(&schemas()).unwrap();
    let all: [fn(&Contract, &Baseline); 14] = [
        is_read::<OrderCreated>,
        is_read::<OrderConfirmed>,
        is_read::<OrderCancelled>,
        is_read::<OrderCompleted>,
        is_read::<PaymentAuthorized>,
        is_read::<PaymentDeclined>,
        is_read::<PaymentCaptured>,
        is_read::<PaymentCaptureFailed>,
        is_read::<PaymentVoided>,
        is_read::<PaymentRefunded>,
        is_read::<StockReserved>,
        is_read::<StockRejected>,
        is_read::<StockCommitted>,
        is_read::<StockReleased>,
    ];
    assert_eq!(all.len(), contract.len(), "a type of the shop is not looked at here");
    all.iter().for_each(|is_read| is_read(&contract, &baseline));
}

#[tokio::test]
async fn a_running_shop_serves_the_same_documents() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut client = shop.client();
    let documents =
        [("openapi", Document::Openapi), ("asyncapi", Document::Asyncapi), ("schemas", Document::Schemas)];
    for (name, which) in documents {
        assert_eq!(client.json(&format!("/{name}.json")).await, document(&services(), which), "{name}");
    }
}

/// Each answer is what OpenAPI says of it: of every route, with each body that is given as an example.
#[tokio::test]
async fn examples_of_bodies_are_accepted_and_answers_are_as_described() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut client = shop.client();
    let openapi = document(&services(), Document::Openapi);
    let body = |name: &str| {
        let examples = examples(&openapi["components"]["schemas"][name]);
        assert!(!examples.is_empty(), "{name} has no example");
        examples[0].to_string()
    };
    let id = client.place(&body("NewOrder")).await;
    client.ended(&id).await;
    let mut asked = 0;
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let at = path.replace("/products/{id}", "/products/tea").replace("{product_id}", "tea");
            let row = if path.starts_with("/admin/") { "order:999999999" } else { &id };
            let at = at.replace("{id}", row).replace("{order_id}", &id) + &required_query(operation, &id);
            let at = at.replace("{topic}/messages", "payments/messages?from=beginning");
            if path.ends_with("/events") {
                continue; // It goes on for as long as one listens.
            }
            let answer = match (method.as_str(), operation["requestBody"].is_null()) {
                ("get", _) => client.get(&at).await,
                (_, true) => client.post(&at, "").await,
                (_, false) => {
                    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                    let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
                    client.post(&at, &body(name)).await
                }
            };
            let described = &operation["responses"][answer.status.as_str()];
            assert!(!described.is_null(), "{method} {path} answered {}", answer.status);
            // Nothing waits for an operator.
            let is_none = path.starts_with("/admin/") && answer.status == StatusCode::NOT_FOUND;
            // The sandbox in process keeps no book.
            let is_bookless = path == "/admin/reconciliation" && answer.status == StatusCode::CONFLICT;
            let is_expected =
                answer.status.is_success() || path.ends_with("/cancel") || is_none || is_bookless;
            assert!(is_expected, "{method} {path} answered {}: {}", answer.status, answer.text());
            let content_type = answer.header("content-type").split(';').next().unwrap();
            let schema = &described["content"][content_type]["schema"];
            assert!(!schema.is_null(), "{method} {path} answered {content_type}");
            if content_type.ends_with("json") {
                let found = check(&rooted(schema, &openapi), &answer.json());
                assert_eq!(found, [], "{method} {path}: {}", answer.text());
            }
            asked += 1;
        }
    }
    assert!(asked >= 15, "only {asked} operations were looked at");
    let refused = client.post("/orders", "{}").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let problem = &openapi["paths"]["/orders"]["post"]["responses"]["422"]["content"];
    let problem = &problem["application/problem+json"]["schema"];
    assert_eq!(check(&rooted(problem, &openapi), &refused.json()), []);
}

/// The query of an operation whose parameters are not all optional, about an order.
fn required_query(operation: &Value, order_id: &str) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let required = parameters.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
    let given: Vec<String> = required
        .map(|parameter| match parameter["name"].as_str().unwrap() {
            "service" => "service=order".to_owned(),
            "stream" => format!("stream=orders/{order_id}"),
            name => format!("{name}={order_id}"),
        })
        .collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

/// A schema that is looked at with the document that it refers to.
fn rooted(schema: &Value, document: &Value) -> Value {
    let mut schema = schema.clone();
    schema["components"] = json!({"schemas": document["components"]["schemas"]});
    schema
}

/// Every event of orders that end in each way is what its writer schema says.
#[tokio::test]
async fn every_event_of_a_run_is_as_described() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut client = shop.client();
    let contract = contract(&services());
    let mut types = BTreeSet::new();
    let orders = [
        ("tea", 1, "pm_card_visa"),
        ("tea", 1, "pm_card_visa_chargeDeclined"),
        ("tea", 1, "pm_sandbox_capture_fails"),
        ("mug", 1000, "pm_card_visa"),
    ];
    for (product, quantity, method) in orders {
        let items = json!([{"product_id": product, "quantity": quantity}]);
        let body = json!({"items": items, "payment_method": method});
        let id = client.place(&body.to_string()).await;
        client.ended(&id).await;
        let history = client.json(&format!("/orders/{id}/history")).await;
        for event in history["events"].as_array().unwrap() {
            let event_type = event["event_type"].as_str().unwrap();
            let found = check(&contract[event_type].schema, &event["payload"]);
            assert_eq!(found, [], "{event}");
            types.insert(event_type.to_owned());
        }
    }
    assert!(types.len() >= 10, "only {types:?} were stated");
}
