//! What becomes of a payment at the sandbox provider, seen through the adapter, and its book afterwards.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use payment::domain::Operation;
use payment::gateway::sandbox::Sandbox;
use payment::gateway::{Charge, PaymentGateway};

use crate::provider::{Provider, aged, charge, insist, key, remember, words};

/// Does what the script says, a line a step:
///
/// ```text
/// DEED ORDER [METHOD]           once
/// insist DEED ORDER [METHOD]    as the service does: until there is an answer, looking up first what is unknown
/// look-up DEED ORDER [METHOD]   what became of it, once its key is old
/// ```
#[track_caller]
fn check(script: &str, expected: Expect) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    expected.assert_eq(&runtime.block_on(play(script)));
}

async fn play(script: &str) -> String {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let mut charges: BTreeMap<String, Charge> = BTreeMap::new();
    let mut told = String::new();
    for line in script.lines().map(str::trim) {
        let mut rest: Vec<&str> = line.split(' ').collect();
        let how = if ["insist", "look-up"].contains(&rest[0]) { rest.remove(0) } else { "" };
        let (operation, order, method) =
            (operation(rest[0]), rest[1], rest.get(2).unwrap_or(&"pm_card_visa"));
        let charge = charges.entry(order.to_owned()).or_insert_with(|| charge(order, method));
        let key = key(operation, charge);
        let outcome = match how {
            "insist" => insist(&gateway, operation, charge).await.join("; "),
            "look-up" => {
                words(gateway.look_up(operation, &key, &aged(charge)).await.as_ref().map(Option::as_ref))
            }
            _ => {
                let outcome = gateway.perform(operation, &key, charge).await;
                if let Ok(answer) = &outcome {
                    remember(charge, operation, answer);
                }
                words(outcome.as_ref().map(Some))
            }
        };
        told += &format!("{line}: {outcome}\n");
    }
    format!("{told}---\n{}", provider.book().await)
}

fn operation(word: &str) -> Operation {
    let operations = [Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund];
    operations
        .into_iter()
        .find(|operation| format!("{operation:?}").to_lowercase() == word)
        .expect("scripts name operations")
}

