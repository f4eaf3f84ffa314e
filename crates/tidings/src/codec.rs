//! How messages lie in tables and in the embedded log: headers take a third of their length on the wire.
//!
//! A message is `key, headers, value`; a length is a LEB128 number. A header is a name (a number, if it
//! is one of [`NAMES`]) and a value in the first of these forms that fits:
//!
//! | form | value |
//! |---|---|
//! | 0 | length and bytes, as they are |
//! | 1 | a UUID in its usual spelling: 16 bytes |
//! | 2 | the key again: nothing |
//! | 3 | one of [`VALUES`]: its number |
//! | 4 | a `traceparent` of version 00: 25 bytes |
//! | 5 | none at all: nothing |

use bytes::Bytes;
use uuid::Uuid;

use crate::error::Error;
use crate::headers::Headers;
use crate::message::Message;

/// Names with a number. Only ever added to, at the end: the numbers are in people's files.
const NAMES: [&str; 25] = [
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_subject",
    "ce_time",
    "ce_dataschema",
    "ce_streamseq",
    "ce_correlationid",
    "ce_causationid",
    "traceparent",
    "content-type",
    "tracestate",
    "ce_datacontenttype",
    "dlq_original_topic",
    "dlq_original_partition",
    "dlq_original_offset",
    "dlq_original_timestamp",
    "dlq_consumer_group",
    "dlq_handler",
    "dlq_attempts",
    "dlq_first_failed_at",
    "dlq_last_failed_at",
    "dlq_error_code",
    "dlq_error_message",
];
/// A name that has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known(u8);

impl Known {
    /// Does not compile for a name that has none.
    pub(crate) const fn of(name: &str) -> Self {
        let mut number = 0;
        while !is_same(name.as_bytes(), NAMES[number].as_bytes()) {
            number += 1;
        }
        Self(number as u8)
    }
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// A header's name: its number, or itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    Known(Known),
    Other(&'a str),
}

impl<'a> Name<'a> {
    pub(crate) fn of(name: &'a str) -> Self {
        // Nearly all that are as long as another one end differently.
        let is_like =
            |known: &&str| known.len() == name.len() && known.as_bytes().last() == name.as_bytes().last();
        match NAMES.iter().position(|known| is_like(known) && *known == name) {
            Some(number) => Self::Known(Known(number as u8)),
            None => Self::Other(name),
        }
    }

    pub(crate) fn text(self) -> &'a str {
        match self {
            Self::Known(Known(number)) => NAMES[usize::from(number)],
            Self::Other(name) => name,
        }
    }
}

/// Values with a number. Only ever added to, at the end.
const VALUES: [&[u8]; 2] = [b"1.0", b"application/json"];
/// The name follows as text.
const OTHER_NAME: u8 = 0xff;

const RAW: u8 = 0;
const UUID: u8 = 1;
const KEY: u8 = 2;
const VALUE: u8 = 3;
const TRACE: u8 = 4;
const NULL: u8 = 5;
/// What the first byte says.
const HAS_KEY: u8 = 1;
const TOMBSTONE: u8 = 2;
/// Length of a `traceparent`; no value that is spelled out is longer.
const TRACE_CHARS: usize = 55;

/// Appends key and headers.
pub(crate) fn put_head(out: &mut Vec<u8>, message: &Message) {
    put_head_of(out, message, message.headers.len());
}

/// The same where more headers follow: so many in all.
pub(crate) fn put_head_of(out: &mut Vec<u8>, message: &Message, count: usize) {
    let tombstone = if message.is_tombstone { TOMBSTONE } else { 0 };
    match &message.key {
        None => out.push(tombstone),
        Some(key) => {
            out.push(tombstone | HAS_KEY);
            put_text(out, key);
        }
    }
    put_length(out, count);
    for (name, value) in message.headers.values() {
        match value {
            Some(value) => put_header(out, name, value, message.key.as_deref()),
            None => {
                put_name(out, name);
                out.push(NULL);
            }
        }
    }
}

