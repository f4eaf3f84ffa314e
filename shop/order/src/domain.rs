//! An order and how it is decided: pure.
//!
//! Facts from payment and inventory are kept separately; a decision follows from all of them and never
//! from the order in which they came. Only two decisions exist, and only the first can be taken back:
//! `processing → confirmed`, and anything not completed `→ cancelling`.

use contracts::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// Where an order stands, as customers see it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schemars(rename = "OrderStatus")]
pub enum Status {
    /// Payment and inventory have not both answered.
    Processing,
    /// Both said yes: money is being collected, stock committed.
    Confirmed,
    /// Done. Final.
    Completed,
    /// Will not happen: holds, charges and reservations are being undone.
    Cancelling,
    /// Did not happen, and nothing is left of it. Final.
    Cancelled,
}

impl Status {
    /// Tells whether the order can still change.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Completed | Self::Cancelled)
    }
}

/// What is known of the money. Later facts replace earlier ones, never the other way round.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schemars(rename = "OrderPayment")]
pub enum Payment {
    /// Nothing yet.
    Unknown,
    /// Held for us.
    Authorized,
    /// Held, but could not be collected.
    CaptureFailed,
    /// Ours.
    Captured,
    /// The provider said no.
    Declined,
    /// Given up before it was collected.
    Voided,
    /// Given back.
    Refunded,
}

/// What is known of the stock. Later facts replace earlier ones, never the other way round.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schemars(rename = "OrderStock")]
pub enum Stock {
    /// Nothing yet.
    Unknown,
    /// Set aside.
    Reserved,
    /// Gone to the customer.
    Committed,
    /// There was too little.
    Rejected,
    /// Available again.
    Released,
}

/// A fact about an order, stated elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// From the payment service.
    Payment(Payment),
    /// From the inventory service.
    Stock(Stock),
}

/// Everything a decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The order's status.
    pub status: Status,
    /// The known facts about the money.
    pub payment: Payment,
    /// The known facts about the stock.
    pub stock: Stock,
    /// The reason for the cancellation, if the order was cancelled.
    pub reason: Option<Reason>,
}

/// The decision that follows from the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Both said yes.
    Confirm,
    /// The payment or the inventory said no.
    Cancel(Reason),
    /// Everything is collected and committed.
    Complete,
    /// Everything is undone; no service needs to be told.
    Settle,
}

impl Progress {
    /// An order before any fact about it is known.
    pub const NEW: Self =
        Self { status: Status::Processing, payment: Payment::Unknown, stock: Stock::Unknown, reason: None };

    /// Learns a fact. An older one than what is known changes nothing.
    pub fn learn(&mut self, fact: Fact) {
        match fact {
            Fact::Payment(payment) => self.payment = self.payment.max(payment),
            Fact::Stock(stock) => self.stock = self.stock.max(stock),
        }
    }

    /// Decides what follows from the known facts, if anything.
    #[must_use]
    pub fn decide(&self) -> Option<Decision> {
        match self.status {
            Status::Processing => self.first_decision(),
            Status::Confirmed if self.payment == Payment::CaptureFailed => {
                Some(Decision::Cancel(Reason::CaptureFailed))
            }
            Status::Confirmed if self.payment == Payment::Captured && self.stock == Stock::Committed => {
                Some(Decision::Complete)
            }
            Status::Cancelling if self.is_undone() => Some(Decision::Settle),
            _ => None,
        }
    }

    /// Takes a decision.
    pub fn take(&mut self, decision: Decision) {
        self.status = match decision {
            Decision::Confirm => Status::Confirmed,
            Decision::Complete => Status::Completed,
            Decision::Settle => Status::Cancelled,
            Decision::Cancel(reason) => {
                self.reason = Some(reason);
                Status::Cancelling
            }
        };
    }

    /// Tells whether the order can still be cancelled.
    #[must_use]
    pub fn can_be_cancelled(&self) -> bool {
        matches!(self.status, Status::Processing | Status::Confirmed)
    }

    fn first_decision(&self) -> Option<Decision> {
        if self.payment == Payment::Declined {
            return Some(Decision::Cancel(Reason::Declined));
        }
        if self.stock == Stock::Rejected {
            return Some(Decision::Cancel(Reason::OutOfStock));
        }
        let both = self.payment == Payment::Authorized && self.stock == Stock::Reserved;
        both.then_some(Decision::Confirm)
    }

