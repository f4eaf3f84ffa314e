//! An event on its way in: CloudEvents in binary mode, in structured mode (`application/cloudevents+json`), and plain
//! JSON `{event_id, event_type, timestamp, payload}`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::frame::unframed;
use super::names::*;
use super::{ID_BYTES_MAX, KEY_BYTES_MAX, Message, SOURCE_BYTES_MAX, storable};
use crate::envelope::Metadata;
use crate::event::stream;
use crate::{strict, trace};

/// Numbers in a stream lie below: the next one fits a column.
const SEQ_END: u64 = i64::MAX.unsigned_abs();

/// A message's statements about itself, before its payload is looked at.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) event_type: Cow<'a, str>,
    pub(crate) metadata: Metadata,
    pub(crate) payload: Payload<'a>,
    /// Optional attributes that cannot be read, and are left out.
    pub(crate) unreadable: Vec<String>,
}

/// The place of the payload: the value itself, a part of it, or encoded in it.
#[derive(Debug)]
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    Json(&'a RawValue),
    Decoded(Vec<u8>),
}

impl Payload<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Json(raw) => raw.get().as_bytes(),
            Self::Decoded(bytes) => bytes,
        }
    }
}

/// Reads the envelope of a message in any of the three forms, framed or not; the error says what is broken.
///
/// The content type decides first, then the headers: CloudEvents' Kafka binding, section 3.
pub(crate) fn read<'a>(topic: &str, message: &'a Message) -> Result<Incoming<'a>, String> {
    let (_, value) = unframed(&message.value);
    let (found, is_binary) = Attributes::of(message);
    match found.content_type.unwrap_or_default() {
        content_type if is_type(content_type, "application/cloudevents+json") => {
            read_structured(topic, message, value, found)
        }
        content_type if is_type(content_type, "application/cloudevents-batch+json") => {
            Err("a batch of CloudEvents is not read; send them one by one".into())
        }
        _ if is_binary => found.check(topic, message, Payload::Bytes(value)),
        _ => read_plain(topic, message, value, found),
    }
}

/// Compares the name of a header without regard to case: HTTP's names have none.
fn is_content_type(name: Name) -> bool {
    name == CONTENT_TYPE || matches!(name, Name::Other(name) if name.eq_ignore_ascii_case("content-type"))
}

/// Compares a content type without its parameters.
fn is_type(content_type: &str, wanted: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
}

fn read_structured<'a>(
    topic: &str,
    message: &'a Message,
    value: &'a [u8],
    mut found: Attributes<'a>,
) -> Result<Incoming<'a>, String> {
    let event: Structured<'a> =
        strict::from_slice(value).map_err(|e| format!("the value is not a CloudEvent: {e}"))?;
    let payload = match (event.data, event.data_base64) {
        (Some(data), None) => Payload::Json(data),
        (None, Some(data)) => Payload::Decoded(
            BASE64.decode(&*data).map_err(|e| format!("the CloudEvent's data_base64 is not Base64: {e}"))?,
        ),
        (None, None) => return Err("the CloudEvent has no data".into()),
        _ => return Err("the CloudEvent has both data and data_base64".into()),
    };
    // Attributes in the headers are a copy for those who do not open the value.
    (found.specversion, found.id, found.event_type) = (event.specversion, event.id, event.event_type);
    (found.source, found.subject) = (event.source, event.subject);
    found.streamseq = event.streamseq.map(|s| s.text());
    found.time = optional("time", event.time, &mut found.unreadable);
    found.correlationid = optional("correlationid", event.correlationid, &mut found.unreadable);
    found.causationid = optional("causationid", event.causationid, &mut found.unreadable);
    if found.traceparent.is_none() {
        found.traceparent = optional("traceparent", event.traceparent, &mut found.unreadable);
    }
    if found.tracestate.is_none() {
        found.tracestate = optional("tracestate", event.tracestate, &mut found.unreadable);
    }
    found.check(topic, message, payload)
}

