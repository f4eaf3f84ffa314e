//! The choice of the payment provider.

use clap::Args;
use contracts::catalogue::Price;
use serde::{Deserialize, Serialize};
use tidings::Error;
use tidings::config::redacted;

use crate::gateway::sandbox::Sandbox;

/// Settings of the payment service.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub struct PaymentSettings {
    /// Payment provider: sandbox, or stripe:URL with STRIPE_API_KEY [env: TIDINGS_GATEWAY] [default: sandbox]
    #[arg(long, value_name = "GATEWAY", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// The provider that was chosen.
pub(crate) enum Gateway {
    Sandbox(Sandbox),
    #[cfg(feature = "stripe")]
    Stripe(crate::gateway::stripe::Stripe, Option<crate::webhook::Secret>),
}

impl PaymentSettings {
    pub(crate) fn gateway(&self, prices: &[Price]) -> Result<Gateway, Error> {
        match self.gateway.as_deref() {
            None | Some("sandbox") => Ok(Gateway::Sandbox(Sandbox::default())),
            Some(other) => match other.strip_prefix("stripe:") {
                Some(url) => stripe(url, prices),
                None => Err(Error::config(format!(
                    "there is no gateway {:?}: give --gateway sandbox or --gateway stripe:URL",
                    redacted(other)
                ))),
            },
        }
    }
}

#[cfg(not(feature = "stripe"))]
fn stripe(_: &str, _: &[Price]) -> Result<Gateway, Error> {
    Err(Error::config(
        "this build has no gateway stripe: build one that has it with `cargo build --release --package payment`, \
         or `cargo build --release --package shop --features stripe`",
    ))
}

#[cfg(feature = "stripe")]
fn stripe(url: &str, prices: &[Price]) -> Result<Gateway, Error> {
    check_prices(prices)?;
    let gateway = crate::gateway::stripe::Stripe::new(url, &api_key()?)?;
    Ok(Gateway::Stripe(gateway, secret("STRIPE_WEBHOOK_SECRET")?.map(crate::webhook::Secret::new)))
}

/// Refuses a catalogue with prices that cannot be charged through the gateway stripe.
#[cfg(feature = "stripe")]
fn check_prices(prices: &[Price]) -> Result<(), Error> {
    use crate::gateway::Answer;
    use crate::gateway::stripe::units;

    for Price { product_id, unit_price } in prices {
        if let Err(Answer::Refused { reason, .. }) = units::to_provider(unit_price) {
            return Err(Error::config(format!(
                "{product_id:?} in the catalogue cannot be paid through the gateway stripe: {reason}"
            )));
        }
    }
    Ok(())
}

/// The provider's secret.
#[cfg(feature = "stripe")]
fn api_key() -> Result<String, Error> {
    secret("STRIPE_API_KEY")?.ok_or_else(|| {
        Error::config(
            "the gateway stripe needs the provider's secret key: set STRIPE_API_KEY, or STRIPE_API_KEY_FILE to \
             the name of a file that holds it",
        )
    })
}

/// A secret from the variable of this name, or from the file that its `…_FILE` names. It is no flag: command lines
/// are public.
#[cfg(feature = "stripe")]
fn secret(name: &str) -> Result<Option<String>, Error> {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file_variable = format!("{name}_FILE");
    let secret = match (given(name), given(&file_variable)) {
        (Some(secret), _) => secret,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .map_err(|e| Error::config(format!("cannot read {file_variable} {file}: {e}")))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(secret.trim().to_owned()).filter(|secret| !secret.is_empty()))
}
