//! Records as the client gives them, made into ours: many share an allocation.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use super::super::Record;
use crate::message::{Headers, Message};
use crate::panic::panic_message;

/// Bytes of messages that share one allocation.
const ARENA_BYTES: usize = 64 * 1024;

/// The buffer for the keys and values of messages: many messages share one allocation.
#[derive(Default)]
pub(super) struct Arena {
    bytes: bytes::BytesMut,
    /// The size of the last message's headers: most messages of a topic are alike.
    headers: usize,
}

impl Arena {
    pub(super) fn record(&mut self, topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Record {
        let (content, unreadable) = self.message(message);
        Record {
            topic: topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_us: match message.timestamp() {
                Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms * 1000,
                Timestamp::NotAvailable => 0,
            },
            message: Arc::new(content),
            unreadable,
        }
    }

    /// Copies a message; the headers that the client cannot represent are left out and told.
    fn message(&mut self, message: &BorrowedMessage<'_>) -> (Message, Option<String>) {
        let key = message.key().map(|key| self.put(key));
        let value = message.payload().map(|value| self.put(value)).unwrap_or_default();
        let mut headers = Headers::with_capacity(self.headers);
        let mut unreadable = None;
        if let Some(found) = message.headers() {
            for at in 0..found.count() {
                match unless_it_panics(|| found.get(at)) {
                    Ok(header) => match header.value {
                        Some(value) => headers.push(header.key, value),
                        None => headers.push_null(header.key),
                    },
                    Err(panic) => unreadable = Some(format!("header {at} cannot be read: {panic}")),
                }
            }
        }
        self.headers = headers.size();
        let is_tombstone = message.payload().is_none();
        (Message { key, headers, value, is_tombstone }, unreadable)
    }

    fn put(&mut self, bytes: &[u8]) -> bytes::Bytes {
        if self.bytes.capacity() < bytes.len() {
            self.bytes.reserve(ARENA_BYTES.max(bytes.len()));
        }
        self.bytes.extend_from_slice(bytes);
        self.bytes.split().freeze()
    }
}

/// Reads what the client's wrapper may be unable to represent, though the broker takes it: it panics then.
fn unless_it_panics<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| panic_message(&*panic).to_owned())
}

#[cfg(test)]
mod tests {
    use super::unless_it_panics;

    #[test]
    fn a_panic_of_the_client_is_the_records() {
        assert_eq!(unless_it_panics(|| 1), Ok(1));
        assert_eq!(unless_it_panics(|| -> u8 { panic!("not {}", "text") }), Err("not text".to_owned()));
    }
}
