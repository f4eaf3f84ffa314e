//! Partitions, read outside any group.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::super::{Position, Record, Stretch, has_room};
use super::record::Arena;
use super::settings::KafkaSettings;
use super::{ANSWER_MAX, ReaderClient, failed, is_about_group, topics};
use crate::error::Error;

pub(super) fn read(
    settings: &KafkaSettings,
    client: &ReaderClient,
    topic: &str,
    partition: i32,
    offset: i64,
    limit: usize,
) -> Result<Vec<Record>, Error> {
    let count = topics::partitions(settings, client, topic)?;
    if !(0..count.cast_signed()).contains(&partition) {
        return Err(Error::config(format!("there is no partition {topic}/{partition}")));
    }
    let wire = settings.wire_name(topic);
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
pub(super) fn ends(
    settings: &KafkaSettings,
    client: &ReaderClient,
    topic: &str,
    count: u32,
) -> Result<Vec<i64>, Error> {
    let (wire, attempted) = (settings.wire_name(topic), format!("cannot look at topic {topic}"));
    (0..count.cast_signed())
        .map(|partition| {
            let found = client.fetch_watermarks(&wire, partition, ANSWER_MAX);
            found.map(|(_, end)| end).map_err(|e| failed(&attempted, &e))
        })
        .collect()
}

/// The first offset of each partition whose record is not older.
pub(super) fn not_before(
    settings: &KafkaSettings,
    client: &ReaderClient,
    topic: &str,
    count: u32,
    time_us: i64,
) -> Result<Vec<i64>, Error> {
    let attempted = format!("cannot look at topic {topic}");
    let failed = |e| failed(&attempted, &e);
    let wire = settings.wire_name(topic);
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
pub(super) fn stretches(
    settings: &KafkaSettings,
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
    let client: ReaderClient = settings.asking(&settings.client_of(&defaults, &fixed))?;
    let wire = settings.wire_name(topic);
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

/// The times at which the broker took the records at these positions, in microseconds; none where there is none, or it
/// has not come in time.
pub(super) fn times_at(
    settings: &KafkaSettings,
    group: &str,
    positions: &[Position],
) -> Result<Vec<Option<i64>>, Error> {
    let failed = |e| failed("cannot read the records that are next", &e);
    // One record of each is wanted.
    let defaults =
        [("fetch.wait.max.ms", "50"), ("queued.min.messages", "1"), ("fetch.message.max.bytes", "1024")];
    let fixed = [("group.id", group), ("enable.auto.commit", "false"), ("auto.offset.reset", "earliest")];
    let client: ReaderClient = settings.asking(&settings.client_of(&defaults, &fixed))?;
    let wires: Vec<String> = positions.iter().map(|position| settings.wire_name(&position.topic)).collect();
    let mut reading = TopicPartitionList::new();
    for (wire, Position { partition, offset, .. }) in wires.iter().zip(positions) {
        reading.add_partition_offset(wire, *partition, Offset::Offset(*offset)).map_err(failed)?;
    }
    client.assign(&reading).map_err(failed)?;
    let mut times = vec![None; positions.len()];
    let until = Instant::now() + ANSWER_MAX;
    while times.contains(&None)
        && let Some(polled) = client.poll(until.saturating_duration_since(Instant::now()))
    {
        match polled {
            Ok(message) => {
                let is_it = |at: &usize| {
                    wires[*at] == message.topic() && positions[*at].partition == message.partition()
                };
                if let Some(at) = (0..positions.len()).find(is_it) {
                    let time_ms = message.timestamp().to_millis().unwrap_or_default();
                    times[at] = times[at].or(Some(time_ms.saturating_mul(1000)));
                }
                let mut seen = TopicPartitionList::new();
                seen.add_partition(message.topic(), message.partition());
                client.pause(&seen).map_err(failed)?;
            }
            // Nothing is done as this group.
            Err(e) if is_about_group(&e) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(times)
}
