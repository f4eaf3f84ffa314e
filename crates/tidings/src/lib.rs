#![doc = include_str!("../README.md")]
// Module order is reading order: what an event is, how it is handled, how it is kept and carried.

mod event;
mod envelope;
mod schema;
mod message;
mod trace;
mod panic;
mod redact;
mod environment;
mod handler;
mod service;
mod process;
mod check;
mod consumer;
mod pipeline;
mod subscription;
mod failure;
mod stopping;
mod lag;
mod retry;
mod breaker;
mod health;
mod strict;
mod pace;
mod effect;
mod executor;
mod relay;
mod topics;
pub mod store;
pub mod broker;
pub mod http;
mod sqlite;
mod clock;
pub mod config;
mod documents;
mod registry;
mod telemetry;
mod error;

pub use broker::{Broker, Topic, TopicSpec, partition_of};
pub use clock::Clock;
pub use documents::{Document, contract, document};
pub use effect::{Effect, EffectError, Settled};
pub use envelope::{Causal, Cause, Envelope};
pub use error::{Error, HandlerError};
pub use event::{Event, Former};
pub use failure::{DeadReason, WaitReason};
pub use handler::{BatchHandler, Handler, Performer};
pub use message::{Headers, MESSAGE_BYTES_MAX, Message};
pub use process::run;
pub use retry::{RetryPolicy, Verdict};
pub use schema::{Open, Rest, Violation, reader as reader_schema, writer as writer_schema};
pub use service::{Running, Service};
pub use store::idempotency::{Before, Idempotency};
pub use store::outbox::Published;
pub use store::{Intake, Param, Row, Store, Tx};
pub use tidings_macros::Event;

/// What `#[derive(Event)]` writes down refers to these.
#[doc(hidden)]
pub use {event::derives, serde_json as json, strict::from_slice as read_json};
