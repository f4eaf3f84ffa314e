//! A fact as a handler sees it.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::Span;

/// The immutable fact: what happened, to what, when, and what caused it.
///
/// ```
/// # use tidings::prelude::*;
/// #[event(name = "parcel.sent", version = 1, topic = "parcels", key = id)]
/// struct ParcelSent { #[garde(length(min = 1))] id: String, #[garde(range(min = 1))] grams: u32 }
///
/// async fn weigh(event: &Envelope<ParcelSent>, tx: &mut Tx) -> Result<(), HandlerError> {
///     let grams = event.payload().grams;
///     tx.execute("UPDATE parcel SET grams = $1 WHERE id = $2", params![grams, event.key()]).await?;
///     println!("{}, number {:?} of {}", event.id(), event.seq(), event.stream());
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Envelope<E> {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) payload: E,
}

/// Everything of an envelope but its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) key: String,
    pub(crate) stream: String,
    pub(crate) seq: Option<u64>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) causation_id: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
    pub(crate) delivery: Delivery,
}

/// The delivery by which an event came: for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) consumer: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// From 1.
    pub(crate) attempt: u32,
    pub(crate) event_type: &'static str,
    /// The name of the key: `order_id`.
    pub(crate) key_name: &'static str,
}

impl<E> Envelope<E> {
    /// The event's own id, the same in every copy: `UUIDv7` for events made here.
    pub fn id(&self) -> &str {
        &self.metadata.id
    }

    /// The service that stated the fact: `/orders`.
    pub fn source(&self) -> &str {
        &self.metadata.source
    }

    /// The key of the thing that the fact is about: an order id.
    pub fn key(&self) -> &str {
        &self.metadata.key
    }

    /// Source and key, the scope of [`Envelope::seq`]: `orders/0192…`.
    pub fn stream(&self) -> &str {
        &self.metadata.stream
    }

    /// The number in its stream, gapless from 1; none for events of programs that do not number.
    pub fn seq(&self) -> Option<u64> {
        self.metadata.seq
    }

    /// The time of the fact, by its source's clock. For display, never for ordering.
    pub fn time(&self) -> Option<Timestamp> {
        self.metadata.time
    }

    /// The request or event that started it all.
    pub fn correlation_id(&self) -> Option<&str> {
        self.metadata.correlation_id.as_deref()
    }

    /// The event whose handling stated this fact.
    pub fn causation_id(&self) -> Option<&str> {
        self.metadata.causation_id.as_deref()
    }

    /// W3C trace context.
    pub fn traceparent(&self) -> Option<&str> {
        self.metadata.traceparent.as_deref()
    }

    /// The payload: what happened.
    pub fn payload(&self) -> &E {
        &self.payload
    }
}

/// The cause that published events and effects are attributed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// The request or event that started it all.
    pub correlation_id: Option<String>,
    /// The event being handled.
    pub causation_id: Option<String>,
    /// W3C trace context to go on with.
    pub traceparent: Option<String>,
    /// The note of tracing systems beside the trace context, handed on as it is.
    pub tracestate: Option<String>,
}

/// Something that can be named as the cause of events: an envelope, a settled effect, a request.
///
/// ```
/// use tidings::{Causal, Event, HandlerError, Tx};
///
/// /// Publishes an event that another event, a settled effect or a request led to.
/// async fn answer<E: Event>(tx: &mut Tx, cause: &impl Causal, event: E) -> Result<(), HandlerError> {
///     tx.caused_by(cause).publish(event).await
/// }
/// ```
pub trait Causal {
    /// The cause to attribute to.
    fn cause(&self) -> Cause;
}

impl Causal for Cause {
    fn cause(&self) -> Cause {
        self.clone()
    }
}

impl<E> Causal for Envelope<E> {
    fn cause(&self) -> Cause {
        self.metadata.cause()
    }
}

/// A span or a log line with the fields that every event is followed by.
macro_rules! path {
    ($macro:ident!([$($before:tt)*] of $metadata:expr, [$($after:tt)*])) => {
        tracing::$macro!(
            target: "tidings::path",
            $($before)*
            consumer = &*$metadata.delivery.consumer,
            topic = &*$metadata.delivery.topic,
            partition = $metadata.delivery.partition,
            offset = $metadata.delivery.offset,
            event.type = $metadata.delivery.event_type,
            event.id = $metadata.id,
            stream = $metadata.stream,
            seq = $metadata.seq,
            key_name = $metadata.delivery.key_name,
            key = $metadata.key,
            correlation_id = $metadata.correlation_id,
            attempt = $metadata.delivery.attempt
            $($after)*
        )
    };
}

impl Metadata {
    /// The span in which an event is handled.
    pub(crate) fn span(&self) -> Span {
        path!(info_span!(["handle",] of self, []))
    }

    /// Says in the log what became of an event.
    pub(crate) fn log(&self, resolution: &'static str) {
        path!(info!([] of self, [, "{resolution}"]));
    }

    /// Says in the log which optional attributes of an event cannot be read.
    pub(crate) fn warn_of(&self, unreadable: &str) {
        path!(
            warn!([] of self, [, unreadable, "optional attributes cannot be read; the event goes without them"])
        );
    }

    pub(crate) fn cause(&self) -> Cause {
        Cause {
            correlation_id: self.correlation_id.clone().or_else(|| Some(self.id.clone())),
            causation_id: Some(self.id.clone()),
            traceparent: self.traceparent.clone(),
            tracestate: self.tracestate.clone(),
        }
    }
}
