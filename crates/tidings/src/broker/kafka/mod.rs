//! Apache Kafka, by way of librdkafka.
//!
//! | Module | Is |
//! |---|---|
//! | `settings` | the URL, and what librdkafka is told |
//! | `lifeline` | whether a client still knows a broker |
//! | `outage` | what clients report about brokers: said once |
//! | `identity` | whether a topic is the one that was read before |
//! | [`producer`] | bursts out: idempotent, `acks=all`, Java's partitioner |
//! | [`consumer`] | records in: one owner thread for each member of a group |
//! | [`topics`] | making and comparing topics |

mod consumer;
mod identity;
mod lifeline;
mod member;
mod outage;
mod owner;
mod producer;
mod progress;
mod queue;
mod settings;
mod topics;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, Timestamp, TopicPartitionList};
use tokio::sync::Semaphore;

use super::{Outgoing, Position, Record, Start, Stretch, Topic, TopicSpec, has_room};
use crate::error::Error;
use crate::message::Headers;
use crate::message::Message;
use crate::message::frame::Frames;
use crate::panic::lock;
use crate::panic::panic_message;

use consumer::Membership;
pub(super) use consumer::{Consumer, Joining};
use outage::Reporting;
use producer::Producer;
use progress::Progress;
use settings::Settings;

/// How long one question to the cluster may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Questions to the cluster at once, each on a thread: a cluster that hangs must not fill the process with them.
const QUESTIONS_MAX: usize = 8;
/// A client that is cut off fails sooner than this, and a cluster that hangs does not.
const CUT_OFF_MAX: Duration = Duration::from_secs(1);
/// How long members may take to leave their groups when the process stops.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// Who reads outside any group where this process has none that it was allowed to read as.
const READER: &str = "tidings-reader";
/// Bytes of messages that share one allocation.
const ARENA_BYTES: usize = 64 * 1024;

/// A cluster.
pub(super) struct Kafka {
    settings: Settings,
    producer: Producer,
    /// How far this process has come, ahead of what is committed, by group.
    progress: Mutex<HashMap<String, Arc<Progress>>>,
    /// Clients that only ask, by group.
    watchers: Mutex<HashMap<String, Arc<Client>>>,
    /// The groups that this process is in.
    members: Mutex<Vec<Membership>>,
    questions: Arc<Semaphore>,
}

/// A client that asks or reads outside any group.
type Client = BaseConsumer<Reporting>;

impl Kafka {
    pub(super) fn open(url: &str) -> Result<Arc<Self>, Error> {
        let settings = Settings::parse(url)?;
        let producer = Producer::new(&settings)?;
        let (progress, watchers, members) = Default::default();
        let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Ok(Arc::new(Self { settings, producer, progress, watchers, members, questions }))
    }

    pub(super) fn wire_name(&self, topic: &str) -> String {
        self.settings.on_wire(topic)
    }

    pub(super) fn frame(&self, frames: Frames) {
        self.producer.frame(frames);
    }

    pub(super) async fn send(&self, burst: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        self.producer.send(&self.settings, burst).await
    }

    pub(super) async fn subscribe(
        self: &Arc<Self>,
        store: Option<&str>,
        group: &str,
        topics: &[String],
    ) -> Result<Consumer, Error> {
        self.partitions(topics).await?;
        let progress = lock(&self.progress).entry(group.to_owned()).or_default().clone();
        let (consumer, membership) = Consumer::join(&self.settings, group, topics, store, progress)?;
        let mut members = lock(&self.members);
        members.retain(|member| !member.has_left());
        members.push(membership);
        Ok(consumer)
    }

