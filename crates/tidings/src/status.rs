//! The state of a running service: what `/statusz` shows, `/metrics` counts and tests read.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

pub use crate::health::{Loop, Reason, Stopped};

/// A running service's backlog, its lag and what became of every delivered event.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::{TestApp, event::NoteTaken};
/// # async fn nothing(_: &Envelope<NoteTaken>, _: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
/// # #[tokio::main] async fn main() -> Result<(), Error> {
/// let app = TestApp::start([Service::new("reader").on(nothing)]).await;
/// app.publish(&NoteTaken::new("k", 1)).await;
/// app.idle().await;
/// let status = app.service("reader").status().await?;
/// assert_eq!((status.consumer.delivered, status.consumer.handled), (1, 1));
/// assert_eq!(status.parked.unwrap().dead, 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Events on their way to the broker.
    pub outbox: OutboxStatus,
    /// Events on their way to the handlers.
    pub consumer: ConsumerStatus,
    /// Effects.
    pub effects: EffectsStatus,
    /// Events that wait in the database or are dead; unknown while the database does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<ParkedRows>,
    /// The handlers that have taken too long since the start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slow_handlers: Vec<SlowHandler>,
    /// The intake of requests that write.
    #[serde(skip_serializing_if = "IntakeStatus::is_quiet")]
    pub intake: IntakeStatus,
    /// The topics, types, keys and effects that are paused; a service that is paused is in `waiting`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<PausedPart>,
    /// The dependencies that are away, by what their handlers said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<AwayDependency>,
    /// The loops that do not go on at the moment.
    pub waiting: Vec<Stopped>,
    /// The error that stopped consuming and relaying, if any.
    pub refusal: Option<String>,
    /// The reason that rows are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Values that the service itself adds: [`Service::status`](crate::Service::status).
    #[serde(flatten)]
    pub extras: Map<String, Value>,
}

/// A handler that takes too long, for `/statusz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SlowHandler {
    /// The type of its events.
    #[serde(rename = "type")]
    pub event_type: &'static str,
    /// Calls that did not end within their deadline.
    pub late: u64,
    /// Calls that held their thread for half a second or longer without yielding.
    pub blocking: u64,
}

/// The intake of requests that write: the bounds that are reached, and the requests that were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IntakeStatus {
    /// The bounds that are reached: `outbox_rows`, `outbox_age`, `effects`.
    pub full: Vec<&'static str>,
    /// Requests that were refused since the start, by the bound that was in the way.
    pub refused: BTreeMap<&'static str, u64>,
}

impl IntakeStatus {
    /// Tells whether nothing was refused yet.
    fn is_quiet(&self) -> bool {
        self.full.is_empty() && self.refused.values().all(|count| *count == 0)
    }
}

/// A part of a service that is paused, for `/statusz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PausedPart {
    /// `topic`, `type`, `key` or `effects`.
    pub scope: &'static str,
    /// The topic, the type, the key or the kind of effects; empty for all effects.
    pub name: String,
    /// The operator who paused it.
    pub actor: String,
    /// The reason.
    pub reason: String,
}

/// A dependency that is away, for `/statusz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AwayDependency {
    /// Its name, as handlers say it.
    pub name: &'static str,
    /// Types of the events that wait for it.
    pub types: Vec<&'static str>,
    /// The time for which it has been away, in seconds.
    pub seconds: u64,
}

/// Events on their way to the broker, counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxStatus {
    /// Events that the broker has acknowledged.
    pub published: u64,
    /// Attempts to send one that failed.
    pub failed: u64,
    /// Events that the broker did not accept.
    #[serde(skip)]
    pub refused: u64,
    /// Lanes that this instance relays.
    #[serde(skip)]
    pub lanes: u64,
    /// Lanes that another instance took over.
    #[serde(skip)]
    pub lanes_lost: u64,
    /// The table; unknown while the database does not answer.
    #[serde(flatten)]
    pub rows: Option<OutboxRows>,
}

/// Rows of the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxRows {
    /// Events that the broker has not acknowledged.
    pub pending: u64,
    /// Those of them that it refused when it was last asked.
    pub blocked: u64,
    /// The age of the oldest one, in seconds.
    pub oldest_seconds: Option<u64>,
}

/// Delivered events by what became of them, counted since the start.
///
/// Always: delivered = handled + duplicate + ignored + parked + dead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The consumer group.
    pub group: String,
    /// Records on its topics that it has not handled; unknown while the broker is away.
    pub lag: Option<u64>,
    /// The time since the broker took the oldest of them, in seconds; unknown while the broker is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unread_seconds: Option<u64>,
    /// Records that were delivered.
    pub delivered: u64,
    /// Events whose handlers have committed.
    pub handled: u64,
    /// Events that were handled before.
    pub duplicate: u64,
    /// Events that no handler is there for.
    pub ignored: u64,
    /// Events that failed or had to wait.
    pub parked: u64,
    /// Events that became dead letters at once.
    pub dead: u64,
    /// Parked events that were handled in the end.
    pub recovered: u64,
    /// Parked events that became dead letters.
    pub given_up: u64,
    /// Tries of parked events that failed again.
    pub failed_again: u64,
    /// Events under a number or id that another event had before.
    pub differing: u64,
    /// Transactions that another one was in the way of; they were done again.
    pub conflicts: u64,
    /// Failed retries that may still come at once; 0 while one event is tried each second.
    pub retries_left: u64,
    /// Its lanes, if it has more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<LanesStatus>,
    /// Events that came before their turn.
    #[serde(skip)]
    pub gaps: u64,
    /// Events that were kept without what could not be stored of them.
    #[serde(skip)]
    pub unstorable: u64,
}

/// The lanes of a consumer: [`Service::lanes`](crate::Service::lanes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LanesStatus {
    /// Transactions that may be under way at once.
    pub all: u64,
    /// Those that are.
    pub busy: u64,
}

/// Effects, counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EffectsStatus {
    /// Effects whose outcomes are recorded.
    pub done: u64,
    /// Attempts that failed.
    #[serde(skip)]
    pub failed: u64,
    /// The table; unknown while the database does not answer.
    #[serde(flatten)]
    pub rows: Option<EffectRows>,
}

/// Rows of the table of effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EffectRows {
    /// Effects and timers that are not done.
    pub open: u64,
    /// Those of them that failed and are tried again.
    pub failing: u64,
}

/// Rows of the table of parked events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ParkedRows {
    /// Events that wait for their turn.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
    /// The time since the first failure of the oldest event that waits, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// The same of the oldest dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_oldest_seconds: Option<u64>,
    /// Keys whose later events wait for a dead letter.
    #[serde(skip_serializing_if = "is_zero")]
    pub blocked_keys: u64,
    /// The time since the first failure of the oldest dead letter that blocks a key, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_oldest_seconds: Option<u64>,
    /// Streams that wait for events that have not arrived.
    #[serde(skip_serializing_if = "is_zero")]
    pub gap_streams: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
