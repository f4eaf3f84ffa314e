//! Messages as other programs write them, and what can be read off a message.

use bytes::Bytes;
use serde_json::{Value, json};
use tidings::{Headers, Message};

/// A CloudEvent in binary mode.
///
/// ```
/// use tidings_testkit::wire::{Binary, seq};
///
/// let message = Binary::note("k", 7).message();
/// assert_eq!(message.header("ce_id"), Some("k-7"));
/// assert_eq!(seq(&message), Some(7));
/// ```
#[derive(Clone, Debug)]
pub struct Binary {
    /// `ce_id`.
    pub id: String,
    /// `ce_type`.
    pub event_type: String,
    /// `ce_source`.
    pub source: String,
    /// Message key and `ce_subject`.
    pub key: String,
    /// `ce_streamseq`: absent when the producer does not number.
    pub seq: Option<u64>,
    /// The payload.
    pub value: Bytes,
}

impl Binary {
    /// The `n`-th note about `key`, as its own service would send it: numbered, with id `KEY-N`.
    #[must_use]
    pub fn note(key: &str, n: u64) -> Self {
        Self {
            id: format!("{key}-{n}"),
            event_type: "note.taken.v1".into(),
            source: "/notes".into(),
            key: key.into(),
            seq: Some(n),
            value: note(key, n).to_string().into(),
        }
    }

    /// The `n`-th note about `key`, from a program that does not number its events.
    #[must_use]
    pub fn foreign(key: &str, n: u64) -> Self {
        Self { source: "/elsewhere".into(), seq: None, ..Self::note(key, n) }
    }

    /// With another type.
    #[must_use]
    pub fn of_type(mut self, event_type: &str) -> Self {
        event_type.clone_into(&mut self.event_type);
        self
    }

    /// With another payload.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// The message of this event.
    #[must_use]
    pub fn message(&self) -> Message {
        let mut headers = Headers::from([
            ("ce_specversion", "1.0"),
            ("ce_id", &self.id),
            ("ce_type", &self.event_type),
            ("ce_source", &self.source),
            ("ce_subject", &self.key),
        ]);
        if let Some(seq) = self.seq {
            headers.push("ce_streamseq", seq.to_string().as_bytes());
        }
        Message {
            key: Some(self.key.clone().into()),
            headers,
            value: self.value.clone(),
            ..Message::default()
        }
    }
}

/// A note's payload.
#[must_use]
pub fn note(key: &str, n: u64) -> Value {
    json!({"key": key, "n": n})
}

/// A CloudEvent in structured mode, its attributes given as JSON.
#[must_use]
pub fn structured(key: Option<&str>, event: &Value) -> Message {
    let content_type = "application/cloudevents+json; charset=utf-8";
    Message {
        key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
        headers: Headers::from([("content-type", content_type)]),
        value: event.to_string().into(),
        ..Message::default()
    }
}

/// The plain form: `{event_id, event_type, timestamp, payload}` without headers.
#[must_use]
pub fn plain(key: Option<&str>, event_id: &str, event_type: &str, payload: &Value) -> Message {
    let event = json!({
        "event_id": event_id,
        "event_type": event_type,
        "timestamp": "2026-01-02T03:04:05Z",
        "payload": payload,
    });
    raw(key, event.to_string())
}

/// Any bytes, without headers.
#[must_use]
pub fn raw(key: Option<&str>, value: impl Into<Bytes>) -> Message {
    Message {
        key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
        headers: Headers::default(),
        value: value.into(),
        ..Message::default()
    }
}

/// The number of an event in its stream.
#[must_use]
pub fn seq(message: &Message) -> Option<u64> {
    message.header("ce_streamseq")?.parse().ok()
}
