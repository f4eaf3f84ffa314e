//! A provider to test with, what it is asked for, and its book.

use std::fmt::Write as _;
use std::future::pending;

use contracts::{Money, OrderId};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use payment::domain::Operation;
use payment::gateway::stripe::Stripe;
use payment::gateway::{Answer, Charge, PaymentGateway};
use payment::psp::{Psp, serve};
use serde_json::Value;
use tidings::EffectError;
use tokio::net::TcpListener;

/// Any will do.
pub const KEY: &str = "sk_test_sandbox";

/// A `psp-sandbox` in this process, on a free port.
pub struct Provider {
    pub url: String,
}

impl Provider {
    pub async fn start() -> Self {
        Self::of(Psp::default()).await
    }

    pub async fn of(psp: Psp) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(serve(listener, psp, pending()));
        Self { url }
    }

    pub fn gateway(&self) -> Stripe {
        Stripe::new(&self.url, KEY).expect("the URL is one")
    }

    /// A `POST` with an idempotency key.
    pub async fn post(&self, path: &str, key: &str, form: &str) -> (StatusCode, HeaderMap, Value) {
        let request = Request::post(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {KEY}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("idempotency-key", key);
        send(request.body(Full::from(form.to_owned())).expect("it is a request")).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request =
            Request::get(format!("{}{path}", self.url)).header(AUTHORIZATION, format!("Bearer {KEY}"));
        let (status, _, body) = send(request.body(Full::default()).expect("it is a request")).await;
        (status, body)
    }

    /// Every intent, oldest first, its charge in whole.
    pub async fn intents(&self) -> Vec<Value> {
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let (_, page) = self.get(&format!("/v1/payment_intents?limit=100{after}")).await;
            let data = page["data"].as_array().expect("a list has data");
            ids.extend(
                data.iter().map(|intent| intent["id"].as_str().expect("an intent has an id").to_owned()),
            );
            if page["has_more"] == false {
                break;
            }
            after = format!("&starting_after={}", ids.last().expect("there is more after something"));
        }
        let mut intents = Vec::new();
        for id in ids.iter().rev() {
            intents.push(self.get(&format!("/v1/payment_intents/{id}?expand[]=latest_charge")).await.1);
        }
        intents
    }

    /// The book as text: an intent a line.
    pub async fn book(&self) -> String {
        let line = |mut book: String, intent: Value| {
            let charge = &intent["latest_charge"];
            let _ =
                write!(book, "{} {} {}", intent["metadata"]["order_id"], intent["amount"], intent["status"]);
            for money in
                ["amount_captured", "amount_refunded"].iter().filter(|m| charge[**m].as_i64() > Some(0))
            {
                let _ = write!(book, " {money} {}", charge[money]);
            }
            book.replace('"', "") + "\n"
        };
        self.intents().await.into_iter().fold(String::new(), line)
    }
}

pub async fn send(request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, Value) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await.expect("it answers").into_parts();
    let body = body.collect().await.expect("it answers in whole").to_bytes();
    (head.status, head.headers, serde_json::from_slice(&body).unwrap_or_default())
}

/// What is paid for an order, at the price of two teas.
pub fn charge(order_id: &str, method: &str) -> Charge {
    Charge {
        order_id: OrderId::from(order_id.to_owned()),
        amount: Money { amount: 2598, currency: "EUR".to_owned() },
        method: method.to_owned(),
        provider_ref: None,
        asked_at: Some(Timestamp::now()),
    }
}

/// The same, asked for so long ago that no key can be relied on: what became of it has to be searched for.
pub fn aged(charge: &Charge) -> Charge {
    let asked_at = charge.asked_at.map(|at| at - SignedDuration::from_hours(24));
    Charge { asked_at, ..charge.clone() }
}

/// The key of an external call, as the service makes it.
pub fn key(operation: Operation, charge: &Charge) -> String {
    format!("{operation:?}/{}", charge.order_id).to_lowercase()
}

/// Makes an external call as the service's executor would, until there is an answer; says what it took.
pub async fn insist(gateway: &impl PaymentGateway, operation: Operation, charge: &mut Charge) -> Vec<String> {
    let key = key(operation, charge);
    let mut told = Vec::new();
    let mut look_up = false;
    loop {
        let mut outcome = Ok(None);
        if look_up {
            if !gateway.remembers(charge) {
                outcome = gateway.look_up(operation, &key, charge).await;
            }
            told.push(format!("look-up {}", words(outcome.as_ref().map(Option::as_ref))));
        }
        if let Ok(None) = outcome {
            outcome = gateway.perform(operation, &key, charge).await.map(Some);
            told.push(words(outcome.as_ref().map(Option::as_ref)));
        }
        look_up = matches!(outcome, Err(EffectError::Unknown(_)));
        if let Ok(Some(answer)) = outcome {
            remember(charge, operation, &answer);
            return told;
        }
        assert!(told.len() < 20, "it never ends: {told:?}");
    }
}

/// A hold that was made is what later external calls are about.
pub fn remember(charge: &mut Charge, operation: Operation, answer: &Answer) {
    if let (Operation::Authorize, Answer::Done(reference)) = (operation, answer) {
        charge.provider_ref = Some(reference.clone());
    }
}

/// An outcome in words, without what is different each time.
pub fn words(outcome: Result<Option<&Answer>, &EffectError>) -> String {
    let told = match outcome {
        Ok(Some(Answer::Done(_))) => "done".to_owned(),
        Ok(Some(Answer::Refused { code, reason })) => format!("refused: {code}: {reason}"),
        Ok(None) => "absent".to_owned(),
        Err(e) => e.to_string(),
    };
    let is_different =
        |word: &&str| word.starts_with("pi_") || word.starts_with("ch_") || word.contains("127.0.0.1");
    let word = |word| if is_different(&word) { "…" } else { word };
    told.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
