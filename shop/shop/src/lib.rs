//! Order, payment and inventory in one process: the only place that names more than one of them.

use clap::Args;
use order::OrderSettings;
use payment::PaymentSettings;
use serde::{Deserialize, Serialize};
use tidings::{Error, Service};

/// Settings of the shop's services.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShopSettings {
    /// Those of the order service; its catalogue is the inventory's too.
    #[command(flatten)]
    #[serde(flatten)]
    pub order: OrderSettings,
    /// Those of the payment service.
    #[command(flatten)]
    #[serde(flatten)]
    pub payment: PaymentSettings,
}

/// The three services.
///
/// # Errors
/// The catalogue cannot be read; the payment gateway is not known or not set up.
pub fn services(settings: &ShopSettings) -> Result<Vec<Service>, Error> {
    let catalogue = settings.order.catalogue.as_deref();
    Ok(vec![
        order::service(&settings.order)?,
        payment::service(&settings.payment, catalogue)?,
        inventory::service(catalogue)?,
    ])
}
