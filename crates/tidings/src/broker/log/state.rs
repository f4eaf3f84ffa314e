//! The state of the embedded log in memory: partitions with their newest records, groups with their members.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::super::{Outgoing, Record, partition_of};
use crate::error::Error;

/// Newest records of one partition kept in memory, in bytes of key, headers and value.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct LogState {
    pub(super) topics: BTreeMap<Arc<str>, Vec<usize>>,
    pub(super) partitions: Vec<LogPartition>,
    pub(super) groups: HashMap<String, LogGroup>,
    pub(super) round_robin: usize,
}

/// One partition; its place in `LogState::partitions` is its number in the table.
pub(super) struct LogPartition {
    pub(super) topic: Arc<str>,
    pub(super) number: i32,
    /// The next offset to give out; ahead of `end` while a burst is being committed. What a failed
    /// burst was given is never given again: like Kafka's, offsets may have holes.
    pub(super) next: i64,
    /// The next offset a consumer will find.
    pub(super) end: i64,
    pub(super) tail: VecDeque<Record>,
    pub(super) tail_bytes: usize,
}

#[derive(Default)]
pub(super) struct LogGroup {
    pub(super) generation: u64,
    pub(super) members: Vec<(u64, Vec<String>)>,
    pub(super) committed: HashMap<usize, i64>,
}

/// A record on its way into the table, and then into the tail.
pub(super) struct Appended {
    pub(super) partition: usize,
    pub(super) record: Record,
}

impl LogState {
    pub(super) fn add(&mut self, topic: Arc<str>, number: i32, end: i64) {
        let id = self.partitions.len();
        self.topics.entry(topic.clone()).or_default().push(id);
        self.partitions.push(LogPartition {
            topic,
            number,
            next: end,
            end,
            tail: VecDeque::new(),
            tail_bytes: 0,
        });
    }

    /// Chooses a partition and an offset for each message; sorted by partition, offsets consecutive.
    pub(super) fn assign(&mut self, burst: Vec<Outgoing>, timestamp_us: i64) -> Vec<Appended> {
        let mut appended: Vec<Appended> = burst
            .into_iter()
            .map(|outgoing| {
                let ids = &self.topics[&*outgoing.topic];
                let count = u32::try_from(ids.len()).expect("a topic has few partitions");
                let number = match &outgoing.message.key {
                    Some(key) => partition_of(key, count),
                    None => {
                        self.round_robin += 1;
                        (self.round_robin % ids.len()) as i32
                    }
                };
                let id = ids[number.unsigned_abs() as usize];
                let partition = &mut self.partitions[id];
                let offset = partition.next;
                partition.next += 1;
                Appended {
                    partition: id,
                    record: Record {
                        topic: partition.topic.clone(),
                        partition: number,
                        offset,
                        timestamp_us,
                        message: outgoing.message,
                        unreadable: None,
                    },
                }
            })
            .collect();
        appended.sort_by_key(|a| (a.partition, a.record.offset));
        appended
    }

    pub(super) fn partitions_of(&self, topics: &[String]) -> Result<Vec<usize>, Error> {
        let mut ids = Vec::new();
        for topic in topics {
            let found = self.topics.get(topic.as_str());
            ids.extend(found.ok_or_else(|| {
                Error::config(format!("there is no topic {topic}; make it with: topics apply"))
            })?);
        }
        Ok(ids)
    }
}

impl LogPartition {
    pub(super) fn push(&mut self, record: Record) {
        if record.offset != self.end {
            // After a hole, positions in memory would no longer follow from offsets.
            self.tail.clear();
            self.tail_bytes = 0;
        }
        self.end = record.offset + 1;
        self.tail_bytes += record.message.size();
        self.tail.push_back(record);
        while self.tail_bytes > TAIL_BYTES_MAX
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.message.size();
        }
    }

    /// Records from `offset` on, if memory holds them or there are none yet.
    pub(super) fn recent(&self, offset: i64, limit: usize) -> Option<Vec<Record>> {
        if offset >= self.end {
            return Some(Vec::new());
        }
        let first = self.tail.front()?.offset;
        let skip = usize::try_from(offset - first).ok()?;
        Some(self.tail.range(skip..).take(limit).cloned().collect())
    }
}
