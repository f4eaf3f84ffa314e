//! Points in a topic, as requests say them: `beginning`, `end`, an offset, a time.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::runtime::{Place, Span};

/// A point in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct NamedPlace(pub(super) Place);

impl TryFrom<String> for NamedPlace {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let place = match &*text {
            "beginning" => Some(Place::Beginning),
            "end" => Some(Place::End),
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().map(Place::Offset)
            }
            time => time.parse().ok().map(Place::Time),
        };
        place.map(Self).ok_or("expected beginning, end, an offset or a time (2026-01-31T12:00:00Z)")
    }
}

impl JsonSchema for NamedPlace {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Place".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(beginning|end|[0-9]{1,18}|[0-9]{4}-[0-9]{2}-[0-9]{2}T.{1,40})$",
            "description": "`beginning`, `end`, an offset, or a time",
        })
    }
}

/// The part of a span that is left, as a cursor: `12-40,7-7`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct SpanCursor(pub(super) Span);

impl SpanCursor {
    /// The cursor of what is left, if anything is.
    pub(super) fn of(span: &Span) -> Option<String> {
        let part = |(next, end): &(i64, i64)| format!("{next}-{end}");
        (!span.is_empty()).then(|| span.0.iter().map(part).collect::<Vec<_>>().join(","))
    }
}

impl TryFrom<String> for SpanCursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = |digits: &str| digits.parse::<i64>().ok().filter(|number| *number >= 0);
        let part = |part: &str| {
            let (next, end) = part.split_once('-')?;
            Some((number(next)?, number(end)?))
        };
        let span: Option<Vec<(i64, i64)>> = text.split(',').map(part).collect();
        span.map(|span| Self(Span(span))).ok_or("the cursor is not one that a replay gave out")
    }
}

impl JsonSchema for SpanCursor {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SpanCursor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]{1,18}-[0-9]{1,18}(,[0-9]{1,18}-[0-9]{1,18})*$",
            "description": "The part of the range that is left: `next_cursor` of the answer before",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<Place> {
        NamedPlace::try_from(text.to_owned()).ok().map(|place| place.0)
    }

    #[test]
    fn a_place_is_a_word_an_offset_or_a_time() {
        assert_eq!(place("beginning"), Some(Place::Beginning));
        assert_eq!(place("end"), Some(Place::End));
        assert_eq!(place("1200"), Some(Place::Offset(1200)));
        let time = "2026-01-31T12:00:00Z";
        assert_eq!(place(time), Some(Place::Time(time.parse().expect("a time"))));
        for wrong in ["", "-1", "1.5", "99999999999999999999", "yesterday", "2026-01-31"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cursor_is_what_is_left_of_a_span() {
        let span = Span(vec![(12, 40), (7, 7)]);
        let cursor = SpanCursor::of(&span).expect("something is left");
        assert_eq!(cursor, "12-40,7-7");
        assert_eq!(SpanCursor::try_from(cursor).expect("it is one").0, span);
        assert_eq!(SpanCursor::of(&Span(vec![(7, 7), (9, 8)])), None);
        for wrong in ["", "7", "7-", "-7-7", "7-7,", "7--7", "a-b"] {
            assert!(SpanCursor::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
