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
    let opening = load(catalogue)?;
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

fn load(file: Option<&Path>) -> Result<Vec<OpeningStock>, Error> {
    let (text, name) = match file {
        None => (include_str!("../../catalogue.json").to_owned(), "the built-in catalogue".to_owned()),
        Some(file) => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|e| Error::config(format!("cannot read catalogue {name}: {e}")))?;
            (text, name)
        }
    };
    serde_json::from_str(&text).map_err(|e| {
        Error::config(format!(
            "{name} is not a catalogue ([{{product_id, name, unit_price, stock}}, …]): {e}"
        ))
    })
}
