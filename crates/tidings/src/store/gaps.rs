//! An operator's view of streams that wait for events that have not arrived.

use jiff::Timestamp;
use serde_json::json;

use super::audit::{self, Operator};
use super::{Param, Store, inbox, parked};
use crate::error::Error;
use crate::params;

/// A stream that waits for events.
pub(crate) struct Gap {
    pub(crate) group: String,
    pub(crate) stream: String,
    /// The first and the last number that are missing.
    pub(crate) missing: (u64, u64),
    /// The number of events that wait behind them.
    pub(crate) waiting: u64,
    pub(crate) since: Timestamp,
}

/// Lists the streams that wait for events, the one that has waited longest first; only `stream`, if it is given.
pub(crate) async fn list(store: &Store, stream: Option<&str>) -> Result<Vec<Gap>, Error> {
    let (of_stream, values) = match stream {
        Some(stream) => ("AND p.stream = $1", vec![Param::from(stream)]),
        None => ("", Vec::new()),
    };
    // A stream behind a dead letter, or behind an event that is tried again, waits for that one.
    let sql = format!(
        "SELECT g.consumer, g.stream, g.last + 1, g.first - 1, g.waiting, g.since FROM (
             SELECT p.consumer AS consumer, p.stream AS stream, coalesce(max(i.seq), 0) AS last,
                    min(p.seq) AS first, count(*) AS waiting, min(p.first_failed_us) AS since
             FROM parked p LEFT JOIN inbox i ON i.stream = p.stream AND i.consumer = p.consumer
             WHERE p.state = 'waiting' AND p.seq IS NOT NULL {of_stream}
             GROUP BY p.consumer, p.stream) g
         WHERE g.first > g.last + 1 AND NOT EXISTS (
             SELECT 1 FROM parked d WHERE d.consumer = g.consumer AND d.stream = g.stream
             AND (d.due_us IS NOT NULL OR (d.state = 'dead' AND d.seq = g.last + 1)))
         ORDER BY g.since"
    );
    let rows = store.query(&sql, &values).await?;
    rows.iter()
        .map(|row| {
            Ok(Gap {
                group: row.get(0)?,
                stream: row.get(1)?,
                missing: (row.get(2)?, row.get(3)?),
                waiting: row.get(4)?,
                since: row.get(5)?,
            })
        })
        .collect()
}

/// Returns the number of a consumer's streams that wait for events, as [`list`] has them.
pub(crate) async fn count(store: &Store, consumer: &str) -> Result<u64, Error> {
    let rows = store
        .query(
            "SELECT count(*) FROM (
                 SELECT stream, min(seq) AS first FROM parked
                 WHERE consumer = $1 AND state = 'waiting' AND seq IS NOT NULL GROUP BY stream) g
             WHERE g.first > 1 + coalesce((SELECT i.seq FROM inbox i WHERE i.stream = g.stream AND i.consumer = $1), 0)
             AND NOT EXISTS (
                 SELECT 1 FROM parked d WHERE d.consumer = $1 AND d.stream = g.stream
                 AND (d.due_us IS NOT NULL OR (d.state = 'dead' AND d.seq = 1 + coalesce(
                     (SELECT i.seq FROM inbox i WHERE i.stream = g.stream AND i.consumer = $1), 0))))",
            params![consumer],
        )
        .await?;
    rows[0].get(0)
}

/// Has a stream go on without the events that are missing; returns the numbers that it passes, if it waits for some.
pub(crate) async fn skip(store: &Store, stream: &str, by: &Operator) -> Result<Option<(u64, u64)>, Error> {
    let Some(gap) = list(store, Some(stream)).await?.into_iter().next() else { return Ok(None) };
    let mut tx = store.begin().await?;
    let position = inbox::lock(&mut tx, &gap.group, &[stream]).await?[0];
    let (first, last) = gap.missing;
    if position.last + 1 != first {
        // One of them has arrived meanwhile.
        return Ok(None);
    }
    tx.execute(
        "UPDATE inbox SET seq = $1, last_id = 0 WHERE stream = $2 AND consumer = $3",
        params![last, stream, &gap.group],
    )
    .await?;
    parked::release(&mut tx, &gap.group, &[stream]).await?;
    audit::record(&mut tx, by, "gap.skip", stream, &json!({"first": first, "last": last})).await?;
    let handle = store.clone();
    tx.after_commit(move || handle.parked_has_changed());
    tx.commit().await?;
    Ok(Some((first, last)))
}
