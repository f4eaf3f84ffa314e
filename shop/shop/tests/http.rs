//! The outside contract over HTTP: every route, what it answers and how it refuses.
//!
//! Each test talks to a `shop` program of its own. What must not change unnoticed is golden:
//! `UPDATE_EXPECT=1 cargo test -p shop --test http` writes it anew.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use hyper::{Method, StatusCode};
use process::{Client, PATIENCE, Shop, eventually, request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::Broker;

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":2}]}"#;

fn open() -> (TempDir, Shop, Client) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let client = shop.client();
    (directory, shop, client)
}

/// Compares JSON, with ids and times that differ from run to run left out.
#[track_caller]
fn golden(mut json: Value, expected: Expect) {
    redact(&mut json);
    expected.assert_eq(&format!("{json:#}\n"));
}

fn redact(json: &mut Value) {
    match json {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        Value::String(text) => *text = redacted(text),
        _ => {}
    }
}

/// `pay_0192…` as `pay_‹id›`, a time as `‹time›`.
fn redacted(text: &str) -> String {
    if text.ends_with('Z') && text.starts_with("20") {
        return "‹time›".to_owned();
    }
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    // With hyphens or without.
    for length in [36, 32] {
        if let Some(at) = text.len().checked_sub(length)
            && text.is_char_boundary(at)
            && text[at..].chars().all(is_id)
        {
            return format!("{}‹id›", &text[..at]);
        }
    }
    text.to_owned()
}

