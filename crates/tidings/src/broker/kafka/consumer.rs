//! A member of a consumer group: one thread owns the client, and nothing ever waits in its callbacks.
//!
//! ```text
//! librdkafka ── poll ── owner thread ── queue (bounded) ── Consumer::poll ── engine
//!                           ↑ └ commits what is handled, each second and when partitions go
//!                           └──────────── handled ──────── Consumer::commit ──┘
//! ```
//!
//! Each assignment of a partition has a generation. What was read under a former one is neither handed
//! out nor committed. A partition that is taken away is given up once what was handed out of it is
//! handled, or after a while; its new owner begins where the commit says.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::super::handed_out::HandedOut;
use super::owner::Owner;
use super::progress::{Handled, Partition, Progress};
use super::queue::{Queue, Shared, Wish};
use super::settings::KafkaSettings;
use super::{LEAVE_MAX, Record};
use crate::error::Error;
use crate::panic::lock;

/// The pause between two looks at the progress of joining the group.
const JOIN_LOOK_EVERY: Duration = Duration::from_secs(5);

/// A handle on a member, by which the member can be told to leave its group.
pub(super) struct Membership {
    commands: Sender<Wish>,
    left: tokio::sync::watch::Receiver<bool>,
}

impl Membership {
    pub(super) fn has_left(&self) -> bool {
        *self.left.borrow()
    }

    /// Has it leave its group; ends when it has.
    pub(super) async fn leave(&self) {
        let _ = self.commands.send(Wish::Leave);
        // Its end without a word is an end too.
        let _ = self.left.clone().wait_for(|left| *left).await;
    }
}

/// The end of the queue that the engine has.
pub(in crate::broker) struct KafkaConsumer {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    commands: Sender<Wish>,
    left: tokio::sync::watch::Receiver<bool>,
    handed_out: HandedOut<Partition>,
}

impl KafkaConsumer {
    pub(super) fn join(
        settings: &KafkaSettings,
        group: &str,
        topics: &[String],
        store: Option<&str>,
        progress: Arc<Progress>,
    ) -> Result<(Self, Membership), Error> {
        let (commands, received) = mpsc::channel();
        let (leaving, left) = tokio::sync::watch::channel(false);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: tokio::sync::Notify::new(),
            room: Condvar::new(),
        });
        let mut owner = Owner::join(settings, group, topics, shared.clone(), progress.clone(), received)?;
        owner.left = Some(leaving);
        owner.store = store.map(str::to_owned);
        std::thread::Builder::new()
            .name(format!("kafka {group}"))
            .spawn(move || owner.run_guarded())
            .map_err(|e| Error::unavailable(format!("cannot start a thread: {e}")))?;
        let membership = Membership { commands: commands.clone(), left: left.clone() };
        Ok((Self { shared, progress, commands, left, handed_out: HandedOut::default() }, membership))
    }

    pub(in crate::broker) async fn poll(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        loop {
            if let Some(taken) = self.take(limit)? {
                return Ok(taken);
            }
            self.shared.arrived.notified().await;
        }
    }

    pub(in crate::broker) fn joining(&self) -> KafkaJoining {
        KafkaJoining {
            progress: self.progress.clone(),
            looks_at: Instant::now() + JOIN_LOOK_EVERY,
            is_stuck: false,
        }
    }

    pub(in crate::broker) fn has_ended(&self) -> bool {
        lock(&self.shared.queue).closed
    }

    pub(in crate::broker) async fn filled(&mut self, count: usize) {
        while lock(&self.shared.queue).records.len() < count {
            self.shared.arrived.notified().await;
        }
    }

    fn take(&mut self, limit: usize) -> Result<Option<Vec<Record>>, Error> {
        let mut queue = lock(&self.shared.queue);
        if let Some(e) = &queue.error {
            return Err(e.clone());
        }
        if queue.closed {
            return Err(Error::unavailable("the consumer has left its group"));
        }
        if queue.records.is_empty() {
            return Ok(None);
        }
        let count = queue.records.len().min(limit);
        let mut records = Vec::with_capacity(count);
        let mut bytes = 0;
        let mut partition: Option<Partition> = None;
        let Queue { records: waiting, handed_out, .. } = &mut *queue;
        for (generation, record) in waiting.drain(..count) {
            let its = match partition.take().filter(|it| it.1 == record.partition && it.0 == record.topic) {
                Some(same) => same,
                None => (record.topic.clone(), record.partition),
            };
            self.handed_out.hand_out(&its, generation, record.offset, record.timestamp_us);
            partition = Some(its);
            bytes += record.message.size();
            handed_out.insert(generation, record.offset + 1);
            records.push(record);
        }
        queue.bytes -= bytes;
        drop(queue);
        self.shared.room.notify_one();
        Ok(Some(records))
    }

    pub(in crate::broker) fn is_passed(&self, record: &Record) -> bool {
        self.handed_out.is_passed(&(record.topic.clone(), record.partition), record.offset)
    }

    pub(in crate::broker) fn commit(&mut self, records: &[Record]) {
        let mut partitions: Vec<Partition> = Vec::new();
        for run in records.chunk_by(|a, b| a.partition == b.partition && a.topic == b.topic) {
            let partition = (run[0].topic.clone(), run[0].partition);
            run.iter().for_each(|record| self.handed_out.handled(&partition, record.offset));
            if !partitions.contains(&partition) {
                partitions.push(partition);
            }
        }
        let mut progress = lock(&self.progress.handled);
        let mut seen = lock(&self.progress.seen);
        let handled: Vec<(Partition, u64, Handled)> = partitions
            .into_iter()
            .filter_map(|partition| {
                let advance = self.handed_out.advance(&partition)?;
                let known = progress.entry(partition.clone()).or_default();
                known.offset = known.offset.max(advance.offset);
                // Unknown stays unknown: there may have been later ones before.
                known.latest_us = known.latest_us.map(|latest| latest.max(advance.latest_us));
                // Where nothing was known, the first that is handled is what can be recognised.
                if let Some(seen) = seen.get_mut(&partition).filter(|seen| seen.latest_us == Some(i64::MIN)) {
                    *seen = *known;
                }
                Some((partition, advance.generation, *known))
            })
            .collect();
        drop((progress, seen));
        // An owner that has ended has left the group: the next one begins at what was committed.
        let _ = self.commands.send(Wish::Handled(handled));
    }

    /// Leaves the group, or is left behind by what hangs.
    pub(in crate::broker) async fn leave(self) {
        let membership = Membership { commands: self.commands.clone(), left: self.left.clone() };
        drop(self);
        if tokio::time::timeout(LEAVE_MAX, membership.leave()).await.is_err() {
            tracing::warn!("the broker does not answer: the group misses us after its session's time-out");
        }
    }
}

/// The progress of joining the group.
pub(crate) struct KafkaJoining {
    progress: Arc<Progress>,
    looks_at: Instant,
    is_stuck: bool,
}

impl KafkaJoining {
    /// Waits until there is something to say: why it takes so long, or nothing any more.
    pub(crate) async fn changed(&mut self) -> Option<String> {
        loop {
            tokio::time::sleep_until(self.looks_at.into()).await;
            self.looks_at = Instant::now() + JOIN_LOOK_EVERY;
            let why = self.progress.not_joined();
            if why.is_some() || self.is_stuck {
                self.is_stuck = why.is_some();
                return why;
            }
        }
    }
}

impl Drop for KafkaConsumer {
    /// A consumer that polls no more is no member any more: its partitions go to others at once.
    fn drop(&mut self) {
        let _ = self.commands.send(Wish::Leave);
        self.shared.room.notify_one();
    }
}
