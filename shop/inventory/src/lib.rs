//! The inventory service: sets stock aside, hands it out, puts it back. Never below zero.
//!
//! Reading order: domain → handlers → store → http.

pub mod domain;
mod handlers;
mod http;
mod store;

use std::path::{Path, PathBuf};

use clap::Args;
use contracts::catalogue::{self, OpeningStock};
use contracts::{
    OrderCancelled, OrderConfirmed, OrderCreated, StockCommitted, StockRejected, StockReleased, StockReserved,
};
use serde::{Deserialize, Serialize};
use tidings::store::Tables;
use tidings::{Error, Service, Store};

use handlers::Inventory;

/// The purpose of the service, in a line.
pub const ABOUT: &str = "The inventory service: sets stock aside, hands it out, puts it back.";

/// Settings of the inventory service.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub struct InventorySettings {
    /// Products, prices and opening stock, as JSON [env: TIDINGS_CATALOGUE]
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<PathBuf>,
}

/// The service, with the opening stock of the catalogue `file` (a JSON file; a default one is built in). It is
/// applied once per product.
///
/// # Errors
/// The catalogue cannot be read.
pub fn service(file: Option<&Path>) -> Result<Service, Error> {
    let opening: Vec<OpeningStock> = catalogue::read(file)?;
    let service = Service::new("inventory")
        .describe(ABOUT, env!("CARGO_PKG_VERSION"))
        .tables(Tables {
            sqlite: &[include_str!("schema/sqlite.sql")],
            postgres: &[include_str!("schema/postgres.sql")],
        })
        .publishes::<StockReserved>()
        .publishes::<StockRejected>()
        .publishes::<StockCommitted>()
        .publishes::<StockReleased>()
        .exclusive()
        .takes_external::<OrderCreated>()
        .on_batch::<OrderCreated, _>(Inventory)
        .on_batch::<OrderConfirmed, _>(Inventory)
        .on::<OrderCancelled, _>(Inventory)
        .on_start(async move |store| store::open(&store, &opening).await)
        .api(http::api(), Store::clone);
    Ok(service)
}
