//! What the provider tells of its own accord, from its delivery to what is shown and logged.

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::BodyExt as _;
use hyper::{Request, StatusCode};
use payment::webhook::Secret;
use payment::{service_that_hears, service_through};
use serde_json::{Value, json};
use sha2::Sha256;
use tidings::RunningService;
use tidings::http::BODY_BYTES_MAX;
use tidings_testkit::stage::{Stage, advance_clock_until, stop};
use tidings_testkit::wire::Binary;
use tower::ServiceExt as _;

use crate::provider::Provider;

const SECRET: &str = "whsec_test";

#[tokio::test]
async fn what_happens_at_the_provider_is_heard_looked_at_and_shown_and_moves_nothing() {
    tell(&Stage::new()).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn on_postgresql_too() {
    tell(&Stage::on_postgres()).await;
}

async fn tell(stage: &Stage) {
    let provider = Provider::start().await;
    stage.topics(["orders"]).await;
    let secret = Some(Secret::new(SECRET));
    let running = stage.start(|| service_that_hears(provider.gateway(), secret.clone())).await;
    for n in 0..2 {
        stage.send("orders", vec![created(&format!("o-{n}"))]).await;
    }
    advance_clock_until(&running, "the money is held", async || {
        payment(&running, "o-0").await["status"] == "authorized"
            && payment(&running, "o-1").await["status"] == "authorized"
    })
    .await;
    let before = payment(&running, "o-0").await;
    let hold = before["provider_ref"].as_str().unwrap().to_owned();
    let other = payment(&running, "o-1").await["provider_ref"].as_str().unwrap().to_owned();
    assert_eq!(before["provider_events"], Value::Null);

    // Somebody gives the hold up in the dashboard.
    provider.post(&format!("/v1/payment_intents/{hold}/cancel"), "dashboard", "").await;
    let canceled =
        event("evt_1", "payment_intent.canceled", &json!({"object": "payment_intent", "id": hold}));
    let dispute =
        event("evt_2", "charge.dispute.created", &json!({"object": "dispute", "payment_intent": other}));
    assert_eq!(deliver(&running, &canceled).await, (StatusCode::OK, json!({"recorded": true})));
    assert_eq!(
        deliver(&running, &canceled).await,
        (StatusCode::OK, json!({"recorded": false})),
        "told twice"
    );
    assert_eq!(deliver(&running, &dispute).await, (StatusCode::OK, json!({"recorded": true})));
    // Of nobody here, of a kind that nobody hears, about no payment at all.
    let stranger =
        event("evt_3", "refund.created", &json!({"object": "refund", "payment_intent": "pi_elsewhere"}));
    assert_eq!(deliver(&running, &stranger).await, (StatusCode::OK, json!({"recorded": true})));
    for ignored in [
        event("evt_4", "customer.created", &json!({"object": "customer"})),
        event("evt_5", "payment_intent.succeeded", &json!({"object": "payment_intent", "id": hold})),
        event("evt_6", "charge.refunded", &json!({"object": "charge", "payment_intent": null})),
        event("evt_7", "charge.refunded", &json!({"object": "charge", "payment_intent": "../refunds"})),
    ] {
        assert_eq!(
            deliver(&running, &ignored).await,
            (StatusCode::OK, json!({"recorded": false})),
            "{ignored}"
        );
    }
    advance_clock_until(&running, "the provider was looked at", async || {
        payment(&running, "o-0").await["provider_events"].is_array()
            && payment(&running, "o-1").await["provider_events"].is_array()
    })
    .await;
    let mut after = payment(&running, "o-0").await;
    let told = after.as_object_mut().unwrap().remove("provider_events").unwrap();
    assert_eq!(after, before, "the provider's word moves nothing");
    let at = told[0]["at"].clone();
    let shown = json!([{"id": "evt_1", "type": "payment_intent.canceled", "at": at, "standing": "canceled", "agrees": false}]);
    assert_eq!(told, shown);
    let told = &payment(&running, "o-1").await["provider_events"][0];
    assert_eq!((&told["standing"], &told["agrees"]), (&json!("requires_capture"), &json!(true)));
    let left = "SELECT event_id FROM provider_event ORDER BY event_id";
    advance_clock_until(&running, "what is not ours is forgotten", async || {
        running.store().query(left, &[]).await.unwrap().len() == 2
    })
    .await;
    let status = running.status().await.unwrap();
    assert_eq!(status.extras["webhook"], json!({"recorded": 3, "repeated": 1, "ignored": 4, "refused": 0}));
    stop(running).await;
}

#[tokio::test]
async fn only_what_the_provider_signed_is_heard_and_only_where_a_secret_is_set() {
    let provider = Provider::start().await;
    let stage = Stage::new();
    stage.topics(["orders"]).await;
    let running = stage.start(|| service_through(provider.gateway())).await;
    let body =
        event("evt_1", "charge.refunded", &json!({"object": "charge", "payment_intent": "pi_1"})).to_string();
    let signature = sign(&running, SECRET, &body);
    assert_eq!(ask(&running, &[&signature], &body).await.0, StatusCode::NOT_FOUND);
    stop(running).await;

    let secret = Some(Secret::new(SECRET));
    let running = stage.start(|| service_that_hears(provider.gateway(), secret.clone())).await;
    for (signatures, body) in [
        (vec![], &*body),
        (vec!["t=1,v1=00"], &body),
        (vec![&*signature, &signature], &body),
        (vec![&*signature], "{}"),
        (vec![&*sign(&running, "whsec_other", &body)], &body),
    ] {
        let (status, told) = ask(&running, &signatures, body).await;
        assert_eq!(
            (status, &told["type"]),
            (StatusCode::BAD_REQUEST, &json!("/problems/signature")),
            "{signatures:?}"
        );
    }
    let mut refused = 5;
    for (body, expected) in [
        (
            "{}",
            "422 /problems/validation `created` is missing; `data` is missing; `id` is missing; `type` is missing",
        ),
        ("[]", "422 /problems/validation must be an object, is a list"),
        ("<xml>", "400 /problems/malformed-json"),
        (
            r#"["evt_1", "charge.refunded", 1, {"object": {"object": "charge", "payment_intent": "pi_1"}}]"#,
            "422 /problems/validation must be an object, is a list",
        ),
        (
            r#"{"id": "evt_1", "type": "charge.refunded", "created": 1, "data": [{"payment_intent": "pi_1"}]}"#,
            "422 /problems/validation /data must be an object, is a list",
        ),
        (
            r#"{"id": "evt_1", "type": "charge.refunded", "created": 1, "data": {"object": ["charge"]}}"#,
            "422 /problems/validation /data/object must be an object, is a list",
        ),
        (
            r#"{"id": "", "type": "a b", "created": 9223372036854775807, "data": {"object": {}}}"#,
            "422 /problems/validation /created must be a time, in seconds; \
             /id must be a name of 1 to 255 letters, digits, `_`, `.` and `-`; \
             /type must be a name of 1 to 255 letters, digits, `_`, `.` and `-`",
        ),
        (
            r#"{"id": "evt\u0000", "type": "charge.refunded", "created": "1", "data": {"object": {}}}"#,
            "422 /problems/validation /created must be a whole number, is text; /id must not have the character U+0000",
        ),
        (
            r#"{"id": "evt_1", "type": "charge.refunded", "created": 1, "data": {"object": {"note": "\u0000"}}}"#,
            "422 /problems/validation /data/object/note text with the character U+0000",
        ),
    ] {
        refused += 1;
        let answer = ask(&running, &[&sign(&running, SECRET, body)], body).await;
        assert_eq!(shown(&answer), expected, "{body}");
    }
    let large = " ".repeat(BODY_BYTES_MAX) + &body;
    let answer = ask(&running, &[&sign(&running, SECRET, &large)], &large).await;
    assert_eq!(shown(&answer), "413 /problems/too-large");
    assert_eq!(ask(&running, &[&signature], &body).await.0, StatusCode::OK);
    assert_eq!(running.status().await.unwrap().extras["webhook"]["refused"], refused);
    stop(running).await;
}

fn created(id: &str) -> tidings::Message {
    let total = json!({"amount": 500, "currency": "EUR"});
    let value = json!({"order_id": id, "items": [{"product_id": "tea", "quantity": 1}], "total": total});
    Binary {
        id: format!("created {id}"),
        event_type: "order.created.v1".into(),
        source: "/orders".into(),
        key: id.into(),
        seq: Some(1),
        value: value.to_string().into(),
    }
    .message()
}

fn event(id: &str, event_type: &str, object: &Value) -> Value {
    json!({"id": id, "object": "event", "type": event_type, "created": 1_700_000_000, "data": {"object": object}})
}

/// Status, type and what is wrong where.
fn shown((status, problem): &(StatusCode, Value)) -> String {
    let errors = problem["errors"].as_array().into_iter().flatten();
    let mut errors: Vec<String> = errors
        .map(|error| format!("{} {}", error["pointer"].as_str().unwrap(), error["detail"].as_str().unwrap()))
        .collect();
    errors.sort();
    let told = errors.iter().map(|told| told.trim()).collect::<Vec<_>>().join("; ");
    format!("{} {} {told}", status.as_u16(), problem["type"].as_str().unwrap()).trim_end().to_owned()
}

/// As the provider signs, now.
fn sign(running: &RunningService, secret: &str, body: &str) -> String {
    let seconds = running.store().clock().now().as_second();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{seconds}.{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

async fn deliver(running: &RunningService, event: &Value) -> (StatusCode, Value) {
    let body = event.to_string();
    ask(running, &[&sign(running, SECRET, &body)], &body).await
}

async fn ask(running: &RunningService, signatures: &[&str], body: &str) -> (StatusCode, Value) {
    let mut request =
        Request::post("/webhooks/stripe").header("content-type", "application/json; charset=utf-8");
    for signature in signatures {
        request = request.header("stripe-signature", *signature);
    }
    send(running, request.body(Body::from(body.to_owned())).unwrap()).await
}

async fn payment(running: &RunningService, order_id: &str) -> Value {
    send(running, Request::get(format!("/payments/{order_id}")).body(Body::empty()).unwrap()).await.1
}

async fn send(running: &RunningService, request: Request<Body>) -> (StatusCode, Value) {
    // As a process serves it.
    let router = running.router().layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let answer = router.oneshot(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}
