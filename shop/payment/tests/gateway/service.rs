//! The payment service on this gateway: what it states, and the provider's book beside its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use payment::gateway::stripe::Stripe;
use payment::service_through;
use serde_json::{Value, json};
use tidings_testkit::eventually;
use tidings_testkit::stage::{Stage, advance_clock_until, stop};
use tidings_testkit::wire::Binary;

use crate::provider::{KEY, Provider};
use crate::troubles::{Trouble, start_with};

/// How orders are paid, and what comes of it at the provider: (method, decision, status, captured, refunded).
const ORDERS: [(&str, &str, &str, u64, u64); 9] = [
    ("pm_card_visa", "confirmed", "succeeded", 500, 0),
    ("pm_card_visa", "cancelled", "canceled", 0, 0),
    ("pm_card_visa", "confirmed, then cancelled", "succeeded", 500, 500),
    ("pm_card_visa_chargeDeclined", "cancelled", "requires_payment_method", 0, 0),
    ("pm_card_authenticationRequired", "cancelled", "canceled", 0, 0),
    ("pm_sandbox_reply_lost", "confirmed", "succeeded", 500, 0),
    ("pm_sandbox_unavailable", "confirmed", "succeeded", 500, 0),
    ("pm_sandbox_unavailable", "cancelled", "canceled", 0, 0),
    ("pm_sandbox_capture_fails", "confirmed, then cancelled", "canceled", 0, 0),
];
/// Orders of each kind.
const EACH: usize = 5;

#[tokio::test]
async fn the_providers_book_is_what_was_asked_for_one_charge_an_order() {
    let provider = Provider::start().await;
    let stage = Stage::new();
    stage.topics(["orders"]).await;
    let running = stage.start(|| service_through(provider.gateway())).await;
    let orders: Vec<_> = ORDERS.iter().cycle().take(ORDERS.len() * EACH).enumerate().collect();
    let facts = |name: &str, payload: &dyn Fn(&str, &str) -> Value, only: &str| {
        let chosen = orders.iter().filter(|(_, order)| order.1.contains(only));
        let message = |(n, order): &(usize, &(&str, &str, &str, u64, u64))| {
            let key = format!("o-{n}");
            let seq = match name {
                "created" => 1,
                "cancelled" if order.1.contains("confirmed") => 3,
                _ => 2,
            };
            let value = payload(&key, order.0).to_string().into();
            let (id, event_type) = (format!("{name} of {key}"), format!("order.{name}.v1"));
            Binary { id, event_type, source: "/orders".into(), key, seq: Some(seq), value }.message()
        };
        chosen.map(message).collect::<Vec<_>>()
    };
    let created = |id: &str, method: &str| {
        let total = json!({"amount": 500, "currency": "EUR"});
        json!({"order_id": id, "items": [{"product_id": "tea", "quantity": 1}], "total": total, "payment_method": method})
    };
    stage.send("orders", facts("created", &created, "")).await;
    stage.send("orders", facts("confirmed", &|id, _| json!({ "order_id": id }), "confirmed")).await;
    let captures = facts("confirmed", &|_, _| Value::Null, "confirmed").len();
    advance_clock_until(&running, "what is confirmed is captured, or cannot be", async || {
        stated(&stage, &["payment.captured.v1", "payment.capture_failed.v1"]).await == captures
    })
    .await;
    let cancelled = |id: &str, _: &str| json!({"order_id": id, "reason": "cancelled_by_customer"});
    stage.send("orders", facts("cancelled", &cancelled, "cancelled")).await;
    let is_refused = |method: &str| method.contains("Declined") || method.contains("authentication");
    let undone =
        orders.iter().filter(|(_, order)| order.1.contains("cancelled") && !is_refused(order.0)).count();
    advance_clock_until(&running, "what is cancelled is undone", async || {
        stated(&stage, &["payment.voided.v1", "payment.refunded.v1"]).await == undone
    })
    .await;
    stop(running).await;

    let mut book = BTreeMap::new();
    for intent in provider.intents().await {
        let order = intent["metadata"]["order_id"].as_str().expect("each is for an order").to_owned();
        assert!(book.insert(order, intent).is_none(), "two charges for one order");
    }
    assert_eq!(book.len(), orders.len());
    for (n, (method, decision, status, captured, refunded)) in orders {
        let intent = &book[&format!("o-{n}")];
        let charge = &intent["latest_charge"];
        let money = |name: &str| charge[name].as_u64().unwrap_or(0);
        let found = (intent["status"].as_str(), money("amount_captured"), money("amount_refunded"));
        assert_eq!(found, (Some(*status), *captured, *refunded), "{method}, {decision}");
    }
}

/// How long the provider is away: long enough for pauses that double to have become seconds.
const AWAY: Duration = Duration::from_secs(5);
/// Orders that come meanwhile.
const WAITING: usize = 300;

#[tokio::test]
async fn a_provider_in_trouble_is_not_stormed_and_all_goes_on_within_seconds_of_its_return() {
    const HELD: &str = r#"{"id": "pi_1", "status": "requires_capture", "amount": 500, "currency": "eur"}"#;
    let is_back = Arc::new(AtomicBool::new(false));
    let door = is_back.clone();
    let (url, asked) = start_with(Arc::new(move |_| match door.load(Ordering::Relaxed) {
        true => Trouble::Answer("200 OK", HELD),
        false => Trouble::Answer("503 Service Unavailable", ""),
    }))
    .await;
    let stage = Stage::new();
    stage.topics(["orders"]).await;
    let running = stage.start(|| service_through(Stripe::new(&url, KEY).unwrap())).await;
    let orders = (0..WAITING).map(|n| {
        let key = format!("o-{n}");
        let total = json!({"amount": 500, "currency": "EUR"});
        let value = json!({"order_id": key, "items": [{"product_id": "tea", "quantity": 1}], "total": total});
        let (id, event_type) = (format!("created {key}"), "order.created.v1".to_owned());
        Binary {
            id,
            event_type,
            source: "/orders".into(),
            key,
            seq: Some(1),
            value: value.to_string().into(),
        }
        .message()
    });
    stage.send("orders", orders.collect::<Vec<_>>()).await;
    eventually("the provider is asked", async || !asked.lock().unwrap().is_empty()).await;
    tokio::time::sleep(AWAY).await;
    // Each order may have asked before it was known that others fail; from then on, one at a time does.
    let calls = asked.lock().unwrap().len();
    assert!(calls <= WAITING + 20, "{calls} calls for {WAITING} orders in {AWAY:?}");
    is_back.store(true, Ordering::Relaxed);
    let back = Instant::now();
    eventually("all goes on", async || stated(&stage, &["payment.authorized.v1"]).await == WAITING).await;
    assert!(back.elapsed() < Duration::from_secs(15), "after {:?}", back.elapsed());
    let calls = asked.lock().unwrap().len();
    assert!(calls <= 2 * WAITING + 20, "{calls} calls for {WAITING} orders in all");
    stop(running).await;
}

/// How many events of these types the service has stated.
async fn stated(stage: &Stage, types: &[&str]) -> usize {
    let records = stage.read("payments").await;
    let is_one = |name: Option<&str>| name.is_some_and(|name| types.contains(&name));
    records.iter().filter(|record| is_one(record.message.header("ce_type"))).count()
}
