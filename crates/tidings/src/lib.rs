#![doc = include_str!("../README.md")]
// Each module knows only those above it (`tests/layering.rs`): what is pure, how it is kept and carried, what runs.

/// Derives in unit tests name the library as its users do.
#[cfg(test)]
extern crate self as tidings;

mod error;
mod panic;
mod redact;
mod environment;
mod strict;
mod trace;
mod clock;
mod buckets;
mod failure;
mod retry;
mod breaker;
mod stopping;
mod health;
mod bounds;
pub mod status;
mod event;
mod schema;
mod envelope;
mod message;
mod effect;
mod sqlite;
pub mod broker;
pub mod store;
mod handler;
mod subscription;
mod pace;
mod pipeline;
mod consumer;
mod executor;
mod relay;
mod telemetry;
pub mod http;
pub mod config;
mod service;
mod runtime;
mod admin;
mod documents;
mod registry;
mod process;
pub mod prelude;

#[cfg(any(test, feature = "testing"))]
pub use admin::routes as operator_routes;
pub use bounds::Bounds;
pub use broker::{Broker, Topic, TopicSpec, partition_of};
pub use clock::Clock;
pub use config::Document;
pub use documents::{contract, document};
pub use effect::{Effect, EffectError, Settled, Timer};
pub use envelope::{Causal, Cause, Envelope};
pub use error::{Error, HandlerError};
pub use event::{Event, OlderVersion};
pub use failure::{DeadReason, WaitReason};
pub use handler::{BatchHandler, EffectHandler, Handler, TimerHandler};
pub use message::{Headers, MESSAGE_BYTES_MAX, Message};
pub use process::run;
pub use retry::{DEADLINE_MAX, HandlerOptions, OnDead, RetryPolicy, Verdict};
pub use runtime::RunningService;
pub use schema::{OpenEnum, UnknownFields, Violation, reader as reader_schema, writer as writer_schema};
pub use service::Service;
pub use store::idempotency::{Idempotency, StoredResponse};
pub use store::outbox::StoredEvent;
pub use store::{Param, Row, Store, Tx, WriteBatcher};
pub use tidings_macros::Event;
/// An effect in one attribute: its kind, its key, the type of its outcomes.
///
/// ```
/// use tidings::prelude::*;
///
/// #[effect(kind = "fetch", key = parcel, outcome = String)]
/// struct Fetch { parcel: String }
/// assert_eq!(Fetch { parcel: "p1".to_owned() }.key(), "fetch/p1");
/// ```
pub use tidings_macros::effect;
/// An event in one attribute: its names, its key, and every derive that it needs.
///
/// ```
/// use tidings::prelude::*;
///
/// #[event(name = "parcel.sent", version = 1, topic = "parcels", key = id)]
/// struct ParcelSent {
///     #[garde(length(min = 1))]
///     id: String,
/// }
/// assert_eq!(ParcelSent::TYPE, "parcel.sent.v1");
/// ```
pub use tidings_macros::event;
/// A timer in one attribute: its kind and its key.
///
/// ```
/// use tidings::prelude::*;
///
/// #[timer(kind = "overdue", key = parcel)]
/// struct Overdue { parcel: String }
/// assert_eq!(Timer::key(&Overdue { parcel: "p1".to_owned() }), "overdue/p1");
/// ```
pub use tidings_macros::timer;

/// Libraries whose types stand in signatures of this one, in the versions that fit.
pub use {axum, bytes, clap, garde, jiff, schemars, serde};

/// Items that the code of `#[derive(Event)]` refers to.
#[doc(hidden)]
pub use {event::derives, serde_json as json, strict::from_slice as read_json};
