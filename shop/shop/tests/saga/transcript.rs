//! What the services stated, as text: one line an event, causes before effects.

use std::collections::BTreeMap;

use serde_json::Value;
use tidings::broker::Record;

use super::world::TOPICS;

/// The events on all topics, each once, however often it was delivered.
#[derive(Default)]
pub struct Story {
    /// By what identifies them.
    events: BTreeMap<String, Event>,
    steps: usize,
}

/// A message on a topic, as far as a transcript tells it.
pub struct Event {
    pub topic: String,
    /// The order it is about, if it is about one.
    pub order: String,
    /// `payment.declined.v1`, or whatever word a foreign program uses.
    pub event_type: String,
    pub id: String,
    pub seq: Option<u64>,
    cause: Option<String>,
    detail: String,
    /// The step of the script that led to it.
    step: usize,
}

impl Story {
    /// Notes what has come since the last step.
    pub fn go_on(&mut self, records: &[Record]) {
        for record in records {
            let event = Event::read(record, self.steps);
            // Dead letters keep the id of the original: each is a story of its own.
            let name = if event.is_dead_letter() {
                format!("{}/{}/{}", event.topic, record.partition, record.offset)
            } else {
                format!("{}/{}", event.topic, event.id)
            };
            self.events.entry(name).or_insert(event);
        }
        self.steps += 1;
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.values()
    }

    /// How far an event is from the start: the longest way back over causes and over its own stream.
    fn depths(&self) -> BTreeMap<&str, usize> {
        let mut depths: BTreeMap<&str, usize> = self.events().map(|e| (&*e.id, 0)).collect();
        // A way is no longer than there are events.
        for _ in 0..self.events.len() {
            for event in self.events() {
                let before = self.events().filter(|other| event.follows(other));
                let depth = before.map(|other| depths[&*other.id] + 1).max().unwrap_or(0);
                depths.insert(&event.id, depth);
            }
        }
        depths
    }
}

impl Event {
    fn read(record: &Record, step: usize) -> Self {
        let message = &record.message;
        let header = |name| message.header(name).map(str::to_owned);
        let value: Value = serde_json::from_slice(&message.value).unwrap_or_default();
        let topic = record.topic.to_string();
        let plain = |name: &str| value[name].as_str().map(str::to_owned);
        let position = format!("{}/{}", record.partition, record.offset);
        let detail = match header("dlq_error_code") {
            Some(code) => code,
            None => detail(&value),
        };
        Self {
            order: header("ce_subject")
                .or_else(|| value["payload"]["order_id"].as_str().map(str::to_owned))
                .unwrap_or_else(|| message.key_text().into_owned()),
            event_type: header("ce_type").or_else(|| plain("event_type")).unwrap_or_else(|| "?".to_owned()),
            id: header("ce_id").or_else(|| plain("event_id")).unwrap_or(position),
            seq: header("ce_streamseq").and_then(|seq| seq.parse().ok()),
            cause: header("ce_causationid"),
            detail,
            topic,
            step,
        }
    }

    /// Put on a dead letter topic.
    pub fn is_dead_letter(&self) -> bool {
        self.topic.ends_with("_dlq")
    }

    fn follows(&self, other: &Self) -> bool {
        let in_stream = self.topic == other.topic
            && self.order == other.order
            && self.seq.is_some()
            && other.seq.map(|seq| seq + 1) == self.seq;
        in_stream || (self.cause.as_ref() == Some(&other.id) && self.id != other.id)
    }

    fn rank(&self) -> usize {
        TOPICS.iter().position(|topic| *topic == self.topic).unwrap_or(TOPICS.len())
    }
}

/// Writes the story down: step by step of the script, then by causal depth, topic, order and number.
pub fn write(story: &Story, labels: &BTreeMap<String, String>) -> String {
    let depths = story.depths();
    let label = |event: &Event| labels.get(&event.order).unwrap_or(&event.order).clone();
    let mut events: Vec<&Event> = story.events().collect();
    events.sort_by_key(|e| (e.step, depths[&*e.id], e.rank(), e.topic.clone(), label(e), e.seq));
    let rows = events.iter().map(|event| {
        [format!("{}/{}", event.topic, label(event)), words(&event.event_type), event.detail.clone()]
    });
    aligned(&rows.collect::<Vec<_>>())
}

/// `payment.declined.v1` as `payment.declined v1`.
fn words(event_type: &str) -> String {
    match event_type.rsplit_once(".v") {
        Some((name, version)) => format!("{name} v{version}"),
        None => event_type.to_owned(),
    }
}

/// What a reader wants to know of a payload.
fn detail(value: &Value) -> String {
    if let Some(missing) = value["missing"].as_array() {
        let line = |m: &Value| format!("{} of {} {}", m["available"], m["requested"], text(&m["product_id"]));
        return missing.iter().map(line).collect::<Vec<_>>().join(", ");
    }
    // A provider's code says more than its words.
    let told = ["code", "reason"].iter().map(|name| text(&value[*name]));
    told.filter(|text| !text.is_empty()).take(1).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn aligned(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0) + 2, width(1) + 3);
    let line = |[stream, words, detail]: &[String; 3]| {
        format!("{stream:first$}{words:second$}{detail}").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
