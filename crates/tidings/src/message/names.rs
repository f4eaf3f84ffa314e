//! Names of headers and how they are written: a number for those that are usual, and lengths as LEB128 numbers.

/// Names with a number. Only ever added to, at the end: the numbers are in people's files.
pub(super) const NAMES: [&str; 25] = [
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

/// The name follows as text.
const OTHER_NAME: u8 = 0xff;

/// The number of an event in its stream.
pub(crate) const STREAM_SEQ: Name<'static> = name("ce_streamseq");
pub(super) const SPEC_VERSION: Name<'static> = name("ce_specversion");
pub(super) const ID: Name<'static> = name("ce_id");
pub(super) const TYPE: Name<'static> = name("ce_type");
pub(super) const SOURCE: Name<'static> = name("ce_source");
pub(super) const SUBJECT: Name<'static> = name("ce_subject");
pub(super) const TIME: Name<'static> = name("ce_time");
pub(super) const DATA_SCHEMA: Name<'static> = name("ce_dataschema");
pub(super) const CORRELATION_ID: Name<'static> = name("ce_correlationid");
pub(super) const CAUSATION_ID: Name<'static> = name("ce_causationid");
pub(super) const TRACEPARENT: Name<'static> = name("traceparent");
pub(super) const TRACESTATE: Name<'static> = Name::Other("tracestate");
pub(super) const CONTENT_TYPE: Name<'static> = name("content-type");

const fn name(name: &str) -> Name<'static> {
    Name::Known(Known::of(name))
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

/// Reads a header's name.
pub(crate) fn read_name<'a>(input: &mut &'a [u8]) -> Option<Name<'a>> {
    match read_byte(input)? {
        OTHER_NAME => std::str::from_utf8(read_bytes(input)?).ok().map(Name::Other),
        number => (usize::from(number) < NAMES.len()).then_some(Name::Known(Known(number))),
    }
}

/// Appends a length and that many bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
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

/// Reads a length and that many bytes.
pub(crate) fn read_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_length(input)?;
    read_exactly(input, length)
}

pub(crate) fn read_exactly<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

pub(super) fn read_byte(input: &mut &[u8]) -> Option<u8> {
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
