//! The thread that owns the client of a member: polls it, follows its rebalances, commits what is handled.
//!
//! | Module | Is |
//! |---|---|
//! | `rebalance` | partitions taken up and given up |
//! | `offsets` | progress, committed |

mod offsets;
mod rebalance;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message as _;

use super::member::{Rebalances, close, connect, on_client_error};
use super::progress::{Partition, Progress};
use super::queue::{Queue, Shared, Wish};
use super::settings::KafkaSettings;
use super::{Arena, Record, reason};
use crate::error::Error;
use crate::panic::{lock, panic_message};

/// The interval at which progress is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Records and bytes that wait for the engine: a few of its batches. Beyond either nothing is read.
const WAITING_MAX: usize = 2048;
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Records moved into the queue at once.
const CHUNK_MAX: usize = 256;
/// The longest time that the owner waits for a record before it sees to its other work.
const TURN: Duration = Duration::from_millis(50);
/// That time while partitions are being given up.
const REVOKING_TURN: Duration = Duration::from_millis(5);
/// A queue that is full for longer has its partitions paused, so that the client can be polled on.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// The owner of the client.
pub(super) struct Owner {
    client: BaseConsumer<Rebalances>,
    settings: KafkaSettings,
    group: String,
    topics: Vec<Arc<str>>,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    commands: Receiver<Wish>,
    assigned: HashMap<Partition, Assigned>,
    generation: u64,
    /// Being taken away, since when.
    revoking: Option<(Vec<Partition>, Instant)>,
    arena: Arena,
    committed_at: Instant,
    full_since: Option<Instant>,
    paused: bool,
    pub(super) left: Option<tokio::sync::watch::Sender<bool>>,
    /// The store in which events are handled, if the group is to belong to it.
    pub(super) store: Option<String>,
}

/// A partition that is ours.
struct Assigned {
    generation: u64,
    handled: i64,
    latest_us: Option<i64>,
    committed: i64,
}

impl Owner {
    pub(super) fn join(
        settings: &KafkaSettings,
        group: &str,
        topics: &[String],
        shared: Arc<Shared>,
        progress: Arc<Progress>,
        commands: Receiver<Wish>,
    ) -> Result<Self, Error> {
        let client = connect(settings, group, topics, &progress)?;
        Ok(Self {
            client,
            settings: settings.clone(),
            group: group.to_owned(),
            topics: topics.iter().map(|topic| topic.as_str().into()).collect(),
            shared,
            progress,
            commands,
            assigned: HashMap::new(),
            generation: 0,
            revoking: None,
            arena: Arena::default(),
            committed_at: Instant::now(),
            full_since: None,
            paused: false,
            left: None,
            store: None,
        })
    }

