//! The embedded log: one SQLite file with Kafka's words and rules, for one process.
//!
//! A row holds a *record batch*, as in Kafka: what one burst added to one partition. The newest
//! records of each partition also stay in memory, where consumers that keep up find them; one that falls
//! behind reads the table until it has caught up.
//!
//! | Module | Is |
//! |---|---|
//! | `state` | partitions and groups in memory |
//! | `table` | record batches in the file |
//! | `read` | reading outside groups, and forgetting |
//! | `consumer` | a member of a group |

mod consumer;
mod read;
mod state;
mod table;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rusqlite::params;
use tokio::sync::watch;

use self::state::{Appended, LogState};
use self::table::{load, write};
use super::{Outgoing, Topic};
use crate::error::Error;
use crate::message::MESSAGE_BYTES_MAX;
use crate::panic::lock;
use crate::sqlite::{SqliteFile, migrate};

pub(super) use consumer::LogConsumer;

const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// A message may carry `dlq_*` headers on top of what was published.
const RECORD_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX;

pub(super) struct Log {
    database: Arc<SqliteFile>,
    state: Mutex<LogState>,
    /// Counts appends and group changes: what consumers wait for.
    changes: watch::Sender<u64>,
    members: AtomicU64,
}

impl Log {
    pub(super) fn open(directory: &Path) -> Result<Arc<Self>, Error> {
        let database = SqliteFile::open(directory, "log")?;
        let state = database.set_up(|connection| {
            migrate(connection, "log", MIGRATIONS)?;
            load(connection)
        })?;
        Ok(Arc::new(Self {
            database,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            members: AtomicU64::new(0),
        }))
    }

    /// The migrations that opening it would run.
    pub(super) fn steps(directory: &Path) -> Result<Vec<String>, Error> {
        crate::sqlite::steps(directory, "log", &[("log", MIGRATIONS.len())])
    }

    pub(super) async fn apply_topics(&self, topics: &[Topic]) -> Result<(), Error> {
        for topic in topics {
            let found = lock(&self.state).topics.get(&*topic.name).map(Vec::len);
            match found {
                Some(count) if count == topic.partitions as usize => {}
                Some(count) => {
                    return Err(Error::config(format!(
                        "topic {} has {count} partitions, not {}: changing that would move keys; keep --partitions {count}",
                        topic.name, topic.partitions
                    )));
                }
                None => self.create(topic).await?,
            }
        }
        Ok(())
    }

    async fn create(&self, topic: &Topic) -> Result<(), Error> {
        let unit = self.database.begin().await?;
        let first = lock(&self.state).partitions.len();
        for number in 0..topic.partitions {
            unit.connection()
                .execute(
                    "INSERT INTO topic_partition (id, topic, partition) VALUES (?1, ?2, ?3)",
                    params![first as i64 + i64::from(number), topic.name, number],
                )
                .map_err(|e| Error::store(format!("cannot create topic {}", topic.name), e))?;
        }
        unit.commit(Box::new(|| ())).await?;
        let mut state = lock(&self.state);
        let name: Arc<str> = (*topic.name).into();
        for number in 0..topic.partitions {
            state.add(name.clone(), number.cast_signed(), 0);
        }
        Ok(())
    }

    pub(super) async fn topics(&self) -> Result<Vec<Topic>, Error> {
        let state = lock(&self.state);
        let topic = |(name, partitions): (&Arc<str>, &Vec<usize>)| Topic {
            name: name.to_string().into(),
            partitions: u32::try_from(partitions.len()).expect("a topic has few partitions"),
        };
        Ok(state.topics.iter().map(topic).collect())
    }

    pub(super) async fn send(self: &Arc<Self>, burst: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(burst.len());
        let mut accepted = Vec::with_capacity(burst.len());
        for outgoing in burst {
            let checked = self.check(&outgoing);
            if checked.is_ok() {
                accepted.push(outgoing);
            }
            results.push(checked);
        }
        if !accepted.is_empty()
            && let Err(e) = self.append(accepted).await
        {
            for result in results.iter_mut().filter(|r| r.is_ok()) {
                *result = Err(e.clone());
            }
        }
        results
    }

    fn check(&self, outgoing: &Outgoing) -> Result<(), Error> {
        if !lock(&self.state).topics.contains_key(&*outgoing.topic) {
            return Err(Error::refused(format!("there is no topic {}", outgoing.topic)));
        }
        if outgoing.message.size() > RECORD_BYTES_MAX {
            return Err(Error::unacceptable(format!(
                "a message of {} bytes is larger than {RECORD_BYTES_MAX}",
                outgoing.message.size()
            )));
        }
        Ok(())
    }

    async fn append(self: &Arc<Self>, burst: Vec<Outgoing>) -> Result<(), Error> {
        let unit = self.database.begin().await?;
        // Offsets are given out under the write lock, so offset order is commit order.
        let appended = lock(&self.state).assign(burst, Timestamp::now().as_microsecond());
        let written = write(unit.connection(), &appended);
        written.map_err(|e| Error::store("cannot append to the log", e))?;
        let log = self.clone();
        unit.commit(Box::new(move || log.publish(appended))).await
    }

    /// Makes committed records visible: runs in commit order, before any other write may begin.
    fn publish(&self, appended: Vec<Appended>) {
        let mut state = lock(&self.state);
        for Appended { partition, record } in appended {
            state.partitions[partition].push(record);
        }
        drop(state);
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) async fn set_offsets(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(i32, i64)],
    ) -> Result<(), Error> {
        let set: Vec<(usize, i64)> = {
            let mut state = lock(&self.state);
            let ids = state.partitions_of(&[topic.to_owned()])?;
            let known = state.groups.entry(group.to_owned()).or_default();
            if !known.members.is_empty() {
                return Err(Error::conflict(format!("group {group} has members")));
            }
            let id = |(partition, offset): &(i32, i64)| {
                Some((*ids.get(partition.unsigned_abs() as usize)?, *offset))
            };
            let set: Vec<(usize, i64)> = offsets.iter().filter_map(id).collect();
            known.committed.extend(set.iter().copied());
            set
        };
        let group = group.to_owned();
        // Behind what the last member has deferred.
        self.database.defer(move |connection| {
            let mut write = connection.prepare_cached(
                "INSERT INTO group_offset (name, partition_id, \"offset\") VALUES (?1, ?2, ?3)
                 ON CONFLICT (name, partition_id) DO UPDATE SET \"offset\" = excluded.\"offset\"",
            )?;
            for (id, offset) in &set {
                write.execute(params![group, *id as i64, offset])?;
            }
            Ok(())
        });
        self.database.flush().await
    }

    pub(super) async fn close(&self) -> Result<(), Error> {
        self.database.flush().await?;
        self.database.checkpoint().await
    }
}