fn read_plain<'a>(
    topic: &str,
    message: &'a Message,
    value: &'a [u8],
    mut found: Attributes<'a>,
) -> Result<Incoming<'a>, String> {
    let event: Plain<'a> = strict::from_slice(value).map_err(|e| {
        format!("neither a CloudEvent nor plain JSON {{event_id, event_type, timestamp, payload}}: {e}")
    })?;
    found.specversion = Some(Cow::Borrowed("1.0"));
    (found.id, found.event_type) = (Some(event.event_id), Some(event.event_type));
    // Programs that number their events 1, 2, 3 share nothing but the number.
    found.source = Some(Cow::Owned(format!("plain:{topic}")));
    found.time = optional("timestamp", event.timestamp, &mut found.unreadable);
    found.correlationid = optional("correlation_id", event.correlation_id, &mut found.unreadable);
    found.check(topic, message, Payload::Json(event.payload))
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
    streamseq: Option<Seq>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    correlationid: Option<&'a RawValue>,
    #[serde(borrow)]
    causationid: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
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
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    correlation_id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The attributes of an event as they were found, unchecked.
#[derive(Default)]
struct Attributes<'a> {
    content_type: Option<&'a str>,
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    streamseq: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    correlationid: Option<Cow<'a, str>>,
    causationid: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
    tracestate: Option<Cow<'a, str>>,
    /// The first attribute that must be text and is not.
    not_text: Option<String>,
    unreadable: Vec<String>,
}

impl<'a> Attributes<'a> {
    /// The headers of a message, and whether any of them is CloudEvents'. One pass: a message has a dozen of
    /// them and is read by every group.
    fn of(message: &'a Message) -> (Self, bool) {
        let (mut found, mut is_binary) = (Self::default(), false);
        for (name, header) in message.headers.entries() {
            let (slot, is_needed) = match name {
                SPEC_VERSION => (&mut found.specversion, true),
                ID => (&mut found.id, true),
                TYPE => (&mut found.event_type, true),
                SOURCE => (&mut found.source, true),
                SUBJECT => (&mut found.subject, true),
                STREAM_SEQ => (&mut found.streamseq, true),
                TIME => (&mut found.time, false),
                CORRELATION_ID => (&mut found.correlationid, false),
                CAUSATION_ID => (&mut found.causationid, false),
                TRACEPARENT | Name::Other("ce_traceparent") => (&mut found.traceparent, false),
                TRACESTATE | Name::Other("ce_tracestate") => (&mut found.tracestate, false),
                name if is_content_type(name) => {
                    found.content_type = found.content_type.or(std::str::from_utf8(header).ok());
                    continue;
                }
                name => {
                    is_binary |= name.text().starts_with("ce_");
                    continue;
                }
            };
            is_binary |= name != TRACEPARENT && name != TRACESTATE;
            match std::str::from_utf8(header) {
                // The header of the trace context's own name goes before the attribute.
                Ok(text) if name == TRACEPARENT || name == TRACESTATE => *slot = Some(Cow::Borrowed(text)),
                Ok(text) => drop(slot.get_or_insert(Cow::Borrowed(text))),
                Err(_) if is_needed => {
                    found.not_text = found.not_text.take().or(Some(name.text().to_owned()))
                }
                Err(_) => found.unreadable.push(name.text().to_owned()),
            }
        }
        (found, is_binary)
    }

    /// Checks form, length and characters: behind this, every text can be stored and looked up.
    fn check(mut self, topic: &str, message: &Message, payload: Payload<'a>) -> Result<Incoming<'a>, String> {
        if let Some(name) = self.not_text {
            return Err(format!("header {name} is not UTF-8"));
        }
        if self.specversion.as_deref() != Some("1.0") {
            return Err("the CloudEvents specversion is not 1.0".into());
        }
        let id = required(self.id.take(), "id", ID_BYTES_MAX)?;
        let event_type = required(self.event_type.take(), "type", ID_BYTES_MAX)?;
        let source = required(self.source.take(), "source", SOURCE_BYTES_MAX)?;
        let seq = self.streamseq.take().map(|s| positive(&s)).transpose()?;
        let subject = self.subject.take().filter(|subject| !subject.is_empty());
        if seq.is_some() && subject.is_none() {
            return Err("the envelope has a streamseq but no subject".into());
        }
        let key = match subject {
            Some(subject) => subject.into_owned(),
            None => key_text(message)?.to_owned(),
        };
        storable(&key, "key", KEY_BYTES_MAX)?;
        let mut metadata = Metadata {
            id: id.into_owned(),
            source: source.into_owned(),
            stream: stream(topic, &key),
            key,
            seq,
            ..Metadata::default()
        };
        let unreadable = &mut self.unreadable;
        let id = |text: Cow<'a, str>| storable(&text, "", ID_BYTES_MAX).ok().map(|()| text.into_owned());
        metadata.time = usable("time", self.time, unreadable, |text| point_in_time(&text));
        metadata.correlation_id = usable("correlationid", self.correlationid, unreadable, id);
        metadata.causation_id = usable("causationid", self.causationid, unreadable, id);
        metadata.traceparent = usable("traceparent", self.traceparent, unreadable, |text| {
            trace::is_traceparent(&text).then(|| text.into_owned())
        });
        metadata.tracestate = usable("tracestate", self.tracestate, unreadable, |text| {
            trace::is_tracestate(&text).then(|| text.into_owned())
        });
        Ok(Incoming { event_type, metadata, payload, unreadable: self.unreadable })
    }
}

/// Takes an optional attribute out of a value; one that is no text is left out.
fn optional<'a>(
    name: &str,
    value: Option<&'a RawValue>,
    unreadable: &mut Vec<String>,
) -> Option<Cow<'a, str>> {
    match strict::from_slice(value?.get().as_bytes()) {
        Ok(AttributeText(text)) => Some(text),
        Err(_) => {
            unreadable.push(name.to_owned());
            None
        }
    }
}

