//! The trail of an event: where it was published, how far it has come.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Row, Store, outbox};
use crate::error::Error;
use crate::message::Message;
use crate::params;

/// The time that may lie between an event's id and its recording: a transaction ends before, and clocks agree by then.
const RECORDED_WITHIN: Duration = Duration::from_secs(15);
/// Events read at once while looking for one.
const READ_MAX: u32 = 500;
/// Events read in all while looking for one.
const SEARCH_MAX: usize = 200_000;

/// A published event.
pub(crate) struct Published {
    pub(crate) id: i64,
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) recorded: Timestamp,
    pub(crate) message: Message,
}

/// Finds a published event by its id. An id tells the time at which it was made, and the event log is in the order of
/// time, so that little is read.
pub(crate) async fn published(store: &Store, event_id: &str) -> Result<Option<Published>, Error> {
    let Some(made) = made_at(event_id) else { return Ok(None) };
    let from = first_since(store, made - RECORDED_WITHIN).await?;
    let until = (made + RECORDED_WITHIN).as_microsecond();
    let (mut after, mut read) = (from - 1, 0);
    while read < SEARCH_MAX {
        let rows = store
            .query(
                "SELECT id, stream, seq, recorded_us, head, payload FROM event_log
                 WHERE id > $1 AND recorded_us <= $2 ORDER BY id LIMIT $3",
                params![after, until, READ_MAX],
            )
            .await?;
        let Some(last) = rows.last() else { return Ok(None) };
        (after, read) = (last.get(0)?, read + rows.len());
        for row in &rows {
            let event = event(store, row)?;
            if event.message.header("ce_id") == Some(event_id) {
                return Ok(Some(event));
            }
        }
    }
    Ok(None)
}

/// Tells whether an event of one of these streams was published or handled here.
pub(crate) async fn knows(store: &Store, streams: &[String]) -> Result<bool, Error> {
    for stream in streams {
        let sql = "SELECT CASE WHEN EXISTS (SELECT 1 FROM event_log WHERE stream = $1)
                             OR EXISTS (SELECT 1 FROM inbox WHERE stream = $1) THEN 1 ELSE 0 END";
        if store.query(sql, params![stream]).await?[0].get::<i64>(0)? == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn event(store: &Store, row: &Row) -> Result<Published, Error> {
    let seq = row.get(2)?;
    Ok(Published {
        id: row.get(0)?,
        stream: row.get(1)?,
        seq,
        recorded: row.get(3)?,
        message: outbox::message(store, &row.get::<Vec<u8>>(4)?, row.get(5)?, seq)?,
    })
}

/// The time at which an id of ours was made: a UUID of version 7 tells it.
fn made_at(event_id: &str) -> Option<Timestamp> {
    let (seconds, nanos) = Uuid::parse_str(event_id).ok()?.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, nanos.cast_signed()).ok()
}

/// The id of the first event that was recorded at this time or later, by halving what may be it.
async fn first_since(store: &Store, since: Timestamp) -> Result<i64, Error> {
    let ends = store.query("SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM event_log", &[]).await?;
    let (mut low, mut high): (i64, i64) = (ends[0].get(0)?, ends[0].get::<i64>(1)? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let rows = store
            .query("SELECT recorded_us FROM event_log WHERE id >= $1 ORDER BY id LIMIT 1", params![middle])
            .await?;
        let is_before = match rows.first() {
            Some(row) => row.get::<Timestamp>(0)? < since,
            None => false,
        };
        if is_before {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The state of a published event on its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// The broker has it.
    Sent,
    /// It waits in the outbox.
    Unsent,
    /// The broker refuses it, for this reason.
    Refused(String),
}

/// Looks up whether the broker has a published event.
pub(crate) async fn sending(store: &Store, id: i64) -> Result<Sending, Error> {
    let rows = store.query("SELECT blocked FROM outbox WHERE id = $1", params![id]).await?;
    Ok(match rows.first().map(|row| row.get(0)).transpose()? {
        None => Sending::Sent,
        Some(None) => Sending::Unsent,
        Some(Some(reason)) => Sending::Refused(reason),
    })
}

/// The events of streams that the broker does not have yet.
pub(crate) struct Unsent {
    pub(crate) count: u64,
    pub(crate) since: Option<Timestamp>,
}

/// Counts the events of a stream that wait in the outbox.
pub(crate) async fn unsent(store: &Store, stream: &str) -> Result<Unsent, Error> {
    let rows = store
        .query(
            "SELECT count(*), min(e.recorded_us) FROM event_log e JOIN outbox o ON o.id = e.id WHERE e.stream = $1",
            params![stream],
        )
        .await?;
    Ok(Unsent { count: rows[0].get(0)?, since: rows[0].get(1)? })
}

/// Returns the last number that a consumer has handled in a stream; 0 if none.
pub(crate) async fn last_handled(store: &Store, consumer: &str, stream: &str) -> Result<u64, Error> {
    let rows = store
        .query("SELECT seq FROM inbox WHERE stream = $1 AND consumer = $2", params![stream, consumer])
        .await?;
    rows.first().map_or(Ok(0), |row| row.get(0))
}

/// Returns when a consumer saw an event without a number, if it did.
pub(crate) async fn seen(store: &Store, consumer: &str, event_id: &str) -> Result<Option<Timestamp>, Error> {
    let rows = store
        .query(
            "SELECT seen_us FROM inbox_id WHERE consumer = $1 AND event_id = $2 LIMIT 1",
            params![consumer, event_id],
        )
        .await?;
    rows.first().map(|row| row.get(0)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_ours_tells_its_time() {
        let made = made_at("01932f2a-5b00-7000-8000-000000000000").expect("it is one of ours");
        assert_eq!(made.to_string(), "2024-11-15T09:32:05.248Z");
        assert_eq!(made_at("6ba7b810-9dad-41d1-80b4-00c04fd430c8"), None, "it is of version 4");
        assert_eq!(made_at("order-17"), None);
    }
}
