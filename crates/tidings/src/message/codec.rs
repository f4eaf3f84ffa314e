//! The form of messages in tables and in the embedded log: headers take a third of their length on the wire.
//!
//! A message is `key, headers, value`; a length is a LEB128 number. A header is a name (a number, if it
//! is one of [`NAMES`](super::names)) and a value in the first of these forms that fits:
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

use super::Message;
use super::headers::Headers;
use super::names::{Name, put_bytes, put_name, read_byte, read_bytes, read_exactly, read_length, read_name};
use crate::error::Error;

pub(crate) use super::names::put_length;

/// Values with a number. Only ever added to, at the end.
const VALUES: [&[u8]; 2] = [b"1.0", b"application/json"];
const RAW: u8 = 0;
const UUID: u8 = 1;
const KEY: u8 = 2;
const VALUE: u8 = 3;
const TRACE: u8 = 4;
const NULL: u8 = 5;
/// Flags of the first byte.
const HAS_KEY: u8 = 1;
const TOMBSTONE: u8 = 2;
/// Length of a `traceparent`; no value that is spelled out is longer.
const TRACE_CHARS: usize = 55;

/// Appends key and headers.
pub(crate) fn put_head(out: &mut Vec<u8>, message: &Message) {
    put_head_of(out, message, message.headers.len());
}

/// Appends key and headers where more headers follow: `count` in all.
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

/// Reads a whole number.
pub(crate) fn take_length(input: &mut &[u8]) -> Result<usize, Error> {
    read_length(input).ok_or_else(broken)
}

fn broken() -> Error {
    Error::corrupt("a stored message cannot be decoded")
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
    let mut position = 3;
    for (number, byte) in trace.iter().enumerate() {
        position += usize::from(number == 16 || number == 24);
        text[position] = DIGITS[usize::from(byte >> 4)];
        text[position + 1] = DIGITS[usize::from(byte & 15)];
        position += 2;
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

/// Reads a value. A value that is not stored as it is, is spelled out in `text`.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::names::NAMES;
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
