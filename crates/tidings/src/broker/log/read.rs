//! The embedded log, read outside groups, and kept within its retention.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{Position, Record, Start, Stretch, has_room};
use super::Log;
use super::table::{batch_id, decode, read_batches, rows};
use crate::error::Error;
use crate::panic::lock;

/// The time for which records can be read. A group that stayed away for longer has missed some.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Batches forgotten in one transaction.
const FORGOTTEN_MAX: usize = 500;

impl Log {
    pub(in crate::broker) async fn positions(
        &self,
        group: &str,
        topics: &[String],
    ) -> Result<Vec<Position>, Error> {
        let state = lock(&self.state);
        let committed = state.groups.get(group).map(|g| &g.committed);
        let partitions = state.partitions_of(topics)?;
        Ok(partitions
            .into_iter()
            .map(|id| {
                let partition = &state.partitions[id];
                Position {
                    topic: partition.topic.clone(),
                    partition: partition.number,
                    offset: committed.and_then(|c| c.get(&id)).copied().unwrap_or(0),
                    end: partition.end,
                }
            })
            .collect())
    }

    pub(in crate::broker) async fn read(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let id = lock(&self.state)
            .topics
            .get(topic)
            .and_then(|ids| ids.get(usize::try_from(partition).ok()?))
            .copied()
            .ok_or_else(|| Error::config(format!("there is no partition {topic}/{partition}")))?;
        self.fetch(id, offset, limit).await
    }

    pub(in crate::broker) async fn times_at(
        &self,
        positions: &[Position],
    ) -> Result<Vec<Option<i64>>, Error> {
        let mut times = Vec::with_capacity(positions.len());
        for Position { topic, partition, offset, .. } in positions {
            let records = self.read(topic, *partition, *offset, 1).await?;
            times.push(records.first().map(|record| record.timestamp_us));
        }
        Ok(times)
    }

    pub(in crate::broker) async fn offsets(&self, topic: &str, start: Start) -> Result<Vec<i64>, Error> {
        let partitions: Vec<(usize, i64)> = {
            let state = lock(&self.state);
            let ids = state.partitions_of(&[topic.to_owned()])?;
            ids.into_iter().map(|id| (id, state.partitions[id].end)).collect()
        };
        let mut offsets = Vec::with_capacity(partitions.len());
        for (id, end) in partitions {
            offsets.push(match start {
                Start::Offset(offset) => offset,
                Start::End => end,
                Start::Time(time_us) => self.not_before(id, end, time_us).await?,
            });
        }
        Ok(offsets)
    }

    /// The first offset of a partition whose record is not older: times grow with offsets.
    async fn not_before(&self, id: usize, end: i64, time_us: i64) -> Result<i64, Error> {
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.fetch(id, middle, 1).await?.first() {
                Some(record) if record.timestamp_us < time_us => low = record.offset + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    pub(in crate::broker) async fn stretches(
        &self,
        topic: &str,
        offsets: &[i64],
    ) -> Result<Vec<Stretch>, Error> {
        /// Records read before their bytes are counted.
        const STEP: usize = 50;
        let ids = lock(&self.state).partitions_of(&[topic.to_owned()])?;
        let mut stretches = Vec::with_capacity(ids.len());
        for (id, offset) in ids.iter().zip(offsets) {
            let (mut stretch, mut next, mut bytes) = (Stretch::default(), *offset, 0);
            while !stretch.is_end && has_room(stretch.records.len(), bytes, ids.len()) {
                let found = self.fetch(*id, next, STEP).await?;
                stretch.is_end = found.len() < STEP;
                next = found.last().map_or(next, |last| last.offset + 1);
                bytes += found.iter().map(|record| record.message.size()).sum::<usize>();
                stretch.records.extend(found);
            }
            stretches.push(stretch);
        }
        Ok(stretches)
    }

    /// Records of a partition from `offset`: from memory if they are there, else from the table.
    pub(super) async fn fetch(&self, id: usize, offset: i64, limit: usize) -> Result<Vec<Record>, Error> {
        let (topic, number) = {
            let state = lock(&self.state);
            let partition = &state.partitions[id];
            if let Some(records) = partition.recent(offset, limit) {
                return Ok(records);
            }
            (partition.topic.clone(), partition.number)
        };
        let batches = self
            .database
            .read(|connection| {
                read_batches(connection, id, offset, limit).map_err(|e| {
                    Error::store(format!("cannot read {topic}/{number} from offset {offset}"), e)
                })
            })
            .await?;
        let mut records = Vec::new();
        for (base, bytes) in batches {
            for (offset, (timestamp_us, message)) in (base..).zip(decode(&bytes)?) {
                records.push(Record {
                    topic: topic.clone(),
                    partition: number,
                    offset,
                    timestamp_us,
                    message: message.into(),
                    unreadable: None,
                });
            }
        }
        records.retain(|record| record.offset >= offset);
        records.truncate(limit);
        Ok(records)
    }

    /// Forgets record batches that are older than [`RETENTION`]; returns how many.
    pub(in crate::broker) async fn forget(self: &Arc<Self>, now: Timestamp) -> Result<u64, Error> {
        let before_us = (now - RETENTION).as_microsecond();
        let partitions = lock(&self.state).partitions.len();
        let mut forgotten = 0;
        for id in 0..partitions {
            loop {
                let old = self.old_batches(id, before_us).await?;
                let (Some(first), Some(last)) = (old.first(), old.last()) else {
                    break;
                };
                let unit = self.database.begin().await?;
                unit.connection()
                    .execute("DELETE FROM record_batch WHERE id BETWEEN ?1 AND ?2", [first, last])
                    .map_err(|e| Error::store("cannot shorten the log", e))?;
                unit.commit(Box::new(|| ())).await?;
                forgotten += old.len() as u64;
            }
        }
        Ok(forgotten)
    }

    /// Some of the oldest batches of a partition that are too old, without its last one, which holds the
    /// end offset.
    async fn old_batches(&self, partition: usize, before_us: i64) -> Result<Vec<i64>, Error> {
        let mut found: Vec<(i64, Vec<u8>)> = self
            .database
            .read(|connection| {
                let sql = format!(
                    "SELECT id, substr(records, 1, 8) FROM record_batch WHERE id BETWEEN {} AND {} ORDER BY id LIMIT {}",
                    batch_id(partition, 0),
                    batch_id(partition + 1, 0) - 1,
                    FORGOTTEN_MAX + 1
                );
                rows(connection, &sql, |row| Ok((row.get(0)?, row.get(1)?)))
                    .map_err(|e| Error::store("cannot read the log", e))
            })
            .await?;
        found.pop();
        let is_old = |(_, time): &(i64, Vec<u8>)| {
            time.first_chunk().is_some_and(|time| i64::from_le_bytes(*time) < before_us)
        };
        Ok(found.into_iter().take_while(is_old).map(|(id, _)| id).collect())
    }
}