/// Appends a header of a message with this key.
pub(crate) fn put_header(out: &mut Vec<u8>, name: Name<'_>, value: &[u8], key: Option<&[u8]>) {
    put_name(out, name);
    put_value(out, value, key);
}

/// Appends a whole message.
pub(crate) fn put(out: &mut Vec<u8>, message: &Message) {
    put_head(out, message);
    put_bytes(out, &message.value);
}

/// Reads key and headers; the value is left empty.
pub(crate) fn take_head(input: &mut &[u8]) -> Result<Message, Error> {
    read_head(input).ok_or_else(broken)
}

/// Reads a whole message.
pub(crate) fn take(input: &mut &[u8]) -> Result<Message, Error> {
    let mut message = take_head(input)?;
    let value = read_bytes(input).ok_or_else(broken)?;
    message.value = Bytes::copy_from_slice(value);
    Ok(message)
}

/// Appends a whole number.
pub(crate) fn put_length(out: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads a whole number.
pub(crate) fn take_length(input: &mut &[u8]) -> Result<usize, Error> {
    read_length(input).ok_or_else(broken)
}

fn broken() -> Error {
    Error::unavailable("a stored message cannot be decoded")
}

/// Appends a header's name.
pub(crate) fn put_name(out: &mut Vec<u8>, name: Name<'_>) {
    match name {
        Name::Known(Known(number)) => out.push(number),
        Name::Other(name) => {
            out.push(OTHER_NAME);
            put_bytes(out, name.as_bytes());
        }
    }
}

fn put_value(out: &mut Vec<u8>, value: &[u8], key: Option<&[u8]>) {
    if key == Some(value) {
        out.push(KEY);
    } else if let Some(number) = VALUES.iter().position(|known| *known == value) {
        out.extend([VALUE, number as u8]);
    } else if let Some(trace) = trace(value) {
        out.push(TRACE);
        out.extend(trace);
    } else {
        put_text(out, value);
    }
}

/// A UUID or bytes as they are.
fn put_text(out: &mut Vec<u8>, value: &[u8]) {
    match uuid(value) {
        Some(uuid) => {
            out.push(UUID);
            out.extend(uuid.as_bytes());
        }
        None => {
            out.push(RAW);
            put_bytes(out, value);
        }
    }
}

/// Appends a length and so many bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn uuid(value: &[u8]) -> Option<Uuid> {
    if value.len() != 36 || value.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    Uuid::try_parse_ascii(value).ok()
}

/// `00-<32 hex>-<16 hex>-<2 hex>` as its 25 bytes.
fn trace(value: &[u8]) -> Option<[u8; 25]> {
    let digits = value.strip_prefix(b"00-").filter(|_| value.len() == TRACE_CHARS)?;
    if digits[32] != b'-' || digits[49] != b'-' {
        return None;
    }
    let mut hex = digits[..32].iter().chain(&digits[33..49]).chain(&digits[50..]);
    let mut digit = || match hex.next()? {
        c @ b'0'..=b'9' => Some(c - b'0'),
        c @ b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut trace = [0; 25];
    for byte in &mut trace {
        *byte = digit()? << 4 | digit()?;
    }
    Some(trace)
}

fn trace_text(trace: &[u8]) -> [u8; TRACE_CHARS] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; TRACE_CHARS];
    text[..2].copy_from_slice(b"00");
    let mut place = 3;
    for (number, byte) in trace.iter().enumerate() {
        place += usize::from(number == 16 || number == 24);
        text[place] = DIGITS[usize::from(byte >> 4)];
        text[place + 1] = DIGITS[usize::from(byte & 15)];
        place += 2;
    }
    text
}

