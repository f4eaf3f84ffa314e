//! The only way out: events are numbered, kept and queued in the transaction that states them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, OptionalExtension, params};

use super::database::{Engine, Transaction};
use super::hand_over::HandOver;
use super::pending::NEVER;
pub(crate) use super::pending::Pending;
use super::{Store, Tx, postgres};
use crate::error::Error;
use crate::message::codec;
use crate::message::{Draft, Message};
use crate::sqlite;

/// Events on their way from commit to relay; beyond it the relay reads the table.
const HAND_OVER_MAX: usize = 4096;

/// Committed events on their way to the relay of this process.
pub(crate) struct Outbox {
    pub(crate) committed: HandOver<Pending>,
    /// SQLite has one writer, which counts; PostgreSQL has a sequence.
    next_id: AtomicI64,
}

impl Outbox {
    pub(super) fn of(database: &Engine) -> Result<Self, Error> {
        let next_id = match database {
            Engine::Sqlite(database) => database.set_up(last_id)? + 1,
            Engine::Postgres(_) => 0,
        };
        Ok(Self { committed: HandOver::new(HAND_OVER_MAX), next_id: next_id.into() })
    }
}

/// A published event, read back from `event_log`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredEvent {
    /// Its number in its stream.
    pub seq: u64,
    /// The time at which the event was recorded, in microseconds since 1970.
    pub recorded_us: i64,
    /// As it was sent.
    pub message: Message,
}

/// The pending events, and how they may be read.
pub(crate) enum PendingSet {
    /// One process writes: ids come in the order of commits, and reading can go on behind the highest one seen.
    Ordered(Arc<sqlite::SqliteFile>),
    /// Many processes write and relay: what has a lower id may be committed later.
    Shared(Arc<postgres::Database>),
}

/// Numbers the drafts and writes them; what it returns may be sent once the transaction has committed.
pub(super) async fn write(tx: &mut Tx, drafts: Vec<Draft>) -> Result<Vec<Pending>, Error> {
    let recorded_us = tx.now().as_microsecond();
    let store = tx.store().clone();
    match tx.unit().await? {
        Transaction::Sqlite(unit) => {
            write_to_sqlite(unit.connection(), &store.outbox().next_id, drafts, recorded_us)
        }
        Transaction::Postgres(unit) => postgres::outbox::write(unit, drafts, recorded_us).await,
    }
}

/// The write connection is the lock under which a stream's next number is taken: it is held to the
/// commit, and no other transaction writes. So the last number can be read where it stands, in the event log;
/// a row of its own for each stream would cost as much again as the event.
fn write_to_sqlite(
    connection: &Connection,
    next_id: &AtomicI64,
    drafts: Vec<Draft>,
    recorded_us: i64,
) -> Result<Vec<Pending>, Error> {
    let failed = |e| Error::store("cannot write an event", e);
    let mut head =
        connection.prepare_cached("SELECT max(seq) FROM event_log WHERE stream = ?1").map_err(failed)?;
    let mut log = connection
        .prepare_cached(
            "INSERT INTO event_log (id, stream, seq, topic, recorded_us, head, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .map_err(failed)?;
    let mut outbox = connection.prepare_cached("INSERT INTO outbox (id) VALUES (?1)").map_err(failed)?;
    let mut pending = Vec::with_capacity(drafts.len());
    let mut encoded = Vec::new();
    for mut draft in drafts {
        let last: Option<i64> = head.query_row([&draft.stream], |row| row.get(0)).map_err(failed)?;
        let seq = last.unwrap_or(0) + 1;
        draft.number(seq.unsigned_abs());
        let message = draft.message;
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        encoded.clear();
        codec::put_head(&mut encoded, &message);
        log.execute(params![
            id,
            draft.stream,
            seq,
            draft.topic,
            recorded_us,
            &encoded[..],
            &message.value[..]
        ])
        .map_err(failed)?;
        outbox.execute([id]).map_err(failed)?;
        pending.push(Pending {
            id,
            stream: draft.stream.into(),
            seq,
            topic: draft.topic,
            recorded_us,
            message: Arc::new(message),
            blocked: None,
        });
    }
    Ok(pending)
}

/// Pending events with an id above `after`, in commit order.
///
/// One writer gives ids out in commit order, so nothing can appear below an id that was seen.
pub(crate) async fn scan(
    database: &sqlite::SqliteFile,
    after: i64,
    limit: usize,
) -> Result<Vec<Pending>, Error> {
    database
        .read(|connection| {
            let failed = |e| Error::store("cannot read the outbox", e);
            connection
                .prepare_cached(
                    "SELECT o.id, e.stream, e.seq, e.topic, o.blocked, e.head, e.payload, e.recorded_us
                     FROM outbox o JOIN event_log e ON e.id = o.id
                     WHERE o.id > ?1 ORDER BY o.id LIMIT ?2",
                )
                .map_err(failed)?
                .query_map(params![after, limit as i64], |row| {
                    let stream: String = row.get(1)?;
                    let topic: String = row.get(3)?;
                    let pending = Pending {
                        id: row.get(0)?,
                        stream: stream.into(),
                        seq: row.get(2)?,
                        topic: topic.into(),
                        recorded_us: row.get(7)?,
                        message: Arc::default(),
                        blocked: row.get(4)?,
                    };
                    Ok((pending, row.get(5)?, row.get(6)?))
                })
                .map_err(failed)?
                .map(|row| {
                    let (pending, head, payload): (Pending, Vec<u8>, Vec<u8>) = row.map_err(failed)?;
                    Ok(pending.with(decode(&head, payload)))
                })
                .collect()
        })
        .await
}

/// Removes acknowledged events with the next commit: a crash before it sends them again, with the
/// same ids, which every inbox recognises.
pub(crate) fn delete(database: &Arc<sqlite::SqliteFile>, mut ids: Vec<i64>) {
    ids.sort_unstable();
    database.defer(move |connection| {
        let mut delete = connection.prepare_cached("DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2")?;
        for run in runs(&ids) {
            delete.execute([run.0, run.1])?;
        }
        Ok(())
    });
}

/// Marks an event that the broker does not take: its stream waits, others go on.
pub(crate) async fn block(store: &Store, id: i64, e: &Error) -> Result<(), Error> {
    let reason = format!("{}{e}", if e.is_unacceptable() { NEVER } else { "" }).replace('\0', "");
    let mut tx = store.begin().await?;
    tx.execute("UPDATE outbox SET blocked = $1 WHERE id = $2", crate::params![&reason, id]).await?;
    tx.commit().await
}

/// The events that wait for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) pending: u64,
    /// The time at which the oldest was recorded, in microseconds since 1970.
    pub(crate) oldest_us: Option<i64>,
    /// Those that the broker refused when it was last asked.
    pub(crate) blocked: u64,
}

