//! The event that is sent: an order of about 512 bytes of JSON.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings::Event;

/// An event of about 512 bytes.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "bench.happened", version = 1, topic = "bench", key = id)]
pub struct Happened {
    #[garde(length(min = 1, max = 64))]
    /// The order.
    pub id: String,
    #[garde(range(min = 1))]
    /// A number from 1.
    pub amount: u64,
    #[garde(length(min = 1, max = 100), dive)]
    /// Its items.
    pub lines: Vec<Line>,
    #[garde(length(max = 1000))]
    /// The rest of the 512 bytes.
    pub note: String,
}

/// A line of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Line {
    #[garde(length(min = 1, max = 200))]
    /// The product.
    pub product_id: String,
    #[garde(range(min = 1, max = 1000))]
    /// The number of pieces.
    pub quantity: u32,
}

impl Happened {
    /// The `n`-th event; its key repeats after `keys` of them.
    pub fn number(n: usize, keys: usize) -> Self {
        let line =
            |i: usize| Line { product_id: format!("product-{}", (n + i) % 97), quantity: 1 + (n % 7) as u32 };
        Self {
            id: format!("{:032x}", n % keys),
            amount: 1 + n as u64,
            lines: (0..6).map(line).collect(),
            note: "x".repeat(150),
        }
    }
}

/// The JSON of an `order.created`, 512 bytes long.
#[must_use]
pub fn order_created() -> Vec<u8> {
    let price = json!({"amount": 1299, "currency": "EUR"});
    let item =
        |n: usize| json!({"product_id": format!("product-{n:04}"), "quantity": n, "unit_price": price});
    let order = json!({
        "order_id": "0199bfa5-52a8-7d21-a3a5-0d2f9b6f1c11",
        "customer_id": "c-1",
        "items": (1..=4).map(item).collect::<Vec<_>>(),
        "total": {"amount": 123_456, "currency": "EUR"},
        "payment_method": "pm_card_visa",
    });
    let json = order.to_string().into_bytes();
    assert_eq!(json.len(), 512, "figures are of an event of this length");
    json
}
