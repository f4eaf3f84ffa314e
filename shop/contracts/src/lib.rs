//! The shop's event types and topics: all that its services know of each other.
//!
//! | topic | key | events |
//! |---|---|---|
//! | `orders` | order id | created, confirmed, cancelled, completed |
//! | `payments` | order id | authorized, declined, captured, capture failed, voided, refunded |
//! | `inventory` | order id | reserved, rejected, committed, released |

pub mod catalogue;
mod orders;
mod payments;
mod stock;

use std::fmt;

use garde::Validate;
use garde::rules::AsStr;
use garde::rules::pattern::Matcher;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use orders::{Item, OrderCancelled, OrderCompleted, OrderConfirmed, OrderCreated, Reason};
pub use payments::{
    PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided,
};
pub use stock::{Missing, StockCommitted, StockLine, StockRejected, StockReleased, StockReserved};

/// Most pieces of one product in an order.
pub const QUANTITY_MAX: u32 = 1000;
/// Most lines of an order.
pub const LINES_MAX: usize = 100;

/// Largest amount, in minor units: far from where sums of amounts could overflow.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000;

/// The settings that the services have of their own, each some of them: they may share a file and an environment.
pub const SETTINGS: [&str; 3] = ["catalogue", "deadline_seconds", "gateway"];

/// What an order is called, everywhere: a `UUIDv7` for those made here.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Validate,
)]
#[serde(transparent)]
#[garde(transparent)]
pub struct OrderId(#[garde(length(chars, min = 1, max = 64))] String);

impl OrderId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for OrderId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl From<&str> for OrderId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl AsRef<str> for OrderId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An amount in minor units: `{"amount": 1299, "currency": "EUR"}` is 12.99 euros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Money {
    /// In minor units of the currency.
    #[garde(range(min = 0, max = AMOUNT_MAX))]
    #[schemars(extend("x-unit" = "minor units of the currency"))]
    pub amount: i64,
    /// ISO 4217 code.
    #[garde(pattern(CurrencyCode))]
    pub currency: String,
}

/// Three capital letters; said in documents as the pattern that it stands for.
struct CurrencyCode;

impl AsStr for CurrencyCode {
    fn as_str(&self) -> &str {
        "^[A-Z]{3}$"
    }
}

impl Matcher for CurrencyCode {
    fn is_match(&self, text: &str) -> bool {
        text.len() == 3 && text.bytes().all(|letter| letter.is_ascii_uppercase())
    }
}

impl fmt::Display for CurrencyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
