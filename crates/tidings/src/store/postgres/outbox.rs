//! Events on their way out, in PostgreSQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lanes::{Lease, lane_of};
use super::{Database, Unit};
use crate::codec;
use crate::error::Error;
use crate::message::Draft;
use crate::store::outbox::{Pending, decode};

/// Numbers drafts and writes them.
///
/// The head of each stream is locked from its number to the commit, in sorted order; so commit order is
/// number order, and whoever sees a number sees all before it.
pub(crate) async fn write(
    unit: &mut Unit,
    mut drafts: Vec<Draft>,
    recorded_us: i64,
) -> Result<Vec<Pending>, Error> {
    let mut last = heads(unit, &drafts).await?;
    let mut seqs = Vec::with_capacity(drafts.len());
    let mut heads = Vec::with_capacity(drafts.len());
    for draft in &mut drafts {
        let seq = last.get_mut(&draft.stream).ok_or_else(|| Error::statement("a stream has no head"))?;
        *seq += 1;
        draft.number(seq.unsigned_abs());
        let mut head = Vec::with_capacity(256);
        codec::put_head(&mut head, &draft.message);
        seqs.push(*seq);
        heads.push(head);
    }
    let streams: Vec<&str> = drafts.iter().map(|d| &*d.stream).collect();
    let lanes: Vec<i16> = streams.iter().map(|stream| lane_of(stream)).collect();
    let topics: Vec<&str> = drafts.iter().map(|d| &*d.topic).collect();
    let payloads: Vec<&[u8]> = drafts.iter().map(|d| &*d.message.value).collect();
    let ids = unit
        .query_arrays(
            "WITH e AS MATERIALIZED (
                 SELECT nextval('event_id') AS id, d.*
                 FROM unnest($1::text[], $2::int8[], $3::int2[], $4::text[], $5::bytea[], $6::bytea[])
                      AS d(stream, seq, lane, topic, head, payload)),
             log AS (
                 INSERT INTO event_log (id, stream, seq, topic, recorded_us, head, payload)
                 SELECT id, stream, seq, topic, $7, head, payload FROM e),
             pending AS (INSERT INTO outbox (id, lane) SELECT id, lane FROM e)
             SELECT id, seq FROM e",
            &[&streams, &seqs, &lanes, &topics, &heads, &payloads, &recorded_us],
        )
        .await?;
    let mut pending = Vec::with_capacity(drafts.len());
    for ((draft, seq), row) in drafts.into_iter().zip(seqs).zip(ids) {
        let (id, found): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(seq, found, "rows come back in the order in which they were given");
        pending.push(Pending {
            id,
            stream: draft.stream.into(),
            seq,
            topic: draft.topic,
            message: Arc::new(draft.message),
            blocked: None,
        });
    }
    Ok(pending)
}

/// Locks the head of each stream and moves it past the drafts; returns where it was before.
async fn heads(unit: &mut Unit, drafts: &[Draft]) -> Result<HashMap<String, i64>, Error> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for draft in drafts {
        *counts.entry(&draft.stream).or_default() += 1;
    }
    let (streams, added): (Vec<&str>, Vec<i64>) = counts.iter().unzip();
    let rows = unit
        .query_arrays(
            "INSERT INTO stream_head AS h (stream, seq) SELECT * FROM unnest($1::text[], $2::int8[])
             ON CONFLICT (stream) DO UPDATE SET seq = h.seq + excluded.seq RETURNING stream, seq",
            &[&streams, &added],
        )
        .await?;
    let before = |row: &tokio_postgres::Row| {
        let (stream, seq): (String, i64) = (row.get(0), row.get(1));
        let added = counts[&*stream];
        (stream, seq - added)
    };
    Ok(rows.iter().map(before).collect())
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
             FROM unnest($1::int8[]) AS wanted(id) JOIN outbox o ON o.id = wanted.id
             JOIN event_log e ON e.id = wanted.id ORDER BY e.id",
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
                message: decode(row.get(5), row.get(6))?.into(),
            })
        })
        .collect()
}

/// Removes acknowledged events of lanes that are still ours; says how many that were.
pub(crate) async fn delete(database: &Database, ids: &[i64], lease: &Lease) -> Result<u64, Error> {
    database
        .execute_arrays(
            "DELETE FROM outbox o USING unnest($1::int8[]) AS acknowledged(id), relay_lane l
             WHERE o.id = acknowledged.id AND l.lane = o.lane AND l.owner = $2 AND l.epoch = ANY($3)",
            &[&ids, &lease.owner, &lease.epochs()],
        )
        .await
}
