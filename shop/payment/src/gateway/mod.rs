//! The port to a payment provider: what it is asked for, what it answers.

pub mod cards;
pub mod sandbox;
#[cfg(feature = "stripe")]
pub mod stripe;

use contracts::{Money, OrderId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidings::EffectError;

use crate::domain::Deed;

/// A payment provider. Every deed has one permanent key: asked again with it, a provider gives the same
/// answer, for as long as it remembers keys.
pub trait PaymentGateway: Clone + Send + Sync + 'static {
    /// Does a deed.
    fn perform(
        &self,
        deed: Deed,
        key: &str,
        charge: &Charge,
    ) -> impl Future<Output = Result<Answer, EffectError>> + Send;

    /// Finds out what became of a deed: `None` only if it certainly was not done.
    fn look_up(
        &self,
        deed: Deed,
        key: &str,
        charge: &Charge,
    ) -> impl Future<Output = Result<Option<Answer>, EffectError>> + Send;
}

/// What a deed is about. Releases before 0.2 wrote down less; what they left out has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The order that is paid for.
    pub order_id: OrderId,
    /// What it costs.
    #[serde(default = "nothing")]
    pub amount: Money,
    /// How it is paid.
    #[serde(default)]
    pub method: String,
    /// What the provider calls the hold, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_ref: Option<String>,
    /// When the deed was asked for: the provider has not heard of it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
}

fn nothing() -> Money {
    Money { amount: 0, currency: String::new() }
}

/// What the provider answers to a deed.
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

impl Answer {
    /// A refusal, cut to what the events that state it can hold.
    #[must_use]
    pub fn refused(code: &str, reason: &str) -> Self {
        let code = if code.is_empty() { "refused" } else { code };
        let cut = |text: &str, chars_max| text.chars().take(chars_max).collect();
        Self::Refused { code: cut(code, 200), reason: cut(reason, 1000) }
    }
}
