//! Events on their way out, in PostgreSQL.

use std::sync::Arc;

use tokio_postgres::types::ToSql;

use super::lanes::{Lease, lane_of};
use super::{Database, PostgresTransaction};
use crate::error::Error;
use crate::message::codec;
use crate::message::{Draft, Message, STREAM_SEQ};
use crate::store::pending::Pending;

/// Numbers drafts and writes them, in one statement.
///
/// A stream's next number follows the last one in the log. A transaction that takes a number which another one has
/// taken, and not committed yet, waits for that one at the log's unique index, and after its commit counts again. So
/// commit order is number order, and a snapshot that shows a number shows all before it. The number is not known yet
/// when a message is encoded: its place there is empty, and is filled in when the message is read.
pub(crate) async fn write(
    unit: &mut PostgresTransaction,
    mut drafts: Vec<Draft>,
    recorded_us: i64,
) -> Result<Vec<Pending>, Error> {
    // Transactions that meet in several streams meet in the same order.
    drafts.sort_by(|a, b| a.stream.cmp(&b.stream));
    let mut ahead: Vec<i64> = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts.iter().enumerate() {
        let goes_on = at > 0 && drafts[at - 1].stream == draft.stream;
        ahead.push(if goes_on { ahead[at - 1] + 1 } else { 1 });
    }
    let heads: Vec<Vec<u8>> = drafts.iter().map(head).collect();
    let streams: Vec<&str> = drafts.iter().map(|d| &*d.stream).collect();
    let lanes: Vec<i16> = streams.iter().map(|stream| lane_of(stream)).collect();
    let topics: Vec<&str> = drafts.iter().map(|d| &*d.topic).collect();
    let payloads: Vec<&[u8]> = drafts.iter().map(|d| &*d.message.value).collect();
    let params: [&(dyn ToSql + Sync); 7] =
        [&streams, &ahead, &lanes, &topics, &heads, &payloads, &recorded_us];
    // Each time another transaction has committed meanwhile, so one always gets on.
    let rows = loop {
        if let Some(rows) = unit.attempt(WRITE, &params, Some("event_log_stream")).await? {
            break rows;
        }
    };
    let mut numbers = vec![(0, 0); drafts.len()];
    for row in &rows {
        numbers[super::place(row)?] = (row.get(1), row.get(2));
    }
    if !numbers.is_sorted_by(|(id, _), (next_id, _)| id < next_id) {
        return Err(Error::statement(
            "the database gave numbers out in another order than it was given events",
        ));
    }
    let pending = drafts.into_iter().zip(numbers).map(|(mut draft, (id, seq)): (_, (i64, i64))| {
        draft.number(seq.unsigned_abs());
        Pending {
            id,
            stream: draft.stream.into(),
            seq,
            topic: draft.topic,
            recorded_us,
            message: Arc::new(draft.message),
            blocked: None,
        }
    });
    Ok(pending.collect())
}

/// Rows come through a function and a nested loop in the order they are given; sorting them would copy each
/// payload once more.
const WRITE: &str = "WITH e AS MATERIALIZED (
         SELECT nextval('event_id') AS id, coalesce(last.seq, 0) + d.ahead AS seq, d.*
         FROM unnest($1::text[], $2::int8[], $3::int2[], $4::text[], $5::bytea[], $6::bytea[])
              WITH ORDINALITY AS d(stream, ahead, lane, topic, head, payload, place)
         LEFT JOIN LATERAL (
             SELECT seq FROM event_log l WHERE l.stream = d.stream ORDER BY seq DESC LIMIT 1) last ON true),
     log AS (
         INSERT INTO event_log (id, stream, seq, topic, recorded_us, head, payload)
         SELECT id, stream, seq, topic, $7, head, payload FROM e),
     pending AS (INSERT INTO outbox (id, lane) SELECT id, lane FROM e)
     SELECT place, id, seq FROM e";

/// Key and headers as they are stored: the number's header is there, empty.
pub(crate) fn head(draft: &Draft) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    let numbered = usize::from(draft.numbered);
    codec::put_head_of(&mut head, &draft.message, draft.message.headers.len() + numbered);
    if draft.numbered {
        codec::put_header(&mut head, STREAM_SEQ, &[], None);
    }
    head
}

/// A message as it was stored, with its number in its place.
pub(crate) fn decode(head: &[u8], payload: Vec<u8>, seq: i64) -> Result<Message, Error> {
    let mut message = codec::take_head(&mut &*head)?;
    message.value = payload.into();
    message.headers.fill(STREAM_SEQ, seq.to_string().as_bytes());
    Ok(message)
}

/// The ids of pending events in these lanes, lowest first.
///
/// From the beginning, in one snapshot: what shows a number of a stream shows every pending one before it.
pub(crate) async fn pending(database: &Database, lanes: &[i16], limit: usize) -> Result<Vec<i64>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = database
        .query_arrays("SELECT id FROM outbox WHERE lane = ANY($1) ORDER BY id LIMIT $2", &[&lanes, &limit])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Pending events, whole, by id; lowest first.
pub(crate) async fn load(database: &Database, ids: &[i64]) -> Result<Vec<Pending>, Error> {
    whole(database, "SELECT id, blocked FROM outbox WHERE id = ANY($1)", &[&ids]).await
}

/// Pending events in these lanes with an id above `id`, whole; lowest first. Not all that are before them in
/// their streams: what was committed late may have a lower id.
pub(crate) async fn pending_behind(
    database: &Database,
    lanes: &[i16],
    id: i64,
    limit: usize,
) -> Result<Vec<Pending>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let pending = "SELECT id, blocked FROM outbox WHERE lane = ANY($1) AND id > $2 ORDER BY id LIMIT $3";
    whole(database, pending, &[&lanes, &id, &limit]).await
}

/// The events that a query finds pending, whole; lowest id first.
async fn whole(
    database: &Database,
    pending: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Pending>, Error> {
    let sql = format!(
        "SELECT e.id, e.stream, e.seq, e.topic, o.blocked, e.head, e.payload, e.recorded_us
         FROM ({pending}) o
         CROSS JOIN LATERAL (SELECT * FROM event_log WHERE id = ANY(ARRAY[o.id])) e ORDER BY o.id"
    );
    let rows = database.query_arrays(&sql, params).await?;
    rows.iter()
        .map(|row| {
            let pending = Pending {
                id: row.get(0),
                stream: row.get::<_, &str>(1).into(),
                seq: row.get(2),
                topic: row.get::<_, String>(3).into(),
                blocked: row.get(4),
                recorded_us: row.get(7),
                message: Arc::default(),
            };
            Ok(pending.with(decode(row.get(5), row.get(6), row.get(2))))
        })
        .collect()
}

/// Removes acknowledged events of lanes that are still ours; says how many that were.
pub(crate) async fn delete(database: &Database, ids: &[i64], lease: &Lease) -> Result<u64, Error> {
    database
        .execute_arrays(
            "DELETE FROM outbox WHERE id = ANY($1) AND lane = ANY(ARRAY(
                 SELECT lane FROM relay_lane WHERE owner = $2 AND epoch = ANY($3)))",
            &[&ids, &lease.owner, &lease.epochs()],
        )
        .await
}
