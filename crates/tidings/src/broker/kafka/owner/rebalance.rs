//! Partitions taken up where the group has come to, and given up once what was handed out is handled.

use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::{Offset, TopicPartitionList};

use super::super::identity::{self, Beside};
use super::super::member::{Rebalance, unassign};
use super::super::progress::{Handled, Partition};
use super::super::{ANSWER_MAX, failed};
use super::{Assigned, Owner};
use crate::error::Error;
use crate::panic::lock;

/// The longest time that a partition that is taken away waits for the records that were handed out of it.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl Owner {
    pub(super) fn follow_rebalances(&mut self) {
        while self.revoking.is_none() {
            let Some(event) = lock(&self.client.context().state).events.pop_front() else { return };
            match event {
                Rebalance::Assign(partitions) => {
                    if let Err(e) = self.assign(&partitions) {
                        tracing::warn!(error = %e, "partitions cannot be taken up yet; trying again");
                        lock(&self.client.context().state).events.push_front(Rebalance::Assign(partitions));
                        return;
                    }
                }
                Rebalance::Revoke(partitions) => self.begin_revoking(&partitions),
            }
        }
    }

    /// Takes partitions up where the group has come to, or from the beginning: never at the end.
    fn assign(&mut self, partitions: &[(String, i32)]) -> Result<(), Error> {
        let attempted = "cannot take partitions up";
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let committed = self.client.committed_offsets(list, ANSWER_MAX).map_err(|e| failed(attempted, &e))?;
        let mut start = TopicPartitionList::new();
        let mut taken = Vec::new();
        for element in committed.elements() {
            let first = self.first_offset(element.topic(), element.partition())?;
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => first,
            };
            let beside = Beside::read(element.metadata());
            if let (Some(ours), Some(theirs)) = (&self.store, beside.store)
                && ours != theirs
            {
                return self.refuse(identity::of_another_store(&self.group));
            }
            let latest_us = match beside.latest_us {
                None if offset <= first => Some(i64::MIN),
                None => identity::at_most_now(&self.client, element.topic(), element.partition(), offset)?,
                known => known,
            };
            start
                .add_partition_offset(element.topic(), element.partition(), Offset::Offset(offset))
                .map_err(|e| failed(attempted, &e))?;
            taken.push((element.topic().to_owned(), element.partition(), Handled { offset, latest_us }));
        }
        for (topic, partition, handled) in taken {
            let Some(topic) = self.topics.iter().find(|t| Some(&***t) == self.settings.local_name(&topic))
            else {
                continue;
            };
            self.generation += 1;
            let Handled { offset, latest_us } = handled;
            let assigned =
                Assigned { generation: self.generation, handled: offset, latest_us, committed: offset };
            self.assigned.insert((topic.clone(), partition), assigned);
            // Whatever this process knew of it from before, another member may have moved on.
            lock(&self.progress.handled).insert((topic.clone(), partition), handled);
            self.progress.looked_at((topic.clone(), partition), handled);
        }
        let done = match self.client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.client.incremental_assign(&start),
            _ => self.client.assign(&start),
        };
        self.paused = false;
        let partitions = named(partitions.iter().map(|(topic, partition)| (&**topic, *partition)));
        tracing::info!(group = self.group, partitions, "partitions assigned");
        done.map_err(|e| failed(attempted, &e))
    }

    /// Takes nothing up: the engine, when it polls, hears why, and leaves.
    fn refuse(&self, refusal: Error) -> Result<(), Error> {
        lock(&self.shared.queue).error = Some(refusal);
        self.shared.arrived.notify_one();
        Ok(())
    }

    fn first_offset(&self, topic: &str, partition: i32) -> Result<i64, Error> {
        let watermarks = self.client.fetch_watermarks(topic, partition, ANSWER_MAX);
        watermarks.map(|(first, _)| first).map_err(|e| failed("cannot take partitions up", &e))
    }

    /// Hands nothing more of these out; what was handed out may still be handled.
    fn begin_revoking(&mut self, partitions: &[(String, i32)]) {
        let ours: Vec<Partition> = partitions
            .iter()
            .filter_map(|(topic, partition)| {
                let topic = self.topics.iter().find(|t| Some(&***t) == self.settings.local_name(topic))?;
                Some((topic.clone(), *partition))
            })
            .collect();
        let generations: Vec<u64> =
            ours.iter().filter_map(|p| self.assigned.get(p)).map(|a| a.generation).collect();
        let mut queue = lock(&self.shared.queue);
        let mut dropped = 0;
        queue.records.retain(|(generation, record)| {
            let keep = !generations.contains(generation);
            if !keep {
                dropped += record.message.size();
            }
            keep
        });
        queue.bytes -= dropped;
        drop(queue);
        self.revoking = Some((ours, Instant::now()));
    }

    pub(super) fn finish_revoking(&mut self) {
        let Some((partitions, since)) = &self.revoking else { return };
        let lost = self.client.assignment_lost();
        let is_handled = |partition: &Partition| {
            let Some(assigned) = self.assigned.get(partition) else { return true };
            let handed_out = lock(&self.shared.queue).handed_out.get(&assigned.generation).copied();
            handed_out.is_none_or(|handed_out| assigned.handled >= handed_out)
        };
        if !lost && since.elapsed() < DRAIN_MAX && !partitions.iter().all(is_handled) {
            return;
        }
        if !lost {
            self.commit_last();
        }
        let Some((partitions, _)) = self.revoking.take() else { return };
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition(&self.settings.wire_name(&partition.0), partition.1);
            if let Some(assigned) = self.assigned.remove(partition) {
                lock(&self.shared.queue).handed_out.remove(&assigned.generation);
            }
        }
        let partitions = named(partitions.iter().map(|(topic, partition)| (&**topic, *partition)));
        tracing::info!(group = self.group, partitions, lost, "partitions given up");
        unassign(&self.client, &list);
    }
}

/// Partitions as they are written: `orders-0, orders-1`.
fn named<'a>(partitions: impl Iterator<Item = (&'a str, i32)>) -> String {
    partitions.map(|(topic, partition)| format!("{topic}-{partition}")).collect::<Vec<_>>().join(", ")
}
