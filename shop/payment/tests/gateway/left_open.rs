//! Holds that a refusal would leave open at the provider: they are given up there before anybody hears of it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};
use jiff::SignedDuration;
use payment::domain::Operation;
use payment::gateway::PaymentGateway;
use payment::gateway::stripe::Stripe;

use crate::provider::{KEY, Provider, charge, insist, key, words};
use crate::troubles::Trouble::{self, Answer, HangUpUnanswered};
use crate::troubles::start_with;

const AGAIN: &str = "200 OK\r\nidempotent-replayed: true";
const FAILED_AGAIN: &str = "500 Internal Server Error\r\nidempotent-replayed: true";
const NOTHING: &str = r#"{"data": [], "has_more": false}"#;
const CANNOT: Trouble = Answer(
    "400 Bad Request",
    r#"{"error": {"code": "payment_intent_unexpected_state", "message": "You cannot cancel this PaymentIntent"}}"#,
);

/// The intent of order o-1, in this state.
macro_rules! intent {
    ($status:literal) => {
        concat!(
            r#"{"id": "pi_1", "metadata": {"order_id": "o-1"}, "currency": "eur", "amount": 2598, "status": ""#,
            $status,
            r#""}"#
        )
    };
}

/// What a scripted provider answers, each the n-th time it is asked; the last one from then on.
struct Script {
    create: &'static [Trouble],
    cancel: &'static [Trouble],
    /// The intent alone, and the list.
    get: &'static [Trouble],
    list: &'static str,
}

/// Insists on a hold; tells each step, and what the provider was asked for.
async fn check(script: Script, asked_hours_ago: i64, expected: Expect) {
    let counts: [AtomicUsize; 3] = Default::default();
    let (url, asked) = start_with(Arc::new(move |line| {
        let next = |n: usize, troubles: &[Trouble]| {
            let turn = counts[n].fetch_add(1, Ordering::Relaxed).min(troubles.len() - 1);
            troubles[turn].clone()
        };
        match line {
            "" => Answer("", ""),
            line if line.ends_with("/cancel") => next(1, script.cancel),
            line if line.starts_with("POST") => next(0, script.create),
            line if line.contains("limit=") => Answer("200 OK", script.list),
            _ => next(2, script.get),
        }
    }))
    .await;
    let mut charge = charge("o-1", "pm_card_visa");
    charge.asked_at = charge.asked_at.map(|at| at - SignedDuration::from_hours(asked_hours_ago));
    let mut told =
        insist(&Stripe::new(&url, KEY).unwrap(), Operation::Authorize, &mut charge).await.join("\n")
            + "\n---";
    for line in asked.lock().unwrap().iter() {
        let line = line.split("&created").next().unwrap();
        write!(told, "\n{line}").unwrap();
    }
    expected.assert_eq(&told);
}

#[tokio::test]
async fn a_card_that_asks_for_its_holder_is_refused_once_its_intent_is_given_up() {
    let script = Script {
        create: &[Answer("200 OK", intent!("requires_action"))],
        cancel: &[Answer("200 OK", intent!("canceled"))],
        get: &[],
        list: NOTHING,
    };
    check(
        script,
        0,
        expect![[r#"
        refused: authentication_required: the card asks for its holder, who is not here
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]],
    )
    .await;
}

#[tokio::test]
async fn a_lost_answer_to_the_giving_up_is_asked_for_again_under_the_same_key() {
    let script = Script {
        create: &[Answer("200 OK", intent!("requires_action")), Answer(AGAIN, intent!("requires_action"))],
        cancel: &[
            HangUpUnanswered,
            Answer("503 Service Unavailable", ""),
            Answer("429 Too Many Requests", ""),
            Answer(AGAIN, intent!("canceled")),
        ],
        get: &[],
        list: NOTHING,
    };
    check(script, 0, expect![[r#"
        outcome unknown: … is open, and is to be given up: no answer from … client error (SendRequest): connection closed before message completed
        look-up absent
        outcome unknown: … is open, and is to be given up: the provider answered 503
        look-up absent
        outcome unknown: … is open, and is to be given up: the provider answered 429
        look-up absent
        refused: authentication_required: the card asks for its holder, who is not here
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]]).await;
}