    /// Asks every broker that leads a partition of topics that are there.
    pub(super) async fn reach(self: &Arc<Self>, specs: &[TopicSpec]) -> Result<(), Error> {
        let names: Vec<String> = specs.iter().map(|spec| spec.name.to_string()).collect();
        self.ask("", move |settings, client| {
            for name in &names {
                match topics::partitions(settings, client, name) {
                    Ok(count) => drop(ends(settings, client, name, count)?),
                    Err(e) if e.is_config() => {} // it is missing, which the plan says
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        })
        .await
    }

    /// The group that a reader outside any group is called by: one that may read here, if there is one. It
    /// joins nothing and commits nothing.
    fn reader_group(&self) -> String {
        let ours = lock(&self.progress).keys().min().cloned();
        self.settings.on_wire(ours.as_deref().unwrap_or(READER))
    }

    /// How many partitions each topic has.
    async fn partitions(self: &Arc<Self>, topics: &[String]) -> Result<Vec<(String, u32)>, Error> {
        let wanted = topics.to_vec();
        self.ask("", move |settings, client| {
            wanted
                .iter()
                .map(|topic| Ok((topic.clone(), topics::partitions(settings, client, topic)?)))
                .collect()
        })
        .await
    }

    pub(super) async fn positions(
        self: &Arc<Self>,
        group: &str,
        topics: &[String],
    ) -> Result<Vec<Position>, Error> {
        let counts = self.partitions(topics).await?;
        let progress = lock(&self.progress).get(group).cloned().unwrap_or_default();
        self.ask(group, move |settings, client| {
            let mut wanted = TopicPartitionList::new();
            for (topic, count) in &counts {
                for partition in 0..count.cast_signed() {
                    wanted.add_partition(&settings.on_wire(topic), partition);
                }
            }
            let failed = |e| failed("cannot read a group's offsets", &e);
            let committed = client.committed_offsets(wanted, ANSWER_MAX).map_err(failed)?;
            let mut positions = Vec::new();
            for (topic, count) in &counts {
                let (topic, count): (Arc<str>, u32) = (topic.as_str().into(), *count);
                let wire = settings.on_wire(&topic);
                for partition in 0..count.cast_signed() {
                    let offset = match committed.find_partition(&wire, partition).map(|found| found.offset())
                    {
                        Some(Offset::Offset(offset)) => offset,
                        _ => 0,
                    };
                    let (_, end) = client.fetch_watermarks(&wire, partition, ANSWER_MAX).map_err(failed)?;
                    let offset = progress.handled(&topic, &wire, partition).max(offset);
                    positions.push(Position { topic: topic.clone(), partition, offset, end });
                }
            }
            Ok(positions)
        })
        .await
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        topic: &str,
        partition: i32,
        offset: i64,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let topic = topic.to_owned();
        let (settings, group) = (self.settings.clone(), self.reader_group());
        self.blocking(move || {
            let config = settings.client(&[("group.id", &group), ("enable.auto.commit", "false")]);
            let client: Client = settings.asking(&config)?;
            read(&settings, &client, &topic, partition, offset, limit)
        })
        .await
    }

    pub(super) async fn offsets(self: &Arc<Self>, topic: &str, start: Start) -> Result<Vec<i64>, Error> {
        let topic = topic.to_owned();
        self.ask("", move |settings, client| {
            let count = topics::partitions(settings, client, &topic)?;
            match start {
                Start::Offset(offset) => Ok(vec![offset; count as usize]),
                Start::End => ends(settings, client, &topic, count),
                Start::Time(time_us) => not_before(settings, client, &topic, count, time_us),
            }
        })
        .await
    }

    pub(super) async fn stretches(
        self: &Arc<Self>,
        topic: &str,
        offsets: &[i64],
    ) -> Result<Vec<Stretch>, Error> {
        let (name, count) = (topic.to_owned(), offsets.len() as u32);
        let ends = self.ask("", move |settings, client| ends(settings, client, &name, count)).await?;
        let (settings, topic, offsets) = (self.settings.clone(), topic.to_owned(), offsets.to_vec());
        // Who follows a topic mostly finds nothing new: that is seen without a client of its own.
        if ends.iter().zip(&offsets).all(|(end, offset)| offset >= end) {
            return Ok(ends.iter().map(|_| Stretch { is_end: true, ..Stretch::default() }).collect());
        }
        let group = self.reader_group();
        self.blocking(move || stretches(&settings, &group, &topic, &offsets, &ends)).await
    }

    pub(super) async fn close(&self) -> Result<(), Error> {
        // First of all: others wait for our partitions.
        let members = std::mem::take(&mut *lock(&self.members));
        let left = join_all(members.iter().map(Membership::leave));
        if tokio::time::timeout(LEAVE_MAX, left).await.is_err() {
            tracing::warn!("a group could not be left in time; it misses us after its session's time-out");
        }
        self.producer.close();
        // Clients that hang would keep us.
        let watchers = std::mem::take(&mut *lock(&self.watchers));
        std::thread::spawn(move || drop(watchers));
        Ok(())
    }

    /// Asks the cluster something, off the async workers.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        group: &str,
        question: impl Fn(&Settings, &Client) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (this, group) = (self.clone(), group.to_owned());
        self.blocking(move || {
            let (mut client, is_new) = this.watcher(&group)?;
            let asked = Instant::now();
            let mut answer = question(&this.settings, &client);
            if answer.as_ref().is_err_and(Error::is_unavailable) {
                // Perhaps it is the client that is cut off.
                lock(&this.watchers).remove(&group);
                if !is_new && asked.elapsed() < CUT_OFF_MAX {
                    (client, _) = this.watcher(&group)?;
                    answer = question(&this.settings, &client);
                }
            }
            // It reads nothing; but what it has to report would pile up.
            while client.poll(Duration::ZERO).is_some() {}
            answer
        })
        .await
    }

    /// Does something that blocks, on a thread that keeps no process from ending. An error that may come from a
    /// broker that is away says which.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let given_up = || Error::unavailable("a question to Kafka was given up");
        let permit = self.questions.clone().acquire_owned().await.map_err(|_| given_up())?;
        let (answered, answer) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("kafka question".to_owned())
            .spawn(move || {
                let _ = answered.send(work());
                drop(permit);
            })
            .map_err(|e| Error::unavailable(format!("cannot start a thread: {e}")))?;
        let answer = answer.await.unwrap_or_else(|_| Err(given_up()));
        answer.map_err(|e| match self.settings.outage.reason(self.settings.servers()) {
            Some(why) if e.is_unavailable() => Error::unavailable(format!("{e}; {why}")),
            _ => e,
        })
    }