fn read_head(input: &mut &[u8]) -> Option<Message> {
    let mut text = [0; TRACE_CHARS];
    let first = read_byte(input)?;
    let key = match first & HAS_KEY {
        0 => None,
        _ => Some(Bytes::copy_from_slice(read_value(input, None, &mut text)?)),
    };
    let count = read_length(input)?;
    let mut headers = Headers::with_capacity(2 * input.len());
    for _ in 0..count {
        let name = read_name(input)?;
        if input.first() == Some(&NULL) {
            *input = &input[1..];
            headers.put_null(name);
        } else {
            headers.put(name, read_value(input, key.as_deref(), &mut text)?);
        }
    }
    Some(Message { key, headers, value: Bytes::new(), is_tombstone: first & TOMBSTONE != 0 })
}

/// Reads a header's name.
pub(crate) fn read_name<'a>(input: &mut &'a [u8]) -> Option<Name<'a>> {
    match read_byte(input)? {
        OTHER_NAME => std::str::from_utf8(read_bytes(input)?).ok().map(Name::Other),
        number => (usize::from(number) < NAMES.len()).then_some(Name::Known(Known(number))),
    }
}

/// What is not stored as it is, is spelled out in `text`.
fn read_value<'v, 'a: 'v>(
    input: &mut &'a [u8],
    key: Option<&'v [u8]>,
    text: &'v mut [u8; TRACE_CHARS],
) -> Option<&'v [u8]> {
    match read_byte(input)? {
        RAW => read_bytes(input),
        UUID => {
            let uuid = Uuid::from_slice(read_exactly(input, 16)?).ok()?;
            Some(uuid.hyphenated().encode_lower(&mut text[..]).as_bytes())
        }
        KEY => key,
        VALUE => VALUES.get(usize::from(read_byte(input)?)).copied(),
        TRACE => {
            *text = trace_text(read_exactly(input, 25)?);
            Some(text)
        }
        _ => None,
    }
}

/// Reads a length and so many bytes.
pub(crate) fn read_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_length(input)?;
    read_exactly(input, length)
}

pub(crate) fn read_exactly<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

fn read_byte(input: &mut &[u8]) -> Option<u8> {
    read_exactly(input, 1).map(|byte| byte[0])
}

#[inline]
pub(crate) fn read_length(input: &mut &[u8]) -> Option<usize> {
    // Most lengths are short.
    if let [length @ 0..=0x7f, rest @ ..] = *input {
        *input = rest;
        return Some(usize::from(*length));
    }
    let mut length = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = read_byte(input)?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<u128>().prop_map(|n| Uuid::from_u128(n).hyphenated().to_string().into_bytes()),
            any::<u128>().prop_map(|n| Uuid::from_u128(n)
                .hyphenated()
                .to_string()
                .to_uppercase()
                .into_bytes()),
            any::<(u128, u64, u8)>()
                .prop_map(|(t, s, f)| format!("00-{t:032x}-{s:016x}-{f:02x}").into_bytes()),
            any::<(u128, u64, u8)>()
                .prop_map(|(t, s, f)| format!("00-{t:032X}-{s:016x}-{f:02x}").into_bytes()),
            prop::sample::select(VALUES.to_vec()).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..300),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            key in prop::option::of(value()),
            headers in prop::collection::vec((prop_oneof![prop::sample::select(NAMES.to_vec()).prop_map(String::from), ".{0,40}"], value()), 0..20),
            repeat_key in any::<bool>(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
            is_tombstone in any::<bool>(),
        ) {
            let mut message = Message {
                key: key.map(Bytes::from),
                headers: headers.into_iter().collect(),
                value: if is_tombstone { Bytes::new() } else { payload.into() },
                is_tombstone,
            };
            if is_tombstone {
                message.headers.push_null("null");
            }
            if let (true, Some(key)) = (repeat_key, &message.key) {
                message.headers.push("ce_subject", key);
            }
            let mut bytes = Vec::new();
            put(&mut bytes, &message);
            let mut input = &bytes[..];
            prop_assert_eq!(take(&mut input).unwrap(), message);
            prop_assert!(input.is_empty());
            for cut in 0..bytes.len() {
                prop_assert!(take(&mut &bytes[..cut]).is_err(), "a torn message is an error, not a panic");
            }
        }
    }
}
