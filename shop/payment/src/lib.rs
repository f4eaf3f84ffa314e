//! The payment service: holds, collects, gives up and gives back the money of orders.
//!
//! It obeys the order service's decisions and publishes their outcomes. Every external call at the provider
//! has one permanent key. Reading order, each module above those before it:
//! domain → gateway → store → handlers → webhook → reconcile → http.
//!
//! The feature `stripe`, on by default, adds the provider's public HTTP API: the adapter that speaks it and
//! the program `psp-sandbox`, which serves it.

pub mod domain;
pub mod gateway;
mod store;
mod handlers;
pub mod webhook;
mod reconcile;
mod http;
mod settings;
#[cfg(feature = "stripe")]
pub mod psp;

use std::path::Path;

use contracts::catalogue::{self, Price};
use contracts::{
    OrderCancelled, OrderConfirmed, OrderCreated, PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured,
    PaymentDeclined, PaymentRefunded, PaymentVoided,
};
use tidings::store::Tables;
use tidings::{Error, Service, Store};

use gateway::PaymentGateway;
use handlers::{Authorize, Capture, Operations, Payments, Refund, Void};
use reconcile::BothBooks;
use settings::Gateway;
pub use settings::PaymentSettings;
use webhook::{Counts, Hooks, Look, Secret};

/// The purpose of the service, in a line.
pub const ABOUT: &str = "The payment service: holds, collects, gives up and gives back the money of orders.";

/// The service, with the gateway that was chosen. The catalogue `file` (a default one is built in) is read only
/// to see whether its prices are such, and can be paid.
///
/// # Errors
/// A file that is no catalogue; a gateway that is not known, cannot be used as it is set up, or cannot charge a
/// price; in one line.
pub fn service(settings: &PaymentSettings, file: Option<&Path>) -> Result<Service, Error> {
    let prices: Vec<Price> = catalogue::read(file)?;
    Ok(match settings.gateway(&prices)? {
        Gateway::Sandbox(gateway) => service_through(gateway),
        #[cfg(feature = "stripe")]
        Gateway::Stripe(gateway, secret) => service_that_hears(gateway, secret),
    })
}

/// The service, with this gateway.
#[must_use]
pub fn service_through(gateway: impl PaymentGateway) -> Service {
    service_that_hears(gateway, None)
}

/// The service, with this gateway, whose provider tells what happens there if there is a secret to know it by.
#[must_use]
pub fn service_that_hears(gateway: impl PaymentGateway, secret: Option<Secret>) -> Service {
    let operations = Operations(gateway.clone());
    let counts = Counts::default();
    let shown = counts.clone();
    Service::new("payment")
        .describe(ABOUT, env!("CARGO_PKG_VERSION"))
        .group("payments")
        .tables(Tables {
            sqlite: &[include_str!("schema/sqlite.sql"), include_str!("schema/sqlite_2_provider_event.sql")],
            postgres: &[
                include_str!("schema/postgres.sql"),
                include_str!("schema/postgres_2_provider_event.sql"),
            ],
        })
        .publishes::<PaymentAuthorized>()
        .publishes::<PaymentDeclined>()
        .publishes::<PaymentCaptured>()
        .publishes::<PaymentCaptureFailed>()
        .publishes::<PaymentVoided>()
        .publishes::<PaymentRefunded>()
        .takes_external::<OrderCreated>()
        .on_batch::<OrderCreated, _>(Payments)
        .on_batch::<OrderConfirmed, _>(Payments)
        .on_batch::<OrderCancelled, _>(Payments)
        .effect::<Authorize, _>(operations.clone())
        .effect::<Capture, _>(operations.clone())
        .effect::<Void, _>(operations.clone())
        .effect::<Refund, _>(operations.clone())
        .effect::<Look, _>(operations)
        .api(http::api(), Store::clone)
        .api(reconcile::api(), move |store| BothBooks::new(store, gateway))
        .routes(move |store| webhook::routes(Hooks::new(store, secret, counts)))
        .status("webhook", move |_| std::future::ready(Ok(shown.shown())))
}