    /// The client that asks for a group, and whether it has just been made.
    fn watcher(&self, group: &str) -> Result<(Arc<Client>, bool), Error> {
        if let Some(known) = lock(&self.watchers).get(group) {
            return Ok((known.clone(), false));
        }
        let id = if group.is_empty() { self.reader_group() } else { self.settings.on_wire(group) };
        let config = self.settings.client(&[
            ("group.id", &id),
            ("enable.auto.commit", "false"),
            ("allow.auto.create.topics", "false"),
        ]);
        let client: Arc<Client> = Arc::new(self.settings.asking(&config)?);
        Ok((lock(&self.watchers).entry(group.to_owned()).or_insert(client).clone(), true))
    }
}

fn read(
    settings: &Settings,
    client: &Client,
    topic: &str,
    partition: i32,
    offset: i64,
    limit: usize,
) -> Result<Vec<Record>, Error> {
    let count = topics::partitions(settings, client, topic)?;
    if !(0..count.cast_signed()).contains(&partition) {
        return Err(Error::config(format!("there is no partition {topic}/{partition}")));
    }
    let wire = settings.on_wire(topic);
    let attempted = format!("cannot read {topic}/{partition} from {offset}");
    let failed = |e| failed(&attempted, &e);
    let (first, end) = client.fetch_watermarks(&wire, partition, ANSWER_MAX).map_err(failed)?;
    let mut next = offset.max(first);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&wire, partition, Offset::Offset(next)).map_err(failed)?;
    client.assign(&assignment).map_err(failed)?;
    let topic: Arc<str> = topic.into();
    let mut arena = Arena::default();
    let mut records = Vec::new();
    while next < end && records.len() < limit {
        match client.poll(ANSWER_MAX) {
            Some(Ok(message)) => {
                next = message.offset() + 1;
                records.push(arena.record(&topic, &message));
            }
            // Nothing is done as this group.
            Some(Err(e)) if is_about_group(&e) => {}
            Some(Err(e)) => return Err(failed(e)),
            // The last offsets may be those of markers, which are not delivered.
            None => break,
        }
    }
    Ok(records)
}

