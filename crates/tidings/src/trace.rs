//! W3C Trace Context: what stands in `traceparent` and `tracestate`, and how a trace goes on.

use std::fmt::Write as _;

use uuid::Uuid;

/// Longest `tracestate`, in bytes, and most members of one: what the specification has every program hand on.
const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;
/// Characters of a `traceparent` of version 00.
const CHARS: usize = 55;
/// Flags that mean something in version 00: sampled, and random (level 2). Others are set to zero.
const FLAGS: u8 = 0b11;
/// Of a version to come only this one is known.
const SAMPLED: u8 = 0b01;

/// A trace that can be gone on with.
#[derive(Debug, PartialEq, Eq)]
struct Context<'a> {
    trace: &'a str,
    flags: u8,
}

/// Reads a `traceparent` of version 00 (W3C Trace Context, 3.2), or of one to come.
fn parse(text: &str) -> Option<Context<'_>> {
    let bytes = text.as_bytes();
    if bytes.len() < CHARS || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    let (is_version, _) = digits::<2>(bytes, 0);
    let (is_flags, _) = digits::<2>(bytes, 53);
    let are_ids = digits::<32>(bytes, 3) == (true, true) && digits::<16>(bytes, 36) == (true, true);
    let (version, trace, flags) = (text.get(..2)?, text.get(3..35)?, text.get(53..CHARS)?);
    let is_whole = bytes.len() == CHARS || (version != "00" && bytes[CHARS] == b'-');
    if !is_version || version == "ff" || !are_ids || !is_flags || !is_whole {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some(Context { trace, flags: flags & if version == "00" { FLAGS } else { SAMPLED } })
}

/// Tells whether these are digits of a hexadecimal number in lower case, and whether any of them is not zero. Read
/// for every event, so without a branch.
fn digits<const N: usize>(bytes: &[u8], at: usize) -> (bool, bool) {
    let Some(part) = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) else { return (false, false) };
    let (mut are_digits, mut any) = (true, 0);
    for byte in part {
        are_digits &= (byte.wrapping_sub(b'0') < 10) | (byte.wrapping_sub(b'a') < 6);
        any |= byte ^ b'0';
    }
    (are_digits, any != 0)
}

/// Tells whether a trace can be continued.
pub(crate) fn is_traceparent(text: &str) -> bool {
    parse(text).is_some()
}

/// Goes on with the trace of a cause, with the event of this id as the next parent; without one, or with one that
/// cannot be read, the event starts a trace. Also says which of both.
pub(crate) fn continued(cause: Option<&str>, id: Uuid) -> (String, bool) {
    let mut text = String::with_capacity(CHARS);
    let (_, span) = id.as_u64_pair();
    let cause = cause.and_then(parse);
    let goes_on = cause.is_some();
    let written = match cause {
        Some(Context { trace, flags }) => write!(text, "00-{trace}-{span:016x}-{flags:02x}"),
        None => write!(text, "00-{:032x}-{span:016x}-01", id.as_u128()),
    };
    written.expect("writing to a String cannot fail");
    (text, goes_on)
}

/// Tells whether a text is a `tracestate` that is handed on: `vendor=value,tenant@vendor=value`.
pub(crate) fn is_tracestate(text: &str) -> bool {
    let is_key = |key: &str| {
        let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
        key.as_bytes().first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && key.bytes().all(is_known)
    };
    let is_value =
        |value: &str| !value.is_empty() && value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let is_member =
        |member: &str| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value));
    let members: Vec<&str> =
        text.split(',').map(|m| m.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()).collect();
    text.len() <= STATE_BYTES_MAX
        && (1..=STATE_MEMBERS_MAX).contains(&members.len())
        && members.into_iter().all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    /// Returns the `traceparent` of the event with id 1 after another `traceparent`.
    fn after(version: &str, trace: &str, parent: &str, rest: &str) -> String {
        continued(Some(&format!("{version}-{trace}-{parent}-{rest}")), Uuid::from_u128(1)).0
    }

    #[test]
    fn a_trace_goes_on_with_its_flags_or_a_new_one_begins() {
        let on = |flags: &str| format!("00-{TRACE}-0000000000000001-{flags}");
        let new = format!("00-{:032x}-0000000000000001-01", 1);
        let (upper, no_trace, no_parent) = (TRACE.to_uppercase(), "0".repeat(32), "0".repeat(16));
        let table = [
            ("00", TRACE, PARENT, "00", on("00")),
            ("00", TRACE, PARENT, "01", on("01")),
            ("00", TRACE, PARENT, "03", on("03")),
            ("00", TRACE, PARENT, "ff", on("03")),
            ("01", TRACE, PARENT, "03-more", on("01")),
            ("cc", TRACE, PARENT, "00", on("00")),
            ("00", TRACE, PARENT, "01-more", new.clone()),
            ("00", TRACE, PARENT, "01-", new.clone()),
            ("00", TRACE, PARENT, "1", new.clone()),
            ("00", TRACE, PARENT, "0G", new.clone()),
            ("00", &no_trace, PARENT, "01", new.clone()),
            ("00", TRACE, &no_parent, "01", new.clone()),
            ("00", &upper, PARENT, "01", new.clone()),
            ("00", &TRACE[1..], PARENT, "01", new.clone()),
            ("ff", TRACE, PARENT, "01", new.clone()),
            ("0", TRACE, PARENT, "01", new.clone()),
        ];
        for (version, trace, parent, rest, expected) in table {
            assert_eq!(after(version, trace, parent, rest), expected, "{version}-{trace}-{parent}-{rest}");
        }
        assert_eq!(continued(None, Uuid::from_u128(1)), (new.clone(), false));
        assert_eq!(continued(Some(""), Uuid::from_u128(1)), (new, false));
    }

    #[test]
    fn a_tracestate_is_handed_on_if_it_is_one() {
        for one in ["rojo=00f067aa0ba902b7", "a=1,b=2", "a=1, b=2 ,", "fw529a3039@dt=FfAAAAB", "0a=1"] {
            assert!(is_tracestate(one), "{one}");
        }
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let long = format!("a={}", "x".repeat(511));
        for none in ["", ",", "a", "A=1", "a=", "a=1=2", "a=\u{7f}", "a=é", "=1", &many, &long] {
            assert!(!is_tracestate(none), "{none}");
        }
    }
}
