//! Order, payment and inventory in one process: the only place that names more than one of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tidings::{Error, Service};

/// Settings of the shop's services.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShopSettings {
    /// Products, prices and opening stock, as JSON [env: TIDINGS_CATALOGUE]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<PathBuf>,
    /// Orders not decided by then are cancelled [env: TIDINGS_DEADLINE_SECONDS] [default: 900]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// The three services.
///
/// # Errors
/// The catalogue cannot be read.
pub fn services(settings: &ShopSettings) -> Result<Vec<Service>, Error> {
    let catalogue = settings.catalogue.as_deref();
    let deadline = settings.deadline_seconds.map_or(order::DEADLINE, Duration::from_secs);
    Ok(vec![order::service(catalogue, deadline)?, payment::service(), inventory::service(catalogue)?])
}
