//! Record batches in the table: written, read, loaded at the start.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::state::{Appended, LogState};
use crate::error::Error;
use crate::message::{Message, codec};

/// A partition's record batches lie together in the table: its number above, the offset below.
const OFFSET_BITS: u32 = 40;

pub(super) fn write(connection: &Connection, appended: &[Appended]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO record_batch (id, records) VALUES (?1, ?2)")?;
    let mut bytes = Vec::new();
    for batch in appended.chunk_by(|a, b| a.partition == b.partition) {
        let base = batch[0].record.offset;
        bytes.clear();
        bytes.extend(batch[0].record.timestamp_us.to_le_bytes());
        codec::put_length(&mut bytes, batch.len());
        for appended in batch {
            codec::put(&mut bytes, &appended.record.message);
        }
        insert.execute(params![batch_id(batch[0].partition, base), &bytes[..]])?;
    }
    Ok(())
}

/// The records of a batch, each with its time in microseconds (the same for all).
pub(super) fn decode(batch: &[u8]) -> Result<Vec<(i64, Message)>, Error> {
    let broken = || Error::unavailable("a stored record batch cannot be decoded");
    let (time, mut rest) = batch.split_first_chunk().ok_or_else(broken)?;
    let timestamp_us = i64::from_le_bytes(*time);
    let count = codec::take_length(&mut rest)?;
    (0..count).map(|_| Ok((timestamp_us, codec::take(&mut rest)?))).collect()
}

/// The batches that hold `offset` and what follows, up to about `limit` records.
pub(super) fn read_batches(
    connection: &Connection,
    partition: usize,
    offset: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    let first = batch_id(partition, 0);
    let mut select = connection.prepare_cached(
        "SELECT id, records FROM record_batch
         WHERE id >= coalesce((SELECT max(id) FROM record_batch WHERE id BETWEEN ?1 AND ?2), ?2) AND id < ?3
         ORDER BY id",
    )?;
    let mut rows = select.query(params![first, batch_id(partition, offset), batch_id(partition + 1, 0)])?;
    let mut batches: Vec<(i64, Vec<u8>)> = Vec::new();
    while let Some(row) = rows.next()? {
        let base = row.get::<_, i64>(0)? - first;
        let enough = batches.iter().any(|(base, _)| *base >= offset);
        if enough && base >= offset + limit as i64 {
            break;
        }
        batches.push((base, row.get(1)?));
    }
    Ok(batches)
}

pub(super) fn load(connection: &Connection) -> Result<LogState, Error> {
    let failed = |e| Error::store("cannot read the log", e);
    let mut state = LogState::default();
    let partitions: Vec<(i64, String, i32)> =
        rows(connection, "SELECT id, topic, partition FROM topic_partition ORDER BY id", |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .map_err(failed)?;
    for (id, topic, number) in partitions {
        let end = end_of(connection, usize::try_from(id).expect("ids count from 0"))?;
        state.add(topic.into(), number, end);
    }
    let offsets: Vec<(String, i64, i64)> =
        rows(connection, "SELECT name, partition_id, \"offset\" FROM group_offset", |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .map_err(failed)?;
    for (group, id, offset) in offsets {
        let id = usize::try_from(id).expect("ids count from 0");
        state.groups.entry(group).or_default().committed.insert(id, offset);
    }
    Ok(state)
}

pub(super) fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([], |row| read(row))?.collect()
}

/// The offset after the last record of a partition.
fn end_of(connection: &Connection, partition: usize) -> Result<i64, Error> {
    let first = batch_id(partition, 0);
    let last: Option<(i64, Vec<u8>)> = connection
        .query_row(
            "SELECT id, records FROM record_batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
            params![first, batch_id(partition + 1, 0) - 1],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(|e| Error::store("cannot read the log", e))?;
    match last {
        Some((id, records)) => Ok(id - first + decode(&records)?.len() as i64),
        None => Ok(0),
    }
}

pub(super) fn batch_id(partition: usize, offset: i64) -> i64 {
    ((partition as i64) << OFFSET_BITS) + offset
}
