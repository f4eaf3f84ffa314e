//! Where messages go: topics, partitions by key, consumer groups, committed offsets.
//!
//! [`Broker`] is picked by URL; `sqlite:DIRECTORY` is the embedded log, with Kafka's words and rules.

mod partitioner;
mod sqlite;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::message::Message;
use crate::store::sqlite_directory;

pub use partitioner::partition_of;
pub use sqlite::Consumer;

/// Where messages go. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    log: Arc<sqlite::Log>,
}

/// A topic and how many partitions it has, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Cow<'static, str>,
    /// How many partitions; more would move keys to other partitions.
    pub partitions: u32,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its topic, which must exist.
    pub topic: Cow<'static, str>,
    /// Key, headers, value.
    pub message: Arc<Message>,
}

/// A message as a consumer gets it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Topic it was read from.
    pub topic: Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// Position in the partition.
    pub offset: i64,
    /// When the broker took it, microseconds since 1970.
    pub timestamp_us: i64,
    /// Key, headers, value.
    pub message: Arc<Message>,
}

/// How far a group has come in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Broker {
    /// Opens the broker at `url`.
    ///
    /// # Errors
    /// In one line that says what to do: an unknown URL, an unwritable directory, a directory in use,
    /// data of a newer release.
    pub fn open(url: &str) -> Result<Self, Error> {
        let directory = sqlite_directory(url, "--broker", "a broker")?;
        let log = sqlite::Log::open(Path::new(directory))?;
        Ok(Self { log })
    }

    /// Makes the topics that are not there yet. Never changes or deletes one.
    ///
    /// # Errors
    /// A topic exists with another partition count; an unusable broker.
    pub async fn apply_topics(&self, topics: &[Topic]) -> Result<(), Error> {
        self.log.apply_topics(topics).await
    }

    /// All topics.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.log.topics()
    }

    /// Sends a burst; says for each message, in order, whether it is durable.
    ///
    /// Messages of one key keep the order of the burst, and of successive calls.
    pub async fn send(&self, burst: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        self.log.send(burst).await
    }

    /// Joins a group that reads `topics`, from its committed offsets or else from the beginning.
    ///
    /// # Errors
    /// A topic does not exist.
    pub fn subscribe(&self, group: &str, topics: &[String]) -> Result<Consumer, Error> {
        sqlite::Consumer::join(&self.log, group, topics)
    }

    /// How far a group has come in each partition it has committed or is reading.
    ///
    /// # Errors
    /// A topic does not exist.
    pub fn positions(&self, group: &str, topics: &[String]) -> Result<Vec<Position>, Error> {
        self.log.positions(group, topics)
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
        self.log.read(topic, partition, offset, limit).await
    }

    /// Forgets records that are older than the broker's retention (seven days); returns how many batches.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn forget(&self, now: jiff::Timestamp) -> Result<u64, Error> {
        self.log.forget(now).await
    }

    /// Writes what is still deferred: a clean stop.
    ///
    /// # Errors
    /// An unusable broker.
    pub async fn close(&self) -> Result<(), Error> {
        self.log.close().await
    }
}
