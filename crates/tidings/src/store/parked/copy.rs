//! The copy of a dead letter on `<group>_dlq`, for other tools.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;

use crate::broker::Record;
use crate::failure::Failure;
use crate::message::{Draft, Headers, MESSAGE_BYTES_MAX, Message};

/// Longest error message kept, in bytes.
const ERROR_MESSAGE_MAX: usize = 2048;
/// Largest dead letter that is copied whole, in bytes; its topic takes three times the largest event of ours.
const COPY_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX - 64 * 1024;

/// The copy on `<group>_dlq`: key, value and headers as they came, and this death, as `dlq_*`.
pub(super) fn copy(
    consumer: &str,
    record: &Record,
    handler: Option<&str>,
    failure: &Failure<'_>,
    first_failed: Timestamp,
    last_failed: Timestamp,
) -> Draft {
    let topic = format!("{consumer}_dlq");
    let mut message = Message::clone(&record.message);
    // It may have been dead before, and brought back by another tool.
    message.headers.retain(|name, _| !name.starts_with("dlq_"));
    let left_out = message.value.len();
    if message.size() > COPY_BYTES_MAX {
        (message.value, message.headers) = (Bytes::new(), Headers::default());
    }
    let mut put = |name, value: &str| message.headers.push(name, value.as_bytes());
    if message.value.len() < left_out {
        put("dlq_left_out", &format!("headers and a value of {left_out} bytes; the row has them"));
    }
    let original_time = Timestamp::from_microsecond(record.timestamp_us).unwrap_or_default();
    put("dlq_original_topic", &record.topic);
    put("dlq_original_partition", &record.partition.to_string());
    put("dlq_original_offset", &record.offset.to_string());
    put("dlq_original_timestamp", &original_time.to_string());
    put("dlq_consumer_group", consumer);
    put("dlq_handler", handler.unwrap_or("none"));
    put("dlq_attempts", &failure.attempts.to_string());
    put("dlq_first_failed_at", &first_failed.to_string());
    put("dlq_last_failed_at", &last_failed.to_string());
    put("dlq_error_code", failure.fate.code());
    put("dlq_error_message", &shortened(failure.message));
    Draft { stream: message.key_stream(&topic), topic: topic.into(), message, numbered: false }
}

/// The beginning of an error message, of characters that can be stored.
pub(super) fn shortened(message: &str) -> Cow<'_, str> {
    let mut end = message.len().min(ERROR_MESSAGE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    match message[..end].contains('\0') {
        false => Cow::Borrowed(&message[..end]),
        true => Cow::Owned(message[..end].replace('\0', "\u{fffd}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{DeadReason, Fate};

    #[test]
    fn the_copy_of_a_message_that_is_too_large_says_what_it_leaves_out() {
        let record = |bytes: usize| Record {
            topic: "notes".into(),
            partition: 0,
            offset: 7,
            timestamp_us: 0,
            message: Message { key: Some("a".into()), value: vec![b'x'; bytes].into(), ..Message::default() }
                .into(),
            unreadable: None,
        };
        let fate = Fate::Dead(DeadReason::EnvelopeUndecodable);
        let failure = Failure { fate, message: "no\0thing", attempts: 1 };
        let copied = |bytes| {
            let now = Timestamp::UNIX_EPOCH;
            copy("readers", &record(bytes), None, &failure, now, now).message
        };
        assert_eq!(copied(1024).value.len(), 1024);
        assert_eq!(copied(1024).header("dlq_left_out"), None);
        let large = copied(3 * 1024 * 1024);
        assert!(large.size() < 3 * MESSAGE_BYTES_MAX && large.value.is_empty());
        assert_eq!((large.key_text().as_ref(), large.header("dlq_original_offset")), ("a", Some("7")));
        assert!(large.header("dlq_left_out").is_some_and(|told| told.contains("3145728")), "{large:?}");
        assert_eq!(large.header("dlq_error_message"), Some("no\u{fffd}thing"));
    }
}