#[test]
fn a_card_is_charged_and_the_money_given_back() {
    check(
        "authorize o-1
         look-up capture o-1
         capture o-1
         look-up capture o-1
         look-up refund o-1
         refund o-1
         look-up refund o-1",
        expect![[r#"
            authorize o-1: done
            look-up capture o-1: absent
            capture o-1: done
            look-up capture o-1: done
            look-up refund o-1: absent
            refund o-1: done
            look-up refund o-1: done
            ---
            o-1 2598 succeeded amount_captured 2598 amount_refunded 2598
        "#]],
    );
}

#[test]
fn a_hold_is_given_up() {
    check(
        "authorize o-1
         look-up void o-1
         void o-1
         look-up void o-1
         look-up authorize o-1",
        expect![[r#"
            authorize o-1: done
            look-up void o-1: absent
            void o-1: done
            look-up void o-1: done
            look-up authorize o-1: refused: canceled: the hold was given up at the provider
            ---
            o-1 2598 canceled
        "#]],
    );
}

#[test]
fn a_declined_card_is_refused_under_the_issuers_code_also_when_looked_up() {
    check(
        "authorize o-1 pm_card_visa_chargeDeclined
         authorize o-1
         look-up authorize o-1
         authorize o-2 pm_card_visa_chargeDeclinedInsufficientFunds
         look-up authorize o-2",
        expect![[r#"
            authorize o-1 pm_card_visa_chargeDeclined: refused: card_declined: the card was declined
            authorize o-1: refused: card_declined: the card was declined
            look-up authorize o-1: refused: card_declined: the card was declined
            authorize o-2 pm_card_visa_chargeDeclinedInsufficientFunds: refused: insufficient_funds: the card has insufficient funds
            look-up authorize o-2: refused: insufficient_funds: the card has insufficient funds
            ---
            o-1 2598 requires_payment_method
            o-2 2598 requires_payment_method
        "#]],
    );
}

#[test]
fn a_charge_whose_answer_was_lost_is_found_and_made_once() {
    check(
        "look-up authorize o-1 pm_sandbox_reply_lost
         insist authorize o-1
         authorize o-1
         insist capture o-1",
        expect![[r#"
            look-up authorize o-1 pm_sandbox_reply_lost: absent
            insist authorize o-1: outcome unknown: no answer from … client error (SendRequest): connection closed before message completed; look-up absent; done
            authorize o-1: done
            insist capture o-1: done
            ---
            o-1 2598 succeeded amount_captured 2598
        "#]],
    );
}

#[test]
fn an_unavailable_provider_is_asked_until_it_is_there_and_charges_once() {
    check(
        "insist authorize o-1 pm_sandbox_unavailable",
        expect![[r#"
        insist authorize o-1 pm_sandbox_unavailable: outcome unknown: the provider answered 503: The sandbox is unavailable, as it was told.; look-up absent; outcome unknown: the provider answered 503: The sandbox is unavailable, as it was told.; look-up absent; outcome unknown: the provider answered 503: The sandbox is unavailable, as it was told.; look-up absent; done
        ---
        o-1 2598 requires_capture
    "#]],
    );
}

#[test]
fn a_capture_that_fails_leaves_a_hold_that_can_be_given_up() {
    check(
        "authorize o-1 pm_sandbox_capture_fails
         capture o-1
         look-up capture o-1
         void o-1",
        expect![[r#"
            authorize o-1 pm_sandbox_capture_fails: done
            capture o-1: refused: capture_failed: the hold has expired
            look-up capture o-1: absent
            void o-1: done
            ---
            o-1 2598 canceled
        "#]],
    );
}

#[test]
fn a_deed_done_twice_is_done_once() {
    check(
        "authorize o-1
         authorize o-1
         capture o-1
         capture o-1
         refund o-1
         refund o-1",
        expect![[r#"
            authorize o-1: done
            authorize o-1: done
            capture o-1: done
            capture o-1: done
            refund o-1: done
            refund o-1: done
            ---
            o-1 2598 succeeded amount_captured 2598 amount_refunded 2598
        "#]],
    );
}

#[test]
fn a_deed_that_does_not_fit_the_hold_is_for_somebody_to_look_at() {
    check(
        "authorize o-1
         capture o-1
         void o-1
         look-up void o-1
         authorize o-2
         void o-2
         capture o-2
         refund o-2
         capture o-3",
        expect![[r#"
            authorize o-1: done
            capture o-1: done
            void o-1: conflict: … of order o-1 was captured and cannot be voided: give the money back in the dashboard
            look-up void o-1: conflict: … of order o-1 was captured and cannot be voided: give the money back in the dashboard
            authorize o-2: done
            void o-2: done
            capture o-2: refused: canceled: the hold was given up at the provider
            refund o-2: conflict: … of order o-2 is canceled, which does not fit Refund
            capture o-3: not done: the hold of order o-3 was not made through this gateway
            ---
            o-1 2598 succeeded amount_captured 2598
            o-2 2598 canceled
        "#]],
    );
}

#[tokio::test]
async fn in_process_and_behind_http_the_sandbox_decides_alike() {
    const METHODS: [&str; 8] = [
        "pm_card_visa",
        "pm_card_authenticationRequired",
        "pm_card_visa_chargeDeclined",
        "pm_card_visa_chargeDeclinedInsufficientFunds",
        "pm_sandbox_reply_lost",
        "pm_sandbox_unavailable",
        "pm_sandbox_capture_fails",
        "pm_sandbox_slow",
    ];
    let provider = Provider::start().await;
    let (process, http) = (Sandbox::default(), provider.gateway());
    for method in METHODS {
        let (near, far) = tokio::join!(ends(&process, method), ends(&http, method));
        assert_eq!(near, far, "{method}");
    }
}

/// The end of each external call, whatever it takes.
async fn ends(gateway: &impl PaymentGateway, method: &str) -> Vec<String> {
    let mut charge = charge(&format!("order by {method}"), method);
    let mut ends = Vec::new();
    for operation in [Operation::Authorize, Operation::Capture] {
        let told = insist(gateway, operation, &mut charge).await;
        ends.push(told.last().expect("it ended").trim_start_matches("look-up ").to_owned());
        if ends.last().is_some_and(|end| end != "done") {
            break;
        }
    }
    ends
}

#[tokio::test]
async fn a_key_in_use_leaves_the_outcome_open_and_charges_once() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let charge = charge("o-1", "pm_sandbox_slow");
    let ask = || gateway.perform(Operation::Authorize, "authorize/o-1", &charge);
    let (one, other) = tokio::join!(ask(), ask());
    let mut told = [one, other].map(|outcome| words(outcome.as_ref().map(Some)));
    told.sort();
    expect![[r#"
        done
        outcome unknown: the provider answered 409: idempotency_key_in_use: There is currently another in-progress request using this Idempotency-Key."#]].assert_eq(&told.join("\n"));
    assert_eq!(words(ask().await.as_ref().map(Some)), "done");
    assert_eq!(provider.book().await, "o-1 2598 requires_capture\n");
}

#[tokio::test]
async fn a_key_used_for_something_else_is_looked_up_and_never_taken_for_ours() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let mut charge = charge("o-1", "pm_card_visa");
    gateway.perform(Operation::Authorize, "authorize/o-1", &charge).await.expect("the card is good");
    charge.amount.amount = 1;
    let outcome = gateway.perform(Operation::Authorize, "authorize/o-1", &charge).await;
    expect!["conflict: … of order o-1 is for 2598 eur, which was not asked for"]
        .assert_eq(&words(outcome.as_ref().map(Some)));
    assert_eq!(provider.book().await, "o-1 2598 requires_capture\n");
}

#[tokio::test]
async fn a_key_that_the_provider_may_have_forgotten_is_not_relied_on() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let charge = charge("o-1", "pm_card_visa");
    gateway.perform(Operation::Authorize, "authorize/o-1", &charge).await.expect("the card is good");
    // As if the first key had never been.
    let outcome = gateway.perform(Operation::Authorize, "forgotten", &aged(&charge)).await;
    assert_eq!(words(outcome.as_ref().map(Some)), "done");
    assert_eq!(provider.book().await, "o-1 2598 requires_capture\n");
}

#[tokio::test]
async fn a_hold_is_found_behind_hundreds_of_others() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    for n in 0..250 {
        let charge = charge(&format!("o-{n}"), "pm_card_visa");
        gateway
            .perform(Operation::Authorize, &format!("authorize/o-{n}"), &charge)
            .await
            .expect("the card is good");
    }
    let find = async |order| {
        let outcome = gateway.look_up(Operation::Authorize, "", &aged(&charge(order, "pm_card_visa"))).await;
        words(outcome.as_ref().map(Option::as_ref))
    };
    assert_eq!(find("o-0").await, "done");
    assert_eq!(find("o-250").await, "absent");
}

#[tokio::test]
async fn an_order_may_be_called_anything() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let mut charge = charge("ö & o=1\n", "pm_sandbox_reply_lost");
    assert_eq!(insist(&gateway, Operation::Authorize, &mut charge).await.last().unwrap(), "done");
    assert_eq!(insist(&gateway, Operation::Capture, &mut charge).await, ["done"]);
}