pub(crate) async fn backlog(store: &Store) -> Result<Backlog, Error> {
    let rows = store
        .query(
            "SELECT count(*), (SELECT recorded_us FROM event_log WHERE id = (SELECT min(id) FROM outbox)),
                    count(blocked) FROM outbox",
            &[],
        )
        .await?;
    Ok(Backlog { pending: rows[0].get(0)?, oldest_us: rows[0].get(1)?, blocked: rows[0].get(2)? })
}

impl Store {
    /// The pending events.
    pub(crate) fn pending(&self) -> PendingSet {
        match self.database() {
            Engine::Sqlite(database) => PendingSet::Ordered(database.clone()),
            Engine::Postgres(database) => PendingSet::Shared(database.clone()),
        }
    }

    /// Every event published in a stream, in order.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::{TestApp, event::NoteTaken};
    /// # async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> { tx.publish(note).await }
    /// # #[tokio::main] async fn main() -> Result<(), Error> {
    /// # let app = TestApp::start([Service::new("notes").publishes::<NoteTaken>().post("/notes", take)]).await;
    /// app.post("/notes", &NoteTaken::new("k", 1)).await;
    /// let stored = app.service("notes").store().published("notes/k").await?;
    /// assert_eq!(stored[0].message.header("ce_type"), Some("note.taken.v1"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// An unusable database.
    pub async fn published(&self, stream: &str) -> Result<Vec<StoredEvent>, Error> {
        self.published_between(stream, 1, i64::MAX as u64).await
    }

    /// The events published in a stream under these numbers, in order.
    pub(crate) async fn published_between(
        &self,
        stream: &str,
        first: u64,
        last: u64,
    ) -> Result<Vec<StoredEvent>, Error> {
        let rows = self
            .query(
                "SELECT seq, recorded_us, head, payload FROM event_log
                 WHERE stream = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq",
                crate::params![stream, first, last],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let (seq, head): (u64, Vec<u8>) = (row.get(0)?, row.get(2)?);
                let message = message(self, &head, row.get(3)?, seq)?;
                Ok(StoredEvent { seq, recorded_us: row.get(1)?, message })
            })
            .collect()
    }
}

/// A message of the event log.
pub(super) fn message(store: &Store, head: &[u8], payload: Vec<u8>, seq: u64) -> Result<Message, Error> {
    match store.database() {
        Engine::Sqlite(_) => decode(head, payload),
        Engine::Postgres(_) => postgres::outbox::decode(head, payload, seq.cast_signed()),
    }
}

/// Key and headers as SQLite's event log has them.
pub(super) fn head(message: &Message) -> Vec<u8> {
    let mut encoded = Vec::new();
    codec::put_head(&mut encoded, message);
    encoded
}

fn last_id(connection: &Connection) -> Result<i64, Error> {
    let last: Option<i64> = connection
        .query_row("SELECT max(id) FROM event_log", [], |row| row.get(0))
        .optional()
        .map_err(|e| Error::store("cannot read the event log", e))?
        .flatten();
    Ok(last.unwrap_or(0))
}

fn decode(head: &[u8], payload: Vec<u8>) -> Result<Message, Error> {
    let mut message = codec::take_head(&mut &*head)?;
    message.value = payload.into();
    Ok(message)
}

/// Runs of consecutive ids, as (first, last).
fn runs(sorted: &[i64]) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for &id in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => runs.push((id, id)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn only_consecutive_ids_share_a_delete() {
        assert_eq!(runs(&[1, 2, 3, 5, 8, 9]), [(1, 3), (5, 5), (8, 9)]);
        assert_eq!(runs(&[]), []);
    }
}
