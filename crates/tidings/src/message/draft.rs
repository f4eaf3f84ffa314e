//! An event on its way out, as CloudEvents 1.0, Kafka binding, binary mode.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::names::*;
use super::{Headers, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, Message, storable};
use crate::envelope::Cause;
use crate::error::Error;
use crate::event::{Event, stream};
use crate::{schema, trace};

/// The usual size of the headers of an event of ours, its number included.
const HEADERS_BYTES: usize = 448;
/// Says of an event that its fact is also stated as this newer type, on the same topic.
pub(crate) const SUPERSEDED_BY: &str = "ce_supersededby";

/// The type of an event that stands in the place of one that an operator gave up.
pub(crate) const DISCARDED: &str = "tidings.discarded.v1";

/// An event on its way out: whole but for its number, which it gets under the stream's lock.
pub(crate) struct Draft {
    pub(crate) stream: String,
    pub(crate) topic: Cow<'static, str>,
    pub(crate) message: Message,
    /// True if the number is written into the message: not into a copy of another program's event.
    pub(crate) numbered: bool,
}

impl Draft {
    /// A new fact. Refuses one that breaks its own rules or is too large.
    pub(crate) fn new<E: Event>(event: &E, cause: &Cause, now: Timestamp) -> Result<Self, Error> {
        event.validate().map_err(|report| {
            let violations = schema::invalid(event, &report);
            Error::invalid(format!("{} is invalid: {}", E::TYPE, schema::one_line(&violations)))
        })?;
        let value = serde_json::to_vec(event)
            .map_err(|e| Error::invalid(format!("{} cannot be written as JSON: {e}", E::TYPE)))?;
        let key = event.key();
        storable(key, "key", KEY_BYTES_MAX).map_err(|e| Error::invalid(format!("{}: {e}", E::TYPE)))?;
        let mut buffer = Uuid::encode_buffer();
        let uuid = Uuid::now_v7();
        let id: &str = uuid.hyphenated().encode_lower(&mut buffer);
        let mut headers = Headers::with_capacity(HEADERS_BYTES);
        let mut put = |name, value: &str| headers.put(name, value.as_bytes());
        put(SPEC_VERSION, "1.0");
        put(ID, id);
        put(TYPE, E::TYPE);
        put(SOURCE, &format!("/{}", E::TOPIC));
        put(SUBJECT, key);
        put(TIME, &now.to_string());
        put(DATA_SCHEMA, &format!("urn:tidings:{}:{}", E::NAME, E::VERSION));
        put(CORRELATION_ID, cause.correlation_id.as_deref().unwrap_or(id));
        if let Some(newer) = E::SUPERSEDED_BY {
            put(Name::Other(SUPERSEDED_BY), newer);
        }
        if let Some(causation_id) = &cause.causation_id {
            put(CAUSATION_ID, causation_id);
        }
        let (traceparent, goes_on) = trace::continued(cause.traceparent.as_deref(), uuid);
        put(TRACEPARENT, &traceparent);
        // It says something about this trace only.
        if let Some(state) = cause.tracestate.as_ref().filter(|_| goes_on) {
            put(TRACESTATE, state);
        }
        put(CONTENT_TYPE, "application/json");
        let message = Message {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers,
            value: value.into(),
            is_tombstone: false,
        };
        if message.size() > MESSAGE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "{} is too large: {} bytes of at most {MESSAGE_BYTES_MAX}",
                E::TYPE,
                message.size()
            )));
        }
        Ok(Self { stream: stream(E::TOPIC, key), topic: Cow::Borrowed(E::TOPIC), message, numbered: true })
    }

    /// An event that stands in the place of one that an operator gave up: under its number, so that no reader sees a gap.
    pub(crate) fn hole(
        stream: String,
        topic: String,
        given_up: Option<&Message>,
        reason: &str,
        now: Timestamp,
    ) -> Self {
        let text = |name| given_up.and_then(|message| message.header(name));
        let key = stream.split_once('/').map_or("", |(_, key)| key);
        let mut headers = Headers::with_capacity(HEADERS_BYTES);
        let mut put = |name, value: &str| headers.put(name, value.as_bytes());
        put(SPEC_VERSION, "1.0");
        put(ID, &Uuid::now_v7().to_string());
        put(TYPE, DISCARDED);
        put(SOURCE, &format!("/{topic}"));
        put(SUBJECT, key);
        put(TIME, &now.to_string());
        if let Some(correlation_id) = text("ce_correlationid") {
            put(CORRELATION_ID, correlation_id);
        }
        put(CONTENT_TYPE, "application/json");
        let value = serde_json::json!({
            "event_id": text("ce_id"),
            "event_type": text("ce_type"),
            "reason": reason,
        });
        let message = Message {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers,
            value: value.to_string().into(),
            is_tombstone: false,
        };
        Self { stream, topic: Cow::Owned(topic), message, numbered: true }
    }

    /// Writes the number the event got in its stream.
    pub(crate) fn number(&mut self, seq: u64) {
        if self.numbered {
            self.message.headers.put(STREAM_SEQ, seq.to_string().as_bytes());
        }
    }
}
