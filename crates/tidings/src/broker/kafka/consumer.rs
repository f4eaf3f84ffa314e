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
//! handled, or after [`DRAIN_MAX`]; its new owner begins where the commit says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::identity::{self, Beside};
use super::lifeline::{Lifeline, REPORT_EVERY_MS};
use super::outage::Outage;
use super::settings::{Settings, without_value};
use super::{ANSWER_MAX, Arena, LEAVE_MAX, Record, failed, reason};
use crate::error::Error;
use crate::panic::lock;
use crate::panic::panic_message;

/// How often progress is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long a commit is tried that has to be the last one, and the pause between tries.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(2);
const LAST_COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// Joining a group takes no longer, unless something is wrong; how often that is looked at.
const JOIN_MAX: Duration = Duration::from_secs(20);
const JOIN_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a partition that is taken away waits for what was handed out of it.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Records and bytes that wait for the engine: a few of its batches. Beyond either nothing is read.
const WAITING_MAX: usize = 2048;
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Records moved into the queue at once.
const CHUNK_MAX: usize = 256;
/// How long the owner waits for a record before it looks after everything else.
const TURN: Duration = Duration::from_millis(50);
/// A queue that is full for longer has its partitions paused, so that the client can be polled on.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

type Partition = (Arc<str>, i32);

/// How far this process has come, by partition.
#[derive(Default)]
pub(super) struct Progress {
    handled: Mutex<HashMap<Partition, Handled>>,
    /// The same when it was last looked whether the topic is still the one that was read.
    seen: Mutex<HashMap<Partition, Handled>>,
    /// The next offset after the last record that was read.
    read: Mutex<HashMap<Partition, i64>>,
    /// How far the client has looked, by the cluster's names.
    looked: Mutex<HashMap<(String, i32), Looked>>,
    /// Where joining the group stands, and since when.
    joining: Mutex<Option<(Instant, String)>>,
}

impl Progress {
    /// The next offset to handle. Markers of transactions, at which nothing can be read, are passed over once
    /// the client has.
    pub(super) fn handled(&self, topic: &Arc<str>, wire: &str, partition: i32) -> i64 {
        let place = (topic.clone(), partition);
        let known = lock(&self.handled).get(&place).copied();
        let handled = known.map_or(0, |known| known.offset);
        let read = lock(&self.read).get(&place).copied().unwrap_or_default();
        match lock(&self.looked).get(&(wire.to_owned(), partition)) {
            Some(looked) if looked.is_settled && handled >= read => handled.max(looked.next),
            _ => handled,
        }
    }

    /// Where every partition stood when it was looked at last, and where it stands now.
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

    /// Up to here a partition is the one that was read.
    pub(super) fn looked_at(&self, partition: Partition, now: Handled) {
        lock(&self.seen).insert(partition, now);
    }

