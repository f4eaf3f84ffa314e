//! The provider's book beside the ledger: they agree after whatever the service did, and each loss is named.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use payment::domain::Operation;
use payment::gateway::book::{BookSpan, ProviderPage, ProviderPayment};
use payment::gateway::sandbox::Sandbox;
use payment::gateway::stripe::Stripe;
use payment::gateway::{Answer, Charge, PaymentGateway, Standing};
use payment::psp::Psp;
use payment::service_through;
use serde_json::{Value, json};
use tidings::{EffectError, Message, Store, Tx};
use tidings_testkit::stage::Stage;
use tidings_testkit::wire::Binary;
use tidings_testkit::{Scratch, TestApp, eventually};

use crate::provider::Provider;

/// How orders are paid, and what is decided: each way that a payment can go.
const ORDERS: [(&str, &str); 7] = [
    ("pm_card_visa", "confirmed"),
    ("pm_card_visa", "cancelled"),
    ("pm_card_visa", "open"),
    ("pm_card_visa_chargeDeclined", "cancelled"),
    ("pm_card_authenticationRequired", "cancelled"),
    ("pm_sandbox_reply_lost", "confirmed"),
    ("pm_sandbox_capture_fails", "confirmed"),
];

#[tokio::test]
async fn the_books_agree_after_all_that_the_service_does_page_by_page() {
    agree(Stage::new()).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn the_books_agree_on_postgresql_too() {
    agree(Stage::on_postgres()).await;
}

async fn agree(stage: Stage) {
    const EACH: usize = 3;
    let provider = Provider::start().await;
    let app = TestApp::start_on(stage, [service_through(provider.gateway())]).await;
    let orders: Vec<_> = ORDERS.iter().cycle().take(ORDERS.len() * EACH).enumerate().collect();
    for (n, (method, _)) in &orders {
        send(&app, "created", n, method).await;
    }
    for (n, (method, decision)) in orders.iter().filter(|(_, (_, decision))| *decision != "open") {
        send(&app, decision, n, method).await;
    }
    eventually("all is done", async || {
        let payments = app.get("/payments?limit=100").await.body;
        let is_over = |payment: &Value| {
            ["captured", "voided", "declined", "capture_failed"]
                .contains(&payment["status"].as_str().unwrap())
                || (payment["status"] == "authorized" && number_of(payment) % ORDERS.len() == 2)
        };
        let items = payments["items"].as_array().unwrap();
        items.len() == orders.len() && items.iter().all(is_over)
    })
    .await;
    let whole = reconcile(&app, "?limit=100").await;
    assert_eq!((&whole.lines, whole.pages), (&Vec::<String>::new(), 2));
    assert_eq!((whole.there, whole.here), (orders.len() as u64, orders.len() as u64));
    let paged = reconcile(&app, "?limit=4").await;
    assert_eq!((&paged.lines, paged.there, paged.here), (&whole.lines, whole.there, whole.here));
    assert!(paged.pages >= 2 * orders.len() / 4, "{} pages", paged.pages);
    // Before all of it, there is nothing in either book.
    let before = reconcile(&app, "?since=2020-01-01T00:00:00Z&until=2021-01-01T00:00:00Z").await;
    assert_eq!((before.lines.len(), before.there, before.here), (0, 0, 0));
    for wrong in [
        "limit=101",
        "limit=0",
        "cursor=17",
        "cursor=provider...",
        "since=today",
        "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
        "until=-009999-01-02T01:59:59Z",
        "order=o-1",
    ] {
        let answer = app.get(&format!("/admin/reconciliation?{wrong}")).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["type"]),
            (400, &json!("/problems/query")),
            "{wrong}"
        );
    }
    app.stop().await;
}

