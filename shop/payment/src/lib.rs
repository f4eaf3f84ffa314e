//! The payment service: holds, collects, gives up and gives back the money of orders.
//!
//! It obeys the order service's decisions and states what came of them. Every deed at the provider
//! has one permanent key. Reading order: domain → handlers → store → gateway → http.

pub mod domain;
mod gateway;
mod handlers;
mod http;
mod store;

use contracts::{OrderCancelled, OrderConfirmed, OrderCreated};
use tidings::Service;

pub use gateway::Sandbox;
use handlers::{Authorize, Capture, Deeds, Payments, Refund, Void};

/// The service, with the sandbox provider in process.
#[must_use]
pub fn service() -> Service {
    let deeds = Deeds(Sandbox::default());
    Service::new("payment")
        .group("payments")
        .tables(&[include_str!("schema.sql")])
        .topic("payments")
        .on_batch::<OrderCreated, _>(Payments)
        .on_batch::<OrderConfirmed, _>(Payments)
        .on_batch::<OrderCancelled, _>(Payments)
        .effect::<Authorize, _>(deeds.clone())
        .effect::<Capture, _>(deeds.clone())
        .effect::<Void, _>(deeds.clone())
        .effect::<Refund, _>(deeds)
        .routes(http::routes)
}
