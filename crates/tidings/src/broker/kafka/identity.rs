//! The check that a topic is the one that was read before.
//!
//! A position is a number: in a topic that was deleted and created again it names another record, and the client goes
//! on there silently. So the time of the latest record before a position is kept with the position, in memory and in
//! the metadata of the committed offset. In the topic that was read, no record before the position is later. In a
//! topic that was created again and filled past the position, all are. (Topics have ids, but the binding of
//! librdkafka does not tell them.)

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use super::progress::Handled;
use super::{ANSWER_MAX, Kafka, failed};
use crate::error::Error;
use crate::panic::lock;

/// The beginning of the metadata of our commits.
const MARK: &str = "tidings";

/// The metadata beside a committed offset: `tidings latest_us=… store=…`, each where it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beside<'a> {
    /// The time of the latest record before the offset.
    pub(super) latest_us: Option<i64>,
    /// The store in which the events before it are handled.
    pub(super) store: Option<&'a str>,
}

impl<'a> Beside<'a> {
    /// Reads what we have written; of what others wrote nothing is known.
    pub(super) fn read(metadata: &'a str) -> Self {
        let mut words = metadata.split(' ');
        if words.next() != Some(MARK) {
            return Self::default();
        }
        let mut beside = Self::default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            match name {
                "latest_us" => beside.latest_us = value.parse().ok(),
                "store" => beside.store = Some(value),
                _ => {}
            }
        }
        beside
    }

    /// The metadata to commit.
    pub(super) fn metadata(&self) -> String {
        let latest = self.latest_us.filter(|latest| *latest > 0).map(|latest| format!(" latest_us={latest}"));
        let store = self.store.map(|store| format!(" store={store}"));
        match (latest, store) {
            (None, None) => String::new(),
            (latest, store) => {
                format!("{MARK}{}{}", latest.unwrap_or_default(), store.unwrap_or_default())
            }
        }
    }
}

/// Refuses a group whose events are handled in another store than ours: each would handle a part, and commit for
/// both.
pub(super) fn of_another_store(group: &str) -> Error {
    Error::config(format!(
        "group {group} belongs to another store: its events are handled there, and each store would get a part of them. Instances of a service share one --store; a second system has a prefix=… of its own in --broker. If the other store is gone for good, stop the services of the group and set its offsets with kafka-consumer-groups --reset-offsets: that makes it anybody's"
    ))
}

impl Kafka {
    /// Refuses topics that are not those that a group has read in this process.
    pub(in crate::broker) async fn verify_read(self: &Arc<Self>, group: &str) -> Result<(), Error> {
        let Some(progress) = lock(&self.progress).get(group).cloned() else { return Ok(()) };
        for ((topic, partition), seen, now) in progress.since_looked() {
            self.verify_partition(group, &topic, partition, seen).await?;
            // What was read since may have been read of another one: it counts from the next look on.
            progress.looked_at((topic, partition), now);
        }
        Ok(())
    }

    pub(in crate::broker) fn handled_until(&self, group: &str) -> BTreeMap<Arc<str>, i64> {
        lock(&self.progress).get(group).map(|progress| progress.handled_until()).unwrap_or_default()
    }

    pub(in crate::broker) async fn without_offsets(
        self: &Arc<Self>,
        group: &str,
        topics: &[String],
    ) -> Result<Vec<String>, Error> {
        let counts = self.partitions(topics).await?;
        self.ask(group, move |settings, client| {
            let mut wanted = TopicPartitionList::new();
            for (topic, count) in &counts {
                wanted.add_partition_range(&settings.wire_name(topic), 0, count.cast_signed() - 1);
            }
            let committed = client.committed_offsets(wanted, ANSWER_MAX);
            let committed = committed.map_err(|e| failed("cannot read a group's offsets", &e))?;
            let has_offsets = |topic: &str| {
                let wire = settings.wire_name(topic);
                let elements = committed.elements();
                elements.iter().any(|e| e.topic() == wire && matches!(e.offset(), Offset::Offset(_)))
            };
            let topics = counts.iter().map(|(topic, _)| topic);
            Ok(topics.filter(|topic| !has_offsets(topic)).cloned().collect())
        })
        .await
    }

    async fn verify_partition(
        self: &Arc<Self>,
        group: &str,
        topic: &Arc<str>,
        partition: i32,
        seen: Handled,
    ) -> Result<(), Error> {
        let Some(latest_us) = seen.latest_us.filter(|latest| *latest > 0) else { return Ok(()) };
        let later = self.first_later(topic, partition, latest_us).await?;
        let Some(later) = later.filter(|later| *later < seen.offset) else { return Ok(()) };
        // Markers of transactions have times too, but cannot be read.
        let found = self.read(topic, partition, later, 1).await?;
        match found.first() {
            Some(record) if record.offset < seen.offset && record.timestamp_us > latest_us => {
                Err(refusal(group, topic, partition, seen, record.timestamp_us))
            }
            _ => Ok(()),
        }
    }

    /// The first offset of a partition whose record is later.
    async fn first_later(
        self: &Arc<Self>,
        topic: &Arc<str>,
        partition: i32,
        latest_us: i64,
    ) -> Result<Option<i64>, Error> {
        let topic = topic.clone();
        self.ask("", move |settings, client| {
            first_later(client, &settings.wire_name(&topic), partition, latest_us)
        })
        .await
    }
}

/// The first offset of a partition whose record is later.
fn first_later<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    latest_us: i64,
) -> Result<Option<i64>, Error> {
    let attempted = format!("cannot look at topic {topic}");
    let failed = |e| failed(&attempted, &e);
    let mut times = TopicPartitionList::new();
    // Kafka counts milliseconds.
    let later = Offset::Offset(latest_us.div_euclid(1000) + 1);
    times.add_partition_offset(topic, partition, later).map_err(failed)?;
    let found = client.offsets_for_times(times, ANSWER_MAX).map_err(failed)?;
    Ok(match found.find_partition(topic, partition).map(|found| found.offset()) {
        Some(Offset::Offset(first)) => Some(first),
        _ => None,
    })
}

/// A bound where nothing is known of what lies before an offset: now, unless there are records from the future.
pub(super) fn at_most_now<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<i64>, Error> {
    let now_us = jiff::Timestamp::now().as_microsecond();
    let first_later = first_later(client, topic, partition, now_us)?;
    Ok(first_later.is_none_or(|first| first >= offset).then_some(now_us))
}

fn refusal(group: &str, topic: &str, partition: i32, handled: Handled, found_us: i64) -> Error {
    let time =
        |us| jiff::Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |time| time.to_string());
    Error::config(format!(
        "topic {topic} is not the one that group {group} has read: before offset {} of partition {partition}, where all was from {} or earlier, there is a record from {}; it was made anew or restored. Stop the services of the group, set its offsets with kafka-consumer-groups --reset-offsets --to-earliest, and start them again: what was handled before is recognised",
        handled.offset,
        time(handled.latest_us.unwrap_or_default()),
        time(found_us)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_beside_an_offset_is_read_again() {
        for beside in [
            Beside { latest_us: Some(17), store: Some("a1") },
            Beside { latest_us: None, store: Some("a1") },
            Beside { latest_us: Some(17), store: None },
            Beside::default(),
        ] {
            assert_eq!(Beside::read(&beside.metadata()), beside);
        }
        assert_eq!(Beside::default().metadata(), "");
        assert_eq!(Beside::read("of another program=1 store=2"), Beside::default());
        let former = "tidings latest_us=17";
        assert_eq!(Beside::read(former), Beside { latest_us: Some(17), store: None });
    }
}
