//! Facts that the inventory service states.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings::Event;

use crate::OrderId;

/// Pieces of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct StockLine {
    /// Which product.
    #[garde(length(chars, min = 1, max = 200))]
    pub product_id: String,
    /// How many pieces.
    #[garde(range(min = 1))]
    pub quantity: u32,
}

/// A stock fact about the lines of an order.
macro_rules! stock_fact {
    ($(#[$doc:meta])* $type:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
        #[event(name = $name, version = 1, topic = "inventory", key = order_id)]
        #[schemars(example = json!({
            "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
            "items": [{"product_id": "tea", "quantity": 2}],
        }))]
        pub struct $type {
            /// The order.
            #[garde(dive)]
            pub order_id: OrderId,
            /// One line a product.
            #[garde(dive)]
            pub items: Vec<StockLine>,
        }
    };
}

stock_fact! {
    /// The pieces are set aside.
    StockReserved, "stock.reserved"
}
stock_fact! {
    /// The pieces are gone to the customer.
    StockCommitted, "stock.committed"
}
stock_fact! {
    /// The pieces are available again.
    StockReleased, "stock.released"
}

/// There is not enough; nothing was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "stock.rejected", version = 1, topic = "inventory", key = order_id)]
#[schemars(example = json!({
    "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
    "missing": [{"product_id": "tea", "requested": 2, "available": 1}],
}))]
pub struct StockRejected {
    /// The order.
    #[garde(dive)]
    pub order_id: OrderId,
    /// What there was too little of.
    #[garde(length(min = 1), dive)]
    pub missing: Vec<Missing>,
}

/// A product there was too little of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Missing {
    /// Which product.
    #[garde(length(chars, min = 1, max = 200))]
    pub product_id: String,
    /// How many pieces were asked for.
    #[garde(range(min = 1))]
    pub requested: u64,
    /// How many there were.
    #[garde(skip)]
    pub available: u64,
}