    /// Runs; a panic ends the membership, and the engine joins again.
    pub(super) fn run_guarded(self) {
        let shared = self.shared.clone();
        let group = self.group.clone();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(move || self.run())) {
            let error = format!("the client of group {group} panicked: {}", panic_message(&*panic));
            tracing::error!(group, error, "the consumer is replaced");
            let mut queue = lock(&shared.queue);
            queue.error = Some(Error::unavailable(error));
            queue.closed = true;
            drop(queue);
            shared.arrived.notify_one();
        }
    }

    fn run(mut self) {
        while self.take_commands() {
            if self.client.context().broker_loss.is_cut() {
                self.begin_anew();
            }
            self.follow_rebalances();
            self.finish_revoking();
            if self.committed_at.elapsed() >= COMMIT_EVERY {
                self.commit(CommitMode::Async);
            }
            if self.has_room() {
                self.read();
            }
        }
        self.commit_last();
        let Self { client, shared, left, .. } = self;
        lock(&shared.queue).closed = true;
        shared.arrived.notify_one();
        close(client);
        if let Some(left) = left {
            left.send_replace(true);
        }
    }

    /// Joins the group with a new client, in place of one that is cut off. What was handed out may still be
    /// handled, and comes again.
    fn begin_anew(&mut self) {
        match connect(&self.settings, &self.group, &self.topics, &self.progress) {
            Err(e) => tracing::warn!(group = self.group, error = %e, "a new client cannot be made"),
            Ok(client) => {
                tracing::warn!(group = self.group, "the consumer knows no broker any more; it is replaced");
                let cut_off = std::mem::replace(&mut self.client, client);
                // Leaving takes its time without a broker.
                std::thread::spawn(move || close(cut_off));
                self.assigned.clear();
                self.revoking = None;
                self.paused = false;
                lock(&self.shared.queue).clear();
            }
        }
    }

    /// Does what the engine asks for; says whether to go on.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Wish::Handled(handled)) => {
                    for (partition, generation, handled) in handled {
                        if let Some(assigned) = self.assigned.get_mut(&partition)
                            && assigned.generation == generation
                        {
                            assigned.handled = assigned.handled.max(handled.offset);
                            assigned.latest_us = handled.latest_us;
                        }
                    }
                }
                Ok(Wish::Leave) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Tells whether more may be read; if not, waits a moment for the engine. A queue that stays full has its
    /// partitions paused, and the client is polled on, so that the broker does not take it for dead.
    fn has_room(&mut self) -> bool {
        let queue = lock(&self.shared.queue);
        let is_full =
            |queue: &mut Queue| queue.records.len() >= WAITING_MAX || queue.bytes >= WAITING_BYTES_MAX;
        let waited = self.shared.room.wait_timeout_while(queue, TURN, is_full);
        let (mut queue, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        let full = is_full(&mut queue);
        drop(queue);
        if !full {
            self.full_since = None;
            self.pause(false);
            return true;
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= PAUSE_AFTER {
            self.pause(true);
        }
        self.paused
    }

    fn pause(&mut self, pause: bool) {
        if self.paused == pause {
            return;
        }
        let Ok(assignment) = self.client.assignment() else { return };
        let done = if pause { self.client.pause(&assignment) } else { self.client.resume(&assignment) };
        match done {
            Ok(()) => self.paused = pause,
            Err(e) => tracing::warn!(error = %reason(&e), pause, "partitions could not be paused or resumed"),
        }
    }

    /// Moves what has arrived into the queue; waits a moment if nothing has.
    fn read(&mut self) {
        let mut chunk: Vec<(u64, Record)> = Vec::new();
        let mut bytes = 0;
        let mut wait = if self.revoking.is_some() { REVOKING_TURN } else { TURN };
        let client = &self.client;
        let mut last: Option<(&Arc<str>, i32, Option<u64>)> = None;
        while chunk.len() < CHUNK_MAX {
            let message = match client.poll(wait) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(e)) => {
                    on_client_error(&self.shared, &self.group, &e);
                    break;
                }
            };
            wait = Duration::ZERO;
            let Some(name) = self.settings.local_name(message.topic()) else { continue };
            let known =
                last.filter(|(topic, partition, _)| ***topic == *name && *partition == message.partition());
            let (topic, _, generation) = match known {
                Some(known) => known,
                None => {
                    let Some(topic) = self.topics.iter().find(|topic| ***topic == *name) else { continue };
                    let key = (topic.clone(), message.partition());
                    let found = self.assigned.get(&key).map(|assigned| assigned.generation);
                    (topic, message.partition(), found)
                }
            };
            last = Some((topic, message.partition(), generation));
            // Of a partition that was taken away meanwhile: its new owner reads it.
            let Some(generation) = generation else { continue };
            let record = self.arena.record(topic, &message);
            bytes += record.message.size();
            chunk.push((generation, record));
        }
        if !chunk.is_empty() {
            let mut read = lock(&self.progress.read);
            for run in chunk.chunk_by(|(_, a), (_, b)| a.partition == b.partition && a.topic == b.topic) {
                let (_, last) = &run[run.len() - 1];
                read.insert((last.topic.clone(), last.partition), last.offset + 1);
            }
            drop(read);
            let mut queue = lock(&self.shared.queue);
            queue.bytes += bytes;
            queue.records.extend(chunk);
            drop(queue);
            self.shared.arrived.notify_one();
        }
    }
}
