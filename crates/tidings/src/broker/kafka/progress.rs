//! The progress of this process in its partitions, and the client's reports about them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::panic::lock;

/// Joining a group takes no longer, unless something is wrong.
const JOIN_MAX: Duration = Duration::from_secs(20);

pub(super) type Partition = (Arc<str>, i32);

/// The progress of this process, by partition.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) handled: Mutex<HashMap<Partition, Handled>>,
    /// The progress at the last check that the topic is still the one that was read.
    pub(super) seen: Mutex<HashMap<Partition, Handled>>,
    /// The next offset after the last record that was read.
    pub(super) read: Mutex<HashMap<Partition, i64>>,
    /// The offsets up to which the client has looked, by the cluster's names.
    looked: Mutex<HashMap<(String, i32), Looked>>,
    /// The state of joining the group, and the time since which it is being joined.
    joining: Mutex<Option<(Instant, String)>>,
}

impl Progress {
    /// The next offset to handle. Markers of transactions, at which nothing can be read, are passed over once
    /// the client has.
    pub(super) fn handled(&self, topic: &Arc<str>, wire: &str, partition: i32) -> i64 {
        let partition_key = (topic.clone(), partition);
        let known = lock(&self.handled).get(&partition_key).copied();
        let handled = known.map_or(0, |known| known.offset);
        let read = lock(&self.read).get(&partition_key).copied().unwrap_or_default();
        match lock(&self.looked).get(&(wire.to_owned(), partition)) {
            Some(looked) if looked.is_settled && handled >= read => handled.max(looked.next),
            _ => handled,
        }
    }

    /// Forgets what was known: the offsets of the group were set.
    pub(super) fn forget(&self) {
        lock(&self.handled).clear();
        lock(&self.seen).clear();
        lock(&self.read).clear();
    }

    /// Returns each partition with its progress at the last check, and its progress now.
    pub(super) fn since_looked(&self) -> Vec<(Partition, Handled, Handled)> {
        let now = lock(&self.handled);
        let seen = lock(&self.seen);
        let both =
            |(partition, now): (&Partition, &Handled)| Some((partition.clone(), *seen.get(partition)?, *now));
        now.iter().filter_map(both).collect()
    }

    /// The time of the latest record handled of each topic.
    pub(super) fn handled_until(&self) -> BTreeMap<Arc<str>, i64> {
        let mut topics: BTreeMap<Arc<str>, i64> = BTreeMap::new();
        for ((topic, _), handled) in &*lock(&self.handled) {
            if let Some(latest) = handled.latest_us.filter(|latest| *latest > 0) {
                let known = topics.entry(topic.clone()).or_default();
                *known = latest.max(*known);
            }
        }
        topics
    }

    /// Takes note that up to this progress a partition is the one that was read.
    pub(super) fn looked_at(&self, partition: Partition, now: Handled) {
        lock(&self.seen).insert(partition, now);
    }

    /// Takes in what a client reports.
    pub(super) fn look(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        self.note_joining(statistics.cgrp.as_ref());
        let mut looked = lock(&self.looked);
        for (topic, TopicStatistics { partitions }) in statistics.topics {
            for (partition, found) in partitions {
                let Ok(partition) = partition.parse::<i32>() else { continue };
                let partition_key = (topic.clone(), partition);
                // Twice the same, seconds apart: nothing is on its way from the broker to us.
                let is_settled = found.fetchq_cnt == 0
                    && looked.get(&partition_key).is_some_and(|before| {
                        (before.given_out, before.next) == (found.app_offset, found.next_offset)
                    });
                let Fetching { app_offset, next_offset, .. } = found;
                looked.insert(partition_key, Looked { given_out: app_offset, next: next_offset, is_settled });
            }
        }
    }

    /// A group is joined in seconds once its coordinator is found.
    fn note_joining(&self, group: Option<&Group>) {
        let mut joining = lock(&self.joining);
        match group.filter(|group| group.state == "up" && group.join_state != "steady") {
            None => *joining = None,
            Some(group) => {
                let since = joining.take().map_or_else(Instant::now, |(since, _)| since);
                *joining = Some((since, group.join_state.clone()));
            }
        }
    }

    /// Returns why the group is not joined, if that takes longer than it ever should.
    pub(super) fn not_joined(&self) -> Option<String> {
        let joining = lock(&self.joining);
        let (since, state) = joining.as_ref().filter(|(since, _)| since.elapsed() >= JOIN_MAX)?;
        Some(format!(
            "the broker has not let us into the group for {} s (the client's state is {state}): every member needs the same partition.assignment.strategy and group.protocol, and a session.timeout.ms within the broker's limits",
            since.elapsed().as_secs()
        ))
    }
}

/// The next offset to handle of a partition, and the time of the latest record before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Handled {
    pub(super) offset: i64,
    /// None before anything is known.
    pub(super) latest_us: Option<i64>,
}

/// The next offset after what the client has given out, markers included, and the next that it asks for.
struct Looked {
    given_out: i64,
    next: i64,
    is_settled: bool,
}

/// The part of librdkafka's statistics that is read.
#[derive(serde::Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
    cgrp: Option<Group>,
}

#[derive(serde::Deserialize)]
struct Group {
    state: String,
    join_state: String,
}

#[derive(serde::Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, Fetching>,
}

#[derive(serde::Deserialize)]
struct Fetching {
    fetchq_cnt: i64,
    next_offset: i64,
    app_offset: i64,
}
