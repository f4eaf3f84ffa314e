//! A fact on the wire: key, headers, value. The only thing a broker sees.
//!
//! | Module | Is |
//! |---|---|
//! | `names` | names of headers, and how they and lengths are written |
//! | `headers` | headers, in one allocation |
//! | `codec` | messages in tables and in the embedded log |
//! | `frame` | the id of a schema in front of a payload |
//! | `draft` | an event on its way out: CloudEvents 1.0, Kafka binding, binary mode |
//! | `read` | an event on its way in: that mode, structured mode, plain JSON |

pub(crate) mod codec;
mod draft;
pub(crate) mod frame;
mod headers;
mod names;
mod read;

use std::borrow::Cow;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::event::stream;

pub(crate) use draft::{Draft, SUPERSEDED_BY};
pub use headers::Headers;
pub(crate) use names::STREAM_SEQ;
pub(crate) use read::{Incoming, positive, read};

/// Largest key + headers + value of a published message, in bytes; half of Kafka's default limit.
pub const MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// Longest id and type, source, and key of an event, in bytes: with the names of a topic and a group, each fits
/// an index entry of PostgreSQL (2,704 bytes).
const ID_BYTES_MAX: usize = 512;
const SOURCE_BYTES_MAX: usize = 1024;
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// Key, headers and value, as a broker stores them.
///
/// ```
/// use tidings::{Headers, Message};
///
/// let mut message = Message::default();
/// message.key = Some("p1".into());
/// message.headers = Headers::from([("ce_type", "parcel.sent.v1")]);
/// message.value = r#"{"id": "p1"}"#.into();
/// assert_eq!(message.header("ce_type"), Some("parcel.sent.v1"));
/// assert_eq!(message.key_text(), "p1");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The partition is chosen from it; messages without a key go round.
    pub key: Option<Bytes>,
    /// The headers beside the payload.
    pub headers: Headers,
    /// The payload.
    pub value: Bytes,
    /// There is no payload at all, which is another thing than an empty one.
    pub is_tombstone: bool,
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
        self.key.as_ref().map_or(0, Bytes::len) + self.headers.size() + self.value.len()
    }

    /// The key as text, for logs and listings.
    #[must_use]
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default())
    }

    /// A stream that its key stands for; a key that is no text, or too long to be looked up, by its digest.
    pub(crate) fn key_stream(&self, topic: &str) -> String {
        let key = self.key.as_deref().unwrap_or_default();
        match std::str::from_utf8(key) {
            Ok(text) if storable(text, "key", KEY_BYTES_MAX).is_ok() => stream(topic, text),
            _ => {
                let digest: String = digest([key]).iter().map(|byte| format!("{byte:02x}")).collect();
                stream(topic, &format!("sha256:{digest}"))
            }
        }
    }
}

/// A short digest: what tells two messages apart that claim to be one.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

/// Checks that a database can hold and index a text.
fn storable(text: &str, name: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!("the {name} has {} bytes, of at most {bytes_max}", text.len()));
    }
    // Short, and looked at for every event: a search that stops early costs more.
    if text.bytes().fold(false, |found, byte| found | (byte == 0)) {
        return Err(format!("the {name} has the character U+0000, which cannot be stored"));
    }
    Ok(())
}

/// Tells whether a text from a header can be stored as an id or a type.
pub(crate) fn is_storable_id(text: &str) -> bool {
    storable(text, "", ID_BYTES_MAX).is_ok()
}
