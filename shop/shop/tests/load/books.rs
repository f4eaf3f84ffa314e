//! Does everything add up? Asked over HTTP, after every order has ended.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::process::{Client, eventually};

/// Orders whose history is read: reading all of them would take longer than placing them.
const HISTORIES: usize = 60;
const SERVICES: [&str; 3] = ["order", "payment", "inventory"];

/// Where each service is asked: all at one address, or each at its own.
pub struct Clients {
    pub order: Client,
    pub payment: Client,
    pub inventory: Client,
}

impl Clients {
    /// Those of a shop in one process.
    pub fn of_one(address: &str) -> Self {
        Self { order: Client::to(address), payment: Client::to(address), inventory: Client::to(address) }
    }

    /// What each service says about itself.
    async fn status(&mut self) -> BTreeMap<&'static str, Value> {
        let mut all = BTreeMap::new();
        for (name, client) in
            SERVICES.into_iter().zip([&mut self.order, &mut self.payment, &mut self.inventory])
        {
            all.insert(name, client.json("/statusz").await[name].take());
        }
        all
    }
}

/// Waits until every order has ended and every service is done.
pub async fn settled(clients: &mut Clients) {
    eventually(async || {
        for status in ["processing", "confirmed", "cancelling"] {
            let page = clients.order.json(&format!("/orders?status={status}&limit=1")).await;
            if let Some(open) = list(&page).first() {
                return Err(format!("an order has not ended: {open}"));
            }
        }
        Ok(())
    })
    .await;
    eventually(async || {
        let status = clients.status().await;
        let idle =
            |s: &Value| s["outbox"]["pending"] == 0 && s["consumer"]["lag"] == 0 && s["effects"]["open"] == 0;
        if status.values().all(idle) { Ok(()) } else { Err(format!("a service is not idle: {status:?}")) }
    })
    .await;
}

/// Checks the books of a shop that has accepted exactly these orders and has these pieces in all.
pub async fn audit(clients: &mut Clients, accepted: &[String], pieces: &BTreeMap<String, u64>) {
    let orders = all(&mut clients.order, "/orders").await;
    let payments = all(&mut clients.payment, "/payments").await;
    let mut wrong = each_once(&orders, accepted);
    wrong.extend(money(&orders, &payments));
    wrong.extend(stock(list(&clients.inventory.json("/stock").await), &orders, pieces));
    wrong.extend(services(&clients.status().await));
    for id in accepted.iter().step_by(accepted.len().div_ceil(HISTORIES).max(1)) {
        wrong.extend(numbers(&clients.order.json(&format!("/orders/{id}/history")).await));
    }
    assert!(wrong.is_empty(), "{} things are wrong with the books:\n  {}", wrong.len(), wrong.join("\n  "));
}

/// Every accepted order is there once, and no other.
fn each_once(orders: &[Value], accepted: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let listed: BTreeSet<&str> = orders.iter().map(|order| text(&order["id"])).collect();
    let promised: BTreeSet<&str> = accepted.iter().map(String::as_str).collect();
    if promised.len() != accepted.len() {
        wrong.push(format!("{} orders were accepted under {} ids", accepted.len(), promised.len()));
    }
    if listed.len() != orders.len() {
        wrong.push("an order is listed twice".to_owned());
    }
    wrong.extend(promised.difference(&listed).map(|id| format!("order {id} was accepted and is lost")));
    wrong.extend(listed.difference(&promised).map(|id| format!("nobody was told of order {id}")));
    wrong
}

