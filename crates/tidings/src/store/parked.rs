//! Events that wait in the consumer's database: for another try, behind one of their key, or dead.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Row, Store, Tx, inbox};
use crate::broker::Record;
use crate::envelope::Metadata;
use crate::error::Error;
use crate::failure::{DeadReason, Failure, Fate};
use crate::message::Headers;
use crate::message::codec;
use crate::message::{self, Draft, MESSAGE_BYTES_MAX, Message};
use crate::params;

/// Longest error message kept, in bytes.
const ERROR_MESSAGE_MAX: usize = 2048;
/// Largest dead letter that is copied whole, in bytes; its topic takes three times the largest event of ours.
const COPY_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX - 64 * 1024;
/// The difference that clocks of instances may have.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// A parked event.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) id: i64,
    pub(crate) stream: Option<String>,
    pub(crate) seq: Option<u64>,
    pub(crate) event_id: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) first_failed: Timestamp,
    pub(crate) event_type: Option<String>,
    pub(crate) record: Record,
}

/// Keeps an event that failed. One that waits makes its key wait behind it. A dead one is a row, and a copy for other
/// tools; only one with a place in a stream makes its key wait, since nothing depends on an event without number.
///
/// Returns whether it is new: a redelivered one is already there.
pub(crate) async fn keep(
    tx: &mut Tx,
    consumer: &str,
    record: &Record,
    event: Option<&Metadata>,
    failure: &Failure<'_>,
) -> Result<bool, Error> {
    if !insert(tx, consumer, record, event, failure).await? {
        return Ok(false);
    }
    let blocks = match failure.fate {
        Fate::Waits(..) => event.filter(|event| !event.key.is_empty()),
        Fate::Dead(_) => {
            let (now, handler) = (tx.now(), event_type(record, event));
            tx.draft(copy(consumer, record, handler, failure, now, now));
            event.filter(|event| event.seq.is_some())
        }
    };
    match blocks {
        Some(event) => inbox::block(tx, consumer, &event.stream).await.map(|()| true),
        None => Ok(true),
    }
}

/// Keeps of an event that cannot be kept as it is what always fits: its position and its bytes.
pub(crate) async fn bury_narrowly(
    tx: &mut Tx,
    consumer: &str,
    record: &Record,
    failure: &Failure<'_>,
) -> Result<(), Error> {
    insert_row(tx, consumer, record, &Identity::default(), failure).await?;
    let now = tx.now();
    tx.draft(copy(consumer, record, None, failure, now, now));
    tx.flush().await
}