#[tokio::test]
async fn an_intent_that_moved_on_meanwhile_is_given_up_all_the_same() {
    let script = Script {
        create: &[Answer("200 OK", intent!("requires_action")), Answer(AGAIN, intent!("requires_action"))],
        cancel: &[CANNOT, CANNOT, Answer("200 OK", intent!("canceled"))],
        get: &[Answer("200 OK", intent!("processing")), Answer("200 OK", intent!("requires_capture"))],
        list: NOTHING,
    };
    check(script, 0, expect![[r#"
        outcome unknown: … is open, and is to be given up: … of order o-1 is still being processed
        look-up absent
        outcome unknown: … is open, and is to be given up: the provider answered 400: payment_intent_unexpected_state: You cannot cancel this PaymentIntent
        look-up absent
        refused: authentication_required: the card asks for its holder, who is not here
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1
        GET /v1/payment_intents/pi_1?expand[]=latest_charge
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1
        GET /v1/payment_intents/pi_1?expand[]=latest_charge
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]]).await;
    // Somebody was faster.
    let script = Script {
        create: &[Answer("200 OK", intent!("requires_action"))],
        cancel: &[CANNOT],
        get: &[Answer("200 OK", intent!("canceled"))],
        list: NOTHING,
    };
    check(
        script,
        0,
        expect![[r#"
        refused: authentication_required: the card asks for its holder, who is not here
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1
        GET /v1/payment_intents/pi_1?expand[]=latest_charge"#]],
    )
    .await;
}

#[tokio::test]
async fn an_intent_that_is_not_confirmed_or_in_the_works_is_decided_by_how_it_stands_now() {
    let script = Script {
        create: &[Answer("200 OK", intent!("requires_confirmation"))],
        cancel: &[Answer("200 OK", intent!("canceled"))],
        get: &[],
        list: NOTHING,
    };
    check(
        script,
        0,
        expect![[r#"
        refused: not_confirmed: the provider began the hold and did not make it
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]],
    )
    .await;
    // The answer that is stored under the key says nothing of what came of it.
    let script = Script {
        create: &[Answer("200 OK", intent!("processing")), Answer(AGAIN, intent!("processing"))],
        cancel: &[],
        get: &[Answer("200 OK", intent!("processing")), Answer("200 OK", intent!("requires_capture"))],
        list: NOTHING,
    };
    check(
        script,
        0,
        expect![[r#"
        outcome unknown: … of order o-1 is still being processed
        look-up absent
        outcome unknown: … of order o-1 is still being processed
        look-up absent
        done
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents under authorize/o-1
        GET /v1/payment_intents/pi_1?expand[]=latest_charge
        POST /v1/payment_intents under authorize/o-1
        GET /v1/payment_intents/pi_1?expand[]=latest_charge"#]],
    )
    .await;
    let script = Script {
        create: &[Answer("200 OK", intent!("processing")), Answer(AGAIN, intent!("processing"))],
        cancel: &[Answer("200 OK", intent!("canceled"))],
        get: &[Answer("200 OK", intent!("requires_action"))],
        list: NOTHING,
    };
    check(
        script,
        0,
        expect![[r#"
        outcome unknown: … of order o-1 is still being processed
        look-up absent
        refused: authentication_required: the card asks for its holder, who is not here
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents under authorize/o-1
        GET /v1/payment_intents/pi_1?expand[]=latest_charge
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]],
    )
    .await;
}

#[tokio::test]
async fn what_a_stored_failure_left_open_is_found_and_given_up() {
    let script = Script {
        create: &[Answer("500 Internal Server Error", ""), Answer(FAILED_AGAIN, "")],
        cancel: &[Answer("200 OK", intent!("canceled"))],
        get: &[],
        list: concat!(r#"{"has_more": false, "data": ["#, intent!("requires_confirmation"), "]}"),
    };
    check(
        script,
        0,
        expect![[r#"
        outcome unknown: the provider answered 500
        look-up absent
        refused: not_confirmed: the provider began the hold and did not make it
        ---
        POST /v1/payment_intents under authorize/o-1
        POST /v1/payment_intents under authorize/o-1
        GET /v1/payment_intents?limit=100
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]],
    )
    .await;
}

#[tokio::test]
async fn an_open_intent_that_is_found_once_its_key_is_old_is_given_up() {
    let script = Script {
        create: &[HangUpUnanswered],
        cancel: &[Answer("200 OK", intent!("canceled"))],
        get: &[Answer("200 OK", intent!("requires_action"))],
        list: concat!(r#"{"has_more": false, "data": ["#, intent!("requires_action"), "]}"),
    };
    check(
        script,
        24,
        expect![[r#"
        refused: authentication_required: the card asks for its holder, who is not here
        ---
        GET /v1/payment_intents?limit=100
        GET /v1/payment_intents/pi_1?expand[]=latest_charge
        POST /v1/payment_intents/pi_1/cancel under cancel/pi_1"#]],
    )
    .await;
}

#[tokio::test]
async fn at_the_sandbox_nothing_is_left_open_either() {
    let provider = Provider::start().await;
    let mut charge = charge("o-1", "pm_card_authenticationRequired");
    let told = insist(&provider.gateway(), Operation::Authorize, &mut charge).await.join("\n");
    assert_eq!(told, "refused: authentication_required: the card asks for its holder, who is not here");
    assert_eq!(provider.book().await, "o-1 2598 canceled\n");
    let again =
        provider.gateway().perform(Operation::Authorize, &key(Operation::Authorize, &charge), &charge).await;
    assert_eq!(words(again.as_ref().map(Some)), told);
}
