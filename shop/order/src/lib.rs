//! The order service: takes orders and decides them.
//!
//! The order service alone decides: payment and inventory publish facts, `domain` turns facts into a decision,
//! `handlers` publishes it. Reading order, each module above those before it:
//! catalogue → domain → store → history → live → handlers → http.

mod catalogue;
pub mod domain;
mod store;
mod history;
mod live;
mod handlers;
mod http;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use contracts::{
    OrderCancelled, OrderCompleted, OrderConfirmed, OrderCreated, PaymentAuthorized, PaymentCaptureFailed,
    PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided, StockCommitted, StockRejected,
    StockReleased, StockReserved,
};
use serde::{Deserialize, Serialize};
use tidings::config::within;
use tidings::store::Tables;
use tidings::{Error, Service};

pub use catalogue::Catalogue;
use handlers::{Adopt, Deadlines, Decide};
use http::Shop;

/// The purpose of the service, in a line.
pub const ABOUT: &str = "The order service: takes orders and decides every one.";

/// An order that payment and inventory have not answered by then is cancelled.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// A deadline, in seconds: at most 30 days, which is as long as an effect that waits is kept.
const DEADLINE_SECONDS: RangeInclusive<u64> = 1..=30 * 24 * 3600;

/// Settings of the order service.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub struct OrderSettings {
    /// Products, prices and opening stock, as JSON [env: TIDINGS_CATALOGUE]
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<PathBuf>,
    /// Orders not decided by then are cancelled [env: TIDINGS_DEADLINE_SECONDS] [default: 900]
    #[arg(long, value_name = "SECONDS", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// The service. A catalogue is built in, in case none is named.
///
/// # Errors
/// The catalogue cannot be read; a deadline out of range.
pub fn service(settings: &OrderSettings) -> Result<Service, Error> {
    let catalogue = Arc::new(Catalogue::load(settings.catalogue.as_deref())?);
    if let Some(seconds) = settings.deadline_seconds {
        within("deadline_seconds", seconds, DEADLINE_SECONDS)?;
    }
    let deadline = settings.deadline_seconds.map_or(DEADLINE, Duration::from_secs);
    let changed = live::Changes::default();
    let decide = Decide { changed: changed.clone() };
    let adopt = Adopt { changed: changed.clone(), deadline };
    let service = Service::new("order")
        .describe(ABOUT, env!("CARGO_PKG_VERSION"))
        .group("orders")
        .tables(Tables {
            sqlite: &[
                include_str!("schema/sqlite.sql"),
                include_str!("schema/sqlite_2_open.sql"),
                include_str!("schema/sqlite_3_place.sql"),
            ],
            postgres: &[include_str!("schema/postgres.sql"), include_str!("schema/postgres_2_place.sql")],
        })
        .publishes::<OrderCreated>()
        .publishes::<OrderConfirmed>()
        .publishes::<OrderCancelled>()
        .publishes::<OrderCompleted>()
        .on_external_batch::<OrderCreated, _>(adopt)
        .on_batch::<PaymentAuthorized, _>(decide.clone())
        .on_batch::<PaymentDeclined, _>(decide.clone())
        .on_batch::<PaymentCaptured, _>(decide.clone())
        .on_batch::<PaymentCaptureFailed, _>(decide.clone())
        .on_batch::<PaymentVoided, _>(decide.clone())
        .on_batch::<PaymentRefunded, _>(decide.clone())
        .on_batch::<StockReserved, _>(decide.clone())
        .on_batch::<StockRejected, _>(decide.clone())
        .on_batch::<StockCommitted, _>(decide.clone())
        .on_batch::<StockReleased, _>(decide.clone())
        .effect::<handlers::Deadline, _>(Deadlines(decide))
        .status("orders", async |store| store::open_orders(&store).await)
        .api(http::api(), move |store| Shop::new(store, catalogue, deadline, changed));
    Ok(service)
}
