//! The broker that messages go to: topics, partitions by key, consumer groups, committed offsets.
//!
//! [`Broker`] is picked by URL: `sqlite:DIRECTORY` is the embedded log, with Kafka's words and rules;
//! `kafka://host:port,…` is Apache Kafka.

mod handed_out;
#[cfg(feature = "kafka")]
mod kafka;
mod log;
mod offsets;
mod partitioner;
mod topic;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::message::Message;
use crate::message::frame::Frames;
use crate::redact::redacted;

pub use partitioner::partition_of;
pub use topic::{Drift, Topic, TopicSpec};

/// The broker that messages go to. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Backend);

#[derive(Clone)]
enum Backend {
    Log(Arc<log::Log>),
    #[cfg(feature = "kafka")]
    Kafka(Arc<kafka::Kafka>),
}

/// A member of a group, reading its share of the partitions.
pub struct Consumer(Member);

enum Member {
    Log(log::LogConsumer),
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaConsumer),
}

/// A message to be sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outgoing {
    /// Its topic, which must exist.
    pub topic: Cow<'static, str>,
    /// Key, headers, value.
    pub message: Arc<Message>,
}

/// A message as a consumer gets it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// Topic it was read from.
    pub topic: Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// Position in the partition.
    pub offset: i64,
    /// The time at which the broker took the record, in microseconds since 1970.
    pub timestamp_us: i64,
    /// Key, headers, value.
    pub message: Arc<Message>,
    /// The part of it that the client cannot represent, if there is one: it is missing in `message`.
    pub unreadable: Option<String>,
}

/// The progress of a group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// The next offset the group will handle.
    pub offset: i64,
    /// The next offset the broker will give out.
    pub end: i64,
}

/// The point at which a reader outside any group begins to read a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this offset, in each partition.
    Offset(i64),
    /// At the first record that is not older, microseconds since 1970.
    Time(i64),
    /// After the last record there is.
    End,
}

/// A stretch of a partition.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) records: std::collections::VecDeque<Record>,
    /// True if nothing comes after this stretch yet.
    pub(crate) is_end: bool,
}

/// Records that are read of a partition at once, and about how many bytes of a topic.
const STRETCH_MAX: usize = 500;
const STRETCHES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Tells whether a stretch of a partition may go on.
fn has_room(records: usize, bytes: usize, partitions: usize) -> bool {
    records < STRETCH_MAX && bytes < STRETCHES_BYTES_MAX / partitions.max(1)
}

/// Does the same to either kind of broker.
macro_rules! either {
    ($kind:expr, $it:ident => $does:expr) => {
        match $kind {
            Backend::Log($it) => $does,
            #[cfg(feature = "kafka")]
            Backend::Kafka($it) => $does,
        }
    };
}
macro_rules! either_member {
    ($member:expr, $it:ident => $does:expr) => {
        match $member {
            Member::Log($it) => $does,
            #[cfg(feature = "kafka")]
            Member::Kafka($it) => $does,
        }
    };
}

impl Outgoing {
    /// A message for a topic, which must exist.
    #[must_use]
    pub fn new(topic: impl Into<Cow<'static, str>>, message: impl Into<Arc<Message>>) -> Self {
        Self { topic: topic.into(), message: message.into() }
    }
}

