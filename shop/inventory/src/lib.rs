//! The inventory service: sets stock aside, hands it out, puts it back. Never below zero.
//!
//! Reading order: domain → handlers → store → http.

pub mod domain;
mod handlers;
mod http;
mod store;

use std::path::Path;

use contracts::{OrderCancelled, OrderConfirmed, OrderCreated};
use serde::Deserialize;
use tidings::config::read_json;
use tidings::{Error, Service};

use handlers::Inventory;

/// A product's opening stock, as the catalogue file has it.
#[derive(Clone, Debug, Deserialize)]
pub struct OpeningStock {
    product_id: String,
    #[serde(default)]
    stock: u64,
}

/// The service, with the opening stock of `catalogue` (a JSON file; a default one is built in). It is
/// applied once per product.
///
/// # Errors
/// The catalogue cannot be read.
pub fn service(catalogue: Option<&Path>) -> Result<Service, Error> {
    let built_in = include_str!("../../catalogue.json");
    let form = "[{product_id, name, unit_price, stock}, …]";
    let opening: Vec<OpeningStock> = read_json(catalogue, built_in, "catalogue", form)?;
    let service = Service::new("inventory")
        .tables(&[include_str!("schema.sql")])
        .topic("inventory")
        .on_batch::<OrderCreated, _>(Inventory)
        .on_batch::<OrderConfirmed, _>(Inventory)
        .on_batch::<OrderCancelled, _>(Inventory)
        .on_start(async move |store| store::open(&store, &opening).await)
        .routes(http::routes);
    Ok(service)
}
