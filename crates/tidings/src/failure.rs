//! The reasons for which an event waits or is dead, by their names in tables, logs and `docs/dead-letters.md`.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use strum::{Display, EnumIter, IntoEnumIterator as _, IntoStaticStr};

/// The reason that an event waits in its consumer's database.
///
/// ```
/// use tidings::WaitReason;
///
/// let column = "behind"; // of a row of the table of parked events
/// assert_eq!(column, WaitReason::Behind.to_string());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum WaitReason {
    /// Its handler failed, and is tried again.
    Transient,
    /// An earlier event of its key waits.
    Behind,
    /// Events before it have not arrived.
    Gap,
    /// An operator has brought it back.
    Redriven,
    /// An operator has paused its type or its key.
    Paused,
    /// A dependency that its handler needs is away.
    Dependency,
}

/// The reason that an event is a dead letter.
///
/// ```
/// use tidings::DeadReason;
///
/// assert_eq!(DeadReason::PayloadInvalid.code(), "payload_invalid");
/// assert_eq!(DeadReason::of("attempts_exhausted"), DeadReason::AttemptsExhausted);
/// assert_eq!(DeadReason::of("no_such_order"), DeadReason::Handler("no_such_order"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum DeadReason {
    /// Neither a CloudEvent nor plain JSON, or without what an event needs.
    EnvelopeUndecodable,
    /// Not of the type that it says.
    PayloadUndecodable,
    /// Of its type, and breaks a rule of it.
    PayloadInvalid,
    /// On another topic than its type's own.
    WrongTopic,
    /// From a source that may not state it.
    WrongSource,
    /// Another event was handled under its number.
    NumberTaken,
    /// A part of it cannot be represented by the client.
    RecordUnreadable,
    /// Decoding it panicked.
    PanickedWhileDecoding,
    /// It could not be kept whole.
    Unstorable,
    /// It, or what its handler reads, was stored and cannot be read any more.
    CorruptData,
    /// Its handler failed as often as its policy allows.
    AttemptsExhausted,
    /// It failed for longer than its handler's policy allows.
    TooOld,
    /// Its handler published an event that breaks its own rules.
    InvalidEvent,
    /// Its handler published an event that the service has not declared.
    UndeclaredEvent,
    /// Its handler asked for an effect that the service has no handler for.
    UndeclaredEffect,
    /// Its handler said so, with a code of its own.
    #[strum(disabled)]
    Handler(&'static str),
}

impl DeadReason {
    /// The reason of this code.
    #[must_use]
    pub fn of(code: &'static str) -> Self {
        Self::iter().find(|reason| reason.code() == code).unwrap_or(Self::Handler(code))
    }

    /// The code by which it stands in tables, headers and docs: `payload_invalid`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Handler(code) => code,
            reason => reason.into(),
        }
    }
}

impl std::fmt::Display for DeadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// A failure of an event, and what becomes of the event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure<'a> {
    pub(crate) fate: Fate,
    /// The error in words.
    pub(crate) message: &'a str,
    pub(crate) attempts: u32,
}

impl Failure<'_> {
    /// The name of the kind of this failure: equal for events of a type that fail alike, whatever their keys, ids and
    /// amounts are. Sixteen hexadecimal digits.
    pub(crate) fn fingerprint(&self, event_type: Option<&str>) -> String {
        let mut digest = Sha256::new();
        for part in [event_type.unwrap_or_default(), self.fate.code(), &without_details(self.message)] {
            digest.update(part);
            digest.update([0]);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&digest.finalize()[..8]);
        format!("{:016x}", u64::from_be_bytes(first))
    }
}

/// A message without its words that have a digit, and without its quotations: they differ from event to event.
fn without_details(message: &str) -> String {
    let mut words = String::with_capacity(message.len());
    let mut is_quoted = false;
    let ends_word = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-';
    for part in message.split_inclusive(ends_word) {
        let word = part.trim_end_matches(ends_word);
        if !is_quoted {
            words.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
            words.push_str(&part[word.len()..]);
        }
        is_quoted ^= part.ends_with('"');
    }
    words
}

/// The future of an event that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It waits: until this time, or until its turn comes.
    Waits(WaitReason, Option<Timestamp>),
    /// It is a dead letter.
    Dead(DeadReason),
}

impl Fate {
    /// The state of its row.
    pub(crate) fn state(&self) -> &'static str {
        match self {
            Self::Waits(..) => "waiting",
            Self::Dead(_) => "dead",
        }
    }

    /// Its reason by name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Waits(reason, _) => reason.into(),
            Self::Dead(reason) => reason.code(),
        }
    }

    /// The time by which the event's next turn comes, if that is known.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match self {
            Self::Waits(_, due) => *due,
            Self::Dead(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_reason_of_ours_or_a_handlers() {
        assert_eq!(DeadReason::of("payload_invalid"), DeadReason::PayloadInvalid);
        assert_eq!(DeadReason::of("no_such_order"), DeadReason::Handler("no_such_order"));
        assert_eq!(DeadReason::of("no_such_order").code(), "no_such_order");
        assert_eq!(<&str>::from(WaitReason::Transient), "transient");
    }

    #[test]
    fn failures_of_one_kind_have_one_fingerprint() {
        let of = |event_type, message| {
            let failure = Failure { fate: Fate::Dead(DeadReason::AttemptsExhausted), message, attempts: 20 };
            failure.fingerprint(Some(event_type))
        };
        let one = of("order.created.v1", "no stock of p-17 for order 0193-aa: \"green tea\" is gone");
        assert_eq!(one, of("order.created.v1", "no stock of p-4 for order 0255-bb: \"mugs\" is gone"));
        assert_ne!(one, of("order.created.v1", "no room for p-17"));
        assert_ne!(
            one,
            of("order.cancelled.v1", "no stock of p-17 for order 0193-aa: \"green tea\" is gone")
        );
        assert_eq!(one.len(), 16);
    }

    #[test]
    fn each_reason_has_a_row_in_the_docs() {
        let docs =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/dead-letters.md"))
                .expect("the docs are there");
        for reason in DeadReason::iter().filter(|reason| !matches!(reason, DeadReason::Handler(_))) {
            assert!(
                docs.contains(&format!("`{reason}`")),
                "docs/dead-letters.md says nothing about {reason}"
            );
        }
    }
}
