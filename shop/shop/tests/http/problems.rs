//! Refusals: problem details with the place and the rule.

use std::collections::BTreeSet;

use expect_test::expect;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::process::request;
use super::{TEA, golden, open, refused};

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
            colour: is no parameter of this path, which takes cursor, customer_id, limit, status"#]],
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
