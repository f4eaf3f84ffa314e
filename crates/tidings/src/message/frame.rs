//! The wire format of schema registries (Confluent's): a zero byte, the schema's id, the payload.
//!
//! JSON never begins with a zero byte, so a reader can tell.

use std::collections::HashMap;

/// A zero byte and an id of four bytes, most significant first.
const FRAME_BYTES: usize = 5;
const MAGIC: u8 = 0;

/// The ids of the schemas of what this program publishes, by topic and event type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames(HashMap<String, HashMap<String, u32>>);

impl Frames {
    pub(crate) fn insert(&mut self, topic: &str, event_type: &str, id: u32) {
        self.0.entry(topic.to_owned()).or_default().insert(event_type.to_owned(), id);
    }

    /// A message's value in its frame, if it is an event of ours: not a dead letter, which lies on another topic.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "what lies in the embedded log has none"))]
    pub(crate) fn framed(&self, topic: &str, event_type: Option<&str>, value: &[u8]) -> Option<Vec<u8>> {
        let id = self.0.get(topic)?.get(event_type?)?;
        let mut framed = Vec::with_capacity(FRAME_BYTES + value.len());
        framed.push(MAGIC);
        framed.extend_from_slice(&id.to_be_bytes());
        framed.extend_from_slice(value);
        Some(framed)
    }
}

/// The id of the schema that a value names, if it is in a frame, and what is in it. The id is not asked
/// about: the types decide.
pub(crate) fn unframed(value: &[u8]) -> (Option<u32>, &[u8]) {
    match value.split_first_chunk::<FRAME_BYTES>() {
        Some((&[MAGIC, a, b, c, d], payload)) => (Some(u32::from_be_bytes([a, b, c, d])), payload),
        _ => (None, value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(id: u32) -> Frames {
        let mut frames = Frames::default();
        frames.insert("teas", "tea.made.v1", id);
        frames
    }

    #[test]
    fn an_event_of_ours_is_framed_and_nothing_else_is() {
        let framed = frames(0x0102_0304).framed("teas", Some("tea.made.v1"), b"{}");
        assert_eq!(framed.as_deref(), Some(b"\0\x01\x02\x03\x04{}".as_slice()));
        for (topic, event_type) in [
            ("teas", Some("tea.drunk.v1")),
            ("teas_dlq", Some("tea.made.v1")),
            ("teas", None),
            ("cups", Some("tea.made.v1")),
        ] {
            assert_eq!(frames(1).framed(topic, event_type, b"{}"), None, "{topic} {event_type:?}");
        }
        assert_eq!(Frames::default().framed("teas", Some("tea.made.v1"), b"{}"), None);
    }

    #[test]
    fn what_is_in_no_frame_is_left_alone() {
        for (value, id, payload) in [
            (b"".as_slice(), None, b"".as_slice()),
            (b"{}", None, b"{}"),
            (b"\0", None, b"\0"),
            (b"\0\0\0\x01", None, b"\0\0\0\x01"),
            (b"\0\0\0\0\x01", Some(1), b""),
            (b"\0\xff\xff\xff\xff{}", Some(u32::MAX), b"{}"),
            (b"\x01\0\0\0\x01{}", None, b"\x01\0\0\0\x01{}"),
            (b" \0\0\0\x01{}", None, b" \0\0\0\x01{}"),
        ] {
            assert_eq!(unframed(value), (id, payload), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_put_into_a_frame_comes_out_of_it(id: u32, value: Vec<u8>) {
            let framed = frames(id).framed("teas", Some("tea.made.v1"), &value).expect("it is ours");
            prop_assert_eq!(unframed(&framed), (Some(id), value.as_slice()));
        }

        #[test]
        fn no_json_is_taken_for_a_frame(text: String, number: i64) {
            for json in [serde_json::json!(text), serde_json::json!(number), serde_json::json!({text: number})] {
                let json = json.to_string();
                prop_assert_eq!(unframed(json.as_bytes()), (None, json.as_bytes()));
            }
        }
    }
}