/// Exactly completed orders are paid for, once and in full, and every ledger sums up to 0.
fn money(orders: &[Value], payments: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let by_order: BTreeMap<&str, &Value> = payments.iter().map(|p| (text(&p["order_id"]), p)).collect();
    if (by_order.len(), payments.len()) != (orders.len(), orders.len()) {
        wrong.push(format!("{} orders have {} payments", orders.len(), payments.len()));
    }
    for order in orders {
        let id = text(&order["id"]);
        let Some(payment) = by_order.get(id) else {
            wrong.push(format!("order {id} has no payment"));
            continue;
        };
        let completed = order["status"] == "completed";
        if !completed && order["status"] != "cancelled" {
            wrong.push(format!("order {id} has not ended: {order}"));
        }
        let captures = list_of(payment, "ledger").iter().filter(|entry| entry["kind"] == "capture").count();
        let due = if completed { number(&order["total"]["amount"]) } else { 0 };
        let charged = number(&payment["captured"]["amount"]) - number(&payment["refunded"]["amount"]);
        // A transfer has two sides.
        if charged != due || captures > 2 || (completed && captures != 2) {
            wrong.push(format!("{charged} are charged for {id}, {due} are due: {payment}"));
        }
        let mut accounts: BTreeMap<&str, i64> = BTreeMap::new();
        for entry in list_of(payment, "ledger") {
            *accounts.entry(text(&entry["account"])).or_default() += number(&entry["amount"]);
        }
        if accounts.values().sum::<i64>() != 0 || accounts.get("held").is_some_and(|held| *held != 0) {
            wrong.push(format!("the ledger of {id} does not balance: {payment}"));
        }
    }
    wrong
}

/// No piece appears or vanishes, and exactly those of completed orders are gone.
fn stock(levels: &[Value], orders: &[Value], pieces: &BTreeMap<String, u64>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut sold: BTreeMap<&str, u64> = BTreeMap::new();
    for order in orders.iter().filter(|order| order["status"] == "completed") {
        for line in list(order) {
            *sold.entry(text(&line["product_id"])).or_default() += number(&line["quantity"]).unsigned_abs();
        }
    }
    for level in levels {
        let product = text(&level["product_id"]);
        let sold = sold.get(product).copied().unwrap_or(0);
        // Below zero is no u64.
        let found = ["available", "reserved", "committed"].map(|name| level[name].as_u64());
        if found != [pieces[product].checked_sub(sold), Some(0), Some(sold)] {
            wrong.push(format!("of {} {product} {sold} are sold, but there are {level}", pieces[product]));
        }
    }
    wrong
}

/// Nothing is on its way, nothing has failed, and everything delivered was accounted for.
fn services(status: &BTreeMap<&'static str, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, rest) in status {
        let consumer = &rest["consumer"];
        let counts =
            ["handled", "duplicate", "ignored", "parked", "dead"].map(|name| number(&consumer[name]));
        if number(&consumer["delivered"]) != counts.iter().sum::<i64>() {
            wrong.push(format!("{name} does not account for everything delivered: {consumer}"));
        }
        let left = [
            &rest["outbox"]["pending"],
            &rest["outbox"]["blocked"],
            &rest["parked"]["waiting"],
            &rest["parked"]["dead"],
            &rest["effects"]["open"],
        ];
        if left.iter().any(|count| **count != 0) {
            wrong.push(format!("{name} is not done: {rest}"));
        }
    }
    wrong
}

/// Each stream of a history is numbered 1, 2, 3, …
fn numbers(history: &Value) -> Vec<String> {
    let mut streams: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for event in list_of(history, "events") {
        streams.entry(text(&event["stream"])).or_default().push(number(&event["seq"]));
    }
    let mut wrong = Vec::new();
    if streams.len() != 3 {
        wrong.push(format!("not all three services have stated something: {history}"));
    }
    for (stream, mut seqs) in streams {
        seqs.sort_unstable();
        if !seqs.iter().copied().eq(1..=seqs.len() as i64) {
            wrong.push(format!("{stream} is numbered {seqs:?}"));
        }
    }
    wrong
}

/// Every page of a list.
pub async fn all(client: &mut Client, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.json(&format!("{path}?limit=1000{cursor}")).await;
        items.extend_from_slice(list(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn list(page: &Value) -> &[Value] {
    list_of(page, "items")
}

fn list_of<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("there are no {name} in {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no number"))
}
