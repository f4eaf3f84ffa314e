//! Topics as code: declared beside the event types, compared with what there is, made so.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::message::MESSAGE_BYTES_MAX;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A topic and how many partitions it has, for ever.
///
/// ```
/// # use tidings::Error;
/// # #[tokio::main] async fn main() -> Result<(), Error> {
/// # let scratch = tidings_testkit::Scratch::new();
/// let broker = tidings::Broker::open(&scratch.url())?;
/// assert_eq!(broker.topics().await?, []);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The number of partitions; more would move keys to other partitions.
    pub partitions: u32,
}

/// The wanted form of a topic. The embedded log heeds name and partitions; the rest is for Kafka.
///
/// ```
/// use std::time::Duration;
/// use tidings::{Service, TopicSpec};
///
/// const PARCELS: TopicSpec = TopicSpec::new("parcels").partitions(12).retention(Duration::from_secs(14 * 86400));
///
/// let service = Service::new("shipping").topic(PARCELS);
/// assert_eq!(service.topic_specs(), [PARCELS]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSpec {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The number of partitions, if it is not the one that `--partitions` gives.
    pub partitions: Option<u32>,
    /// Copies of each record; fewer where there are fewer brokers.
    pub replication: u32,
    /// Copies that must be written before a record is acknowledged; one where there is one copy.
    pub min_insync_replicas: u32,
    /// The time for which records are kept: longer than the longest outage of a consumer.
    pub retention: Duration,
    /// The largest record, in bytes.
    pub message_bytes_max: usize,
    /// Kept by key instead of by age: for topics of which only the last event of each key counts.
    pub is_compacted: bool,
}

impl TopicSpec {
    /// A topic that survives the loss of a broker, and of a consumer for a week.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            partitions: None,
            replication: 3,
            min_insync_replicas: 2,
            retention: Duration::from_secs(7 * DAY.as_secs()),
            message_bytes_max: 2 * MESSAGE_BYTES_MAX,
            is_compacted: false,
        }
    }

    /// Keeps the last record of each key, and no other for ever: only for topics whose readers want no more.
    #[must_use]
    pub const fn compacted(mut self) -> Self {
        self.is_compacted = true;
        self
    }

    /// Keeps records for this long.
    #[must_use]
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Takes records of at most this many bytes.
    #[must_use]
    pub const fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// Sets the number of partitions, whatever `--partitions` says.
    #[must_use]
    pub const fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Sets the number of copies, and the number of those that must be written before a record is acknowledged.
    #[must_use]
    pub const fn replication(mut self, replication: u32, min_insync_replicas: u32) -> Self {
        self.replication = replication;
        self.min_insync_replicas = min_insync_replicas;
        self
    }

    /// The topic of a group's dead letters: kept for a month, with room for what is said about them.
    pub(crate) fn dead_letters(group: &str) -> Self {
        Self {
            name: Cow::Owned(format!("{group}_dlq")),
            retention: 30 * DAY,
            message_bytes_max: 3 * MESSAGE_BYTES_MAX,
            ..Self::new("")
        }
    }

    /// The topic it describes, with the partitions it has if it says nothing of them.
    pub(crate) fn topic(&self, partitions: u32) -> Topic {
        Topic { name: self.name.clone(), partitions: self.partitions.unwrap_or(partitions) }
    }
}

impl From<&'static str> for TopicSpec {
    fn from(name: &'static str) -> Self {
        Self::new(name)
    }
}

/// A difference between a topic and what it should be.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), tidings::Error> {
/// # let scratch = tidings_testkit::Scratch::new();
/// use tidings::{Broker, TopicSpec};
///
/// let broker = Broker::open(&scratch.url())?;
/// let drift = broker.plan_topics(&[TopicSpec::new("parcels")], 6).await?;
/// assert_eq!(drift[0].to_string(), "parcels: make it, with 6 partitions");
/// assert!(drift[0].can_be_applied());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The topic does not exist.
    Missing {
        /// The topic.
        topic: Topic,
    },
    /// A setting has another value.
    Setting {
        /// The topic's name.
        topic: String,
        /// Kafka's name of the setting.
        setting: &'static str,
        /// The value that the topic has.
        found: String,
        /// The value that it should have.
        wanted: String,
    },
    /// It has another number of partitions. Never changed: keys would move.
    Partitions {
        /// The topic's name.
        topic: String,
        /// The number that the topic has.
        found: u32,
        /// The number that it should have.
        wanted: u32,
    },
    /// It has another number of copies. Not changed here: that moves data between brokers.
    Replication {
        /// The topic's name.
        topic: String,
        /// The number that the topic has.
        found: u32,
        /// The number that it should have.
        wanted: u32,
    },
}

impl Drift {
    /// Tells whether `topics apply` mends this difference.
    #[must_use]
    pub fn can_be_applied(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Setting { .. })
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { topic } => {
                write!(f, "{}: make it, with {} partitions", topic.name, topic.partitions)
            }
            Self::Setting { topic, setting, found, wanted } => {
                write!(f, "{topic}: set {setting} to {wanted} (it is {found})")
            }
            Self::Partitions { topic, found, wanted } => write!(
                f,
                "{topic}: has {found} partitions, not {wanted}: changing that would move keys; keep --partitions {found}"
            ),
            Self::Replication { topic, found, wanted } => write!(
                f,
                "{topic}: has {found} copies, not {wanted}: change that with kafka-reassign-partitions"
            ),
        }
    }
}