impl Broker {
    /// Opens the broker at `url`. Kafka need not be there yet.
    ///
    /// # Errors
    /// In one line that says what to do: an unknown URL, an unwritable directory, a directory in use,
    /// data of a newer release, a program built without Kafka.
    pub fn open(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("sqlite", directory)) if !directory.is_empty() => {
                log::Log::open(Path::new(directory)).map(Backend::Log).map(Self)
            }
            #[cfg(feature = "kafka")]
            Some(("kafka", _)) => kafka::Kafka::open(url).map(Backend::Kafka).map(Self),
            #[cfg(not(feature = "kafka"))]
            Some(("kafka", _)) => Err(Error::config(
                "this program was built without Kafka; build one that has it: cargo build --release --features kafka",
            )),
            _ => Err(Error::config(format!(
                "{:?} is not a broker this program knows; use --broker sqlite:DIRECTORY or --broker kafka://HOST:PORT",
                redacted(url)
            ))),
        }
    }

    /// Returns the migrations that opening the embedded log would run, without opening it; `None` for another broker.
    pub(crate) fn steps(url: &str) -> Result<Option<Vec<String>>, Error> {
        match url.split_once(':') {
            Some(("sqlite", directory)) if !directory.is_empty() => {
                log::Log::steps(Path::new(directory)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Asks every broker that leads a partition of the topics that are there.
    pub(crate) async fn reach(&self, specs: &[TopicSpec]) -> Result<(), Error> {
        match &self.0 {
            Backend::Log(_) => {
                let _ = specs;
                Ok(())
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.reach(specs).await,
        }
    }

    /// Makes the topics that are not there yet. Never deletes one, nor changes its partitions.
    ///
    /// # Errors
    /// A topic exists with another partition count; an unusable broker.
    pub async fn apply_topics(&self, topics: &[Topic]) -> Result<(), Error> {
        either!(&self.0, it => it.apply_topics(topics).await)
    }

    /// Returns the differences between topics and what they should be. A spec that says nothing of partitions asks
    /// for `partitions`.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn plan_topics(&self, specs: &[TopicSpec], partitions: u32) -> Result<Vec<Drift>, Error> {
        match &self.0 {
            Backend::Log(log) => {
                let found = log.topics().await?;
                Ok(specs.iter().filter_map(|spec| compare(&spec.topic(partitions), &found)).collect())
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.plan_topics(specs, partitions).await,
        }
    }

    /// Makes topics what they should be, as far as that harms no one; returns what was done. What is left
    /// to an operator stands in the plan.
    ///
    /// # Errors
    /// A topic has another number of partitions; an unusable broker.
    pub async fn apply_plan(&self, specs: &[TopicSpec], partitions: u32) -> Result<Vec<Drift>, Error> {
        let plan = self.plan_topics(specs, partitions).await?;
        if let Some(refused) = plan.iter().find(|drift| matches!(drift, Drift::Partitions { .. })) {
            return Err(Error::config(refused.to_string()));
        }
        let applied: Vec<Drift> = plan.into_iter().filter(Drift::can_be_applied).collect();
        match &self.0 {
            Backend::Log(log) => {
                log.apply_topics(&specs.iter().map(|spec| spec.topic(partitions)).collect::<Vec<_>>())
                    .await?;
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.apply_plan(specs, &applied).await?,
        }
        Ok(applied)
    }

    /// Returns the reasons for which these topics lose events, a line each.
    pub(crate) async fn losses(&self, specs: &[TopicSpec]) -> Result<Vec<String>, Error> {
        match &self.0 {
            Backend::Log(_) => {
                let _ = specs;
                Ok(Vec::new())
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.losses(specs).await,
        }
    }

    /// The topics that a group in this process has read from, each with the time of the latest record handled.
    pub(crate) fn handled_until(&self, group: &str) -> BTreeMap<Arc<str>, i64> {
        match &self.0 {
            Backend::Log(_) => {
                let _ = group;
                BTreeMap::new()
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.handled_until(group),
        }
    }

    /// Those of these topics in which a group has committed nothing.
    pub(crate) async fn without_offsets(&self, group: &str, topics: &[String]) -> Result<Vec<String>, Error> {
        match &self.0 {
            Backend::Log(_) => {
                let _ = (group, topics);
                Ok(Vec::new())
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.without_offsets(group, topics).await,
        }
    }

    /// Refuses topics that are not those that a group has read in this process: deleted and created again.
    pub(crate) async fn verify_read(&self, group: &str) -> Result<(), Error> {
        match &self.0 {
            Backend::Log(_) => {
                let _ = group;
                Ok(())
            }
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.verify_read(group).await,
        }
    }

    /// All topics.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn topics(&self) -> Result<Vec<Topic>, Error> {
        either!(&self.0, it => it.topics().await)
    }

    /// Returns the name of a topic for other programs that read it.
    pub(crate) fn wire_name(&self, topic: &str) -> String {
        match &self.0 {
            Backend::Log(_) => topic.to_owned(),
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.wire_name(topic),
        }
    }

    /// Has values framed from now on. The embedded log has no readers that need frames.
    pub(crate) fn frame(&self, frames: Frames) {
        match &self.0 {
            Backend::Log(_) => drop(frames),
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.frame(frames),
        }
    }

    /// Sends a burst; says for each message, in order, whether it is durable.
    ///
    /// Messages of one key keep the order of the burst, and of successive calls.
    pub(crate) async fn send_burst(&self, burst: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        either!(&self.0, it => it.send(burst).await)
    }

    /// Sends a burst past every outbox, as a program outside would. A service has [`Tx::publish`](crate::Tx::publish).
    #[cfg(any(test, feature = "testing"))]
    pub async fn send(&self, burst: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        self.send_burst(burst).await
    }

    /// Joins a group that reads `topics`, from its committed offsets or else from the beginning.
    ///
    /// # Errors
    /// A topic does not exist.
    pub async fn subscribe(&self, group: &str, topics: &[String]) -> Result<Consumer, Error> {
        self.subscribe_for(None, group, topics).await
    }

    /// Joins a group for a store: the group belongs to the first store that commits, and is refused to others.
    pub(crate) async fn subscribe_for(
        &self,
        store: Option<&str>,
        group: &str,
        topics: &[String],
    ) -> Result<Consumer, Error> {
        // An embedded log lies beside its stores.
        let _ = store;
        Ok(Consumer(match &self.0 {
            Backend::Log(log) => Member::Log(log::LogConsumer::join(log, group, topics)?),
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => Member::Kafka(kafka.subscribe(store, group, topics).await?),
        }))
    }

    /// Returns the progress of a group in each partition that the group has committed or is reading.
    ///
    /// # Errors
    /// A topic does not exist; an unusable broker.
    pub async fn positions(&self, group: &str, topics: &[String]) -> Result<Vec<Position>, Error> {
        either!(&self.0, it => it.positions(group, topics).await)
    }

    /// Reads a partition from an offset, outside any group.
    ///
    /// # Errors
    /// No such topic or partition; an unusable broker.
    pub async fn read(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        either!(&self.0, it => it.read(topic, partition, offset, limit).await)
    }

    /// Returns, for each partition of a topic, the offset at which a reader outside any group begins.
    ///
    /// # Errors
    /// No such topic; an unusable broker.
    pub(crate) async fn offsets(&self, topic: &str, start: Start) -> Result<Vec<i64>, Error> {
        either!(&self.0, it => it.offsets(topic, start).await)
    }

    /// Reads a bounded stretch of each partition of a topic, from its offset, outside any group.
    ///
    /// # Errors
    /// No such topic; an unusable broker.
    pub(crate) async fn stretches(&self, topic: &str, offsets: &[i64]) -> Result<Vec<Stretch>, Error> {
        either!(&self.0, it => it.stretches(topic, offsets).await)
    }

    /// Forgets records that are older than the embedded log's retention (seven days); returns how many
    /// batches. Kafka sees to that itself.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn forget(&self, now: jiff::Timestamp) -> Result<u64, Error> {
        match &self.0 {
            Backend::Log(log) => log.forget(now).await,
            #[cfg(feature = "kafka")]
            Backend::Kafka(_) => Ok(0),
        }
    }

    /// Writes what is still deferred: a clean stop.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn close(&self) -> Result<(), Error> {
        either!(&self.0, it => it.close().await)
    }
}

/// Returns the difference between a topic and the wanted one, in what every broker knows.
fn compare(wanted: &Topic, found: &[Topic]) -> Option<Drift> {
    match found.iter().find(|found| found.name == wanted.name) {
        None => Some(Drift::Missing { topic: wanted.clone() }),
        Some(found) if found.partitions != wanted.partitions => Some(Drift::Partitions {
            topic: wanted.name.to_string(),
            found: found.partitions,
            wanted: wanted.partitions,
        }),
        Some(_) => None,
    }
}

/// The progress of joining a group.
pub(crate) enum Joining {
    /// The group is joined with the call.
    Done,
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaJoining),
}

impl Joining {
    /// Waits until there is something to say: why it takes so long, or nothing any more.
    pub(crate) async fn changed(&mut self) -> Option<String> {
        match self {
            Self::Done => std::future::pending().await,
            #[cfg(feature = "kafka")]
            Self::Kafka(joining) => joining.changed().await,
        }
    }
}

impl Consumer {
    /// Waits for records and returns what is there, at most `limit`; each partition's in order.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn poll(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        either_member!(&mut self.0, it => it.poll(limit).await)
    }

    /// Returns the progress of joining the group.
    pub(crate) fn joining(&self) -> Joining {
        match &self.0 {
            Member::Log(_) => Joining::Done,
            #[cfg(feature = "kafka")]
            Member::Kafka(member) => Joining::Kafka(member.joining()),
        }
    }

    /// Waits until at least `count` records wait.
    pub(crate) async fn filled(&mut self, count: usize) {
        match &mut self.0 {
            // It is read when it is asked.
            Member::Log(_) => std::future::pending().await,
            #[cfg(feature = "kafka")]
            Member::Kafka(member) => member.filled(count).await,
        }
        let _ = count;
    }

    /// True if the consumer reads nothing any more and has to be replaced by a new one.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.0 {
            Member::Log(_) => false,
            #[cfg(feature = "kafka")]
            Member::Kafka(member) => member.has_ended(),
        }
    }

    /// True if a record that is handled comes behind this one in its partition.
    pub(crate) fn is_passed(&self, record: &Record) -> bool {
        either_member!(&self.0, it => it.is_passed(record))
    }

    /// Takes note that these records, as returned by [`Consumer::poll`], are handled for good.
    pub fn commit(&mut self, records: &[Record]) {
        either_member!(&mut self.0, it => it.commit(records));
    }

    /// Writes down what is handled and leaves the group.
    pub async fn leave(self) {
        match self.0 {
            Member::Log(member) => drop(member),
            #[cfg(feature = "kafka")]
            Member::Kafka(member) => member.leave().await,
        }
    }
}
