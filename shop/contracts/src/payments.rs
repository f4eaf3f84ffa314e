//! Facts that the payment service states.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings::Event;

use crate::{Money, OrderId};

/// A payment fact that carries an amount.
macro_rules! amount_fact {
    ($(#[$doc:meta])* $type:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
        #[event(name = $name, version = 1, topic = "payments", key = order_id)]
        #[schemars(example = json!({
            "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
            "payment_id": "pay_0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
            "amount": {"amount": 2598, "currency": "EUR"},
        }))]
        pub struct $type {
            /// The order.
            #[garde(dive)]
            pub order_id: OrderId,
            /// The payment.
            #[garde(length(chars, min = 1, max = 200))]
            pub payment_id: String,
            /// How much.
            #[garde(dive)]
            pub amount: Money,
        }
    };
}

amount_fact! {
    /// The money is held for us.
    PaymentAuthorized, "payment.authorized"
}
amount_fact! {
    /// The money is ours.
    PaymentCaptured, "payment.captured"
}
amount_fact! {
    /// The hold is given up; nothing was charged.
    PaymentVoided, "payment.voided"
}
amount_fact! {
    /// The money went back.
    PaymentRefunded, "payment.refunded"
}

/// The provider said no.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "payment.declined", version = 1, topic = "payments", key = order_id)]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
    "code": "card_declined",
    "reason": "Your card was declined.",
}))]
pub struct PaymentDeclined {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
    /// The provider's code: `card_declined`.
    #[garde(length(chars, min = 1, max = 200))]
    pub code: String,
    /// The same in words.
    #[garde(length(chars, max = 1000))]
    pub reason: String,
}

/// The money was held, but could not be collected.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "payment.capture_failed", version = 1, topic = "payments", key = order_id)]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
    "payment_id": "pay_0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
    "code": "capture_failed",
    "reason": "The hold has expired.",
}))]
pub struct PaymentCaptureFailed {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
    /// The payment.
    #[garde(length(chars, min = 1, max = 200))]
    pub payment_id: String,
    /// The provider's code.
    #[garde(length(chars, min = 1, max = 200))]
    pub code: String,
    /// The same in words.
    #[garde(length(chars, max = 1000))]
    pub reason: String,
}
