//! A payment and what is to be done about it: pure.
//!
//! A payment has a state, reached by external calls whose outcome is known, and a decision, made by the order
//! service. What to do next follows from the two and not from the order in which they came.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// What has happened to the money.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schemars(rename = "PaymentStatus")]
pub enum Status {
    /// Known only from its cancellation; nothing was or will be charged.
    Unknown,
    /// Being authorised.
    Authorizing,
    /// Held for us.
    Authorized,
    /// The provider said no. Final.
    Declined,
    /// Being collected.
    Capturing,
    /// Ours. Final, unless the order is cancelled.
    Captured,
    /// Held, but could not be collected.
    CaptureFailed,
    /// Being given up.
    Voiding,
    /// Given up; nothing was charged. Final.
    Voided,
    /// Being given back.
    Refunding,
    /// Given back. Final.
    Refunded,
}

/// The order service's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Decision {
    /// Nothing yet.
    Open,
    /// Collect.
    Confirmed,
    /// Undo.
    Cancelled,
}

/// Something to be done at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Hold the money.
    Authorize,
    /// Collect it.
    Capture,
    /// Give the hold up.
    Void,
    /// Give it back.
    Refund,
}

impl Operation {
    /// The kind of effect that does it: `capture`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }
}

impl Status {
    /// Returns the operation that is under way in this state.
    #[must_use]
    pub fn under_way(self) -> Option<Operation> {
        match self {
            Self::Authorizing => Some(Operation::Authorize),
            Self::Capturing => Some(Operation::Capture),
            Self::Voiding => Some(Operation::Void),
            Self::Refunding => Some(Operation::Refund),
            _ => None,
        }
    }
}

/// The outcome of an external call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done(Operation),
    /// The provider refuses it for good.
    Refused(Operation),
}

/// A payment, as far as decisions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Payment {
    /// The state of the money.
    pub status: Status,
    /// The order service's decision.
    pub decision: Decision,
}

impl Payment {
    /// An order has come in.
    pub const NEW: Self = Self { status: Status::Authorizing, decision: Decision::Open };

    /// The order service decided. A cancellation is never taken back.
    pub fn learn(&mut self, decision: Decision) {
        if self.decision != Decision::Cancelled {
            self.decision = decision;
        }
    }

    /// Begins what is to be done now, if anything is: while an external call is under way, its outcome is awaited.
    pub fn begin(&mut self) -> Option<Operation> {
        let (operation, status) = match (self.status, self.decision) {
            (Status::Authorized, Decision::Confirmed) => (Operation::Capture, Status::Capturing),
            (Status::Authorized | Status::CaptureFailed, Decision::Cancelled) => {
                (Operation::Void, Status::Voiding)
            }
            (Status::Captured, Decision::Cancelled) => (Operation::Refund, Status::Refunding),
            _ => return None,
        };
        self.status = status;
        Some(operation)
    }

    /// Takes the outcome of an external call; says whether that was news.
    pub fn settle(&mut self, outcome: Outcome) -> bool {
        let status = match (self.status, outcome) {
            (Status::Authorizing, Outcome::Done(Operation::Authorize)) => Status::Authorized,
            (Status::Authorizing, Outcome::Refused(Operation::Authorize)) => Status::Declined,
            (Status::Capturing, Outcome::Done(Operation::Capture)) => Status::Captured,
            (Status::Capturing, Outcome::Refused(Operation::Capture)) => Status::CaptureFailed,
            (Status::Voiding, Outcome::Done(Operation::Void)) => Status::Voided,
            (Status::Refunding, Outcome::Done(Operation::Refund)) => Status::Refunded,
            _ => return false,
        };
        self.status = status;
        true
    }
}

/// A transfer between two accounts of the ledger: from `debit` to `credit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The purpose of the transfer.
    pub kind: &'static str,
    /// The account that gives.
    pub debit: &'static str,
    /// The account that gets.
    pub credit: &'static str,
}

/// Returns the transfer in the ledger for an external call that was done.
#[must_use]
pub fn transfer(operation: Operation) -> Transfer {
    let (kind, debit, credit) = match operation {
        Operation::Authorize => ("authorization", "customer", "held"),
        Operation::Capture => ("capture", "held", "revenue"),
        Operation::Void => ("void", "held", "customer"),
        Operation::Refund => ("refund", "revenue", "customer"),
    };
    Transfer { kind, debit, credit }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets a payment run to its end: decisions come at the given moments, external calls end as told.
    fn run(decisions: &[(usize, Decision)], refuse: Option<Operation>) -> (Payment, Vec<Operation>) {
        let mut payment = Payment::NEW;
        let mut under_way = Some(Operation::Authorize);
        let mut done = Vec::new();
        for moment in 0..12 {
            for (_, decision) in decisions.iter().filter(|(at, _)| *at == moment) {
                payment.learn(*decision);
            }
            if under_way.is_none() {
                under_way = payment.begin();
            } else if moment % 2 == 1
                && let Some(operation) = under_way.take()
            {
                let outcome = if refuse == Some(operation) {
                    Outcome::Refused(operation)
                } else {
                    Outcome::Done(operation)
                };
                assert!(payment.settle(outcome), "the outcome of what is under way is news");
                assert!(!payment.settle(outcome), "the same outcome again is not");
                if refuse != Some(operation) {
                    done.push(operation);
                }
            }
        }
        (payment, done)
    }

    /// Adds up what the external calls move: (held, revenue) in units of the amount.
    fn balance(operations: &[Operation]) -> (i32, i32) {
        let (mut held, mut revenue) = (0, 0);
        for operation in operations {
            let Transfer { debit, credit, .. } = transfer(*operation);
            for (account, sign) in [(debit, -1), (credit, 1)] {
                match account {
                    "held" => held += sign,
                    "revenue" => revenue += sign,
                    _ => {}
                }
            }
        }
        (held, revenue)
    }

    proptest! {
        #[test]
        fn a_cancelled_payment_leaves_nothing_whenever_the_cancel_comes(at in 0_usize..8, confirm_at in 0_usize..8, confirmed in any::<bool>()) {
            let mut decisions = vec![(at, Decision::Cancelled)];
            if confirmed {
                decisions.insert(0, (confirm_at, Decision::Confirmed));
            }
            let (payment, operations) = run(&decisions, None);
            prop_assert!(matches!(payment.status, Status::Voided | Status::Refunded), "{payment:?}");
            prop_assert_eq!(balance(&operations), (0, 0));
        }

        #[test]
        fn a_confirmed_payment_is_captured_once(at in 0_usize..8) {
            let (payment, operations) = run(&[(at, Decision::Confirmed)], None);
            prop_assert_eq!(payment.status, Status::Captured);
            prop_assert_eq!(balance(&operations), (0, 1));
        }
    }

    #[test]
    fn a_failed_capture_is_voided_once_the_order_is_cancelled() {
        let (payment, operations) =
            run(&[(1, Decision::Confirmed), (6, Decision::Cancelled)], Some(Operation::Capture));
        assert_eq!(payment.status, Status::Voided);
        assert_eq!(balance(&operations), (0, 0));
    }

    #[test]
    fn a_declined_payment_stays_declined() {
        let (payment, operations) = run(&[(3, Decision::Cancelled)], Some(Operation::Authorize));
        assert_eq!((payment.status, operations), (Status::Declined, vec![]));
    }
}
