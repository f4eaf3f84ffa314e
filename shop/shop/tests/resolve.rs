//! An order whose payment nobody knows the outcome of ends as its operator states it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use order::OrderSettings;
use payment::domain::Operation;
use payment::gateway::{Answer, Charge, PaymentGateway, Standing};
use serde_json::{Value, json};
use tidings::EffectError;
use tidings_testkit::stage::Stage;
use tidings_testkit::{TestApp, eventually};

/// A provider whose answers are all lost.
#[derive(Clone)]
struct Silent;

impl PaymentGateway for Silent {
    async fn perform(&self, _: Operation, _: &str, _: &Charge) -> Result<Answer, EffectError> {
        Err(EffectError::Unknown("no answer".to_owned()))
    }

    async fn look_up(&self, _: Operation, _: &str, _: &Charge) -> Result<Option<Answer>, EffectError> {
        Err(EffectError::Unknown("no answer".to_owned()))
    }

    async fn look_at(&self, _: &str) -> Result<Standing, EffectError> {
        Err(EffectError::Unknown("no answer".to_owned()))
    }
}

#[tokio::test]
async fn an_order_ends_as_its_operator_states_what_became_of_its_payment() {
    end(Stage::new()).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn on_postgresql_too() {
    end(Stage::on_postgres()).await;
}

async fn end(stage: Stage) {
    let services = [
        order::service(&OrderSettings::default()).unwrap(),
        payment::service_through(Silent),
        inventory::service(None).unwrap(),
    ];
    let app = TestApp::start_on(stage, services).await;
    let done = json!({"done": "pi_stated"});
    let refused = json!({"refused": {"code": "card_declined", "reason": "the bank said no"}});

    let paid = place(&app).await;
    state(&app, "authorize", &paid, &done, 200).await;
    state(&app, "capture", &paid, &done, 200).await;
    let order = ended(&app, &paid).await;
    assert_eq!((&order["status"], &order["payment"]), (&json!("completed"), &json!("captured")));
    assert_eq!(ledger(&app, &paid).await, "captured pi_stated: customer held revenue 2598 0");

    let declined = place(&app).await;
    state(&app, "authorize", &declined, &refused, 200).await;
    let order = ended(&app, &declined).await;
    assert_eq!((&order["status"], &order["reason"]), (&json!("cancelled"), &json!("declined")));
    assert_eq!(ledger(&app, &declined).await, "declined null:  0 0");

    let given_up = place(&app).await;
    state(&app, "authorize", &given_up, &done, 200).await;
    state(&app, "capture", &given_up, &refused, 200).await;
    // A void has no refusal: the order is owed it.
    state(&app, "void", &given_up, &refused, 422).await;
    state(&app, "void", &given_up, &json!({"done": ""}), 422).await;
    state(&app, "void", &given_up, &done, 200).await;
    let order = ended(&app, &given_up).await;
    assert_eq!((&order["status"], &order["reason"]), (&json!("cancelled"), &json!("capture_failed")));
    assert_eq!(ledger(&app, &given_up).await, "voided pi_stated: customer held 0 0");
    app.stop().await;
}

async fn place(app: &TestApp) -> String {
    let order = json!({"items": [{"product_id": "tea", "quantity": 2}]});
    let placed = app.post("/orders", &order).await;
    assert_eq!(placed.status, 201, "{}", placed.body);
    placed.body["id"].as_str().unwrap().to_owned()
}

/// States an outcome of an effect, once nobody knows it.
async fn state(app: &TestApp, kind: &str, order: &str, outcome: &Value, status: u16) {
    let key = format!("{kind}/{order}");
    eventually("nobody knows its outcome", async || {
        let effects = app.get(&format!("/admin/effects?state=unknown&key={order}&kind={kind}")).await.body;
        effects["items"][0]["key"] == key.as_str()
    })
    .await;
    let body = json!({"service": "payment", "key": key, "outcome": outcome, "reason": "their books", "actor": "ada"});
    let answer = app.post("/admin/effects/resolve", &body).await;
    assert_eq!(answer.status, status, "{kind} {outcome}: {}", answer.body);
    if status == 422 {
        assert!(answer.body["detail"].as_str().unwrap().contains("done"), "{}", answer.body);
    }
}

async fn ended(app: &TestApp, id: &str) -> Value {
    let mut order = Value::Null;
    eventually("it has ended", async || {
        order = app.get(&format!("/orders/{id}")).await.body;
        order["status"] == "completed" || order["status"] == "cancelled"
    })
    .await;
    order
}

/// Status, reference, accounts that money passed through, what is collected, and the sum of all entries.
async fn ledger(app: &TestApp, id: &str) -> String {
    let payment = app.get(&format!("/payments/{id}")).await.body;
    let entries = payment["ledger"].as_array().unwrap();
    let mut accounts: Vec<&str> = entries.iter().map(|entry| entry["account"].as_str().unwrap()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let sum: i64 = entries.iter().map(|entry| entry["amount"].as_i64().unwrap()).sum();
    format!(
        "{} {}: {} {} {sum}",
        payment["status"].as_str().unwrap(),
        payment["provider_ref"].as_str().unwrap_or("null"),
        accounts.join(" "),
        payment["captured"]["amount"]
    )
}
