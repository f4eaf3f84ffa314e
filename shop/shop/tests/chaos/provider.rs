//! The payment provider's book: it knows who was charged, whatever our ledger says.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use serde_json::Value;

use crate::process::{Client, request};

/// Any key will do.
pub const KEY: &str = "sk_test_bad_days";

/// Checks that exactly the completed orders were charged, once and in full, and that nothing is held.
pub async fn agrees(address: &str, orders: &[Value]) {
    let mut provider = Client::to(address);
    let mut charged: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let completed: BTreeSet<&str> = orders
        .iter()
        .filter(|order| order["status"] == "completed")
        .filter_map(|o| o["id"].as_str())
        .collect();
    for intent in intents(&mut provider).await {
        let order = intent["metadata"]["order_id"].as_str().unwrap();
        let mut kept = amount(&intent["amount_received"]);
        if kept > 0 && !completed.contains(order) {
            // Only the charge as a whole says what was given back.
            let path =
                format!("/v1/payment_intents/{}?expand[]=latest_charge", intent["id"].as_str().unwrap());
            kept -= amount(&ask(&mut provider, &path).await["latest_charge"]["amount_refunded"]);
        }
        if kept != 0 {
            charged.entry(order.to_owned()).or_default().push(kept);
        }
        if amount(&intent["amount_capturable"]) != 0 {
            wrong.push(format!("money is still held: {intent}"));
        }
    }
    for order in orders {
        let due = order["total"]["amount"].as_i64().filter(|_| order["status"] == "completed");
        let found = charged.remove(order["id"].as_str().unwrap()).unwrap_or_default();
        if found != Vec::from_iter(due) {
            wrong.push(format!("the provider has charged {found:?}: {order}"));
        }
    }
    wrong.extend(
        charged.keys().map(|order| format!("the provider has charged for {order}, which is no order")),
    );
    assert!(wrong.is_empty(), "{} things are wrong at the provider:\n  {}", wrong.len(), wrong.join("\n  "));
}

/// Everything that was ever asked for, newest first.
async fn intents(provider: &mut Client) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    loop {
        let after = found.last().map(|intent| format!("&starting_after={}", intent["id"].as_str().unwrap()));
        let page =
            ask(provider, &format!("/v1/payment_intents?limit=100{}", after.unwrap_or_default())).await;
        found.extend_from_slice(page["data"].as_array().unwrap());
        if page["has_more"] != true {
            return found;
        }
    }
}

async fn ask(provider: &mut Client, path: &str) -> Value {
    let authorization = format!("Bearer {KEY}");
    let answer = provider.ask(request(Method::GET, path, &[("authorization", &authorization)], "")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn amount(of: &Value) -> i64 {
    of.as_i64().unwrap_or_else(|| panic!("{of} is no amount"))
}
