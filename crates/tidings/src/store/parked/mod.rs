//! Events that wait in the consumer's database: for another try, behind one of their key, or dead.

mod copy;
mod row;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use self::copy::copy;
use self::row::{Identity, NewRow, event_type, insert, update};
use super::{Store, Tx, inbox};
use crate::broker::Record;
use crate::envelope::Metadata;
use crate::error::Error;
use crate::failure::{DeadReason, Failure, Fate, WaitReason};
use crate::params;

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
    let row = NewRow::new(consumer, record, Identity::of(record, event), failure);
    if insert(tx, &[row]).await? != [true] {
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
        Some(event) => inbox::block(tx, consumer, &[&event.stream]).await.map(|()| true),
        None => Ok(true),
    }
}

/// Keeps events that wait, and makes their streams wait behind them; returns of each whether it is new.
pub(crate) async fn keep_waiting(
    tx: &mut Tx,
    consumer: &str,
    events: &[(&Record, &Metadata, Failure<'_>)],
) -> Result<Vec<bool>, Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<NewRow<'_>> = events
        .iter()
        .map(|(record, event, failure)| {
            NewRow::new(consumer, record, Identity::of(record, Some(event)), failure)
        })
        .collect();
    let mut streams: Vec<&str> = events.iter().map(|(_, event, _)| &*event.stream).collect();
    streams.sort_unstable();
    streams.dedup();
    let are_new = insert(tx, &rows).await?;
    inbox::block(tx, consumer, &streams).await?;
    Ok(are_new)
}

/// Keeps of an event that cannot be kept as it is what always fits: its position and its bytes.
pub(crate) async fn bury_narrowly(
    tx: &mut Tx,
    consumer: &str,
    record: &Record,
    failure: &Failure<'_>,
) -> Result<(), Error> {
    insert(tx, &[NewRow::new(consumer, record, Identity::default(), failure)]).await?;
    let now = tx.now();
    tx.draft(copy(consumer, record, None, failure, now, now));
    tx.flush().await
}

/// Streams in one transaction when what waits for a reason is released: there may be as many as may be parked.
const RELEASED_AT_ONCE: u32 = 256;

/// Gives events that wait for this reason their turn, each behind what waits of its key. May be asked for again: what
/// was released before is only due once more.
pub(crate) async fn release_all(store: &Store, reason: WaitReason) -> Result<(), Error> {
    let code: &str = reason.into();
    let mut after = (String::new(), String::new());
    loop {
        let mut tx = store.begin().await?;
        let rows = tx
            .query(
                "SELECT DISTINCT consumer, stream FROM parked WHERE state = 'waiting' AND error_code = $1
                 AND (consumer, stream) > ($2, $3) ORDER BY consumer, stream LIMIT $4",
                params![code, &after.0, &after.1, RELEASED_AT_ONCE],
            )
            .await?;
        let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in &rows {
            after = (row.get(0)?, row.get(1)?);
            streams.entry(after.0.clone()).or_default().push(after.1.clone());
        }
        for (consumer, streams) in &streams {
            let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
            release(&mut tx, consumer, &streams).await?;
        }
        if rows.is_empty() {
            let now = tx.now();
            let sql = "UPDATE parked SET due_us = $1 WHERE state = 'waiting' AND error_code = $2 AND stream IS NULL";
            tx.execute(sql, params![now, code]).await?;
        }
        tx.commit().await?;
        store.parked_has_changed();
        if rows.is_empty() {
            return Ok(());
        }
    }
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
            return release(tx, consumer, &[stream]).await;
        }
    }
    Ok(())
}

/// Takes handled events of different streams out, and gives the next of each stream its turn.
pub(crate) async fn resolve(tx: &mut Tx, consumer: &str, parked: &[&Parked]) -> Result<(), Error> {
    let ids = parked.iter().map(|parked| [parked.id.into()]);
    tx.execute_many("DELETE FROM parked WHERE id = $1", ids).await?;
    release(tx, consumer, &streams(parked)).await
}

/// The streams of parked events, each once, in the order in which they are locked.
fn streams<'a>(parked: &[&'a Parked]) -> Vec<&'a str> {
    let mut streams: Vec<&str> = parked.iter().filter_map(|parked| parked.stream.as_deref()).collect();
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// The next waiting event of a stream, beside the last number that was handled: those without a number come first.
///
/// `IS TRUE` keeps the index on states out of it: by PostgreSQL's statistics hardly anything waits before a redrive, and
/// then each stream would cost a look at all that wait.
const HEAD: &str = "SELECT p.id, p.seq, i.seq FROM parked p
    LEFT JOIN inbox i ON i.stream = p.stream AND i.consumer = p.consumer
    WHERE p.consumer = $1 AND p.stream = $2 AND (p.state = 'waiting') IS TRUE ORDER BY p.seq NULLS FIRST, p.id LIMIT 1";

/// Makes the next waiting event of each stream due, if it is next by number too; a stream in which none waits flows.
pub(crate) fn release<'a>(
    tx: &'a mut Tx,
    consumer: &'a str,
    streams: &'a [&'a str],
) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(release_heads(tx, consumer, streams))
}

