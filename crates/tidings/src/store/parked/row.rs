//! A parked event as a row of its table.

use std::borrow::Cow;

use jiff::Timestamp;

use super::Parked;
use super::copy::shortened;
use crate::broker::Record;
use crate::envelope::Metadata;
use crate::error::Error;
use crate::failure::Failure;
use crate::message;
use crate::message::codec;
use crate::params;
use crate::store::{Param, Row, Tx};

/// The columns of a row by which an event is found; every text is one that the envelope's check let in.
#[derive(Default)]
pub(super) struct Identity<'a> {
    stream: Option<Cow<'a, str>>,
    seq: Option<u64>,
    source: Option<&'a str>,
    event_id: Option<&'a str>,
    event_type: Option<&'a str>,
}

impl<'a> Identity<'a> {
    pub(super) fn of(record: &'a Record, event: Option<&'a Metadata>) -> Self {
        match event {
            Some(event) => Self {
                stream: (!event.key.is_empty()).then(|| Cow::Borrowed(&*event.stream)),
                seq: event.seq,
                source: Some(&event.source),
                event_id: Some(&event.id),
                event_type: event_type(record, Some(event)),
            },
            None => Self {
                stream: record.message.key.is_some().then(|| record.message.key_stream(&record.topic).into()),
                event_type: event_type(record, None),
                ..Self::default()
            },
        }
    }
}

/// A row that is to be written.
pub(super) struct NewRow<'a> {
    consumer: &'a str,
    identity: Identity<'a>,
    record: &'a Record,
    failure: &'a Failure<'a>,
    message: Vec<u8>,
    digest: [u8; 16],
    error_message: Cow<'a, str>,
    fingerprint: String,
}

impl<'a> NewRow<'a> {
    pub(super) fn new(
        consumer: &'a str,
        record: &'a Record,
        identity: Identity<'a>,
        failure: &'a Failure<'a>,
    ) -> Self {
        let mut message = Vec::new();
        codec::put(&mut message, &record.message);
        // A position in a topic is an identity only within one life of the topic: the message itself decides too.
        let digest = message::digest([&message[..], &record.timestamp_us.to_le_bytes()]);
        let fingerprint = failure.fingerprint(identity.event_type);
        let error_message = shortened(failure.message);
        Self { consumer, identity, record, failure, message, digest, error_message, fingerprint }
    }

    fn params(&self, now: Timestamp) -> [Param<'_>; 19] {
        let Self { identity, record, failure, .. } = self;
        [
            self.consumer.into(),
            identity.stream.as_deref().into(),
            identity.seq.into(),
            identity.source.into(),
            identity.event_id.into(),
            identity.event_type.into(),
            (&*record.topic).into(),
            record.partition.into(),
            record.offset.into(),
            (&self.digest[..]).into(),
            record.timestamp_us.into(),
            (&self.message[..]).into(),
            failure.fate.state().into(),
            failure.attempts.into(),
            failure.fate.due().into(),
            now.into(),
            failure.fate.code().into(),
            (&*self.error_message).into(),
            (&self.fingerprint).into(),
        ]
    }
}

/// Writes rows; returns of each whether it is new.
pub(super) async fn insert(tx: &mut Tx, rows: &[NewRow<'_>]) -> Result<Vec<bool>, Error> {
    let now = tx.now();
    let inserted = tx
        .execute_many(
            "INSERT INTO parked (consumer, stream, seq, source, event_id, event_type, topic, partition, \"offset\",
                                 digest, timestamp_us, message, state, attempts, due_us, first_failed_us,
                                 last_failed_us, error_code, error_message, fingerprint)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18, $19)
             ON CONFLICT (consumer, topic, partition, \"offset\", digest) DO NOTHING",
            rows.iter().map(|row| row.params(now)),
        )
        .await?;
    Ok(inserted.into_iter().map(|inserted| inserted == 1).collect())
}

pub(super) async fn update(tx: &mut Tx, parked: &Parked, failure: &Failure<'_>) -> Result<(), Error> {
    tx.execute(
        "UPDATE parked SET state = $1, attempts = $2, due_us = $3, last_failed_us = $4,
                           error_code = $5, error_message = $6, fingerprint = $7 WHERE id = $8",
        params![
            failure.fate.state(),
            failure.attempts,
            failure.fate.due(),
            tx.now(),
            failure.fate.code(),
            &*shortened(failure.message),
            &failure.fingerprint(parked.event_type.as_deref()),
            parked.id
        ],
    )
    .await
    .map(|_| ())
}

pub(super) fn read(row: &Row) -> Result<Parked, Error> {
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

/// The type that handles an event, or at least the one it says it has, if that can be stored.
pub(super) fn event_type<'a>(record: &'a Record, event: Option<&'a Metadata>) -> Option<&'a str> {
    let known = event.map(|event| event.delivery.event_type).filter(|known| !known.is_empty());
    let said = || record.message.header("ce_type").filter(|said| message::is_storable_id(said));
    known.or_else(said)
}
