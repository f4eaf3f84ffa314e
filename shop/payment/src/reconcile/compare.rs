//! A payment here beside what the provider says of it: pure.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::Status;
use crate::gateway::agrees;
use crate::gateway::book::ProviderPayment;
use crate::store::ledger::LedgerPayment;

/// The way in which the provider's book and the ledger differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Difference {
    /// The provider does not know the payment.
    MissingAtProvider,
    /// The provider has a payment of which the ledger knows nothing.
    MissingHere,
    /// Both have it, with other amounts.
    AmountDiffers,
    /// Both have it, in states that do not go together.
    StatusDiffers,
    /// The provider still holds the money of an order that is over here.
    OpenAtProvider,
}

/// What a comparison has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They agree, or nothing has moved at either.
    Agree,
    /// An external call is under way here: what is there may be news.
    UnderWay,
    /// It is not about an order: another program uses the provider too.
    Foreign,
    /// They differ; and what to do about it.
    Differ(Difference, String),
}

/// Compares what the provider has with the payment of that order here, if there is one.
pub fn compare(here: Option<&LedgerPayment>, there: &ProviderPayment) -> Comparison {
    let Some(here) = here else { return unheard_of(there) };
    if here.status.under_way().is_some() {
        return Comparison::UnderWay;
    }
    match &here.provider_ref {
        Some(reference) if *reference != there.reference => another(here, reference, there),
        _ => of_one_payment(here, there),
    }
}

/// The provider does not know the payment that it made, by our word, under `reference`.
pub fn missing_there(here: &LedgerPayment, reference: &str) -> Comparison {
    let order_id = &here.order_id;
    let todo = match here.status {
        status if status.under_way().is_some() => return Comparison::UnderWay,
        Status::Captured => format!(
            "look for {reference} at the provider, in the account of this service's key; if it is not there, nobody \
             has paid order {order_id}: ask the customer to pay again"
        ),
        Status::Authorized | Status::CaptureFailed => format!(
            "look for {reference} at the provider, in the account of this service's key; if it is not there, nothing \
             is held for order {order_id}: cancel it, then `tidings effects resolve void/{order_id} --outcome \
             '{{\"done\": \"{reference}\"}}' --reason …`"
        ),
        _ => format!("nothing is owed; find out why the provider has forgotten {reference}"),
    };
    Comparison::Differ(Difference::MissingAtProvider, todo)
}

fn unheard_of(there: &ProviderPayment) -> Comparison {
    let Some(order_id) = &there.order_id else { return Comparison::Foreign };
    let reference = &there.reference;
    let todo = match (there.is_open(), there.is_kept()) {
        (true, _) => {
            format!("give {reference} up at the provider, unless another program has order {order_id}")
        }
        (_, true) => {
            format!("refund {reference} at the provider, unless another program has order {order_id}")
        }
        // It was declined, or given up: nothing moved, and nothing is owed.
        (false, false) if there.captured == 0 => return Comparison::Agree,
        (false, false) => format!("nothing is owed; find out who charged order {order_id}, and gave it back"),
    };
    Comparison::Differ(Difference::MissingHere, todo)
}

/// A payment beside the one by which the order was paid.
fn another(here: &LedgerPayment, reference: &str, there: &ProviderPayment) -> Comparison {
    let (order_id, other) = (&here.order_id, &there.reference);
    if there.is_open() {
        let todo = format!("give {other} up at the provider: order {order_id} has {reference}");
        Comparison::Differ(Difference::OpenAtProvider, todo)
    } else if there.is_kept() {
        let todo = format!(
            "refund {other} at the provider: order {order_id} has {reference}, and was charged twice"
        );
        Comparison::Differ(Difference::MissingHere, todo)
    } else {
        Comparison::Agree
    }
}

fn of_one_payment(here: &LedgerPayment, there: &ProviderPayment) -> Comparison {
    let (order_id, reference, status) = (&here.order_id, &there.reference, <&str>::from(here.status));
    let is_over =
        matches!(here.status, Status::Unknown | Status::Declined | Status::Voided | Status::Refunded);
    if is_over && there.is_open() {
        let todo =
            format!("give {reference} up at the provider: the payment of order {order_id} is {status} here");
        return Comparison::Differ(Difference::OpenAtProvider, todo);
    }
    let has_money = there.is_open() || there.captured > 0;
    if has_money && there.amount.as_ref() != Some(&here.amount) && here.status != Status::Unknown {
        let todo = format!(
            "settle the difference of order {order_id} at the provider: refund what {reference} has too much, or ask \
             the customer for what it has too little"
        );
        return Comparison::Differ(Difference::AmountDiffers, todo);
    }
    let is_collected = matches!(here.status, Status::Captured | Status::Refunded) && there.captured > 0;
    if is_collected && there.captured != here.captured {
        let todo = format!("ask the customer of order {order_id} for what {reference} has too little");
        return Comparison::Differ(Difference::AmountDiffers, todo);
    }
    if there.refunded > 0 && there.refunded < there.captured && there.refunded != here.refunded {
        let todo = format!(
            "a part of {reference} was given back at the provider: refund the rest there if order {order_id} is to be \
             cancelled, else write it off"
        );
        return Comparison::Differ(Difference::AmountDiffers, todo);
    }
    if agrees(here.status, &there.words) && !(here.status == Status::Unknown && there.is_kept()) {
        return Comparison::Agree;
    }
    Comparison::Differ(Difference::StatusDiffers, to_do_about_status(here, there))
}

