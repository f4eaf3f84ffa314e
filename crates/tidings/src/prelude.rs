//! The names that a service meets first: `use tidings::prelude::*;`.
//!
//! ```no_run
//! use tidings::prelude::*;
//!
//! #[event(name = "parcel.sent", version = 1, topic = "parcels", key = parcel_id)]
//! struct ParcelSent {
//!     #[garde(length(min = 1, max = 40))]
//!     parcel_id: String,
//! }
//!
//! async fn send(tx: &mut Tx, parcel: ParcelSent) -> Result<(), HandlerError> {
//!     tx.publish(parcel).await
//! }
//!
//! fn main() -> ExitCode {
//!     Service::new("parcels").publishes::<ParcelSent>().post("/parcels", send).main()
//! }
//! ```
//!
//! `#[event(…)]`, `#[effect(…)]` and `#[timer(…)]` bring the derives; a type that derives [`Event`](derive@crate::Event) itself names what it needs instead
//! of this module, in which `event` is another attribute.

pub use std::process::ExitCode;

pub use axum::extract::Path;

pub use crate::http::{Problem, ValidQuery};
pub use crate::{
    BatchHandler, Causal, Effect, EffectError, EffectHandler, Envelope, Error, Event, Handler, HandlerError,
    Service, Settled, Store, Timer, Tx, effect, event, params, timer,
};
