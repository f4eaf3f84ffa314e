//! A fact on the wire: key, headers, value. The only thing a broker sees.
//!
//! Written as CloudEvents 1.0, Kafka binding, binary mode. Read in that mode, in structured mode
//! (`application/cloudevents+json`) and as plain JSON `{event_id, event_type, timestamp, payload}`.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::codec::{Known, Name};
use crate::envelope::{Cause, Delivery, Metadata};
use crate::error::Error;
use crate::event::{Event, stream};
use crate::frame::unframed;
use crate::headers::Headers;
use crate::schema;

/// Largest key + headers + value of a published message, in bytes; half of Kafka's default limit.
pub const MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// What the headers of an event of ours usually take, its number included.
const HEADERS_BYTES: usize = 448;

/// The number of an event in its stream.
pub(crate) const STREAM_SEQ: Name<'static> = name("ce_streamseq");
const SPEC_VERSION: Name<'static> = name("ce_specversion");
const ID: Name<'static> = name("ce_id");
const TYPE: Name<'static> = name("ce_type");
const SOURCE: Name<'static> = name("ce_source");
const SUBJECT: Name<'static> = name("ce_subject");
const TIME: Name<'static> = name("ce_time");
const DATA_SCHEMA: Name<'static> = name("ce_dataschema");
const CORRELATION_ID: Name<'static> = name("ce_correlationid");
const CAUSATION_ID: Name<'static> = name("ce_causationid");
const TRACEPARENT: Name<'static> = name("traceparent");
const CONTENT_TYPE: Name<'static> = name("content-type");

const fn name(name: &str) -> Name<'static> {
    Name::Known(Known::of(name))
}

/// Says of an event that its fact is also stated as this newer type, on the same topic.
pub(crate) const SUPERSEDED_BY: &str = "ce_supersededby";

/// Key, headers and value, as a broker stores them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The partition is chosen from it; messages without a key go round.
    pub key: Option<Bytes>,
    /// What stands beside the payload.
    pub headers: Headers,
    /// The payload.
    pub value: Bytes,
}

impl Message {
    /// A header's value, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.headers.get(name)?).ok()
    }

    /// Key, headers and value together, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + headers + self.value.len()
    }

    /// The key as text, for logs and listings.
    #[must_use]
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default())
    }

    /// The stream it would block if it failed; a message without a key blocks nothing.
    pub(crate) fn key_stream(&self, topic: &str) -> Option<String> {
        self.key.as_ref().map(|_| stream(topic, &self.key_text()))
    }
}

/// An event on its way out: whole but for its number, which it gets under the stream's lock.
pub(crate) struct Draft {
    pub(crate) stream: String,
    pub(crate) topic: Cow<'static, str>,
    pub(crate) message: Message,
    /// Whether the number is written into the message: not into a copy of somebody else's event.
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
        put(TRACEPARENT, &traceparent(cause.traceparent.as_deref(), uuid));
        put(CONTENT_TYPE, "application/json");
        let message =
            Message { key: Some(Bytes::copy_from_slice(key.as_bytes())), headers, value: value.into() };
        if message.size() > MESSAGE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "{} is too large: {} bytes of at most {MESSAGE_BYTES_MAX}",
                E::TYPE,
                message.size()
            )));
        }
        Ok(Self { stream: stream(E::TOPIC, key), topic: Cow::Borrowed(E::TOPIC), message, numbered: true })
    }

    /// Writes the number the event got in its stream.
    pub(crate) fn number(&mut self, seq: u64) {
        if self.numbered {
            self.message.headers.put(STREAM_SEQ, seq.to_string().as_bytes());
        }
    }
}

/// The trace of the cause goes on with this event as the parent; without one, the event starts a trace.
fn traceparent(cause: Option<&str>, id: Uuid) -> String {
    let trace = cause.and_then(|c| c.split('-').nth(1)).filter(|t| t.len() == 32);
    let mut text = String::with_capacity(55);
    let (_, span) = id.as_u64_pair();
    let written = match trace {
        Some(trace) => write!(text, "00-{trace}-{span:016x}-01"),
        None => write!(text, "00-{:032x}-{span:016x}-01", id.as_u128()),
    };
    written.expect("writing to a String cannot fail");
    text
}

/// What a message says about itself, before its payload is looked at.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) event_type: Cow<'a, str>,
    pub(crate) metadata: Metadata,
    pub(crate) payload: Payload<'a>,
}

/// Where the payload stands: the value itself or a part of it.
#[derive(Debug)]
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    Json(&'a RawValue),
}

impl Payload<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Json(raw) => raw.get().as_bytes(),
        }
    }
}

/// Reads the envelope of a message in any of the three forms, framed or not; the error says what is broken.
pub(crate) fn read<'a>(topic: &str, message: &'a Message) -> Result<Incoming<'a>, String> {
    let (_, value) = unframed(&message.value);
    if message.headers.iter().any(|(name, _)| name.starts_with("ce_")) {
        return read_binary(topic, message, value);
    }
    let content_type = message.header("content-type").unwrap_or_default();
    if content_type.starts_with("application/cloudevents+json") {
        return read_structured(topic, message, value);
    }
    read_plain(topic, message, value)
}

