//! The provider's own book: what it says has become of each payment.

use contracts::Money;
use jiff::Timestamp;

/// A part of the provider's book that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookSpan {
    /// Payments that were made there from this second on …
    pub since: Timestamp,
    /// … and before this one: providers count in whole seconds.
    pub until: Timestamp,
    /// Only those after this one, by the provider's name for it; newest first.
    pub after: Option<String>,
    /// At most this many.
    pub limit: u32,
}

/// A page of the provider's book.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderPage {
    /// Payments, newest first.
    pub payments: Vec<ProviderPayment>,
    /// Tells whether there are more, older ones.
    pub has_more: bool,
}

/// A payment as the provider has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderPayment {
    /// The provider's name for it.
    pub reference: String,
    /// The order that it pays for, if it says so.
    pub order_id: Option<String>,
    /// The time at which it was made there.
    pub created: Timestamp,
    /// Its standing in the provider's words: `succeeded, refunded`.
    pub words: String,
    /// The amount that was asked for; `None` if that is no whole number of our units.
    pub amount: Option<Money>,
    /// The part of it that was collected, in our minor units.
    pub captured: i64,
    /// The part of it that was given back.
    pub refunded: i64,
}

impl ProviderPayment {
    /// Tells whether it waits to be collected or given up.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.words.starts_with("requires_capture")
            || self.words.starts_with("requires_action")
            || self.words.starts_with("requires_confirmation")
            || self.words.starts_with("processing")
    }

    /// Tells whether money was collected and is still there.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.captured > self.refunded
    }
}
