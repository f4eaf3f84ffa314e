//! Apache Kafka, by way of librdkafka.
//!
//! | Module | Is |
//! |---|---|
//! | `settings` | the URL, and what librdkafka is told |
//! | `broker_loss` | whether a client still knows a broker |
//! | `offsets` | the offsets of a group that nobody is in |
//! | `outage` | what clients report about brokers: said once |
//! | `identity` | whether a topic is the one that was read before |
//! | [`producer`] | bursts out: idempotent, `acks=all`, Java's partitioner |
//! | [`consumer`] | records in: one owner thread for each member of a group |
//! | [`topics`] | making and comparing topics |

mod consumer;
mod identity;
mod broker_loss;
mod member;
mod offsets;
mod outage;
mod owner;
mod producer;
mod progress;
mod queue;
mod read;
mod record;
mod settings;
mod topics;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Semaphore;

use super::{Outgoing, Position, Record, Start, Stretch, Topic, TopicSpec};
use crate::error::Error;
use crate::message::frame::Frames;
use crate::panic::lock;

use consumer::Membership;
pub(super) use consumer::{KafkaConsumer, KafkaJoining};
use offsets::set_offsets;
use outage::Reporting;
use producer::Producer;
use progress::Progress;
use read::{ends, not_before, read, stretches, times_at};
use record::Arena;
use settings::KafkaSettings;

/// The longest time for one question to the cluster.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Questions to the cluster at once, each on a thread: a cluster that hangs must not fill the process with them.
const QUESTIONS_MAX: usize = 8;
/// A client that is cut off fails sooner than this, and a cluster that hangs does not.
const CUT_OFF_MAX: Duration = Duration::from_secs(1);
/// The longest time for members to leave their groups when the process stops.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// The group name of a reader outside any group, where this process has no group that it may read as.
const READER: &str = "tidings-reader";

/// A cluster.
pub(super) struct Kafka {
    settings: KafkaSettings,
    producer: Producer,
    /// The progress of this process by group, ahead of what is committed.
    progress: Mutex<HashMap<String, Arc<Progress>>>,
    /// Clients that only ask, by group.
    watchers: Mutex<HashMap<String, Arc<ReaderClient>>>,
    /// The groups that this process is in.
    members: Mutex<Vec<Membership>>,
    questions: Arc<Semaphore>,
}

/// A client that asks or reads outside any group.
type ReaderClient = BaseConsumer<Reporting>;

impl Kafka {
    pub(super) fn open(url: &str) -> Result<Arc<Self>, Error> {
        let settings = KafkaSettings::parse(url)?;
        let producer = Producer::new(&settings)?;
        let (progress, watchers, members) = Default::default();
        let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Ok(Arc::new(Self { settings, producer, progress, watchers, members, questions }))
    }

    pub(super) fn wire_name(&self, topic: &str) -> String {
        self.settings.wire_name(topic)
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
    ) -> Result<KafkaConsumer, Error> {
        self.partitions(topics).await?;
        let progress = lock(&self.progress).entry(group.to_owned()).or_default().clone();
        let (consumer, membership) = KafkaConsumer::join(&self.settings, group, topics, store, progress)?;
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
        self.settings.wire_name(ours.as_deref().unwrap_or(READER))
    }

    /// Returns the number of partitions of each topic.
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
                    wanted.add_partition(&settings.wire_name(topic), partition);
                }
            }
            let failed = |e| failed("cannot read a group's offsets", &e);
            let committed = client.committed_offsets(wanted, ANSWER_MAX).map_err(failed)?;
            let mut positions = Vec::new();
            for (topic, count) in &counts {
                let (topic, count): (Arc<str>, u32) = (topic.as_str().into(), *count);
                let wire = settings.wire_name(&topic);
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

    pub(super) async fn set_offsets(
        self: &Arc<Self>,
        group: &str,
        topic: &str,
        offsets: &[(i32, i64)],
    ) -> Result<(), Error> {
        let (name, topic, offsets) = (group.to_owned(), topic.to_owned(), offsets.to_vec());
        let progress = lock(&self.progress).get(group).cloned().unwrap_or_default();
        self.ask(group, move |settings, client| set_offsets(settings, client, &name, &topic, &offsets))
            .await?;
        // What this process knew of the group is no longer so.
        progress.forget();
        Ok(())
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
            let client: ReaderClient = settings.asking(&config)?;
            read(&settings, &client, &topic, partition, offset, limit)
        })
        .await
    }

    pub(super) async fn times_at(
        self: &Arc<Self>,
        positions: &[Position],
    ) -> Result<Vec<Option<i64>>, Error> {
        let (settings, group, positions) = (self.settings.clone(), self.reader_group(), positions.to_vec());
        self.blocking(move || times_at(&settings, &group, &positions)).await
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
        // A reader that follows a topic mostly finds nothing new: that is seen without a client of its own.
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
        question: impl Fn(&KafkaSettings, &ReaderClient) -> Result<T, Error> + Send + 'static,
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
    fn watcher(&self, group: &str) -> Result<(Arc<ReaderClient>, bool), Error> {
        if let Some(known) = lock(&self.watchers).get(group) {
            return Ok((known.clone(), false));
        }
        let id = if group.is_empty() { self.reader_group() } else { self.settings.wire_name(group) };
        let config = self.settings.client(&[
            ("group.id", &id),
            ("enable.auto.commit", "false"),
            ("allow.auto.create.topics", "false"),
        ]);
        let client: Arc<ReaderClient> = Arc::new(self.settings.asking(&config)?);
        Ok((lock(&self.watchers).entry(group.to_owned()).or_insert(client).clone(), true))
    }
}

/// True if an error says only that this process may not use the group that a client is named by.
fn is_about_group(e: &KafkaError) -> bool {
    e.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// Returns the error of a failed attempt. If the broker refused a right, the error names it: an operator has to grant
/// it. Any other failure may pass.
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

/// Returns librdkafka's own message, without the names of the binding's types.
fn reason(e: &KafkaError) -> String {
    match e.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => e.to_string(),
    }
}
