//! An operator's view of the outbox: events that the broker refuses, tried again or given up with an explained hole.

use jiff::Timestamp;
use serde_json::json;

use super::audit::{self, Operator};
use super::condition::Condition;
use super::database::Engine;
use super::pending::NEVER;
use super::{Row, Store, Tx, outbox, postgres};
use crate::error::Error;
use crate::message::{Draft, Message};
use crate::params;

/// An event of the outbox that the broker refuses.
pub(crate) struct RefusedRow {
    pub(crate) id: i64,
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) topic: String,
    pub(crate) recorded: Timestamp,
    pub(crate) error: String,
    /// No broker will ever take it.
    pub(crate) is_for_good: bool,
    /// The number of events that wait behind it.
    pub(crate) behind: u64,
    /// As it was to be sent, unless it cannot be read.
    pub(crate) message: Option<Message>,
}

const COLUMNS: &str = "e.id, e.stream, e.seq, e.topic, e.recorded_us, o.blocked, e.head, e.payload,
     (SELECT count(*) FROM outbox w JOIN event_log l ON l.id = w.id WHERE l.stream = e.stream AND l.seq > e.seq)";

impl RefusedRow {
    fn read(store: &Store, row: &Row) -> Result<Self, Error> {
        let (seq, blocked): (u64, String) = (row.get(2)?, row.get(5)?);
        Ok(Self {
            id: row.get(0)?,
            stream: row.get(1)?,
            seq,
            topic: row.get(3)?,
            recorded: row.get(4)?,
            is_for_good: blocked.starts_with(NEVER),
            error: blocked.trim_start_matches(NEVER).to_owned(),
            message: outbox::message(store, &row.get::<Vec<u8>>(6)?, row.get(7)?, seq).ok(),
            behind: row.get(8)?,
        })
    }

    /// The key of its stream.
    pub(crate) fn key(&self) -> &str {
        self.stream.split_once('/').map_or(&self.stream, |(_, key)| key)
    }
}

/// Lists refused events with ids above `after`, oldest first; of some streams or of one topic only, if they are given.
pub(crate) async fn list(
    store: &Store,
    streams: Option<&[String]>,
    topic: Option<&str>,
    after: i64,
    limit: u32,
) -> Result<Vec<RefusedRow>, Error> {
    let mut condition = Condition::new("o.blocked IS NOT NULL AND o.id > $1", vec![after.into()]);
    if let Some(streams) = streams {
        condition.one_of("e.stream", streams);
    }
    if let Some(topic) = topic {
        condition.and("e.topic", "=", topic);
    }
    let limit = condition.value(limit);
    let sql = format!(
        "SELECT {COLUMNS} FROM outbox o JOIN event_log e ON e.id = o.id WHERE {} ORDER BY o.id LIMIT {limit}",
        condition.sql
    );
    store.query(&sql, &condition.values).await?.iter().map(|row| RefusedRow::read(store, row)).collect()
}

/// A refused event.
pub(crate) async fn show(store: &Store, id: i64) -> Result<Option<RefusedRow>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM outbox o JOIN event_log e ON e.id = o.id WHERE o.blocked IS NOT NULL AND o.id = $1"
    );
    store.query(&sql, params![id]).await?.first().map(|row| RefusedRow::read(store, row)).transpose()
}

/// Has refused events sent again, all of them if none is named; returns how many.
pub(crate) async fn retry(store: &Store, ids: Option<&[i64]>, by: &Operator) -> Result<u64, Error> {
    let mut tx = store.begin().await?;
    let retried = match ids {
        None => tx.execute("UPDATE outbox SET blocked = NULL WHERE blocked IS NOT NULL", &[]).await?,
        Some(ids) => {
            let rows = ids.iter().map(|id| [(*id).into()]);
            let sql = "UPDATE outbox SET blocked = NULL WHERE id = $1 AND blocked IS NOT NULL";
            tx.execute_many(sql, rows).await?.into_iter().sum()
        }
    };
    if retried > 0 {
        let subject = format!("{retried} refused events");
        audit::record(&mut tx, by, "outbox.retry", &subject, &json!({"ids": ids})).await?;
    }
    let handle = store.clone();
    tx.after_commit(move || handle.refused_has_changed());
    tx.commit().await?;
    Ok(retried)
}

/// Gives a refused event up: in its place an event that says so is sent under its number, so that no reader sees a gap.
/// The event that was given up stands in the audit. Returns whether it was refused.
pub(crate) async fn discard(store: &Store, id: i64, by: &Operator) -> Result<bool, Error> {
    let mut tx = store.begin().await?;
    let sql = "SELECT id FROM outbox WHERE id = $1 AND blocked IS NOT NULL FOR UPDATE";
    if tx.query(sql, params![id]).await?.is_empty() {
        return Ok(false);
    }
    let sql = "SELECT stream, seq, topic, head, payload FROM event_log WHERE id = $1";
    let rows = tx.query(sql, params![id]).await?;
    let row = rows.first().ok_or_else(|| Error::corrupt(format!("the event log lacks event {id}")))?;
    let (stream, seq, topic): (String, u64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let message = outbox::message(store, &row.get::<Vec<u8>>(3)?, row.get(4)?, seq).ok();
    let is_numbered = message.as_ref().is_none_or(|message| message.header("ce_streamseq").is_some());
    if is_numbered {
        let hole = Draft::hole(stream.clone(), topic, message.as_ref(), &by.reason, tx.now());
        replace(&mut tx, id, seq, hole).await?;
        tx.execute("UPDATE outbox SET blocked = NULL WHERE id = $1", params![id]).await?;
    } else {
        // A copy for other tools, which no reader counts.
        tx.execute("DELETE FROM outbox WHERE id = $1", params![id]).await?;
    }
    let event = message.as_ref().map(|message| {
        json!({
            "event_id": message.header("ce_id"),
            "event_type": message.header("ce_type"),
            "payload": String::from_utf8_lossy(&message.value),
        })
    });
    let detail = json!({"stream": stream, "seq": seq, "before": event});
    audit::record(&mut tx, by, "outbox.discard", &id.to_string(), &detail).await?;
    let handle = store.clone();
    tx.after_commit(move || handle.refused_has_changed());
    tx.commit().await?;
    Ok(true)
}

async fn replace(tx: &mut Tx, id: i64, seq: u64, mut hole: Draft) -> Result<(), Error> {
    let head = match tx.store().database() {
        Engine::Sqlite(_) => {
            hole.number(seq);
            outbox::head(&hole.message)
        }
        Engine::Postgres(_) => postgres::outbox::head(&hole),
    };
    tx.execute(
        "UPDATE event_log SET head = $1, payload = $2 WHERE id = $3",
        params![&head[..], &hole.message.value[..], id],
    )
    .await
    .map(|_| ())
}
