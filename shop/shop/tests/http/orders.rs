//! Orders: placed, listed, cancelled, and their history, also live.

use std::collections::BTreeSet;

use expect_test::expect;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::process::Client;
use super::{TEA, golden, open, refused};

#[tokio::test]
async fn an_order_is_accepted_shown_and_ends() {
    let (_directory, _shop, mut client) = open();
    let body = r#"{"items":[{"product_id":"tea","quantity":2},{"product_id":"mug","quantity":1}],"customer_id":"c-1"}"#;
    let answer = client.post("/orders", body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("content-type"), "application/json");
    let placed = answer.json();
    let id = placed["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/orders/{id}"));
    assert_eq!(id.len(), 36);
    assert_eq!(&id[14..15], "7", "a version 7 UUID: {id}");
    golden(
        placed.clone(),
        expect![[r#"
        {
          "created_at": "‹time›",
          "customer_id": "c-1",
          "id": "‹id›",
          "items": [
            {
              "product_id": "tea",
              "quantity": 2,
              "unit_price": {
                "amount": 1299,
                "currency": "EUR"
              }
            },
            {
              "product_id": "mug",
              "quantity": 1,
              "unit_price": {
                "amount": 850,
                "currency": "EUR"
              }
            }
          ],
          "payment": "unknown",
          "status": "processing",
          "stock": "unknown",
          "total": {
            "amount": 3448,
            "currency": "EUR"
          },
          "updated_at": "‹time›"
        }
    "#]],
    );
    let ended = client.ended(id).await;
    golden(
        ended,
        expect![[r#"
        {
          "created_at": "‹time›",
          "customer_id": "c-1",
          "id": "‹id›",
          "items": [
            {
              "product_id": "tea",
              "quantity": 2,
              "unit_price": {
                "amount": 1299,
                "currency": "EUR"
              }
            },
            {
              "product_id": "mug",
              "quantity": 1,
              "unit_price": {
                "amount": 850,
                "currency": "EUR"
              }
            }
          ],
          "payment": "captured",
          "status": "completed",
          "stock": "committed",
          "total": {
            "amount": 3448,
            "currency": "EUR"
          },
          "updated_at": "‹time›"
        }
    "#]],
    );
    refused(
        &client.get("/orders/nobody-ordered-this").await,
        expect![[r#"
        404 /problems/not-found
        there is no order nobody-ordered-this"#]],
    );
}

#[tokio::test]
async fn an_order_that_is_refused_says_why() {
    let (_directory, _shop, mut client) = open();
    let id = client
        .place(
            r#"{"items":[{"product_id":"tea","quantity":1}],"payment_method":"pm_card_visa_chargeDeclined"}"#,
        )
        .await;
    golden(
        client.ended(&id).await,
        expect![[r#"
        {
          "created_at": "‹time›",
          "customer_id": null,
          "id": "‹id›",
          "items": [
            {
              "product_id": "tea",
              "quantity": 1,
              "unit_price": {
                "amount": 1299,
                "currency": "EUR"
              }
            }
          ],
          "payment": "declined",
          "reason": "declined",
          "status": "cancelled",
          "stock": "released",
          "total": {
            "amount": 1299,
            "currency": "EUR"
          },
          "updated_at": "‹time›"
        }
    "#]],
    );
}

#[tokio::test]
async fn an_order_has_at_most_100_lines() {
    let (_directory, _shop, mut client) = open();
    let lines =
        |count| json!({"items": vec![json!({"product_id": "tea", "quantity": 1}); count]}).to_string();
    let id = client.place(&lines(100)).await;
    assert_eq!(client.ended(&id).await["status"], "completed");
    refused(
        &client.post("/orders", &lines(101)).await,
        expect![[r#"
            422 /problems/validation
            /items: must have at most 100 items
              at "/items": must have at most 100 items (maxItems)"#]],
    );
}

#[tokio::test]
async fn lists_are_filtered_and_turned_page_by_page() {
    let (_directory, _shop, mut client) = open();
    let mut placed = Vec::new();
    for n in 0..7 {
        let method = if n % 3 == 0 { "pm_card_visa_chargeDeclined" } else { "pm_card_visa" };
        let body = json!({
            "items": [{"product_id": "tea", "quantity": 1}],
            "customer_id": format!("c-{}", n % 2),
            "payment_method": method,
        });
        placed.push(client.place(&body.to_string()).await);
    }
    for id in &placed {
        client.ended(id).await;
    }
    let newest_first = |wanted: &[usize]| wanted.iter().map(|&n| placed[n].clone()).collect::<Vec<_>>();
    let mut ids = async |query: &str| page(&mut client, "/orders", query, "id").await;
    assert_eq!(ids("").await, newest_first(&[6, 5, 4, 3, 2, 1, 0]));
    assert_eq!(ids("status=cancelled").await, newest_first(&[6, 3, 0]));
    assert_eq!(ids("customer_id=c-1").await, newest_first(&[5, 3, 1]));
    assert_eq!(ids("customer_id=c-1&status=completed").await, newest_first(&[5, 1]));
    assert_eq!(ids("status=processing").await, newest_first(&[]));
    assert_eq!(ids("customer_id=nobody").await, newest_first(&[]));
    assert_eq!(ids("limit=3").await, newest_first(&[6, 5, 4]));
    assert_eq!(pages(&mut client, "/orders?limit=2", "id").await, newest_first(&[6, 5, 4, 3, 2, 1, 0]));
    let filtered = pages(&mut client, "/orders?limit=1&status=cancelled&customer_id=c-0", "id").await;
    assert_eq!(filtered, newest_first(&[6, 0]));
    let mut payments = pages(&mut client, "/payments?limit=2", "order_id").await;
    payments.sort();
    assert_eq!(payments, placed, "ids of version 7 are in the order of their making");
    let declined = page(&mut client, "/payments", "status=declined", "order_id").await;
    assert_eq!(BTreeSet::from_iter(declined), BTreeSet::from_iter(newest_first(&[6, 3, 0])));
}

/// One page's ids.
async fn page(client: &mut Client, path: &str, query: &str, id: &str) -> Vec<String> {
    let page = client.json(&format!("{path}?{query}")).await;
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item[id].as_str().unwrap().to_owned()).collect()
}

/// All pages' ids.
async fn pages(client: &mut Client, path: &str, id: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.json(&format!("{path}{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        ids.extend(items.iter().map(|item| item[id].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

#[tokio::test]
async fn an_order_is_cancelled_on_request_unless_it_is_completed() {
    let (_directory, _shop, mut client) = open();
    let slow = r#"{"items":[{"product_id":"tea","quantity":1}],"payment_method":"pm_sandbox_slow"}"#;
    let id = client.place(slow).await;
    let path = format!("/orders/{id}/cancel");
    let answer = client.post(&path, "").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json()["status"], "cancelling");
    let again = client.post(&path, "").await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "still a promise");
    let ended = client.ended(&id).await;
    assert_eq!((&ended["status"], &ended["reason"]), (&json!("cancelled"), &json!("cancelled_by_customer")));
    let answer = client.post(&path, "").await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    let id = client.place(TEA).await;
    client.ended(&id).await;
    refused(
        &client.post(&format!("/orders/{id}/cancel"), "").await,
        expect![[r#"
        409 /problems/completed
        the order is completed and cannot be cancelled any more"#]],
    );
}

#[tokio::test]
async fn a_history_tells_every_event_of_an_order_once_and_who_handled_it() {
    let (_directory, _shop, mut client) = open();
    let id = client
        .place(
            r#"{"items":[{"product_id":"tea","quantity":1}],"payment_method":"pm_card_visa_chargeDeclined"}"#,
        )
        .await;
    client.ended(&id).await;
    let history = client.json(&format!("/orders/{id}/history")).await;
    let events = history["events"].as_array().unwrap();
    let ids: BTreeSet<&str> = events.iter().map(|e| e["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), events.len());
    let mut told: Vec<String> = events.iter().map(|event| told(event, &id)).collect();
    told.sort();
    expect![[r#"
        inventory/o-1 #1 stock.reserved.v1: orders
        inventory/o-1 #2 stock.released.v1: orders
        orders/o-1 #1 order.created.v1: inventory, payments
        orders/o-1 #2 order.cancelled.v1: inventory
        payments/o-1 #1 payment.declined.v1: orders"#]]
    .assert_eq(&told.join("\n"));
    let causes = events.iter().filter_map(|e| e["causation_id"].as_str());
    assert!(causes.clone().all(|cause| ids.contains(cause)) && causes.count() == 4, "{history:#}");
    let mut first = events[0].clone();
    first["handled_by"] = Value::Null;
    golden(
        first,
        expect![[r#"
        {
          "causation_id": null,
          "event_id": "‹id›",
          "event_type": "order.created.v1",
          "handled_by": null,
          "n": 1,
          "payload": {
            "items": [
              {
                "product_id": "tea",
                "quantity": 1,
                "unit_price": {
                  "amount": 1299,
                  "currency": "EUR"
                }
              }
            ],
            "order_id": "‹id›",
            "payment_method": "pm_card_visa_chargeDeclined",
            "total": {
              "amount": 1299,
              "currency": "EUR"
            }
          },
          "recorded_at": "‹time›",
          "seq": 1,
          "stream": "orders/‹id›",
          "time": "‹time›"
        }
    "#]],
    );
}

/// `orders/o-1 #1 order.created.v1: payments, inventory`
fn told(event: &Value, id: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut consumers: Vec<String> =
        event["handled_by"].as_array().unwrap().iter().map(|by| text(&by["consumer"])).collect();
    consumers.sort();
    let stream = text(&event["stream"]).replace(id, "o-1");
    format!("{stream} #{} {}: {}", event["seq"], text(&event["event_type"]), consumers.join(", "))
}

#[tokio::test]
async fn an_orders_events_come_live_and_go_on_where_a_reader_left_off() {
    let (_directory, shop, mut client) = open();
    let slow = r#"{"items":[{"product_id":"tea","quantity":1}],"payment_method":"pm_sandbox_slow"}"#;
    let id = client.place(slow).await;
    let path = format!("/orders/{id}/events");
    let mut live = client.live(&path, &[]).await;
    let mut all = Vec::new();
    while all.last().is_none_or(|(_, name, _)| name != "order.completed.v1") {
        all.push(live.next().await);
    }
    let numbers: Vec<&str> = all.iter().map(|(n, ..)| n.as_str()).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7"]);
    for (n, name, data) in &all {
        assert_eq!((n, &data["event_type"]), (&data["n"].to_string(), &json!(name)));
    }
    let names: BTreeSet<&str> = all.iter().map(|(_, name, _)| name.as_str()).collect();
    expect![[r#"
        {
            "order.completed.v1",
            "order.confirmed.v1",
            "order.created.v1",
            "payment.authorized.v1",
            "payment.captured.v1",
            "stock.committed.v1",
            "stock.reserved.v1",
        }"#]]
    .assert_eq(&format!("{names:#?}"));
    let mut rest = shop.client().live(&path, &[("last-event-id", "4")]).await;
    for expected in &all[4..] {
        let (n, name, data) = rest.next().await;
        assert_eq!((&n, &name), (&expected.0, &expected.1));
        assert_eq!(data["event_id"], expected.2["event_id"]);
    }
}
