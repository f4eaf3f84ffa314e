//! What is on the topics: read outside of any group, each stream's first copies must be 1, 2, 3, … in order.

use std::collections::BTreeMap;

use tidings::Broker;
use tidings::broker::Record;

/// Who states what.
const TOPICS: [&str; 3] = ["orders", "payments", "inventory"];
/// What is given up.
const DEAD_LETTERS: [&str; 3] = ["orders_dlq", "payments_dlq", "inventory_dlq"];
/// Records read at once.
const READ: usize = 50_000;

/// What was found.
#[derive(Debug)]
pub struct Streams {
    /// First copies.
    pub events: usize,
    /// Further copies, each the same as the first.
    pub duplicates: usize,
}

/// Checks that every stream on the topics of a broker is complete and in order, each further copy of an event
/// the same as the first, and that there is no dead letter.
pub async fn complete(url: &str) -> Streams {
    let broker = Broker::open(url).unwrap();
    let mut wrong = Vec::new();
    let mut streams = Streams { events: 0, duplicates: 0 };
    for topic in TOPICS {
        let mut copies: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in read(&broker, topic).await {
            let header = |name| record.message.header(name).unwrap_or_default().to_owned();
            let (key, id, seq) = (header("ce_subject"), header("ce_id"), header("ce_streamseq"));
            let known = copies.entry(key.clone()).or_default();
            match seq.parse::<usize>() {
                Ok(seq) if seq == known.len() + 1 => {
                    known.push(id);
                    streams.events += 1;
                }
                Ok(seq) if seq >= 1 && known.get(seq - 1) == Some(&id) => streams.duplicates += 1,
                _ => wrong.push(format!(
                    "{topic}/{key} goes on with {seq} after {} at {}/{}",
                    known.len(),
                    record.partition,
                    record.offset
                )),
            }
        }
    }
    for topic in DEAD_LETTERS {
        let letters = read(&broker, topic).await;
        wrong.extend(letters.iter().map(|letter| format!("there is a dead letter on {topic}: {letter:?}")));
    }
    assert!(wrong.is_empty(), "{} things are wrong on the topics:\n  {}", wrong.len(), wrong.join("\n  "));
    streams
}

/// Everything on a topic, partition by partition.
pub async fn read(broker: &Broker, topic: &str) -> Vec<Record> {
    let topics = broker.topics().await.unwrap();
    let partitions = topics.iter().find(|found| found.name == topic).unwrap().partitions;
    let mut records = Vec::new();
    for partition in 0..partitions.cast_signed() {
        let mut offset = 0;
        loop {
            let found = broker.read(topic, partition, offset, READ).await.unwrap();
            let Some(last) = found.last() else { break };
            offset = last.offset + 1;
            records.extend(found);
        }
    }
    records
}