/// Makes parked events due that wait for longer than they ever should: the clock was set back.
pub(crate) async fn mend_due(store: &Store, consumer: &str, pause_max: Duration) -> Result<(), Error> {
    let now = store.clock().now();
    let latest = now + pause_max + CLOCK_SLACK;
    let wrong = "SELECT 1 FROM parked WHERE consumer = $1 AND due_us > $2 LIMIT 1";
    if store.query(wrong, params![consumer, latest]).await?.is_empty() {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    let mended = tx
        .execute(
            "UPDATE parked SET due_us = $1 WHERE consumer = $2 AND due_us > $3",
            params![now, consumer, latest],
        )
        .await?;
    tx.commit().await?;
    tracing::warn!(
        consumer,
        mended,
        "parked events were due far in the future: the clock was set; they are due now"
    );
    Ok(())
}

/// Writes down that a parked event failed again. One that is given up is copied for other tools; its key goes on
/// waiting if the event has a place in a stream.
pub(crate) async fn fail_again(
    tx: &mut Tx,
    consumer: &str,
    parked: &Parked,
    failure: &Failure<'_>,
) -> Result<(), Error> {
    update(tx, parked, failure).await?;
    if let Fate::Dead(_) = failure.fate {
        let (now, handler) = (tx.now(), parked.event_type.as_deref());
        tx.draft(copy(consumer, &parked.record, handler, failure, parked.first_failed, now));
        if let (Some(stream), None) = (&parked.stream, parked.seq) {
            return release_next(tx, consumer, stream).await;
        }
    }
    Ok(())
}

/// Takes a handled event out and gives the next of its key its turn.
pub(crate) async fn resolve(tx: &mut Tx, consumer: &str, parked: &Parked) -> Result<(), Error> {
    tx.execute("DELETE FROM parked WHERE id = $1", params![parked.id]).await?;
    match &parked.stream {
        Some(stream) => release_next(tx, consumer, stream).await,
        None => Ok(()),
    }
}

/// Makes the next waiting event of a stream due, if it is next by number too, or lets the stream flow.
pub(crate) async fn release_next(tx: &mut Tx, consumer: &str, stream: &str) -> Result<(), Error> {
    inbox::pass_skipped(tx, consumer, stream).await?;
    let rows = tx
        .query(
            "SELECT p.id, p.seq, i.seq FROM parked p
             LEFT JOIN inbox i ON i.stream = p.stream AND i.consumer = p.consumer
             WHERE p.consumer = $1 AND p.stream = $2 AND p.state = 'waiting'
             ORDER BY p.seq IS NOT NULL, p.seq, p.id LIMIT 1",
            params![consumer, stream],
        )
        .await?;
    let Some(row) = rows.first() else {
        return inbox::unblock(tx, consumer, stream).await;
    };
    let (id, seq, last): (i64, Option<u64>, Option<u64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    if seq.is_none_or(|seq| seq <= last.unwrap_or(0) + 1) {
        tx.execute("UPDATE parked SET due_us = $1 WHERE id = $2", params![tx.now(), id]).await?;
    }
    Ok(())
}

/// The heads of streams whose turn has come.
pub(crate) async fn due(store: &Store, consumer: &str, limit: u32) -> Result<Vec<Parked>, Error> {
    let rows = store
        .query(
            "SELECT id, stream, seq, attempts, first_failed_us, topic, partition, \"offset\", timestamp_us, message, event_type,
                    event_id
             FROM parked WHERE consumer = $1 AND due_us <= $2 ORDER BY due_us LIMIT $3",
            params![consumer, store.clock().now(), limit],
        )
        .await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in &rows {
        match read(row) {
            Err(e) if e.is_corrupt() => give_up_corrupt(store, consumer, row.get(0)?, &e).await?,
            parked => due.push(parked?),
        }
    }
    Ok(due)
}

/// Gives a parked event up whose row cannot be read: others go on. Its key waits for an operator.
async fn give_up_corrupt(store: &Store, consumer: &str, id: i64, e: &Error) -> Result<(), Error> {
    tracing::error!(consumer, parked_id = id, error = %e, "a parked event cannot be read; it is dead");
    let mut tx = store.begin().await?;
    tx.execute(
        "UPDATE parked SET state = 'dead', due_us = NULL, error_code = $1, error_message = $2 WHERE id = $3",
        params![DeadReason::CorruptData.code(), &e.to_string(), id],
    )
    .await?;
    tx.commit().await
}

/// Takes a parked event up for another try; says whether it is still due and no other instance has it.
pub(crate) async fn claim(tx: &mut Tx, consumer: &str, parked: &Parked) -> Result<bool, Error> {
    if let Some(stream) = &parked.stream {
        inbox::lock(tx, consumer, stream).await?;
    }
    let rows = tx
        .query(
            "SELECT id FROM parked WHERE id = $1 AND due_us <= $2 FOR UPDATE SKIP LOCKED",
            params![parked.id, tx.now()],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Returns the earliest time at which a parked event of a consumer is due.
pub(crate) async fn next_due(store: &Store, consumer: &str) -> Result<Option<Timestamp>, Error> {
    let rows = store
        .query("SELECT min(due_us) FROM parked WHERE consumer = $1 AND due_us IS NOT NULL", params![consumer])
        .await?;
    rows[0].get(0)
}

/// Returns the number of a consumer's events that wait, and the number of those that are dead.
pub(crate) async fn counts(store: &Store, consumer: &str) -> Result<(u64, u64), Error> {
    let rows = store
        .query(
            "SELECT (SELECT count(*) FROM parked WHERE consumer = $1 AND state = 'waiting'),
                    (SELECT count(*) FROM parked WHERE consumer = $1 AND state = 'dead')",
            params![consumer],
        )
        .await?;
    Ok((rows[0].get(0)?, rows[0].get(1)?))
}

/// The columns of a row by which an event is found; every text is one that the envelope's check let in.
#[derive(Default)]
struct Identity<'a> {
    stream: Option<Cow<'a, str>>,
    seq: Option<u64>,
    source: Option<&'a str>,
    event_id: Option<&'a str>,
    event_type: Option<&'a str>,
}

async fn insert(
    tx: &mut Tx,
    consumer: &str,
    record: &Record,
    event: Option<&Metadata>,
    failure: &Failure<'_>,
) -> Result<bool, Error> {
    let identity = match event {
        Some(event) => Identity {
            stream: (!event.key.is_empty()).then(|| Cow::Borrowed(&*event.stream)),
            seq: event.seq,
            source: Some(&event.source),
            event_id: Some(&event.id),
            event_type: event_type(record, Some(event)),
        },
        None => Identity {
            stream: record.message.key.is_some().then(|| record.message.key_stream(&record.topic).into()),
            event_type: event_type(record, None),
            ..Identity::default()
        },
    };
    insert_row(tx, consumer, record, &identity, failure).await
}

/// A position in a topic is an identity only within one life of the topic: the message itself decides too.
async fn insert_row(
    tx: &mut Tx,
    consumer: &str,
    record: &Record,
    identity: &Identity<'_>,
    failure: &Failure<'_>,
) -> Result<bool, Error> {
    let mut message = Vec::new();
    codec::put(&mut message, &record.message);
    let digest = message::digest([&message[..], &record.timestamp_us.to_le_bytes()]);
    tx.execute(
        "INSERT INTO parked (consumer, stream, seq, source, event_id, event_type, topic, partition, \"offset\",
                             digest, timestamp_us, message, state, attempts, due_us, first_failed_us,
                             last_failed_us, error_code, error_message)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18)
         ON CONFLICT (consumer, topic, partition, \"offset\", digest) DO NOTHING",
        params![
            consumer,
            identity.stream.as_deref(),
            identity.seq,
            identity.source,
            identity.event_id,
            identity.event_type,
            &*record.topic,
            record.partition,
            record.offset,
            &digest[..],
            record.timestamp_us,
            &message[..],
            failure.fate.state(),
            failure.attempts,
            failure.fate.due(),
            tx.now(),
            failure.fate.code(),
            &*shortened(failure.message)
        ],
    )
    .await
    .map(|inserted| inserted == 1)
}

async fn update(tx: &mut Tx, parked: &Parked, failure: &Failure<'_>) -> Result<(), Error> {
    tx.execute(
        "UPDATE parked SET state = $1, attempts = $2, due_us = $3, last_failed_us = $4,
                           error_code = $5, error_message = $6 WHERE id = $7",
        params![
            failure.fate.state(),
            failure.attempts,
            failure.fate.due(),
            tx.now(),
            failure.fate.code(),
            &*shortened(failure.message),
            parked.id
        ],
    )
    .await
    .map(|_| ())
}

pub(crate) fn read(row: &Row) -> Result<Parked, Error> {
    let message: Vec<u8> = row.get(9)?;
    let message = codec::take(&mut &message[..])?;
    let topic: String = row.get(5)?;
    Ok(Parked {
        id: row.get(0)?,
        stream: row.get(1)?,
        seq: row.get(2)?,
        attempts: row.get(3)?,
        first_failed: row.get(4)?,
        event_type: row.get(10)?,
        event_id: row.get(11)?,
        record: Record {
            topic: topic.into(),
            partition: row.get(6)?,
            offset: row.get(7)?,
            timestamp_us: row.get(8)?,
            message: message.into(),
            unreadable: None,
        },
    })
}

/// The copy on `<group>_dlq`: key, value and headers as they came, and this death, as `dlq_*`.
fn copy(
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

/// The type that handles an event, or at least the one it says it has, if that can be stored.
fn event_type<'a>(record: &'a Record, event: Option<&'a Metadata>) -> Option<&'a str> {
    let known = event.map(|event| event.delivery.event_type).filter(|known| !known.is_empty());
    let said = || record.message.header("ce_type").filter(|said| message::is_storable_id(said));
    known.or_else(said)
}

/// The beginning of an error message, of characters that can be stored.
fn shortened(message: &str) -> Cow<'_, str> {
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