/// Compares what a problem says, in lines: status and type, what is wrong in words, what is wrong where.
#[track_caller]
fn refused(answer: &process::Answer, expected: Expect) {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16(), "{problem}");
    let mut lines = vec![
        format!("{} {}", problem["status"], problem["type"].as_str().unwrap()),
        problem["detail"].as_str().unwrap().to_owned(),
    ];
    for error in problem["errors"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  at {:?}: {} ({})",
            error["pointer"].as_str().unwrap(),
            error["detail"].as_str().unwrap(),
            error["rule"].as_str().unwrap(),
        ));
    }
    expected.assert_eq(&lines.join("\n"));
}

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
async fn a_problem_has_the_shape_of_rfc_9457() {
    let (_directory, _shop, mut client) = open();
    let answer = client.post("/orders", r#"{"items":[{"product_id":"tea","quantity":0}]}"#).await;
    golden(
        answer.json(),
        expect![[r#"
            {
              "detail": "/items/0/quantity: must be at least 1",
              "errors": [
                {
                  "detail": "must be at least 1",
                  "pointer": "/items/0/quantity",
                  "rule": "minimum"
                }
              ],
              "status": 422,
              "title": "Validation",
              "type": "/problems/validation"
            }
        "#]],
    );
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused() {
    let (_directory, _shop, mut client) = open();
    refused(
        &client.post("/orders", r#"{"items":"#).await,
        expect![[r#"
        400 /problems/malformed-json
        the body is not JSON: EOF while parsing a value at line 1 column 9"#]],
    );
    refused(
        &client.post("/orders", "").await,
        expect![[r#"
        400 /problems/malformed-json
        the body is not JSON: EOF while parsing a value at line 1 column 0"#]],
    );
    refused(
        &client.post("/orders", &format!("{TEA} and more")).await,
        expect![[r#"
        400 /problems/malformed-json
        the body is not JSON: trailing characters at line 1 column 47"#]],
    );
    refused(
        &client.post("/stock/tea/receipts", "tea").await,
        expect![[r#"
        400 /problems/malformed-json
        the body is not JSON: expected ident at line 1 column 2"#]],
    );
}

#[tokio::test]
async fn a_body_that_breaks_a_rule_is_refused_with_the_place() {
    let (_directory, _shop, mut client) = open();
    let mut order = async |body: &str| client.post("/orders", body).await;
    let unknown = r#"{"items":[{"product_id":"tea","quantity":1},{"product_id":"gold","quantity":1}]}"#;
    refused(
        &order(unknown).await,
        expect![[r#"
            422 /problems/validation
            /items/1/product_id: there is no product "gold"
              at "/items/1/product_id": there is no product "gold" (product)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"tea","quantity":0}]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0/quantity: must be at least 1
              at "/items/0/quantity": must be at least 1 (minimum)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"tea","quantity":1001}]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0/quantity: must be at most 1000
              at "/items/0/quantity": must be at most 1000 (maximum)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"tea","quantity":-1}]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0/quantity: must be at least 1
              at "/items/0/quantity": must be at least 1 (minimum)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"tea","quantity":1.5}]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0/quantity: must be a whole number, is 1.5
              at "/items/0/quantity": must be a whole number, is 1.5 (type)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"tea","quantity":"2"}]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0/quantity: must be a whole number, is text
              at "/items/0/quantity": must be a whole number, is text (type)"#]],
    );
    let everything =
        r#"{"items":[{"product_id":7,"quantity":"2"},{"quantity":0},[]],"customer_id":"","colour":"red"}"#;
    refused(
        &order(everything).await,
        expect![[r#"
        422 /problems/validation
        7 things are wrong with the body
          at "/colour": is unknown here; known are `customer_id`, `items`, `payment_method` (additionalProperties)
          at "/customer_id": must have at least 1 character (minLength)
          at "/items/0/product_id": must be text, is 7 (type)
          at "/items/0/quantity": must be a whole number, is text (type)
          at "/items/1": `product_id` is missing (required)
          at "/items/1/quantity": must be at least 1 (minimum)
          at "/items/2": must be an object, is a list (type)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"","quantity":0}]}"#).await,
        expect![[r#"
            422 /problems/validation
            2 things are wrong with the body
              at "/items/0/product_id": must have at least 1 character (minLength)
              at "/items/0/quantity": must be at least 1 (minimum)"#]],
    );
    refused(
        &order(r#"{"items":[{"product_id":"tea"}]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0: `quantity` is missing
              at "/items/0": `quantity` is missing (required)"#]],
    );
    refused(
        &order(r#"{"items":[]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items: must have at least 1 item
              at "/items": must have at least 1 item (minItems)"#]],
    );
    refused(
        &order("{}").await,
        expect![[r#"
            422 /problems/validation
            the body: `items` is missing
              at "": `items` is missing (required)"#]],
    );
    refused(
        &order("[]").await,
        expect![[r#"
            422 /problems/validation
            the body: must be an object, is a list
              at "": must be an object, is a list (type)"#]],
    );
    refused(
        &order(r#"{"items":[["tea",1]]}"#).await,
        expect![[r#"
            422 /problems/validation
            /items/0: must be an object, is a list
              at "/items/0": must be an object, is a list (type)"#]],
    );
    let field = r#"{"items":[{"product_id":"tea","quantity":1}],"colour":"red"}"#;
    refused(
        &order(field).await,
        expect![[r#"
            422 /problems/validation
            /colour: is unknown here; known are `customer_id`, `items`, `payment_method`
              at "/colour": is unknown here; known are `customer_id`, `items`, `payment_method` (additionalProperties)"#]],
    );
    let nested = r#"{"items":[{"product_id":"tea","quantity":1,"qty":2}]}"#;
    refused(
        &order(nested).await,
        expect![[r#"
            422 /problems/validation
            /items/0/qty: is unknown here; known are `product_id`, `quantity`
              at "/items/0/qty": is unknown here; known are `product_id`, `quantity` (additionalProperties)"#]],
    );
    let customer = r#"{"items":[{"product_id":"tea","quantity":1}],"customer_id":""}"#;
    refused(
        &order(customer).await,
        expect![[r#"
            422 /problems/validation
            /customer_id: must have at least 1 character
              at "/customer_id": must have at least 1 character (minLength)"#]],
    );
    assert_eq!(client.json("/orders").await, json!({"items": []}), "nothing was accepted");
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
async fn only_json_of_a_moderate_size_is_taken() {
    let (_directory, _shop, mut client) = open();
    let as_text = request(Method::POST, "/orders", &[("content-type", "text/plain")], TEA);
    refused(
        &client.ask(as_text).await,
        expect![[r#"
        415 /problems/content-type
        the content type is "text/plain"; send application/json"#]],
    );
    refused(
        &client.ask(request(Method::POST, "/orders", &[], TEA)).await,
        expect![[r#"
        415 /problems/content-type
        the content type is ""; send application/json"#]],
    );
    let with_charset = [("content-type", "application/json; charset=utf-8")];
    let answer = client.ask(request(Method::POST, "/orders", &with_charset, TEA)).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let padded = format!("{TEA}{}", " ".repeat(tidings::http::BODY_BYTES_MAX + 1 - TEA.len()));
    refused(
        &client.post("/orders", &padded).await,
        expect![[r#"
        413 /problems/too-large
        the body has more than 262144 bytes"#]],
    );
    let answer = client.post("/orders", &padded[..tidings::http::BODY_BYTES_MAX]).await;
    assert_eq!(answer.status, StatusCode::CREATED, "one byte less: {}", answer.text());
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let (_directory, _shop, mut client) = open();
    refused(
        &client.get("/nowhere").await,
        expect![[r#"
        404 /problems/not-found
        there is nothing at this path"#]],
    );
    refused(
        &client.get("/products/gold").await,
        expect![[r#"
        404 /problems/not-found
        there is no product gold"#]],
    );
    refused(
        &client.get("/stock/gold").await,
        expect![[r#"
        404 /problems/not-found
        there is no product gold"#]],
    );
    refused(
        &client.get("/payments/o-1").await,
        expect![[r#"
        404 /problems/not-found
        there is no payment for order o-1"#]],
    );
    refused(
        &client.get("/orders/o-1/history").await,
        expect![[r#"
        404 /problems/not-found
        there is no order o-1"#]],
    );
    refused(
        &client.get("/orders/o-1/events").await,
        expect![[r#"
        404 /problems/not-found
        there is no order o-1"#]],
    );
    refused(
        &client.post("/orders/o-1/cancel", "").await,
        expect![[r#"
        404 /problems/not-found
        there is no order o-1"#]],
    );
    refused(
        &client.post("/stock/gold/receipts", r#"{"quantity":1,"reference":"r"}"#).await,
        expect![[r#"
            404 /problems/not-found
            there is no product gold"#]],
    );
    let answer = client.ask(request(Method::DELETE, "/orders", &[], "")).await;
    refused(
        &answer,
        expect![[r#"
        405 /problems/method
        this path does not know this method"#]],
    );
    let allowed: BTreeSet<&str> = answer.header("allow").split(',').collect();
    assert!(allowed.is_superset(&BTreeSet::from(["GET", "POST"])), "{allowed:?}");
}

#[tokio::test]
async fn the_same_idempotency_key_gets_the_same_answer_and_makes_no_second_order() {
    let (_directory, _shop, mut client) = open();
    let key = [("idempotency-key", "k-1")];
    let first = client.post_with("/orders", &key, TEA).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    client.ended(first.json()["id"].as_str().unwrap()).await;
    for key in ["k-1", "\"k-1\""] {
        let again = client.post_with("/orders", &[("idempotency-key", key)], TEA).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (StatusCode::CREATED, "true"));
        assert_eq!(again.body, first.body);
        for header in ["location", "content-type"] {
            assert_eq!(again.header(header), first.header(header));
        }
    }
    let same = r#"{"items":[{"product_id":"tea","quantity":2}],"payment_method":null,"customer_id":null}"#;
    assert_eq!(client.post_with("/orders", &key, same).await.body, first.body, "null is as good as nothing");
    let other = r#"{"items":[{"product_id":"tea","quantity":3}]}"#;
    refused(
        &client.post_with("/orders", &key, other).await,
        expect![[r#"
        422 /problems/idempotency-mismatch
        this Idempotency-Key was used for another request body"#]],
    );
    let another_key = client.post_with("/orders", &[("idempotency-key", "k-2")], other).await;
    assert_eq!((another_key.status, another_key.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    assert_eq!(client.json("/orders").await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_idempotency_key_has_1_to_255_printable_characters() {
    let (_directory, _shop, mut client) = open();
    let mut place = async |key: &str| client.post_with("/orders", &[("idempotency-key", key)], TEA).await;
    refused(
        &place("").await,
        expect![[r#"
        400 /problems/idempotency-key
        an Idempotency-Key has 1 to 255 printable ASCII characters"#]],
    );
    refused(
        &place(&"k".repeat(256)).await,
        expect![[r#"
        400 /problems/idempotency-key
        an Idempotency-Key has 1 to 255 printable ASCII characters"#]],
    );
    refused(
        &place("käse").await,
        expect![[r#"
        400 /problems/idempotency-key
        an Idempotency-Key has 1 to 255 printable ASCII characters"#]],
    );
    assert_eq!(place(&"k".repeat(255)).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_refused_request_does_not_use_its_key_up() {
    let (_directory, _shop, mut client) = open();
    let key = [("idempotency-key", "k-1")];
    let refused =
        client.post_with("/orders", &key, r#"{"items":[{"product_id":"gold","quantity":1}]}"#).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(client.post_with("/orders", &key, TEA).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn concurrent_requests_with_one_key_make_one_order() {
    let (_directory, shop, mut client) = open();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut client = shop.client();
        tasks.spawn(async move { client.post_with("/orders", &[("idempotency-key", "k-1")], TEA).await });
    }
    let answers = tasks.join_all().await;
    let mut firsts = 0;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        assert_eq!(answer.body, answers[0].body);
        firsts += usize::from(answer.header("idempotent-replayed").is_empty());
    }
    assert_eq!(firsts, 1, "one request made the order, the others were told of it");
    assert_eq!(client.json("/orders").await["items"].as_array().unwrap().len(), 1);
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
async fn a_list_does_not_take_any_question() {
    let (_directory, _shop, mut client) = open();
    refused(
        &client.get("/orders?limit=0").await,
        expect![[r#"
            400 /problems/query
            limit: lower than 1"#]],
    );
    refused(
        &client.get("/orders?limit=1001").await,
        expect![[r#"
            400 /problems/query
            limit: greater than 1000"#]],
    );
    refused(
        &client.get("/orders?cursor=yesterday").await,
        expect![[r#"
            400 /problems/query
            Failed to deserialize query string: cursor: the cursor is not one that a list gave out"#]],
    );
    refused(
        &client.get("/payments?limit=0").await,
        expect![[r#"
            400 /problems/query
            limit: lower than 1"#]],
    );
    refused(
        &client.get("/payments?limit=1001").await,
        expect![[r#"
            400 /problems/query
            limit: greater than 1000"#]],
    );
    refused(
        &client.get("/payments?cursor=yesterday").await,
        expect![[r#"
            400 /problems/query
            Failed to deserialize query string: cursor: the cursor is not one that a list gave out"#]],
    );
    refused(
        &client.get("/orders?limit=many").await,
        expect![[r#"
        400 /problems/query
        Failed to deserialize query string: limit: invalid digit found in string"#]],
    );
    refused(
        &client.get("/orders?status=lost").await,
        expect![[r#"
        400 /problems/query
        Failed to deserialize query string: status: unknown variant `lost`, expected one of `processing`, `confirmed`, `completed`, `cancelling`, `cancelled`"#]],
    );
    refused(
        &client.get("/orders?colour=red").await,
        expect![[r#"
        400 /problems/query
        Failed to deserialize query string: colour: unknown field `colour`, expected one of `status`, `customer_id`, `limit`, `cursor`"#]],
    );
    refused(
        &client.get("/payments?status=lost").await,
        expect![[r#"
        400 /problems/query
        Failed to deserialize query string: status: unknown variant `lost`, expected one of `unknown`, `authorizing`, `authorized`, `declined`, `capturing`, `captured`, `capture_failed`, `voiding`, `voided`, `refunding`, `refunded`"#]],
    );
}

#[tokio::test]
async fn a_route_without_parameters_takes_none() {
    let (_directory, _shop, mut client) = open();
    let id = client.place(TEA).await;
    for path in [
        "/stock",
        "/stock/tea",
        "/products",
        "/products/tea",
        "/statusz",
        &format!("/orders/{id}"),
        &format!("/orders/{id}/history"),
        &format!("/orders/{id}/events"),
        &format!("/payments/{id}"),
    ] {
        let answer = client.get(&format!("{path}?&lim%0Ait=1")).await;
        assert_eq!((answer.status.as_u16(), path), (400, path));
        refused(
            &answer,
            expect![[r#"
                400 /problems/query
                lim\nit: is no parameter of this path, which takes none"#]],
        );
    }
    for path in ["/orders", "/stock/tea/receipts", &format!("/orders/{id}/cancel")] {
        assert_eq!(client.post(&format!("{path}?x"), TEA).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    for path in ["/stock?", "/stock?&", "/livez?x=1", "/readyz?x=1", "/metrics?x=1"] {
        assert_eq!(client.get(path).await.status, StatusCode::OK, "{path}");
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

#[tokio::test]
async fn the_catalogue_is_listed() {
    let (_directory, _shop, mut client) = open();
    let products = client.json("/products").await;
    assert_eq!(products["items"].as_array().unwrap().len(), 10);
    golden(
        client.json("/products/tea").await,
        expect![[r#"
        {
          "name": "Green tea, 100 g",
          "product_id": "tea",
          "unit_price": {
            "amount": 1299,
            "currency": "EUR"
          }
        }
    "#]],
    );
}

#[tokio::test]
async fn a_delivery_is_booked_once_per_reference() {
    let (_directory, _shop, mut client) = open();
    let before = client.json("/stock/tea").await;
    golden(
        before.clone(),
        expect![[r#"
        {
          "available": 1000000,
          "committed": 0,
          "product_id": "tea",
          "reserved": 0
        }
    "#]],
    );
    let delivery = r#"{"quantity":5,"reference":"r-1"}"#;
    for expected in [StatusCode::CREATED, StatusCode::OK, StatusCode::OK] {
        let answer = client.post("/stock/tea/receipts", delivery).await;
        assert_eq!((answer.status, &answer.json()["available"]), (expected, &json!(1_000_005)));
    }
    let answer = client.post("/stock/mug/receipts", delivery).await;
    assert_eq!(answer.status, StatusCode::CREATED, "a reference is one per product");
    let stock = client.json("/stock").await;
    let tea = stock["items"].as_array().unwrap().iter().find(|s| s["product_id"] == "tea").unwrap();
    assert_eq!(tea["available"], 1_000_005);
    refused(
        &client.post("/stock/tea/receipts", r#"{"quantity":0,"reference":""}"#).await,
        expect![[r#"
            422 /problems/validation
            2 things are wrong with the body
              at "/quantity": must be at least 1 (minimum)
              at "/reference": must have at least 1 character (minLength)"#]],
    );
    refused(
        &client.post("/stock/tea/receipts", r#"{"quantity":1}"#).await,
        expect![[r#"
            422 /problems/validation
            the body: `reference` is missing
              at "": `reference` is missing (required)"#]],
    );
}

#[tokio::test]
async fn a_payment_is_shown_with_its_ledger() {
    let (_directory, _shop, mut client) = open();
    let id = client.place(TEA).await;
    client.ended(&id).await;
    golden(
        client.json(&format!("/payments/{id}")).await,
        expect![[r#"
            {
              "amount": {
                "amount": 2598,
                "currency": "EUR"
              },
              "captured": {
                "amount": 2598,
                "currency": "EUR"
              },
              "created_at": "‹time›",
              "ledger": [
                {
                  "account": "customer",
                  "amount": -2598,
                  "at": "‹time›",
                  "currency": "EUR",
                  "kind": "authorization"
                },
                {
                  "account": "held",
                  "amount": 2598,
                  "at": "‹time›",
                  "currency": "EUR",
                  "kind": "authorization"
                },
                {
                  "account": "held",
                  "amount": -2598,
                  "at": "‹time›",
                  "currency": "EUR",
                  "kind": "capture"
                },
                {
                  "account": "revenue",
                  "amount": 2598,
                  "at": "‹time›",
                  "currency": "EUR",
                  "kind": "capture"
                }
              ],
              "order_id": "‹id›",
              "payment_id": "pay_‹id›",
              "provider_ref": "pi_authorize‹id›",
              "refunded": {
                "amount": 0,
                "currency": "EUR"
              },
              "status": "captured",
              "updated_at": "‹time›"
            }
        "#]],
    );
    let stock = client.json("/stock/tea").await;
    assert_eq!(
        (&stock["available"], &stock["reserved"], &stock["committed"]),
        (&json!(999_998), &json!(0), &json!(2))
    );
}

#[tokio::test]
async fn the_process_tells_how_it_is() {
    let (_directory, _shop, mut client) = open();
    assert_eq!(client.json("/livez").await, json!({"status": "live"}));
    assert_eq!(client.json("/readyz").await, json!({"status": "ready"}));
    let id = client.place(TEA).await;
    client.ended(&id).await;
    let status = eventually(async || {
        let status = client.json("/statusz").await;
        let idle = |s: &Value| s["outbox"]["pending"] == 0 && s["consumer"]["lag"] == 0;
        let all_idle = ["order", "payment", "inventory"].iter().all(|name| idle(&status[*name]));
        if all_idle { Ok(status) } else { Err(format!("not idle: {status}")) }
    })
    .await;
    golden(
        status,
        expect![[r#"
            {
              "inventory": {
                "consumer": {
                  "conflicts": 0,
                  "dead": 0,
                  "delivered": 3,
                  "differing": 0,
                  "duplicate": 0,
                  "given_up": 0,
                  "group": "inventory",
                  "handled": 2,
                  "ignored": 1,
                  "lag": 0,
                  "parked": 0,
                  "recovered": 0
                },
                "effects": {
                  "done": 0,
                  "failing": 0,
                  "open": 0
                },
                "outbox": {
                  "blocked": 0,
                  "failed": 0,
                  "oldest_seconds": null,
                  "pending": 0,
                  "published": 2
                },
                "parked": {
                  "dead": 0,
                  "waiting": 0
                },
                "refusal": null,
                "waiting": []
              },
              "order": {
                "consumer": {
                  "conflicts": 0,
                  "dead": 0,
                  "delivered": 7,
                  "differing": 0,
                  "duplicate": 0,
                  "given_up": 0,
                  "group": "orders",
                  "handled": 4,
                  "ignored": 3,
                  "lag": 0,
                  "parked": 0,
                  "recovered": 0
                },
                "effects": {
                  "done": 0,
                  "failing": 0,
                  "open": 0
                },
                "orders": {
                  "cancelling": 0,
                  "confirmed": 0,
                  "processing": 0
                },
                "outbox": {
                  "blocked": 0,
                  "failed": 0,
                  "oldest_seconds": null,
                  "pending": 0,
                  "published": 3
                },
                "parked": {
                  "dead": 0,
                  "waiting": 0
                },
                "refusal": null,
                "waiting": []
              },
              "payment": {
                "consumer": {
                  "conflicts": 0,
                  "dead": 0,
                  "delivered": 3,
                  "differing": 0,
                  "duplicate": 0,
                  "given_up": 0,
                  "group": "payments",
                  "handled": 2,
                  "ignored": 1,
                  "lag": 0,
                  "parked": 0,
                  "recovered": 0
                },
                "effects": {
                  "done": 2,
                  "failing": 0,
                  "open": 0
                },
                "outbox": {
                  "blocked": 0,
                  "failed": 0,
                  "oldest_seconds": null,
                  "pending": 0,
                  "published": 2
                },
                "parked": {
                  "dead": 0,
                  "waiting": 0
                },
                "refusal": null,
                "waiting": [],
                "webhook": {
                  "ignored": 0,
                  "recorded": 0,
                  "refused": 0,
                  "repeated": 0
                }
              }
            }
        "#]],
    );
    let metrics = client.get("/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert!(metrics.header("content-type").starts_with("text/plain"), "{}", metrics.header("content-type"));
    let mut text: Vec<String> = metrics.text().lines().map(str::to_owned).collect();
    text.retain(|line| line.contains(r#"service="payment""#));
    text.sort();
    expect![[r#"
        consumer_conflicts_total{service="payment"} 0
        consumer_lag_records{service="payment"} 0
        consumer_paused_seconds{service="payment"} 0
        consumer_stalled_seconds{service="payment"} 0
        dead_rows{service="payment"} 0
        effects_done_total{service="payment"} 2
        effects_failed_total{service="payment"} 0
        effects_failing{service="payment"} 0
        effects_open{service="payment"} 0
        inbox_delivered_total{service="payment"} 3
        inbox_differing_total{service="payment"} 0
        inbox_gaps_total{service="payment"} 0
        inbox_records_total{service="payment",result="dead"} 0
        inbox_records_total{service="payment",result="duplicate"} 0
        inbox_records_total{service="payment",result="handled"} 2
        inbox_records_total{service="payment",result="ignored"} 1
        inbox_records_total{service="payment",result="parked"} 0
        outbox_blocked_rows{service="payment"} 0
        outbox_blocked_total{service="payment"} 0
        outbox_lane_lease_lost_total{service="payment"} 0
        outbox_oldest_pending_seconds{service="payment"} 0
        outbox_pending_rows{service="payment"} 0
        outbox_published_total{service="payment"} 2
        outbox_send_failures_total{service="payment"} 0
        parked_given_up_total{service="payment"} 0
        parked_recovered_total{service="payment"} 0
        parked_rows{service="payment"} 0
        parked_unstorable_total{service="payment"} 0
        relay_lanes{service="payment"} 0
        store_up{service="payment"} 1"#]]
    .assert_eq(&text.join("\n"));
}

#[tokio::test]
async fn a_request_id_is_returned_or_made() {
    let (_directory, _shop, mut client) = open();
    let answer = client.ask(request(Method::GET, "/livez", &[("x-request-id", "r-1")], "")).await;
    assert_eq!(answer.header("x-request-id"), "r-1");
    let made: BTreeSet<String> = [client.get("/livez").await, client.get("/nowhere").await]
        .map(|a| a.header("x-request-id").to_owned())
        .into();
    assert!(made.len() == 2 && made.iter().all(|id| id.len() == 36), "{made:?}");
}

#[tokio::test]
async fn request_id_and_trace_go_from_the_request_through_every_event() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (directory, mut shop, mut client) = open();
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("x-request-id", "request-1"), ("traceparent", &traceparent)];
    let answer = client.post_with("/orders", &headers, TEA).await;
    assert_eq!(answer.header("x-request-id"), "request-1");
    assert_eq!(answer.header("traceparent"), traceparent);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    client.ended(&id).await;
    drop(client);
    shop.terminate();
    assert!(shop.wait(PATIENCE).unwrap().success());
    drop(shop);
    let broker = Broker::open(&format!("sqlite:{}", directory.path().display())).unwrap();
    let mut types = BTreeSet::new();
    for topic in ["orders", "payments", "inventory"] {
        for position in broker.positions("nobody", &[topic.to_owned()]).await.unwrap() {
            for record in broker.read(topic, position.partition, 0, 100).await.unwrap() {
                let header = |name| record.message.header(name).unwrap_or_default().to_owned();
                assert_eq!(header("ce_correlationid"), "request-1", "{}", header("ce_type"));
                assert_eq!(header("traceparent").split('-').nth(1), Some(TRACE), "{}", header("ce_type"));
                types.insert(header("ce_type"));
            }
        }
    }
    assert_eq!(types.len(), 7, "{types:?}");
}
