//! Whether a topic is the one that was read before.
//!
//! A position is a number: in a topic that was deleted and made anew it names another record, and the client
//! goes on there silently. So the time of the latest record before a position is kept with it, in memory and in
//! the metadata of the committed offset. In the topic that was read, no record before the position is later. In
//! one that was made anew and filled past the position, all are. (Topics have ids, but the binding of librdkafka
//! does not tell them.)

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use super::consumer::Handled;
use super::{ANSWER_MAX, Kafka, failed};
use crate::error::Error;
use crate::sqlite::lock;

/// What the metadata of our commits begins with.
const MARK: &str = "tidings latest_us=";

/// What is written beside a committed offset.
pub(super) fn metadata(latest_us: Option<i64>) -> String {
    latest_us.filter(|latest| *latest > 0).map(|latest| format!("{MARK}{latest}")).unwrap_or_default()
}

/// What stands beside a committed offset, if we have written it.
pub(super) fn latest(metadata: &str) -> Option<i64> {
    metadata.strip_prefix(MARK)?.parse().ok()
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
            first_later(client, &settings.on_wire(&topic), partition, latest_us)
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
        assert_eq!(latest(&metadata(Some(17))), Some(17));
        assert_eq!(metadata(None), "");
        assert_eq!(latest("of another program"), None);
    }
}
