//! Facts that the order service states.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use strum::{EnumString, IntoStaticStr};
use tidings::{Event, OpenEnum};

use crate::{LINES_MAX, Money, OrderId, QUANTITY_MAX};

/// A customer has ordered.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "order.created", version = 1, topic = "orders", key = order_id, alias = "order_created")]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
    "customer_id": "c-1",
    "items": [{"product_id": "tea", "quantity": 2, "unit_price": {"amount": 1299, "currency": "EUR"}}],
    "total": {"amount": 2598, "currency": "EUR"},
    "payment_method": "pm_card_visa",
}))]
pub struct OrderCreated {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
    /// Who ordered, if they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(length(chars, min = 1, max = 200))]
    pub customer_id: Option<String>,
    /// What they ordered.
    #[garde(length(min = 1, max = LINES_MAX), dive)]
    pub items: Vec<Item>,
    /// What it costs.
    #[garde(dive)]
    pub total: Money,
    /// How they pay, if they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(length(chars, min = 1, max = 200))]
    pub payment_method: Option<String>,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Item {
    /// Which product.
    #[garde(length(chars, min = 1, max = 200))]
    pub product_id: String,
    /// How many pieces.
    #[serde(alias = "qty")]
    #[schemars(extend("x-aliases" = ["qty"]))]
    #[garde(range(min = 1, max = QUANTITY_MAX))]
    pub quantity: u32,
    /// What a piece costs; programs that do not know leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub unit_price: Option<Money>,
}

/// Paid for and in stock: the order goes ahead.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "order.confirmed", version = 1, topic = "orders", key = order_id)]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11"
}))]
pub struct OrderConfirmed {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
}

/// The order will not happen, or is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "order.cancelled", version = 1, topic = "orders", key = order_id)]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11", "reason": "declined"
}))]
pub struct OrderCancelled {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
    /// Why.
    #[garde(dive)]
    pub reason: OpenEnum<Reason>,
}

/// Why an order was cancelled.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The payment was declined.
    Declined,
    /// A product was out of stock.
    OutOfStock,
    /// The customer asked for it.
    CancelledByCustomer,
    /// Payment or inventory did not answer in time.
    Deadline,
    /// The money could not be collected.
    CaptureFailed,
}

/// The money is collected and the stock committed.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "order.completed", version = 1, topic = "orders", key = order_id)]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11"
}))]
pub struct OrderCompleted {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
}