fn read_binary<'a>(topic: &str, message: &'a Message, value: &'a [u8]) -> Result<Incoming<'a>, String> {
    // One pass over the headers: a message has a dozen of them and is read by every group.
    let mut found = Found::default();
    for (name, header) in message.headers.entries() {
        let slot = match name {
            SPEC_VERSION => &mut found.specversion,
            ID => &mut found.id,
            TYPE => &mut found.event_type,
            SOURCE => &mut found.source,
            SUBJECT => &mut found.subject,
            TIME => &mut found.time,
            STREAM_SEQ => &mut found.streamseq,
            CORRELATION_ID => &mut found.correlationid,
            CAUSATION_ID => &mut found.causationid,
            TRACEPARENT => &mut found.traceparent,
            _ => continue,
        };
        let text = std::str::from_utf8(header).map_err(|_| format!("header {} is not UTF-8", name.text()))?;
        slot.get_or_insert(Cow::Borrowed(text));
    }
    found.read(topic, message, Payload::Bytes(value))
}

fn read_structured<'a>(topic: &str, message: &'a Message, value: &'a [u8]) -> Result<Incoming<'a>, String> {
    let event: Structured<'a> =
        serde_json::from_slice(value).map_err(|e| format!("the value is not a CloudEvent: {e}"))?;
    let found = Found {
        specversion: event.specversion,
        id: event.id,
        event_type: event.event_type,
        source: event.source,
        subject: event.subject,
        time: event.time,
        streamseq: event.streamseq.map(|s| s.text()),
        correlationid: event.correlationid,
        causationid: event.causationid,
        traceparent: event.traceparent,
    };
    let data = event.data.ok_or("the CloudEvent has no data")?;
    found.read(topic, message, Payload::Json(data))
}

fn read_plain<'a>(topic: &str, message: &'a Message, value: &'a [u8]) -> Result<Incoming<'a>, String> {
    let event: Plain<'a> = serde_json::from_slice(value).map_err(|e| {
        format!("neither a CloudEvent nor plain JSON {{event_id, event_type, timestamp, payload}}: {e}")
    })?;
    let found = Found {
        specversion: Some(Cow::Borrowed("1.0")),
        id: Some(event.event_id),
        event_type: Some(event.event_type),
        source: Some(Cow::Borrowed("plain")),
        time: event.timestamp,
        correlationid: event.correlation_id,
        ..Found::default()
    };
    found.read(topic, message, Payload::Json(event.payload))
}

#[derive(Deserialize)]
struct Structured<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    streamseq: Option<Seq>,
    #[serde(borrow)]
    correlationid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    causationid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// A number that some writers put in quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seq {
    Number(u64),
    Text(String),
}

impl Seq {
    fn text(self) -> Cow<'static, str> {
        match self {
            Self::Number(seq) => Cow::Owned(seq.to_string()),
            Self::Text(seq) => Cow::Owned(seq),
        }
    }
}

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Default)]
struct Found<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    streamseq: Option<Cow<'a, str>>,
    correlationid: Option<Cow<'a, str>>,
    causationid: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
}

impl<'a> Found<'a> {
    fn read(self, topic: &str, message: &Message, payload: Payload<'a>) -> Result<Incoming<'a>, String> {
        if self.specversion.as_deref() != Some("1.0") {
            return Err("the CloudEvents specversion is not 1.0".into());
        }
        let required = |value: Option<Cow<'a, str>>, name: &str| {
            value.filter(|v| !v.is_empty()).ok_or_else(|| format!("the envelope has no {name}"))
        };
        let id = required(self.id, "id")?;
        let event_type = required(self.event_type, "type")?;
        let source = required(self.source, "source")?;
        let seq = self.streamseq.map(|s| positive(&s)).transpose()?;
        if seq.is_some() && self.subject.is_none() {
            return Err("the envelope has a streamseq but no subject".into());
        }
        let key = match self.subject {
            Some(subject) => subject.into_owned(),
            None => message.key_text().into_owned(),
        };
        let stream = match seq {
            Some(_) => stream(source.trim_start_matches('/'), &key),
            None => stream(topic, &key),
        };
        Ok(Incoming {
            event_type,
            metadata: Metadata {
                id: id.into_owned(),
                source: source.into_owned(),
                key,
                stream,
                seq,
                time: self.time.and_then(|t| t.parse().ok()),
                correlation_id: self.correlationid.map(Cow::into_owned),
                causation_id: self.causationid.map(Cow::into_owned),
                traceparent: self.traceparent.map(Cow::into_owned),
                delivery: Delivery::default(),
            },
            payload,
        })
    }
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seq) if seq > 0 => Ok(seq),
        _ => Err(format!("the streamseq {text:?} is not a whole number from 1")),
    }
}
