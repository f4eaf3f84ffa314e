//! Histories: an entry keeps the place that it was given, whatever clocks show and whichever instance handled it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use contracts::{Item, Money, OrderCancelled, OrderCreated, OrderId, Reason};
use expect_test::expect;
use http_body_util::BodyExt as _;
use order::OrderSettings;
use serde_json::{Value, json};
use tidings::store::Tables;
use tidings::{Event as _, RunningService, Service, Store, Tx, params};
use tidings_testkit::stage::{Stage, idle, stop};
use tidings_testkit::wire::Binary;
use tower::ServiceExt as _;

fn order() -> Service {
    order::service(&OrderSettings::default()).unwrap()
}

async fn ask(router: Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// An order that waits for the others.
async fn placed(order: &RunningService) -> String {
    let request = Request::post("/orders").header("content-type", "application/json");
    let body = r#"{"items":[{"product_id":"tea","quantity":1}]}"#;
    let (status, answer) = ask(order.router(), request.body(Body::from(body)).unwrap()).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
}

/// Place and type of each entry of a history, and whether its time is before that of the one before.
async fn told(order: &RunningService, id: &str) -> String {
    let request = Request::get(format!("/orders/{id}/history")).body(Body::empty()).unwrap();
    let (status, answer) = ask(order.router(), request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let history: Value = serde_json::from_str(&answer).unwrap();
    let mut before = "";
    let mut lines = Vec::new();
    for event in history["events"].as_array().unwrap() {
        let time = event["recorded_at"].as_str().unwrap();
        let earlier = if time < before { " (earlier)" } else { "" };
        lines.push(format!("{} {}{earlier}", event["n"], event["event_type"].as_str().unwrap()));
        before = time;
    }
    lines.join("\n")
}

/// The live events after `last`, up to the end of the stream.
async fn live(order: &RunningService, id: &str, last: &str) -> (StatusCode, String) {
    let request = Request::get(format!("/orders/{id}/events")).header("last-event-id", last);
    let (status, text) = ask(order.router(), request.body(Body::empty()).unwrap()).await;
    let wanted = |line: &&str| line.starts_with("id:") || line.starts_with("event:");
    let text = if status == StatusCode::OK {
        text.lines().filter(wanted).collect::<Vec<_>>().join("\n")
    } else {
        text
    };
    (status, text)
}

/// The first event of another service about an order.
async fn state(stage: &Stage, order: &RunningService, topic: &str, event_type: &str, payload: Value) {
    let id = payload["order_id"].as_str().unwrap();
    let event = Binary {
        id: format!("{id}-{event_type}"),
        event_type: event_type.to_owned(),
        source: format!("/{topic}"),
        key: id.to_owned(),
        seq: Some(1),
        value: payload.to_string().into(),
    };
    stage.send(topic, [event.message()]).await;
    idle(order).await;
}

async fn whatever_clocks_show(stage: Stage) {
    let ahead = stage.start(order).await;
    ahead.store().clock().advance(Duration::from_secs(2));
    let id = placed(&ahead).await;
    idle(&ahead).await;
    stop(ahead).await;

    let behind = stage.start(order).await;
    let declined = json!({"order_id": id, "code": "card_declined", "reason": "no"});
    state(&stage, &behind, "payments", "payment.declined.v1", declined).await;
    let missing = json!([{"product_id": "tea", "requested": 1, "available": 0}]);
    let rejected = json!({"order_id": id, "missing": missing});
    state(&stage, &behind, "inventory", "stock.rejected.v1", rejected).await;
    expect![[r#"
        1 order.created.v1
        2 payment.declined.v1 (earlier)
        3 order.cancelled.v1
        4 stock.rejected.v1"#]]
    .assert_eq(&told(&behind, &id).await);
    // A reader who saw the first event at the other instance misses nothing and is told nothing twice.
    let (_, rest) = live(&behind, &id, "1").await;
    expect![[r#"
        id: 2
        event: payment.declined.v1
        id: 3
        event: order.cancelled.v1
        id: 4
        event: stock.rejected.v1
        event: end"#]]
    .assert_eq(&rest);
    assert_eq!(live(&behind, &id, "4").await.1, "event: end");
    for (wrong, words) in [("5", "has 4 events"), ("soon", "not the id"), ("-1", "not the id")] {
        let (status, problem) = live(&behind, &id, wrong).await;
        assert!(status == StatusCode::BAD_REQUEST && problem.contains(words), "{wrong}: {status} {problem}");
    }
    stop(behind).await;
}

#[tokio::test]
async fn entries_keep_their_places_whatever_clocks_show() {
    whatever_clocks_show(Stage::new()).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn entries_keep_their_places_whatever_clocks_show_on_postgres() {
    whatever_clocks_show(Stage::on_postgres()).await;
}

/// The tables as they were before entries had places.
fn former_tables() -> Tables<'static> {
    Tables {
        sqlite: &[
            include_str!("../../order/src/schema/sqlite.sql"),
            include_str!("../../order/src/schema/sqlite_2_open.sql"),
        ],
        postgres: &[include_str!("../../order/src/schema/postgres.sql")],
    }
}

async fn former_fact(tx: &mut Tx, id: &str, event_type: &str, seq: u64) -> Result<(), tidings::Error> {
    let stream = format!("{}/{id}", if event_type.starts_with("payment") { "payments" } else { "inventory" });
    tx.execute(
        "INSERT INTO fact (order_id, recorded_us, event_id, stream, seq, event_type, payload)
         VALUES ($1, $2, $3, $4, $5, $6, '{}')",
        params![id, tx.now(), event_type, &stream, seq, event_type],
    )
    .await
    .map(|_| ())
}

async fn data_of_a_former_release(stage: Stage) {
    let id = "o-1";
    let order_id = OrderId::from(id.to_owned());
    let store = Store::open(&stage.store_url(), "order", former_tables()).await.unwrap();
    let total = Money { amount: 1299, currency: "EUR".to_owned() };
    let items = vec![Item { product_id: "tea".to_owned(), quantity: 1, unit_price: Some(total.clone()) }];
    let created =
        OrderCreated { order_id: order_id.clone(), customer_id: None, items, total, payment_method: None };
    assert_eq!(created.key(), id);
    let opened = async |tx: &mut Tx| {
        let sql = "INSERT INTO orders (id, known, status, payment, stock, items, amount, currency, created_us, updated_us)
                   VALUES ($1, 1, 'cancelling', 'authorized', 'rejected', '[]', 1299, 'EUR', $2, $2)";
        tx.execute(sql, params![id, tx.now()]).await?;
        tx.publish(created).await
    };
    store.transaction(opened).await.unwrap();
    store.clock().advance(Duration::from_secs(1));
    let learned = async |tx: &mut Tx| Ok(former_fact(tx, id, "payment.authorized.v1", 1).await?);
    store.transaction(learned).await.unwrap();
    store.clock().advance(Duration::from_secs(1));
    let decided = async |tx: &mut Tx| {
        former_fact(tx, id, "stock.rejected.v1", 1).await?;
        tx.publish(OrderCancelled { order_id, reason: Reason::OutOfStock.into() }).await
    };
    store.transaction(decided).await.unwrap();
    drop(store);

    let order = stage.start(order).await;
    let voided = json!({"order_id": id, "payment_id": "p", "amount": {"amount": 1299, "currency": "EUR"}});
    let event = Binary { seq: None, source: "/payments".to_owned(), ..Binary::note(id, 1) };
    let event = event.of_type("payment.voided.v1").with_value(voided.to_string());
    stage.send("payments", [Binary { seq: Some(1), ..event }.message()]).await;
    idle(&order).await;
    expect![[r#"
        1 order.created.v1
        2 payment.authorized.v1
        3 stock.rejected.v1
        4 order.cancelled.v1
        5 payment.voided.v1 (earlier)"#]]
    .assert_eq(&told(&order, id).await);
    stop(order).await;
}

#[tokio::test]
async fn histories_of_a_former_release_keep_their_order() {
    data_of_a_former_release(Stage::new()).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn histories_of_a_former_release_keep_their_order_on_postgres() {
    data_of_a_former_release(Stage::on_postgres()).await;
}