/// The next offset of each partition.
fn ends(settings: &Settings, client: &Client, topic: &str, count: u32) -> Result<Vec<i64>, Error> {
    let (wire, attempted) = (settings.on_wire(topic), format!("cannot look at topic {topic}"));
    (0..count.cast_signed())
        .map(|partition| {
            let found = client.fetch_watermarks(&wire, partition, ANSWER_MAX);
            found.map(|(_, end)| end).map_err(|e| failed(&attempted, &e))
        })
        .collect()
}

/// The first offset of each partition whose record is not older.
fn not_before(
    settings: &Settings,
    client: &Client,
    topic: &str,
    count: u32,
    time_us: i64,
) -> Result<Vec<i64>, Error> {
    let attempted = format!("cannot look at topic {topic}");
    let failed = |e| failed(&attempted, &e);
    let wire = settings.on_wire(topic);
    let mut times = TopicPartitionList::new();
    for partition in 0..count.cast_signed() {
        // Kafka counts milliseconds.
        let time = Offset::Offset(time_us.div_euclid(1000));
        times.add_partition_offset(&wire, partition, time).map_err(failed)?;
    }
    let found = client.offsets_for_times(times, ANSWER_MAX).map_err(failed)?;
    let mut offsets = ends(settings, client, topic, count)?;
    for (partition, offset) in offsets.iter_mut().enumerate() {
        let found = found.find_partition(&wire, partition as i32).map(|found| found.offset());
        if let Some(Offset::Offset(first)) = found {
            *offset = first;
        }
    }
    Ok(offsets)
}

/// Reads partitions until each is at its end or has no room left.
fn stretches(
    settings: &Settings,
    group: &str,
    topic: &str,
    offsets: &[i64],
    ends: &[i64],
) -> Result<Vec<Stretch>, Error> {
    let attempted = format!("cannot read {topic}");
    let failed = |e| failed(&attempted, &e);
    let defaults =
        [("fetch.wait.max.ms", "50"), ("queued.max.messages.kbytes", "4096"), ("fetch.max.bytes", "4194304")];
    // What is no longer there is passed over.
    let fixed = [
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "earliest"),
    ];
    let client: Client = settings.asking(&settings.client_of(&defaults, &fixed))?;
    let wire = settings.on_wire(topic);
    let mut reading = TopicPartitionList::new();
    let mut stretches: Vec<Stretch> = Vec::with_capacity(offsets.len());
    for (partition, (offset, end)) in offsets.iter().zip(ends).enumerate() {
        let is_end = offset >= end;
        if !is_end {
            let offset = Offset::Offset(*offset);
            reading.add_partition_offset(&wire, partition as i32, offset).map_err(failed)?;
        }
        stretches.push(Stretch { is_end, ..Stretch::default() });
    }
    client.assign(&reading).map_err(failed)?;
    let (name, mut arena, mut bytes) = (topic.into(), Arena::default(), vec![0; offsets.len()]);
    let mut open = reading.count();
    while open > 0 {
        match client.poll(ANSWER_MAX) {
            Some(Ok(message)) => {
                let partition = message.partition().unsigned_abs() as usize;
                let stretch = &mut stretches[partition];
                if stretch.is_end || !has_room(stretch.records.len(), bytes[partition], offsets.len()) {
                    continue; // it came before the partition was paused, or after its end was seen
                }
                let record = arena.record(&name, &message);
                bytes[partition] += record.message.size();
                stretch.records.push_back(record);
                if !has_room(stretch.records.len(), bytes[partition], offsets.len()) {
                    open -= 1;
                    let mut full = TopicPartitionList::new();
                    full.add_partition(&wire, message.partition());
                    client.pause(&full).map_err(failed)?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let partition = partition.unsigned_abs() as usize;
                let stretch = &mut stretches[partition];
                let is_open = has_room(stretch.records.len(), bytes[partition], offsets.len());
                if is_open && !stretch.is_end {
                    stretch.is_end = true;
                    open -= 1;
                }
            }
            Some(Err(e)) if is_about_group(&e) => {}
            Some(Err(e)) => return Err(failed(e)),
            None => return Err(Error::unavailable(format!("{attempted}: no answer"))),
        }
    }
    Ok(stretches)
}