fn to_do_about_status(here: &LedgerPayment, there: &ProviderPayment) -> String {
    let (order_id, reference) = (&here.order_id, &there.reference);
    let words = there.words.as_str();
    match here.status {
        _ if words.contains("disputed") => {
            format!("answer the dispute of {reference} in the provider's dashboard")
        }
        Status::Captured if there.is_open() => {
            format!(
                "collect {reference} at the provider before the hold expires: order {order_id} counts as paid"
            )
        }
        Status::Captured if words.contains("refunded") => {
            format!(
                "the money was given back at the provider: ask the customer of order {order_id} to pay again"
            )
        }
        Status::Captured => {
            format!("nothing was collected: ask the customer of order {order_id} to pay again")
        }
        Status::Authorized if there.is_kept() => format!(
            "{reference} was collected at the provider: leave it if order {order_id} goes on, else refund it there"
        ),
        Status::Authorized => format!(
            "the hold is gone: nothing is to be done, order {order_id} is cancelled by itself when it cannot be collected"
        ),
        _ if there.is_kept() => {
            format!("refund {reference} at the provider: nobody owes the money of order {order_id}")
        }
        _ => format!("look at {reference} in the provider's dashboard"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use contracts::Money;
    use expect_test::expect;
    use jiff::Timestamp;

    use super::*;

    fn money(amount: i64) -> Money {
        Money { amount, currency: "EUR".to_owned() }
    }

    fn here(status: Status) -> LedgerPayment {
        let moved = |is| if is { 500 } else { 0 };
        LedgerPayment {
            n: 1,
            order_id: "o-1".to_owned(),
            status,
            amount: money(500),
            captured: moved(matches!(status, Status::Captured | Status::Refunding | Status::Refunded)),
            refunded: moved(status == Status::Refunded),
            provider_ref: Some("pi_1".to_owned()),
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    fn there(words: &str) -> ProviderPayment {
        let moved = |is| if is { 500 } else { 0 };
        ProviderPayment {
            reference: "pi_1".to_owned(),
            order_id: Some("o-1".to_owned()),
            created: Timestamp::UNIX_EPOCH,
            words: words.to_owned(),
            amount: Some(money(500)),
            captured: moved(words.starts_with("succeeded")),
            refunded: moved(words.contains("refunded")),
        }
    }

    fn told(comparison: Comparison) -> String {
        match comparison {
            Comparison::Agree => "=".to_owned(),
            Comparison::UnderWay => "under way".to_owned(),
            Comparison::Foreign => "not ours".to_owned(),
            Comparison::Differ(difference, todo) => format!("{difference:?}: {todo}"),
        }
    }

    #[test]
    fn every_state_here_beside_every_state_there() {
        let mut table = String::new();
        for status in [
            Status::Unknown,
            Status::Authorizing,
            Status::Authorized,
            Status::Declined,
            Status::Captured,
            Status::CaptureFailed,
            Status::Voided,
            Status::Refunded,
        ] {
            writeln!(table, "{status:?}").unwrap();
            for words in [
                "requires_capture",
                "requires_payment_method",
                "succeeded",
                "succeeded, refunded",
                "canceled",
            ] {
                let told = told(compare(Some(&here(status)), &there(words)));
                writeln!(table, "    {words}: {told}").unwrap();
            }
            writeln!(table, "    missing: {}", told(missing_there(&here(status), "pi_1"))).unwrap();
        }
        expect![[r#"
            Unknown
                requires_capture: OpenAtProvider: give pi_1 up at the provider: the payment of order o-1 is unknown here
                requires_payment_method: =
                succeeded: StatusDiffers: refund pi_1 at the provider: nobody owes the money of order o-1
                succeeded, refunded: =
                canceled: =
                missing: MissingAtProvider: nothing is owed; find out why the provider has forgotten pi_1
            Authorizing
                requires_capture: under way
                requires_payment_method: under way
                succeeded: under way
                succeeded, refunded: under way
                canceled: under way
                missing: under way
            Authorized
                requires_capture: =
                requires_payment_method: StatusDiffers: the hold is gone: nothing is to be done, order o-1 is cancelled by itself when it cannot be collected
                succeeded: StatusDiffers: pi_1 was collected at the provider: leave it if order o-1 goes on, else refund it there
                succeeded, refunded: StatusDiffers: the hold is gone: nothing is to be done, order o-1 is cancelled by itself when it cannot be collected
                canceled: StatusDiffers: the hold is gone: nothing is to be done, order o-1 is cancelled by itself when it cannot be collected
                missing: MissingAtProvider: look for pi_1 at the provider, in the account of this service's key; if it is not there, nothing is held for order o-1: cancel it, then `tidings effects resolve void/o-1 --outcome '{"done": "pi_1"}' --reason …`
            Declined
                requires_capture: OpenAtProvider: give pi_1 up at the provider: the payment of order o-1 is declined here
                requires_payment_method: =
                succeeded: StatusDiffers: refund pi_1 at the provider: nobody owes the money of order o-1
                succeeded, refunded: StatusDiffers: look at pi_1 in the provider's dashboard
                canceled: =
                missing: MissingAtProvider: nothing is owed; find out why the provider has forgotten pi_1
            Captured
                requires_capture: StatusDiffers: collect pi_1 at the provider before the hold expires: order o-1 counts as paid
                requires_payment_method: StatusDiffers: nothing was collected: ask the customer of order o-1 to pay again
                succeeded: =
                succeeded, refunded: StatusDiffers: the money was given back at the provider: ask the customer of order o-1 to pay again
                canceled: StatusDiffers: nothing was collected: ask the customer of order o-1 to pay again
                missing: MissingAtProvider: look for pi_1 at the provider, in the account of this service's key; if it is not there, nobody has paid order o-1: ask the customer to pay again
            CaptureFailed
                requires_capture: =
                requires_payment_method: StatusDiffers: look at pi_1 in the provider's dashboard
                succeeded: StatusDiffers: refund pi_1 at the provider: nobody owes the money of order o-1
                succeeded, refunded: StatusDiffers: look at pi_1 in the provider's dashboard
                canceled: =
                missing: MissingAtProvider: look for pi_1 at the provider, in the account of this service's key; if it is not there, nothing is held for order o-1: cancel it, then `tidings effects resolve void/o-1 --outcome '{"done": "pi_1"}' --reason …`
            Voided
                requires_capture: OpenAtProvider: give pi_1 up at the provider: the payment of order o-1 is voided here
                requires_payment_method: StatusDiffers: look at pi_1 in the provider's dashboard
                succeeded: StatusDiffers: refund pi_1 at the provider: nobody owes the money of order o-1
                succeeded, refunded: =
                canceled: =
                missing: MissingAtProvider: nothing is owed; find out why the provider has forgotten pi_1
            Refunded
                requires_capture: OpenAtProvider: give pi_1 up at the provider: the payment of order o-1 is refunded here
                requires_payment_method: StatusDiffers: look at pi_1 in the provider's dashboard
                succeeded: StatusDiffers: refund pi_1 at the provider: nobody owes the money of order o-1
                succeeded, refunded: =
                canceled: StatusDiffers: look at pi_1 in the provider's dashboard
                missing: MissingAtProvider: nothing is owed; find out why the provider has forgotten pi_1
        "#]].assert_eq(&table);
    }

    #[test]
    fn what_is_not_of_one_payment() {
        let with = |change: fn(&mut ProviderPayment)| {
            let mut there = there("succeeded");
            change(&mut there);
            there
        };
        let captured = here(Status::Captured);
        let compared = [
            compare(None, &there("requires_capture")),
            compare(None, &there("succeeded")),
            compare(None, &there("succeeded, refunded")),
            compare(None, &there("canceled")),
            compare(None, &with(|there| there.order_id = None)),
            compare(Some(&captured), &with(|there| there.amount = Some(money(499)))),
            compare(Some(&captured), &with(|there| there.amount = None)),
            compare(Some(&captured), &with(|there| there.captured = 400)),
            compare(Some(&captured), &with(|there| there.refunded = 100)),
            compare(Some(&captured), &with(|there| there.words = "succeeded, disputed".to_owned())),
            compare(Some(&captured), &with(|there| there.reference = "pi_2".to_owned())),
            compare(
                Some(&captured),
                &ProviderPayment { reference: "pi_2".to_owned(), ..there("requires_capture") },
            ),
            compare(Some(&captured), &ProviderPayment { reference: "pi_2".to_owned(), ..there("canceled") }),
        ];
        expect![[r#"
            MissingHere: give pi_1 up at the provider, unless another program has order o-1
            MissingHere: refund pi_1 at the provider, unless another program has order o-1
            MissingHere: nothing is owed; find out who charged order o-1, and gave it back
            =
            not ours
            AmountDiffers: settle the difference of order o-1 at the provider: refund what pi_1 has too much, or ask the customer for what it has too little
            AmountDiffers: settle the difference of order o-1 at the provider: refund what pi_1 has too much, or ask the customer for what it has too little
            AmountDiffers: ask the customer of order o-1 for what pi_1 has too little
            AmountDiffers: a part of pi_1 was given back at the provider: refund the rest there if order o-1 is to be cancelled, else write it off
            StatusDiffers: answer the dispute of pi_1 in the provider's dashboard
            MissingHere: refund pi_2 at the provider: order o-1 has pi_1, and was charged twice
            OpenAtProvider: give pi_2 up at the provider: order o-1 has pi_1
            ="#]].assert_eq(&compared.map(told).join("\n"));
    }
}
