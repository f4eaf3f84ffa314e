//! Events on their way out, in PostgreSQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lanes::{Lease, lane_of};
use super::{Database, Unit};
use crate::codec;
use crate::error::Error;
use crate::message::{Draft, Message, STREAM_SEQ};
use crate::store::outbox::Pending;

/// Numbers drafts and writes them, in one statement.
///
/// The head of each stream is locked from its number to the commit, in sorted order; so commit order is
/// number order, and whoever sees a number sees all before it. The number is not known yet when a message is
/// encoded: its place there is empty, and is filled in by whoever reads it.
pub(crate) async fn write(
    unit: &mut Unit,
    drafts: Vec<Draft>,
    recorded_us: i64,
) -> Result<Vec<Pending>, Error> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for draft in &drafts {
        *counts.entry(&draft.stream).or_default() += 1;
    }
    let (streams, added): (Vec<&str>, Vec<i64>) = counts.iter().unzip();
    // How many of the same stream follow each draft.
    let mut following: Vec<i64> = Vec::with_capacity(drafts.len());
    let mut left = counts.clone();
    for draft in &drafts {
        let left = left.get_mut(&*draft.stream).ok_or_else(|| Error::statement("a stream has no head"))?;
        *left -= 1;
        following.push(*left);
    }
    let heads: Vec<Vec<u8>> = drafts.iter().map(head).collect();
    let stream_of: Vec<&str> = drafts.iter().map(|d| &*d.stream).collect();
    let lanes: Vec<i16> = stream_of.iter().map(|stream| lane_of(stream)).collect();
    let topics: Vec<&str> = drafts.iter().map(|d| &*d.topic).collect();
    let payloads: Vec<&[u8]> = drafts.iter().map(|d| &*d.message.value).collect();
    let rows = unit
        .query_arrays(
            "WITH h AS (
                 INSERT INTO stream_head AS h (stream, seq) SELECT * FROM unnest($1::text[], $2::int8[])
                 ON CONFLICT (stream) DO UPDATE SET seq = h.seq + excluded.seq RETURNING stream, seq),
             d AS MATERIALIZED (
                 SELECT d.*, h.seq - d.following AS seq
                 FROM unnest($3::text[], $4::int8[], $5::int2[], $6::text[], $7::bytea[], $8::bytea[])
                      WITH ORDINALITY AS d(stream, following, lane, topic, head, payload, place)
                 JOIN h USING (stream) ORDER BY d.place),
             e AS MATERIALIZED (SELECT nextval('event_id') AS id, d.* FROM d),
             log AS (
                 INSERT INTO event_log (id, stream, seq, topic, recorded_us, head, payload)
                 SELECT id, stream, seq, topic, $9, head, payload FROM e),
             pending AS (INSERT INTO outbox (id, lane) SELECT id, lane FROM e)
             SELECT place, id, seq FROM e",
            &[&streams, &added, &stream_of, &following, &lanes, &topics, &heads, &payloads, &recorded_us],
        )
        .await?;
    let mut numbers = vec![(0, 0); drafts.len()];
    for row in &rows {
        numbers[super::place(row)?] = (row.get(1), row.get(2));
    }
    let pending = drafts.into_iter().zip(numbers).map(|(mut draft, (id, seq)): (_, (i64, i64))| {
        draft.number(seq.unsigned_abs());
        Pending {
            id,
            stream: draft.stream.into(),
            seq,
            topic: draft.topic,
            message: Arc::new(draft.message),
            blocked: None,
        }
    });
    Ok(pending.collect())
}

/// Key and headers as they are stored: the number's header is there, empty.
fn head(draft: &Draft) -> Vec<u8> {
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
/// Always from the beginning, in one snapshot: what shows a number of a stream shows every pending one
/// before it. A cursor would pass what was committed late.
pub(crate) async fn pending(database: &Database, lanes: &[i16], limit: usize) -> Result<Vec<i64>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = database
        .query_arrays("SELECT id FROM outbox WHERE lane = ANY($1) ORDER BY id LIMIT $2", &[&lanes, &limit])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Pending events, whole, by id; lowest first.
pub(crate) async fn load(database: &Database, ids: &[i64]) -> Result<Vec<Pending>, Error> {
    let rows = database
        .query_arrays(
            "SELECT e.id, e.stream, e.seq, e.topic, o.blocked, e.head, e.payload
             FROM outbox o
             CROSS JOIN LATERAL (SELECT * FROM event_log WHERE id = ANY(ARRAY[o.id])) e
             WHERE o.id = ANY($1) ORDER BY o.id",
            &[&ids],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Pending {
                id: row.get(0),
                stream: row.get::<_, &str>(1).into(),
                seq: row.get(2),
                topic: row.get::<_, String>(3).into(),
                blocked: row.get(4),
                message: decode(row.get(5), row.get(6), row.get(2))?.into(),
            })
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
