//! The port to a payment provider: what it is asked for, what it answers.

pub mod book;
pub mod cards;
pub mod sandbox;
mod stated;
#[cfg(feature = "stripe")]
pub mod stripe;

use contracts::{Money, OrderId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidings::EffectError;

use crate::domain::{Operation, Status};
use book::{BookSpan, ProviderPage, ProviderPayment};

/// The provider's name: while it is down, all that is asked of it waits together.
pub(crate) const PROVIDER: &str = "the payment provider";

/// A payment provider. Every external call has one permanent key: asked again with it, a provider gives the same
/// answer, for as long as it remembers keys.
pub trait PaymentGateway: Clone + Send + Sync + 'static {
    /// Makes an external call.
    fn perform(
        &self,
        operation: Operation,
        key: &str,
        charge: &Charge,
    ) -> impl Future<Output = Result<Answer, EffectError>> + Send;

    /// Finds out what became of an external call: `None` only if it certainly was not done.
    fn look_up(
        &self,
        operation: Operation,
        key: &str,
        charge: &Charge,
    ) -> impl Future<Output = Result<Option<Answer>, EffectError>> + Send;

    /// Asks the provider for the standing of a hold. Reads only.
    fn look_at(&self, hold: &str) -> impl Future<Output = Result<Standing, EffectError>> + Send;

    /// Reads a part of the provider's book. Of a provider that keeps none: `None`.
    fn book(
        &self,
        span: &BookSpan,
    ) -> impl Future<Output = Result<Option<ProviderPage>, EffectError>> + Send {
        let _ = span;
        std::future::ready(Ok(None))
    }

    /// Reads a payment in the provider's book: `None` if the provider does not know it.
    fn payment(
        &self,
        reference: &str,
    ) -> impl Future<Output = Result<Option<ProviderPayment>, EffectError>> + Send {
        let _ = reference;
        std::future::ready(Ok(None))
    }

    /// Tells whether the provider certainly still knows the key of an external call: then asking again under this key
    /// is the look-up. The provider answers as it did the first time, or does the call for the first time.
    fn remembers(&self, charge: &Charge) -> bool {
        let _ = charge;
        false
    }
}

/// The subject of an external call. Earlier releases wrote down less; a part that they left out has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The order that is paid for.
    pub order_id: OrderId,
    /// The price.
    #[serde(default = "nothing")]
    pub amount: Money,
    /// The payment method.
    #[serde(default)]
    pub method: String,
    /// The provider's name for the hold, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_ref: Option<String>,
    /// The time at which the external call was asked for: the provider has not heard of it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
}

fn nothing() -> Money {
    Money { amount: 0, currency: String::new() }
}

/// The provider's answer to an external call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, under this reference.
    Done(String),
    /// Refused for good.
    Refused {
        /// For programs: `card_declined`.
        code: String,
        /// In words.
        reason: String,
    },
}

/// The standing of a hold at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In the provider's words: `succeeded, refunded`.
    pub words: String,
    /// The order that it pays for, if it says so.
    pub order_id: Option<String>,
}

/// Tells whether a payment with this standing at the provider may have this status here. A step that is under way here
/// may be done there already.
pub(crate) fn agrees(status: Status, at_provider: &str) -> bool {
    let may_be: &[&str] = match status {
        Status::Unknown | Status::Authorizing => return !at_provider.contains("disputed"),
        Status::Authorized => &["requires_capture"],
        Status::Declined => &["canceled", "requires_payment_method"],
        Status::Capturing => &["requires_capture", "succeeded"],
        Status::Captured => &["succeeded"],
        Status::CaptureFailed | Status::Voiding => &["requires_capture", "canceled"],
        Status::Voided => &["canceled", "succeeded, refunded"],
        Status::Refunding => &["succeeded", "succeeded, refunded"],
        Status::Refunded => &["succeeded, refunded"],
    };
    may_be.contains(&at_provider)
}

impl Answer {
    /// The refusal of a card that asks for its holder.
    #[must_use]
    pub fn needs_holder() -> Self {
        Self::refused("authentication_required", "the card asks for its holder, who is not here")
    }

    /// A refusal, cut to what the events that state it can hold.
    #[must_use]
    pub fn refused(code: &str, reason: &str) -> Self {
        let code = if code.is_empty() { "refused" } else { code };
        let cut = |text: &str, chars_max| text.chars().take(chars_max).collect();
        Self::Refused { code: cut(code, 200), reason: cut(reason, 1000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_releases_asked_for_can_be_read() {
        for request in [
            r#"{"order_id": "o-1", "amount": {"amount": 500, "currency": "EUR"}, "method": "pm_card_visa"}"#,
            r#"{"order_id": "o-1", "method": "pm_card_visa"}"#,
            r#"{"order_id": "o-1"}"#,
        ] {
            let charge: Charge = serde_json::from_str(request).expect(request);
            assert_eq!((charge.order_id.as_str(), charge.asked_at), ("o-1", None));
        }
    }

    #[test]
    fn a_refusal_fits_into_the_events_that_state_it() {
        let long = "é".repeat(2000);
        let Answer::Refused { code, reason } = Answer::refused(&long, &long) else { unreachable!() };
        assert_eq!((code.chars().count(), reason.chars().count()), (200, 1000));
        assert_eq!(Answer::refused("", ""), Answer::refused("refused", ""));
    }
}
