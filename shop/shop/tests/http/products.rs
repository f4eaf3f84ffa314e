//! Products and their stock.

use expect_test::expect;
use hyper::StatusCode;
use serde_json::json;

use super::{golden, open, refused};

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