#[tokio::test]
async fn each_loss_is_named_with_the_order_both_figures_and_what_to_do() {
    let (scratch, stage) = (Scratch::new(), Stage::new());
    let journal = scratch.path().join("book");
    let provider = Provider::of(Psp::open(&journal).unwrap()).await;
    let gateway = Other::of(provider.gateway());
    let app = TestApp::start_on(stage, [service_through(gateway.clone())]).await;
    for n in 0..6 {
        send(&app, "created", &n, "pm_card_visa").await;
        send(&app, if n == 4 { "cancelled" } else { "confirmed" }, &n, "pm_card_visa").await;
    }
    eventually("all is done", async || {
        let payments = app.get("/payments?limit=100").await.body;
        let items = payments["items"].as_array().unwrap();
        items.len() == 6
            && items.iter().all(|payment| payment["status"] == "captured" || payment["status"] == "voided")
    })
    .await;
    let reference = async |n: usize| {
        let payment = app.get(&format!("/payments/o-{n}")).await.body;
        payment["provider_ref"].as_str().unwrap().to_owned()
    };
    // The provider loses an order, and is found again at another address with what it has left.
    let provider = Provider::of(Psp::open(&without(&journal, "o-0")).unwrap()).await;
    gateway.moves_to(provider.gateway());
    // It was charged for an order of which nobody here knows, given back in the dashboard, and held once more.
    hold(&provider, "o-9", true).await;
    hold(&provider, "o-8", false).await;
    hold(&provider, "o-4", false).await;
    hold(&provider, "o-5", true).await;
    hold(&provider, "", true).await;
    provider.post("/v1/refunds", "dashboard", &format!("payment_intent={}", reference(1).await)).await;
    // Here, somebody changed a price.
    let set = async |tx: &mut Tx| {
        tx.execute("UPDATE payment SET amount = 499 WHERE order_id = 'o-2'", &[])
            .await
            .map(drop)
            .map_err(Into::into)
    };
    app.service("payment").store().transaction(set).await.unwrap();
    let found = reconcile(&app, "?limit=2").await;
    let mut lines = found.lines;
    lines.sort();
    expect_test::expect![[r#"
        o-0 missing_at_provider: here captured 500 collected 500 given back 0, there nothing: look for … at the provider, in the account of this service's key; if it is not there, nobody has paid order o-0: ask the customer to pay again
        o-1 status_differs: here captured 500 collected 500 given back 0, there succeeded, refunded 500 collected 500 given back 500: the money was given back at the provider: ask the customer of order o-1 to pay again
        o-2 amount_differs: here captured 499 collected 500 given back 0, there succeeded 500 collected 500 given back 0: settle the difference of order o-2 at the provider: refund what … has too much, or ask the customer for what it has too little
        o-4 open_at_provider: here voided 500 collected 0 given back 0, there requires_capture 500 collected 0 given back 0: give … up at the provider: order o-4 has …
        o-5 missing_here: here captured 500 collected 500 given back 0, there succeeded 500 collected 500 given back 0: refund … at the provider: order o-5 has … and was charged twice
        o-8 missing_here: here nothing, there requires_capture 500 collected 0 given back 0: give … up at the provider, unless another program has order o-8
        o-9 missing_here: here nothing, there succeeded 500 collected 500 given back 0: refund … at the provider, unless another program has order o-9"#]].assert_eq(&lines.join("\n"));
    assert_eq!((found.there, found.here), (9, 6));
    app.stop().await;
}

#[tokio::test]
async fn what_is_under_way_is_no_difference() {
    let provider = Provider::start().await;
    let app = TestApp::start([service_through(provider.gateway())]).await;
    send(&app, "created", &0, "pm_card_visa").await;
    status_of(&app, 0, "authorized").await;
    for kind in ["authorize", "capture"] {
        let pause = json!({"service": "payment", "scope": "effects", "name": kind, "reason": "a test"});
        assert_eq!(app.post("/admin/pauses", &pause).await.status, 200);
    }
    send(&app, "created", &1, "pm_card_visa").await;
    send(&app, "confirmed", &0, "pm_card_visa").await;
    status_of(&app, 0, "capturing").await;
    status_of(&app, 1, "authorizing").await;
    let found = reconcile(&app, "?limit=100").await;
    assert_eq!(found.lines, [""; 0]);
    assert_eq!(found.under_way, ["authorize/o-1", "capture/o-0"]);
    app.stop().await;
}

#[tokio::test]
async fn what_the_provider_contradicts_is_a_difference_and_not_under_way() {
    let provider = Provider::start().await;
    let app = TestApp::start([service_through(provider.gateway())]).await;
    send(&app, "created", &0, "pm_card_visa").await;
    status_of(&app, 0, "authorized").await;
    // Somebody collects in the dashboard what is then to be given up.
    let payment = app.get("/payments/o-0").await.body;
    let hold = payment["provider_ref"].as_str().unwrap();
    provider.post(&format!("/v1/payment_intents/{hold}/capture"), "dashboard", "").await;
    send(&app, "cancelled", &0, "pm_card_visa").await;
    eventually("it is in conflict", async || {
        app.get("/admin/effects?state=conflict").await.body["items"][0]["key"] == "void/o-0"
    })
    .await;
    let found = reconcile(&app, "?limit=100").await;
    assert_eq!(found.under_way, [""; 0]);
    expect_test::expect!["o-0 status_differs: here voiding 500 collected 0 given back 0, there succeeded 500 collected 500 given back 0: the provider contradicts void/o-0: `tidings effects show void/o-0`; put it right there, then `tidings effects retry void/o-0 --reason …`"].assert_eq(&found.lines.join("\n"));
    // It is put right there, and looked up once more.
    provider.post("/v1/refunds", "dashboard refund", &format!("payment_intent={hold}")).await;
    let retry = json!({"service": "payment", "key": "void/o-0", "reason": "given back"});
    assert_eq!(app.post("/admin/effects/retry", &retry).await.status, 200);
    status_of(&app, 0, "voided").await;
    assert_eq!(reconcile(&app, "?limit=100").await.lines, [""; 0]);
    app.stop().await;
}

#[tokio::test]
async fn a_payment_that_moves_on_between_two_looks_is_no_difference() {
    let provider = Provider::start().await;
    let app = TestApp::start([service_through(Other::stale(provider.gateway()))]).await;
    send(&app, "created", &0, "pm_card_visa").await;
    send(&app, "confirmed", &0, "pm_card_visa").await;
    status_of(&app, 0, "captured").await;
    let found = reconcile(&app, "?limit=100").await;
    assert_eq!((found.lines, found.there, found.here), (vec![], 1, 1));
    app.stop().await;
}

/// The provider's answer is of before a call that ends here while it is on its way.
#[tokio::test]
async fn a_payment_that_moves_on_here_during_the_second_look_is_no_difference() {
    let provider = Provider::start().await;
    let gateway = Other::stale_twice(provider.gateway());
    let app = TestApp::start([service_through(gateway.clone())]).await;
    send(&app, "created", &0, "pm_card_visa").await;
    send(&app, "confirmed", &0, "pm_card_visa").await;
    status_of(&app, 0, "captured").await;
    let still = reconcile(&app, "?limit=100").await;
    assert_eq!(still.lines.len(), 1, "while nothing moves, they differ: {:?}", still.lines);
    gateway.moves_here(app.service("payment").store());
    let found = reconcile(&app, "?limit=100").await;
    assert_eq!((found.lines, found.there, found.here), (vec![], 1, 1));
    app.stop().await;
}

#[tokio::test]
async fn a_provider_without_a_book_or_without_an_answer_is_told() {
    let app = TestApp::start([service_through(Sandbox::default())]).await;
    let answer = app.get("/admin/reconciliation").await;
    assert_eq!((answer.status.as_u16(), &answer.body["type"]), (409, &json!("/problems/no-book")));
    app.stop().await;
    let away = Stripe::new("http://127.0.0.1:1", "sk_test_1").unwrap();
    let app = TestApp::start([service_through(away)]).await;
    let answer = app.get("/admin/reconciliation").await;
    assert_eq!((answer.status.as_u16(), &answer.body["type"]), (503, &json!("/problems/unavailable")));
    assert!(answer.body["detail"].as_str().unwrap().contains("cannot connect"), "{}", answer.body);
    app.stop().await;
}

/// All pages of a reconciliation.
struct Found {
    /// Difference, order, both sides and the advice, without the provider's names.
    lines: Vec<String>,
    under_way: Vec<String>,
    there: u64,
    here: u64,
    pages: usize,
}

async fn reconcile(app: &TestApp, query: &str) -> Found {
    let mut found = Found { lines: Vec::new(), under_way: Vec::new(), there: 0, here: 0, pages: 0 };
    let (mut cursor, mut period) = (String::new(), String::new());
    loop {
        let page = app.get(&format!("/admin/reconciliation{query}{period}{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let page = page.body;
        found.pages += 1;
        found.lines.extend(page["items"].as_array().unwrap().iter().map(line));
        let keys = page["under_way"].as_array().unwrap().iter();
        found.under_way.extend(keys.map(|key| key.as_str().unwrap().to_owned()));
        found.there += page["seen_at_provider"].as_u64().unwrap();
        found.here += page["seen_here"].as_u64().unwrap();
        let Some(next) = page["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
        if !query.contains("since") {
            period = format!(
                "&since={}&until={}",
                page["since"].as_str().unwrap(),
                page["until"].as_str().unwrap()
            );
        }
    }
}

fn line(line: &Value) -> String {
    let side = |side: &Value, status: &str| match side {
        Value::Null => "nothing".to_owned(),
        side => format!(
            "{} {} collected {} given back {}",
            side[status].as_str().unwrap(),
            side["amount"]["amount"],
            side["captured"],
            side["refunded"]
        ),
    };
    let [difference, order, todo] =
        ["difference", "order_id", "todo"].map(|name| line[name].as_str().unwrap());
    let todo: Vec<_> = todo.split(' ').map(|word| if word.contains("pi_") { "…" } else { word }).collect();
    format!(
        "{order} {difference}: here {}, there {}: {}",
        side(&line["here"], "status"),
        side(&line["there"], "standing"),
        todo.join(" ")
    )
}

/// A charge, or a hold, that the service did not make.
async fn hold(provider: &Provider, order_id: &str, is_captured: bool) {
    let mut form =
        "amount=500&currency=eur&payment_method=pm_card_visa&confirm=true&capture_method=manual".to_owned();
    if !order_id.is_empty() {
        form += &format!("&metadata[order_id]={order_id}");
    }
    let (_, _, intent) = provider.post("/v1/payment_intents", &format!("stray {order_id}"), &form).await;
    if is_captured {
        let path = format!("/v1/payment_intents/{}/capture", intent["id"].as_str().unwrap());
        provider.post(&path, &format!("stray capture {order_id}"), "").await;
    }
}

/// The journal without what was done for an order.
fn without(journal: &Path, order_id: &str) -> std::path::PathBuf {
    let kept = std::fs::read_to_string(journal).unwrap();
    let kept: String = kept
        .lines()
        .filter(|line| !line.contains(&format!("/{order_id}\"")))
        .map(|line| format!("{line}\n"))
        .collect();
    let left = journal.with_extension("left");
    std::fs::write(&left, kept).unwrap();
    left
}

async fn status_of(app: &TestApp, n: usize, status: &str) {
    eventually(status, async || app.get(&format!("/payments/o-{n}")).await.body["status"] == status).await;
}

fn number_of(payment: &Value) -> usize {
    payment["order_id"].as_str().unwrap().trim_start_matches("o-").parse().unwrap()
}

/// Sends what the order service states of an order.
async fn send(app: &TestApp, name: &str, n: &usize, method: &str) {
    app.stage().send("orders", [message(name, *n, method)]).await;
}

fn message(name: &str, n: usize, method: &str) -> Message {
    let key = format!("o-{n}");
    let total = json!({"amount": 500, "currency": "EUR"});
    let value = match name {
        "created" => json!({"order_id": key, "items": [{"product_id": "tea", "quantity": 1}], "total": total,
            "payment_method": method}),
        "confirmed" => json!({"order_id": key}),
        _ => json!({"order_id": key, "reason": "cancelled_by_customer"}),
    };
    let seq = if name == "created" { 1 } else { 2 };
    let (id, event_type) = (format!("{name} of {key}"), format!("order.{name}.v1"));
    Binary { id, event_type, source: "/orders".into(), key, seq: Some(seq), value: value.to_string().into() }
        .message()
}

/// A gateway whose provider can move to another address, and whose list, or all of its book, can be behind: as it was
/// before anything was collected.
#[derive(Clone)]
struct Other {
    provider: Arc<Mutex<Stripe>>,
    is_list_stale: bool,
    is_stale: bool,
    /// The ledger in which the payment moves on whenever the provider is asked for it.
    moving: Arc<OnceLock<Store>>,
}

impl Other {
    fn of(provider: Stripe) -> Self {
        let (provider, moving) = (Arc::new(Mutex::new(provider)), Arc::default());
        Self { provider, is_list_stale: false, is_stale: false, moving }
    }

    fn stale(provider: Stripe) -> Self {
        Self { is_list_stale: true, ..Self::of(provider) }
    }

    fn stale_twice(provider: Stripe) -> Self {
        Self { is_stale: true, ..Self::stale(provider) }
    }

    fn moves_here(&self, store: &Store) {
        assert!(self.moving.set(store.clone()).is_ok(), "it moves once");
    }

    fn moves_to(&self, provider: Stripe) {
        *self.provider.lock().unwrap() = provider;
    }

    fn provider(&self) -> Stripe {
        self.provider.lock().unwrap().clone()
    }
}

impl PaymentGateway for Other {
    async fn perform(&self, operation: Operation, key: &str, charge: &Charge) -> Result<Answer, EffectError> {
        self.provider().perform(operation, key, charge).await
    }

    async fn look_up(
        &self,
        operation: Operation,
        key: &str,
        charge: &Charge,
    ) -> Result<Option<Answer>, EffectError> {
        self.provider().look_up(operation, key, charge).await
    }

    async fn look_at(&self, hold: &str) -> Result<Standing, EffectError> {
        self.provider().look_at(hold).await
    }

    async fn book(&self, span: &BookSpan) -> Result<Option<ProviderPage>, EffectError> {
        let mut page = self.provider().book(span).await?;
        let listed = page.iter_mut().flat_map(|page| &mut page.payments);
        listed.filter(|_| self.is_list_stale).for_each(as_before);
        Ok(page)
    }

    async fn payment(&self, reference: &str) -> Result<Option<ProviderPayment>, EffectError> {
        if let Some(store) = self.moving.get() {
            let moves = async |tx: &mut Tx| {
                let moved = tx.execute("UPDATE payment SET updated_us = updated_us + 1", &[]).await;
                moved.map(drop).map_err(Into::into)
            };
            store.transaction(moves).await.unwrap();
        }
        let mut payment = self.provider().payment(reference).await?;
        payment.iter_mut().filter(|_| self.is_stale).for_each(as_before);
        Ok(payment)
    }
}

/// Has nothing been collected yet.
fn as_before(payment: &mut ProviderPayment) {
    payment.words = "requires_capture".to_owned();
    payment.captured = 0;
}
