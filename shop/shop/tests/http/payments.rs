//! Payments and their ledger.

use expect_test::expect;
use serde_json::json;

use super::{TEA, golden, open};

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
