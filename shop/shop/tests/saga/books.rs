//! What must be true after every script, whatever it was about.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::world::{TOPICS, World};

/// Everything that does not add up, in words. What a stopped service knows is not asked for.
pub async fn audit(world: &World) -> Vec<String> {
    let mut wrong = numbers(world);
    let mut orders = Vec::new();
    if world.runs("order") {
        orders = world.list("order", "/orders?limit=1000").await;
        wrong.extend(each_order_once(world, &orders));
        for order in &orders {
            wrong.extend(history(world, order).await);
        }
    }
    if world.all_run() {
        wrong.extend(
            orders.iter().filter(|order| !is_final(order)).map(|order| format!("not final: {order}")),
        );
    }
    if world.runs("payment") {
        wrong.extend(money(world, &orders).await);
    }
    if world.runs("inventory") {
        wrong.extend(stock(world, &orders).await);
    }
    wrong
}

fn is_final(order: &Value) -> bool {
    order["status"] == "completed" || order["status"] == "cancelled"
}

/// Streams are numbered 1, 2, 3, … and no number is given twice.
fn numbers(world: &World) -> Vec<String> {
    let mut streams: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
    for event in world.story().events().filter(|event| !event.is_dead_letter()) {
        if let Some(seq) = event.seq {
            streams.entry((&event.topic, &event.order)).or_default().push(seq);
        }
    }
    let mut wrong = Vec::new();
    for ((topic, order), mut seqs) in streams {
        seqs.sort_unstable();
        if !seqs.iter().copied().eq(1..=seqs.len() as u64) {
            wrong.push(format!("{topic}/{order} is numbered {seqs:?}"));
        }
    }
    wrong
}

/// Every order of the script is there once, and no other.
fn each_order_once(world: &World, orders: &[Value]) -> Vec<String> {
    let mut listed: Vec<&str> = orders.iter().filter_map(|order| order["id"].as_str()).collect();
    listed.sort_unstable();
    let placed: Vec<&str> = world.labels.keys().map(String::as_str).collect();
    if listed == placed { Vec::new() } else { vec![format!("orders {placed:?} are listed as {listed:?}")] }
}

/// An order's history has every event about it, once.
async fn history(world: &World, order: &Value) -> Vec<String> {
    let id = order["id"].as_str().expect("an order has an id");
    let history = world.get("order", &format!("/orders/{id}/history")).await;
    let events = history["events"].as_array().expect("a history has events");
    let mut told: Vec<&str> = events.iter().filter_map(|event| event["event_id"].as_str()).collect();
    told.sort_unstable();
    let about = |event: &&super::transcript::Event| event.order == id && TOPICS.contains(&&*event.topic);
    let stated: BTreeSet<&str> = world.story().events().filter(about).map(|event| &*event.id).collect();
    if stated.iter().eq(&told) { Vec::new() } else { vec![format!("{id}: {stated:?} are told as {told:?}")] }
}

/// Ledgers sum up to 0, nothing stays held, and exactly completed orders are paid for.
async fn money(world: &World, orders: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let payments = world.list("payment", "/payments?limit=1000").await;
    for payment in &payments {
        let order = &payment["order_id"];
        let mut accounts: BTreeMap<&str, i64> = BTreeMap::new();
        for entry in payment["ledger"].as_array().expect("a payment has a ledger") {
            let (account, amount) = (entry["account"].as_str().unwrap_or("?"), entry["amount"].as_i64());
            *accounts.entry(account).or_default() += amount.expect("amounts are numbers");
        }
        if accounts.values().sum::<i64>() != 0 {
            wrong.push(format!("the ledger of {order} does not sum up to 0: {payment}"));
        }
        let Some(known) = orders.iter().find(|known| known["id"] == *order) else {
            continue;
        };
        let held = accounts.get("held").copied().unwrap_or(0);
        if held != 0 && world.all_run() {
            wrong.push(format!("{held} are still held for {order}: {payment}"));
        }
        let charge = amount(&payment["captured"]) - amount(&payment["refunded"]);
        let due = if known["status"] == "completed" { amount(&known["total"]) } else { 0 };
        if charge != due && world.all_run() {
            wrong.push(format!("{charge} are charged for {order}, {due} are due: {payment}"));
        }
    }
    if world.all_run() && payments.len() != orders.len() {
        wrong.push(format!("{} orders have {} payments", orders.len(), payments.len()));
    }
    wrong
}

fn amount(money: &Value) -> i64 {
    money["amount"].as_i64().expect("money has an amount")
}

/// No piece appears or vanishes, and exactly completed orders have theirs.
async fn stock(world: &World, orders: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut sold: BTreeMap<&str, u64> = BTreeMap::new();
    for order in orders.iter().filter(|order| order["status"] == "completed") {
        for line in order["items"].as_array().expect("an order has lines") {
            let product = line["product_id"].as_str().expect("a line names a product");
            *sold.entry(product).or_default() += line["quantity"].as_u64().expect("a line has a quantity");
        }
    }
    for level in world.list("inventory", "/stock").await {
        let product = level["product_id"].as_str().expect("a level is of a product");
        // A level below zero would not be a u64.
        let pieces = |name: &str| level[name].as_u64().unwrap_or_else(|| panic!("{name} of {level}"));
        let (available, reserved, committed) = (pieces("available"), pieces("reserved"), pieces("committed"));
        let received = world.received[product];
        if available + reserved + committed != received {
            wrong.push(format!("of {received} {product} there are {level}"));
        }
        let sold = sold.get(product).copied().unwrap_or(0);
        if world.all_run() && (reserved, committed) != (0, sold) {
            wrong.push(format!("{sold} {product} are sold, but there are {level}"));
        }
    }
    wrong
}
