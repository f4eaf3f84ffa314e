//! A member of a group of the embedded log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::params;
use tokio::sync::watch;

use super::super::Record;
use super::super::handed_out::HandedOut;
use super::Log;
use crate::error::Error;
use crate::panic::lock;

/// The interval at which a consumer's progress is written down.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// A member of a group.
pub(in crate::broker) struct LogConsumer {
    log: Arc<Log>,
    group: String,
    member: u64,
    generation: u64,
    /// The next offset to read, for each partition that is ours.
    reading: Vec<(usize, i64)>,
    /// The next offset that is not handled yet.
    handled: HashMap<usize, i64>,
    handed_out: HandedOut<usize>,
    written: Instant,
    dirty: bool,
    changes: watch::Receiver<u64>,
    turn: usize,
}

impl LogConsumer {
    pub(in crate::broker) fn join(log: &Arc<Log>, group: &str, topics: &[String]) -> Result<Self, Error> {
        let member = log.members.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = lock(&log.state);
            state.partitions_of(topics)?;
            let joined = state.groups.entry(group.to_owned()).or_default();
            joined.generation += 1;
            joined.members.push((member, topics.to_vec()));
        }
        log.changes.send_modify(|changes| *changes += 1);
        Ok(Self {
            log: log.clone(),
            group: group.to_owned(),
            member,
            generation: 0,
            reading: Vec::new(),
            handled: HashMap::new(),
            handed_out: HandedOut::default(),
            written: Instant::now(),
            dirty: false,
            changes: log.changes.subscribe(),
            turn: 0,
        })
    }

    pub(in crate::broker) async fn poll(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        loop {
            self.changes.mark_unchanged();
            self.follow_group();
            let records = self.fetch(limit).await?;
            if !records.is_empty() {
                return Ok(records);
            }
            if self.changes.changed().await.is_err() {
                return Err(Error::unavailable("the log is closed"));
            }
        }
    }

    async fn fetch(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        let (mut records, mut taken): (Vec<Record>, Vec<_>) = Default::default();
        // Positions move only at the end, after the last await: a dropped poll has taken nothing.
        let mut reading = self.reading.clone();
        let count = reading.len();
        self.turn = self.turn.wrapping_add(1);
        for i in 0..count {
            let (partition, offset) = &mut reading[(self.turn + i) % count];
            let room = limit - records.len();
            let found = self.log.fetch(*partition, *offset, room).await?;
            if let Some(last) = found.last() {
                *offset = last.offset + 1;
                taken.push((*partition, records.len()..records.len() + found.len()));
                records.extend(found);
            }
            if records.len() == limit {
                break;
            }
        }
        self.reading = reading;
        for (partition, range) in taken {
            for Record { offset, timestamp_us, .. } in &records[range] {
                self.handed_out.hand_out(&partition, self.generation, *offset, *timestamp_us);
            }
        }
        Ok(records)
    }

    pub(in crate::broker) fn is_passed(&self, record: &Record) -> bool {
        let id = lock(&self.log.state).topics[&record.topic][record.partition.unsigned_abs() as usize];
        self.handed_out.is_passed(&id, record.offset)
    }

    pub(in crate::broker) fn commit(&mut self, records: &[Record]) {
        {
            let mut state = lock(&self.log.state);
            for record in records {
                let id = state.topics[&record.topic][record.partition.unsigned_abs() as usize];
                self.handed_out.handled(&id, record.offset);
            }
            // A partition that another member has by now is for that member to commit.
            for (id, handled) in &mut self.handled {
                if let Some(advance) = self.handed_out.advance(id) {
                    *handled = (*handled).max(advance.offset);
                }
            }
            let group = state.groups.entry(self.group.clone()).or_default();
            if group.generation == self.generation {
                for (&id, &offset) in &self.handled {
                    group.committed.insert(id, offset);
                }
            }
        }
        self.dirty = true;
        if self.written.elapsed() >= COMMIT_EVERY {
            self.write_down();
        }
    }

    /// Takes up the partitions that are ours after members have come or gone.
    fn follow_group(&mut self) {
        let state = lock(&self.log.state);
        let Some(group) = state.groups.get(&self.group) else {
            return;
        };
        if group.generation == self.generation {
            return;
        }
        let generation = group.generation;
        let mut mine = Vec::new();
        let mut topics: Vec<&String> = group.members.iter().flat_map(|(_, t)| t).collect();
        topics.sort_unstable();
        topics.dedup();
        for topic in topics {
            let readers = group.members.iter().filter(|(_, t)| t.contains(topic));
            let readers: Vec<u64> = readers.map(|(member, _)| *member).collect();
            for (i, id) in state.topics[topic.as_str()].iter().enumerate() {
                if readers[i % readers.len()] == self.member {
                    mine.push(*id);
                }
            }
        }
        let committed = &state.groups[&self.group].committed;
        let start = |id: usize| committed.get(&id).copied().unwrap_or(0);
        self.handled = mine.iter().map(|&id| (id, start(id))).collect();
        self.reading = mine.iter().map(|&id| (id, start(id))).collect();
        self.generation = generation;
        drop(state);
        self.write_down();
    }

    /// Queues the handled offsets for the log's next commit.
    fn write_down(&mut self) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        self.written = Instant::now();
        let group = self.group.clone();
        let handled: Vec<(usize, i64)> = self.handled.iter().map(|(&id, &o)| (id, o)).collect();
        self.log.database.defer(move |connection| {
            let mut write = connection.prepare_cached(
                "INSERT INTO group_offset (name, partition_id, \"offset\") VALUES (?1, ?2, ?3)
                 ON CONFLICT (name, partition_id) DO UPDATE SET \"offset\" = max(\"offset\", excluded.\"offset\")",
            )?;
            for (id, offset) in &handled {
                write.execute(params![group, *id as i64, offset])?;
            }
            Ok(())
        });
    }
}

impl Drop for LogConsumer {
    /// Leaves the group: what was handled is kept, the others take over.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.write_down();
        }
        if let Some(group) = lock(&self.log.state).groups.get_mut(&self.group) {
            group.members.retain(|(member, _)| *member != self.member);
            group.generation += 1;
        }
        self.log.changes.send_modify(|changes| *changes += 1);
    }
}
