//! The order service: takes orders and decides them.
//!
//! It alone decides: payment and inventory state facts, `domain` turns facts into a decision,
//! `handlers` publishes it. Reading order: domain → handlers → store → http.

mod catalogue;
pub mod domain;
mod handlers;
mod http;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use contracts::{
    OrderCreated, PaymentAuthorized, PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentRefunded,
    PaymentVoided, StockCommitted, StockRejected, StockReleased, StockReserved,
};
use tidings::{Error, Service};

pub use catalogue::Catalogue;
use handlers::{Adopt, Deadlines, Decide};
use http::Shop;

/// An order that payment and inventory have not answered by then is cancelled.
pub const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// The service, with the products of `catalogue` (a JSON file; a default one is built in).
///
/// # Errors
/// The catalogue cannot be read.
pub fn service(catalogue: Option<&Path>, deadline: Duration) -> Result<Service, Error> {
    let catalogue = Arc::new(Catalogue::load(catalogue)?);
    let changed = http::Changes::default();
    let decide = Decide { changed: changed.clone() };
    let adopt = Adopt { changed: changed.clone(), deadline };
    let service = Service::new("order")
        .group("orders")
        .tables(&[include_str!("schema.sql")])
        .on_foreign_batch::<OrderCreated, _>(adopt)
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
        .routes(move |store| http::routes(Shop::new(store, catalogue, deadline, changed)));
    Ok(service)
}