async fn release_heads(tx: &mut Tx, consumer: &str, streams: &[&str]) -> Result<(), Error> {
    let has_skipped = inbox::pass_skipped(tx, consumer, streams).await?;
    let heads = tx.query_many(HEAD, streams.iter().map(|stream| [consumer.into(), (*stream).into()])).await?;
    let (mut due, mut flowing) = (Vec::new(), Vec::new());
    for ((stream, has_skipped), head) in streams.iter().zip(has_skipped).zip(&heads) {
        match head.first() {
            Some(row) => {
                let (id, seq, last): (i64, Option<u64>, Option<u64>) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                if seq.is_none_or(|seq| seq <= last.unwrap_or(0) + 1) {
                    due.push(id);
                }
            }
            // Numbers are missing before events that were passed over.
            None if has_skipped => {}
            None => flowing.push(*stream),
        }
    }
    let now = tx.now();
    let rows = due.into_iter().map(|id| [now.into(), id.into()]);
    tx.execute_many("UPDATE parked SET due_us = $1 WHERE id = $2", rows).await?;
    inbox::unblock(tx, consumer, &flowing).await
}

/// The heads of streams whose turn has come.
pub(crate) async fn due(store: &Store, consumer: &str, limit: u32) -> Result<Vec<Parked>, Error> {
    let rows = store
        .query(
            "SELECT id, stream, seq, attempts, first_failed_us, topic, partition, \"offset\", timestamp_us, message, event_type,
                    event_id
             FROM parked WHERE consumer = $1 AND due_us <= $2 ORDER BY due_us, id LIMIT $3",
            params![consumer, store.clock().now(), limit],
        )
        .await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in &rows {
        match row::read(row) {
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

/// Takes parked events up for another try; says of each whether it is still due and no other instance has it.
pub(crate) async fn claim(tx: &mut Tx, consumer: &str, parked: &[&Parked]) -> Result<Vec<bool>, Error> {
    inbox::lock(tx, consumer, &streams(parked)).await?;
    let now = tx.now();
    let rows = tx
        .query_many(
            "SELECT id FROM parked WHERE id = $1 AND due_us <= $2 FOR UPDATE SKIP LOCKED",
            parked.iter().map(|parked| [parked.id.into(), now.into()]),
        )
        .await?;
    Ok(rows.iter().map(|rows| !rows.is_empty()).collect())
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

/// Dead letters that are looked at for the keys that they hold up: beyond it nobody needs the exact number.
const HOLDING_UP_MAX: u32 = 10_000;

/// Parked events of a consumer by their age, and the keys that wait for an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParkedAges {
    /// The first failure of the oldest event that waits, and of the oldest dead letter.
    pub(crate) waiting_since: Option<Timestamp>,
    pub(crate) dead_since: Option<Timestamp>,
    /// Keys whose later events wait for a dead letter, and the first failure of the oldest one.
    pub(crate) blocked_keys: u64,
    pub(crate) blocked_since: Option<Timestamp>,
}

/// Returns the ages of a consumer's parked events.
pub(crate) async fn ages(store: &Store, consumer: &str) -> Result<ParkedAges, Error> {
    let oldest = |state: &str| {
        format!(
            "(SELECT first_failed_us FROM parked WHERE consumer = $1 AND state = '{state}' ORDER BY id LIMIT 1)"
        )
    };
    let sql = format!(
        "SELECT {}, {}, count(DISTINCT d.stream), min(d.first_failed_us)
         FROM (SELECT stream, seq, first_failed_us FROM parked
               WHERE consumer = $1 AND state = 'dead' AND seq IS NOT NULL ORDER BY id LIMIT {HOLDING_UP_MAX}) d
         WHERE d.seq > coalesce((SELECT i.seq FROM inbox i WHERE i.stream = d.stream AND i.consumer = $1), 0)",
        oldest("waiting"),
        oldest("dead")
    );
    let rows = store.query(&sql, params![consumer]).await?;
    let row = &rows[0];
    Ok(ParkedAges {
        waiting_since: row.get(0)?,
        dead_since: row.get(1)?,
        blocked_keys: row.get(2)?,
        blocked_since: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::database::SQLITE;

    /// As many events wait as may be parked: one that arrives must not cost a look at each of them.
    #[test]
    fn what_is_parked_of_a_stream_is_found_without_looking_at_others() {
        let connection = Connection::open_in_memory().expect("a database");
        SQLITE.iter().for_each(|sql| connection.execute_batch(sql).expect("the tables"));
        let plan = |sql: &str| -> Vec<String> {
            let mut statement =
                connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
            let count = statement.parameter_count();
            let steps = statement.query_map(rusqlite::params_from_iter(vec!["x"; count]), |row| row.get(3));
            steps.expect("a plan").map(|step| step.expect("a step")).collect()
        };
        for sql in [HEAD, inbox::PARKED_OF_EVENT] {
            let plan = plan(sql);
            let parked: Vec<&String> = plan.iter().filter(|step| step.contains("parked_")).collect();
            assert!(!parked.is_empty(), "{plan:#?}");
            for step in parked {
                assert!(step.contains("parked_stream (consumer=? AND stream=?"), "{plan:#?}");
            }
            assert!(!plan.iter().any(|step| step.contains("B-TREE")), "it sorts: {plan:#?}");
        }
    }
}