/// Where the keys and values of messages go: many share one allocation.
#[derive(Default)]
struct Arena {
    bytes: bytes::BytesMut,
    /// What the headers of the last message took: most messages of a topic are alike.
    headers: usize,
}

impl Arena {
    fn record(&mut self, topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Record {
        let (content, unreadable) = self.message(message);
        Record {
            topic: topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_us: match message.timestamp() {
                Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms * 1000,
                Timestamp::NotAvailable => 0,
            },
            message: Arc::new(content),
            unreadable,
        }
    }

    /// Copies a message; the headers that the client cannot represent are left out and told.
    fn message(&mut self, message: &BorrowedMessage<'_>) -> (Message, Option<String>) {
        let key = message.key().map(|key| self.put(key));
        let value = message.payload().map(|value| self.put(value)).unwrap_or_default();
        let mut headers = Headers::with_capacity(self.headers);
        let mut unreadable = None;
        if let Some(found) = message.headers() {
            for at in 0..found.count() {
                match unless_it_panics(|| found.get(at)) {
                    Ok(header) => match header.value {
                        Some(value) => headers.push(header.key, value),
                        None => headers.push_null(header.key),
                    },
                    Err(panic) => unreadable = Some(format!("header {at} cannot be read: {panic}")),
                }
            }
        }
        self.headers = headers.size();
        let is_tombstone = message.payload().is_none();
        (Message { key, headers, value, is_tombstone }, unreadable)
    }

    fn put(&mut self, bytes: &[u8]) -> bytes::Bytes {
        if self.bytes.capacity() < bytes.len() {
            self.bytes.reserve(ARENA_BYTES.max(bytes.len()));
        }
        self.bytes.extend_from_slice(bytes);
        self.bytes.split().freeze()
    }
}

/// Reads what the client's wrapper may be unable to represent, though the broker takes it: it panics then.
fn unless_it_panics<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| panic_message(&*panic).to_owned())
}

/// Whether it says only that we are not allowed to be of the group that a client is called by.
fn is_about_group(e: &KafkaError) -> bool {
    e.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// What was refused is for an operator to grant; anything else may pass.
fn failed(attempted: &str, e: &KafkaError) -> Error {
    let what = format!("{attempted}: {}", reason(e));
    match e.rdkafka_error_code().and_then(missing_right) {
        Some(right) => Error::unavailable(format!("{what}: grant {right}")),
        None => Error::unavailable(what),
    }
}

/// The right that a refusal is about, in the words of Kafka's access control lists.
fn missing_right(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => Some("Read, Write and Describe on the topic"),
        RDKafkaErrorCode::GroupAuthorizationFailed => Some("Read on the group"),
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            Some("Describe (or Create, to make topics) on the cluster")
        }
        RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::Authentication => {
            Some("access: look at sasl.username and TIDINGS_BROKER_SASL_PASSWORD")
        }
        _ => None,
    }
}

/// What librdkafka says, without the names of the binding's own types.
fn reason(e: &KafkaError) -> String {
    match e.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::unless_it_panics;

    #[test]
    fn a_panic_of_the_client_is_the_records() {
        assert_eq!(unless_it_panics(|| 1), Ok(1));
        assert_eq!(unless_it_panics(|| -> u8 { panic!("not {}", "text") }), Err("not text".to_owned()));
    }
}