    /// Takes in what a client reports.
    fn look(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        self.note_joining(statistics.cgrp.as_ref());
        let mut looked = lock(&self.looked);
        for (topic, Topics { partitions }) in statistics.topics {
            for (partition, found) in partitions {
                let Ok(partition) = partition.parse::<i32>() else { continue };
                let place = (topic.clone(), partition);
                // Twice the same, seconds apart: nothing is on its way from the broker to us.
                let is_settled = found.fetchq_cnt == 0
                    && looked.get(&place).is_some_and(|before| {
                        (before.given_out, before.next) == (found.app_offset, found.next_offset)
                    });
                let Fetching { app_offset, next_offset, .. } = found;
                looked.insert(place, Looked { given_out: app_offset, next: next_offset, is_settled });
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

    /// Why the group is not joined, if it takes longer than it ever should.
    fn not_joined(&self) -> Option<String> {
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

/// What is read of librdkafka's statistics.
#[derive(serde::Deserialize)]
struct Statistics {
    topics: HashMap<String, Topics>,
    cgrp: Option<Group>,
}

#[derive(serde::Deserialize)]
struct Group {
    state: String,
    join_state: String,
}

#[derive(serde::Deserialize)]
struct Topics {
    partitions: HashMap<String, Fetching>,
}

#[derive(serde::Deserialize)]
struct Fetching {
    fetchq_cnt: i64,
    next_offset: i64,
    app_offset: i64,
}

/// What can be said to a member from outside: that it is to leave.
pub(super) struct Membership {
    commands: Sender<Command>,
    left: tokio::sync::watch::Receiver<bool>,
}

impl Membership {
    pub(super) fn has_left(&self) -> bool {
        *self.left.borrow()
    }

    /// Has it leave its group; ends when it has.
    pub(super) async fn leave(&self) {
        let _ = self.commands.send(Command::Leave);
        // Its end without a word is an end too.
        let _ = self.left.clone().wait_for(|left| *left).await;
    }
}

/// The end of the queue that the engine has.
pub(in crate::broker) struct Consumer {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    commands: Sender<Command>,
    left: tokio::sync::watch::Receiver<bool>,
    /// The generations of what was handed out last.
    generations: HashMap<Partition, u64>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: tokio::sync::Notify,
    room: Condvar,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<(u64, Record)>,
    bytes: usize,
    /// The next offset after what was handed out, by generation.
    handed_out: HashMap<u64, i64>,
    /// Not to be read from until the owner has gone back.
    rewinding: bool,
    error: Option<Error>,
    closed: bool,
}

impl Queue {
    /// Forgets what was read and what was handed out.
    fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
        self.handed_out.clear();
    }
}

enum Command {
    /// How far a partition is handled, under a generation.
    Handled(Vec<(Partition, u64, Handled)>),
    Rewind,
    Leave,
}

impl Consumer {
    pub(super) fn join(
        settings: &Settings,
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
        Ok((Self { shared, progress, commands, left, generations: HashMap::new() }, membership))
    }

    pub(in crate::broker) async fn poll(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        loop {
            if let Some(taken) = self.take(limit)? {
                return Ok(taken);
            }
            self.shared.arrived.notified().await;
        }
    }

    pub(in crate::broker) fn joining(&self) -> Joining {
        Joining {
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
        if queue.records.is_empty() || queue.rewinding {
            return Ok(None);
        }
        let count = queue.records.len().min(limit);
        let mut records = Vec::with_capacity(count);
        let mut bytes = 0;
        self.generations.clear();
        let mut last: Option<u64> = None;
        let Queue { records: waiting, handed_out, .. } = &mut *queue;
        for (generation, record) in waiting.drain(..count) {
            if last != Some(generation) {
                last = Some(generation);
                self.generations.insert((record.topic.clone(), record.partition), generation);
            }
            bytes += record.message.size();
            handed_out.insert(generation, record.offset + 1);
            records.push(record);
        }
        queue.bytes -= bytes;
        drop(queue);
        self.shared.room.notify_one();
        Ok(Some(records))
    }

    pub(in crate::broker) fn commit(&mut self, records: &[Record]) {
        let mut handled: HashMap<Partition, Handled> = HashMap::new();
        for run in records.chunk_by(|a, b| a.partition == b.partition && a.topic == b.topic) {
            let handled = handled.entry((run[0].topic.clone(), run[0].partition)).or_default();
            // Handled in whatever order suits the handlers.
            for record in run {
                handled.offset = record.offset.saturating_add(1).max(handled.offset);
                handled.latest_us = handled.latest_us.max(Some(record.timestamp_us));
            }
        }
        let mut progress = lock(&self.progress.handled);
        let mut seen = lock(&self.progress.seen);
        let handled = handled
            .into_iter()
            .filter_map(|(partition, handled)| {
                let generation = *self.generations.get(&partition)?;
                let known = progress.entry(partition.clone()).or_default();
                known.offset = known.offset.max(handled.offset);
                // Unknown stays unknown: there may have been later ones before.
                known.latest_us =
                    known.latest_us.map(|latest| Some(latest).max(handled.latest_us).unwrap_or(latest));
                // Where nothing was known, the first that is handled is what can be recognised.
                if let Some(seen) = seen.get_mut(&partition).filter(|seen| seen.latest_us == Some(i64::MIN)) {
                    *seen = *known;
                }
                Some((partition, generation, *known))
            })
            .collect();
        drop((progress, seen));
        // An owner that has ended has left the group: the next one begins at what was committed.
        let _ = self.commands.send(Command::Handled(handled));
    }

    pub(in crate::broker) fn rewind(&mut self) {
        lock(&self.shared.queue).rewinding = true;
        let _ = self.commands.send(Command::Rewind);
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

/// How joining the group goes.
pub(crate) struct Joining {
    progress: Arc<Progress>,
    looks_at: Instant,
    is_stuck: bool,
}

impl Joining {
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

impl Drop for Consumer {
    /// Whoever polls no more is no member any more: its partitions go to others at once.
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Leave);
        self.shared.room.notify_one();
    }
}

/// Has the client.
struct Owner {
    client: BaseConsumer<Rebalances>,
    settings: Settings,
    group: String,
    topics: Vec<Arc<str>>,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    commands: Receiver<Command>,
    assigned: HashMap<Partition, Assigned>,
    generation: u64,
    /// Being taken away, since when.
    revoking: Option<(Vec<Partition>, Instant)>,
    arena: Arena,
    committed_at: Instant,
    full_since: Option<Instant>,
    paused: bool,
    left: Option<tokio::sync::watch::Sender<bool>>,
    /// The store in which events are handled, if the group is to belong to it.
    store: Option<String>,
}

/// A partition that is ours.
struct Assigned {
    generation: u64,
    handled: i64,
    latest_us: Option<i64>,
    committed: i64,
}

/// What the client says about our share of the partitions, in order; looked at outside its callback.
#[derive(Default)]
struct Rebalances {
    state: Mutex<State>,
    outage: Arc<Outage>,
    progress: Arc<Progress>,
    lifeline: Lifeline,
    /// A commit has failed since the last one.
    commit_failed: AtomicBool,
}

#[derive(Default)]
struct State {
    events: VecDeque<Rebalance>,
    /// The client is being closed: whatever it gives or takes is given up at once.
    closing: bool,
}

enum Rebalance {
    Assign(Vec<(String, i32)>),
    Revoke(Vec<(String, i32)>),
}

impl ClientContext for Rebalances {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the consumer reports");
    }

    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        self.outage.report(level, kind, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.outage.look(statistics);
        self.progress.look(statistics);
        self.lifeline.look(statistics);
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, client: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let mut state = lock(&self.state);
        let partitions = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if !state.closing => {
                state.events.push_back(Rebalance::Assign(partitions));
            }
            _ if !state.closing => state.events.push_back(Rebalance::Revoke(partitions)),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {}
            _ => unassign(client, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(e) = result
            && e.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            tracing::warn!(error = %reason(&e), "progress was not committed; it will be with the next commit");
            self.commit_failed.store(true, Ordering::SeqCst);
        }
    }
}

/// A client that subscribes.
fn connect(
    settings: &Settings,
    group: &str,
    topics: &[impl AsRef<str>],
    progress: &Arc<Progress>,
) -> Result<BaseConsumer<Rebalances>, Error> {
    let wire_group = settings.on_wire(group);
    let classic = settings.property("group.protocol") != Some("consumer");
    let mut defaults = vec![
        ("fetch.queue.backoff.ms", "2"), // 20 ms starve a fast consumer, the default of a second much more
        ("queued.min.messages", "5000"),
        ("queued.max.messages.kbytes", "4096"),
        ("fetch.max.bytes", "4194304"), // an answer; the default of 50 MiB would fill memory at once
        ("fetch.wait.max.ms", "100"),
        ("isolation.level", "read_committed"),
    ];
    if classic {
        defaults.push(("partition.assignment.strategy", "cooperative-sticky"));
        // A member that was killed is missed after this, and its partitions go to others.
        defaults.push(("session.timeout.ms", "10000"));
        // A member that has left in good order is heard of with the next beat: the others go on that soon.
        defaults.push(("heartbeat.interval.ms", "500"));
    }
    let fixed = [
        ("group.id", &*wire_group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
        ("enable.partition.eof", "false"),
        ("statistics.interval.ms", REPORT_EVERY_MS),
    ];
    let attempted = format!("cannot join group {group}");
    let client: BaseConsumer<Rebalances> = settings
        .client_of(&defaults, &fixed)
        .create_with_context(Rebalances {
            outage: settings.outage.clone(),
            progress: progress.clone(),
            ..Rebalances::default()
        })
        .map_err(|e| Error::config(format!("{attempted}: {}", without_value(&e))))?;
    let names: Vec<String> = topics.iter().map(|topic| settings.on_wire(topic.as_ref())).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.subscribe(&names).map_err(|e| failed(&attempted, &e))?;
    Ok(client)
}

/// Leaves the group at once.
fn close(client: BaseConsumer<Rebalances>) {
    lock(&client.context().state).closing = true;
    unassign(&client, &client.assignment().unwrap_or_default());
}

fn unassign(client: &BaseConsumer<Rebalances>, list: &TopicPartitionList) {
    let done = match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(list),
        _ => client.unassign(),
    };
    if let Err(e) = done {
        tracing::warn!(error = %reason(&e), "partitions could not be given up");
    }
}

impl Owner {
    fn join(
        settings: &Settings,
        group: &str,
        topics: &[String],
        shared: Arc<Shared>,
        progress: Arc<Progress>,
        commands: Receiver<Command>,
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

    /// Runs; a panic ends the membership, and the engine joins anew.
    fn run_guarded(self) {
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
            if self.client.context().lifeline.is_cut() {
                self.begin_anew();
            }
            self.follow_rebalances();
            self.finish_revoking(false);
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
                Ok(Command::Handled(handled)) => {
                    for (partition, generation, handled) in handled {
                        if let Some(assigned) = self.assigned.get_mut(&partition)
                            && assigned.generation == generation
                        {
                            assigned.handled = assigned.handled.max(handled.offset);
                            assigned.latest_us = handled.latest_us;
                        }
                    }
                }
                Ok(Command::Rewind) => self.rewind(),
                Ok(Command::Leave) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Whether more may be read; waits a moment for the engine if not. A queue that stays full has its
    /// partitions paused, and the client is polled on: it must not be taken for dead.
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
        let mut wait = if self.revoking.is_some() { Duration::from_millis(5) } else { TURN };
        let client = &self.client;
        let mut last: Option<(&Arc<str>, i32, Option<u64>)> = None;
        while chunk.len() < CHUNK_MAX {
            let message = match client.poll(wait) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(e)) => {
                    complain(&self.shared, &self.group, &e);
                    break;
                }
            };
            wait = Duration::ZERO;
            let Some(name) = self.settings.here(message.topic()) else { continue };
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

    fn follow_rebalances(&mut self) {
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
            let Some(topic) = self.topics.iter().find(|t| Some(&***t) == self.settings.here(&topic)) else {
                continue;
            };
            self.generation += 1;
            let Handled { offset, latest_us } = handled;
            let assigned =
                Assigned { generation: self.generation, handled: offset, latest_us, committed: offset };
            self.assigned.insert((topic.clone(), partition), assigned);
            // Whatever this process knew of it from before, somebody else may have moved on.
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

    /// Takes nothing up: whoever polls hears why, and leaves.
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
                let topic = self.topics.iter().find(|t| Some(&***t) == self.settings.here(topic))?;
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

    fn finish_revoking(&mut self, at_once: bool) {
        let Some((partitions, since)) = &self.revoking else { return };
        let lost = self.client.assignment_lost();
        let is_handled = |partition: &Partition| {
            let Some(assigned) = self.assigned.get(partition) else { return true };
            let handed_out = lock(&self.shared.queue).handed_out.get(&assigned.generation).copied();
            handed_out.is_none_or(|handed_out| assigned.handled >= handed_out)
        };
        if !at_once && !lost && since.elapsed() < DRAIN_MAX && !partitions.iter().all(is_handled) {
            return;
        }
        if !lost {
            self.commit_last();
        }
        let Some((partitions, _)) = self.revoking.take() else { return };
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition(&self.settings.on_wire(&partition.0), partition.1);
            if let Some(assigned) = self.assigned.remove(partition) {
                lock(&self.shared.queue).handed_out.remove(&assigned.generation);
            }
        }
        let partitions = named(partitions.iter().map(|(topic, partition)| (&**topic, *partition)));
        tracing::info!(group = self.group, partitions, lost, "partitions given up");
        unassign(&self.client, &list);
    }

    /// Commits what is handled and not committed yet; only ever forward. What is not committed in the end is
    /// delivered again, and recognised.
    fn commit(&mut self, mode: CommitMode) {
        self.committed_at = Instant::now();
        let again = self.client.context().commit_failed.swap(false, Ordering::SeqCst);
        let mut list = TopicPartitionList::new();
        for ((topic, partition), assigned) in &mut self.assigned {
            if assigned.handled > assigned.committed || again {
                let offset = Offset::Offset(assigned.handled);
                let topic = self.settings.on_wire(topic);
                if list.add_partition_offset(&topic, *partition, offset).is_ok() {
                    assigned.committed = assigned.handled;
                }
                if let Some(mut element) = list.find_partition(&topic, *partition) {
                    let beside = Beside { latest_us: assigned.latest_us, store: self.store.as_deref() };
                    element.set_metadata(beside.metadata());
                }
            }
        }
        if list.count() > 0
            && let Err(e) = self.client.commit(&list, mode)
        {
            self.client.context().commit_callback(Err(e), &list);
        }
    }

    /// Commits before partitions go to somebody else: a coordinator that is moving is asked again.
    fn commit_last(&mut self) {
        let begun = Instant::now();
        self.commit(CommitMode::Sync);
        while self.client.context().commit_failed.load(Ordering::SeqCst)
            && begun.elapsed() < LAST_COMMIT_MAX
            && !self.client.assignment_lost()
        {
            std::thread::sleep(LAST_COMMIT_PAUSE);
            self.commit(CommitMode::Sync);
        }
    }

    fn rewind(&mut self) {
        lock(&self.shared.queue).clear();
        let mut list = TopicPartitionList::new();
        for ((topic, partition), assigned) in &self.assigned {
            let topic = self.settings.on_wire(topic);
            let _ = list.add_partition_offset(&topic, *partition, Offset::Offset(assigned.handled));
        }
        if let Err(e) = self.client.seek_partitions(list, ANSWER_MAX) {
            tracing::warn!(error = %reason(&e), "the consumer cannot go back");
        }
        lock(&self.shared.queue).rewinding = false;
        self.shared.arrived.notify_one();
    }
}

/// Partitions as they are written: `orders-0, orders-1`.
fn named<'a>(partitions: impl Iterator<Item = (&'a str, i32)>) -> String {
    partitions.map(|(topic, partition)| format!("{topic}-{partition}")).collect::<Vec<_>>().join(", ")
}

/// Says what the client reports, and stops where going on would be a guess.
fn complain(shared: &Shared, group: &str, e: &KafkaError) {
    use RDKafkaErrorCode as Code;
    let code = e.rdkafka_error_code();
    let refusal = match code {
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Some(
            "what the group has yet to read is gone from the topic (retention, or a topic made anew): set its offsets with kafka-consumer-groups --reset-offsets and start again",
        ),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
            Some("a topic is gone; restore it, or make it with topics apply, and start again")
        }
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
            Some("reading is not allowed; grant Read on the topic and the group, and start again")
        }
        Some(Code::UnsupportedVersion | Code::UnsupportedFeature) => Some(
            "the broker has not switched on what group.protocol asks for (KIP-848): leave group.protocol out of the broker URL, or set group.coordinator.rebalance.protocols=classic,consumer at the broker",
        ),
        _ if matches!(e, KafkaError::MessageConsumptionFatal(_)) => {
            Some("the client has broken; start again")
        }
        _ => None,
    };
    match refusal {
        None => tracing::debug!(group, error = %reason(e), "the consumer reports"),
        Some(what) => {
            let message = format!("group {group} cannot read on: {}: {what}", reason(e));
            lock(&shared.queue).error = Some(Error::config(message));
            shared.arrived.notify_one();
        }
    }
}
