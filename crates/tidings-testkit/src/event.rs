//! An event type to test with.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

/// The topic of [`NoteTaken`].
pub const NOTES: &str = "notes";

/// Something was written down.
///
/// ```
/// use tidings::Event;
/// use tidings_testkit::event::NoteTaken;
///
/// assert_eq!((NoteTaken::TYPE, NoteTaken::TOPIC), ("note.taken.v1", "notes"));
/// assert_eq!(NoteTaken::new("k", 1).key(), "k");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "note.taken", version = 1, topic = "notes", key = key, alias = "note_taken")]
pub struct NoteTaken {
    /// What it is about.
    #[garde(length(min = 1))]
    pub key: String,
    /// Which one it is; 0 is no number, so that events can be invalid.
    #[garde(range(min = 1))]
    pub n: u64,
    /// Anything.
    #[garde(skip)]
    #[serde(default)]
    pub text: String,
}

impl NoteTaken {
    /// The `n`-th note about `key`.
    #[must_use]
    pub fn new(key: impl Into<String>, n: u64) -> Self {
        Self { key: key.into(), n, text: String::new() }
    }
}