/// Reads an optional attribute; one that cannot be read is left out.
fn usable<'a, T>(
    name: &str,
    text: Option<Cow<'a, str>>,
    unreadable: &mut Vec<String>,
    read: impl FnOnce(Cow<'a, str>) -> Option<T>,
) -> Option<T> {
    let value = read(text?);
    if value.is_none() {
        unreadable.push(name.to_owned());
    }
    value
}

/// Text, or a number or truth value in its place: CloudEvents has attributes of these types too.
struct AttributeText<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for AttributeText<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Attribute<'a> {
            #[serde(borrow)]
            Text(Cow<'a, str>),
            Number(serde_json::Number),
            Bool(bool),
        }
        Ok(Self(match Attribute::deserialize(deserializer)? {
            Attribute::Text(text) => text,
            Attribute::Number(number) => Cow::Owned(number.to_string()),
            Attribute::Bool(value) => Cow::Owned(value.to_string()),
        }))
    }
}

fn required<'a>(value: Option<Cow<'a, str>>, name: &str, bytes_max: usize) -> Result<Cow<'a, str>, String> {
    let value = value.filter(|v| !v.is_empty()).ok_or_else(|| format!("the envelope has no {name}"))?;
    storable(&value, name, bytes_max)?;
    Ok(value)
}

/// The key of a message as text, for events that name no subject.
fn key_text(message: &Message) -> Result<&str, String> {
    let key = message.key.as_deref().unwrap_or_default();
    std::str::from_utf8(key)
        .map_err(|_| "the message's key is not text, and the envelope names no subject".to_owned())
}

/// A time as RFC 3339 has it, of the years 0 to 9999; one without an offset is UTC.
fn point_in_time(text: &str) -> Option<Timestamp> {
    let utc = |time: jiff::civil::DateTime| time.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let read = |text: &str| {
        let time = text.parse().ok();
        time.or_else(|| utc(text.parse().ok()?).map(|zoned| zoned.timestamp()))
    };
    let time: Timestamp = read(text).or_else(|| read(&with_nanoseconds(text)?))?;
    (time >= YEAR_ZERO).then_some(time)
}

/// The first moment that RFC 3339 can write.
const YEAR_ZERO: Timestamp = Timestamp::constant(-62_167_219_200, 0);

/// A time whose fraction of a second has more digits than we keep, without those.
fn with_nanoseconds(text: &str) -> Option<String> {
    let (whole, rest) = text.split_once('.')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 9).then(|| format!("{whole}.{}{}", &rest[..9], &rest[digits..]))
}

/// A number of a stream, from its text.
pub(crate) fn positive(text: &str) -> Result<u64, String> {
    // As every program writes it: one number has one form.
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(seq) if is_plain && (1..SEQ_END).contains(&seq) => Ok(seq),
        _ => Err(format!("the streamseq {:?} is not a whole number from 1 to 2^63 - 2", shortened(text))),
    }
}

/// The beginning of a text from outside that stands in an error.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_an_offset_is_utc_and_one_beyond_all_times_is_none() {
        let text = |text| point_in_time(text).map(|time| time.to_string());
        assert_eq!(text("2026-01-02T03:04:05.5+01:00").unwrap(), "2026-01-02T02:04:05.5Z");
        assert_eq!(text("2026-01-02T03:04:05").unwrap(), "2026-01-02T03:04:05Z");
        assert_eq!(text("2026-01-02 03:04:05").unwrap(), "2026-01-02T03:04:05Z");
        assert_eq!(text("2026-01-02T03:04:05.123456789012345Z").unwrap(), "2026-01-02T03:04:05.123456789Z");
        assert_eq!(text("0000-01-01T00:00:00Z").unwrap(), "0000-01-01T00:00:00Z");
        for none in ["-000001-12-31T00:00:00Z", "9999-12-31T23:59:59Z", "yesterday", "1767323045", ""] {
            assert_eq!(text(none), None, "{none}");
        }
    }
}