    fn is_undone(&self) -> bool {
        matches!(self.payment, Payment::Declined | Payment::Voided | Payment::Refunded)
            && matches!(self.stock, Stock::Rejected | Stock::Released)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays payment and inventory: facts become available as decisions allow, and arrive in any order
    /// across the two, with repetitions. Returns where the order ends.
    fn settle(
        mut payment: Vec<Payment>,
        mut stock: Vec<Stock>,
        cancel_at: Option<usize>,
        picks: &[bool],
    ) -> Progress {
        let mut order = Progress::NEW;
        for (step, &pick) in picks.iter().cycle().take(200).enumerate() {
            let fact = if pick {
                payment.first().copied().map(Fact::Payment)
            } else {
                stock.first().copied().map(Fact::Stock)
            };
            if cancel_at == Some(step) && order.can_be_cancelled() {
                order.take(Decision::Cancel(Reason::CancelledByCustomer));
            }
            let possible = match fact {
                Some(Fact::Payment(Payment::Captured | Payment::CaptureFailed)) => {
                    order.status == Status::Confirmed
                }
                Some(Fact::Stock(Stock::Committed)) => order.status == Status::Confirmed,
                Some(Fact::Payment(Payment::Voided | Payment::Refunded))
                | Some(Fact::Stock(Stock::Released)) => {
                    matches!(order.status, Status::Cancelling)
                }
                _ => true,
            };
            let Some(fact) = fact else { continue };
            if possible {
                if pick {
                    payment.remove(0);
                } else {
                    stock.remove(0);
                }
                order.learn(fact);
                order.learn(fact); // a duplicate
            } else if order.status == Status::Cancelling {
                // What was confirmed before the cancel never happens.
                if pick {
                    payment.remove(0);
                } else {
                    stock.remove(0);
                }
            }
            while let Some(decision) = order.decide() {
                order.take(decision);
            }
        }
        order
    }

    fn picks() -> impl Strategy<Value = Vec<bool>> {
        prop::collection::vec(any::<bool>(), 8..40)
            .prop_filter("both sides get their turns", |p| p.contains(&true) && p.contains(&false))
    }

    proptest! {
        #[test]
        fn a_good_order_completes_whatever_arrives_first(picks in picks()) {
            let end = settle(vec![Payment::Authorized, Payment::Captured], vec![Stock::Reserved, Stock::Committed], None, &picks);
            prop_assert_eq!(end.status, Status::Completed);
        }

        #[test]
        fn a_declined_order_is_cancelled_whatever_arrives_first(picks in picks()) {
            let end = settle(vec![Payment::Declined], vec![Stock::Reserved, Stock::Released], None, &picks);
            prop_assert_eq!(end.status, Status::Cancelled);
            prop_assert_eq!(end.reason, Some(Reason::Declined));
        }

        #[test]
        fn an_order_out_of_stock_is_cancelled_whatever_arrives_first(picks in picks()) {
            let end = settle(vec![Payment::Authorized, Payment::Voided], vec![Stock::Rejected], None, &picks);
            prop_assert_eq!(end.status, Status::Cancelled);
            prop_assert_eq!(end.reason, Some(Reason::OutOfStock));
        }

        #[test]
        fn a_failed_capture_cancels_whatever_arrives_first(picks in picks()) {
            let payment = vec![Payment::Authorized, Payment::CaptureFailed, Payment::Voided];
            let stock = vec![Stock::Reserved, Stock::Committed, Stock::Released];
            let end = settle(payment, stock, None, &picks);
            prop_assert_eq!(end.status, Status::Cancelled);
            prop_assert_eq!(end.reason, Some(Reason::CaptureFailed));
        }

        #[test]
        fn a_cancel_at_any_moment_ends_in_a_final_state(picks in picks(), at in 0_usize..20) {
            let payment = vec![Payment::Authorized, Payment::Captured, Payment::Refunded];
            let stock = vec![Stock::Reserved, Stock::Committed, Stock::Released];
            let end = settle(payment, stock, Some(at), &picks);
            prop_assert!(matches!(end.status, Status::Completed | Status::Cancelled), "{end:?}");
        }

        /// Whatever is known, in whatever order it was learned, the knowledge is the same.
        #[test]
        fn facts_commute(facts in prop::collection::vec(fact(), 0..12), swaps in prop::collection::vec((0_usize..12, 0_usize..12), 0..12)) {
            let mut shuffled = facts.clone();
            for (a, b) in swaps {
                if a < shuffled.len() && b < shuffled.len() {
                    shuffled.swap(a, b);
                }
            }
            let learn = |facts: &[Fact]| {
                let mut order = Progress::NEW;
                facts.iter().for_each(|f| order.learn(*f));
                order
            };
            prop_assert_eq!(learn(&facts), learn(&shuffled));
            prop_assert_eq!(learn(&facts).decide(), learn(&shuffled).decide());
        }

        /// A final order stays as it is, whatever else arrives.
        #[test]
        fn nothing_reopens_a_final_order(facts in prop::collection::vec(fact(), 1..6), completed in any::<bool>()) {
            let status = if completed { Status::Completed } else { Status::Cancelled };
            let mut order = Progress { status, ..Progress::NEW };
            for fact in facts {
                order.learn(fact);
                prop_assert_eq!(order.decide(), None);
            }
        }
    }

    fn fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            prop::sample::select(vec![
                Payment::Authorized,
                Payment::CaptureFailed,
                Payment::Captured,
                Payment::Declined,
                Payment::Voided,
                Payment::Refunded,
            ])
            .prop_map(Fact::Payment),
            prop::sample::select(vec![Stock::Reserved, Stock::Committed, Stock::Rejected, Stock::Released])
                .prop_map(Fact::Stock),
        ]
    }
}
