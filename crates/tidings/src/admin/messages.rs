//! Messages of a topic, shown to people: `GET /admin/topics/{topic}/messages`.
//!
//! They are read outside every group, so that looking changes nothing. A client goes on with the `cursor` of its last
//! answer, and may wait for the next messages: that is all it takes to follow a topic. Every message is shown, event
//! or not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use garde::Validate;
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::display::{Header, Text, headers, shown};
use crate::broker::{Broker, Record, Start, Stretch};
use crate::error::Error;
use crate::http::{LIMIT_MAX, LONG_POLL_SECONDS_MAX, Problem, ValidQuery};
use crate::message::frame::unframed;
use crate::message::{self, Message};
use crate::runtime::RunningService;

/// Messages of an answer, if the client does not say.
const LIMIT_DEFAULT: u32 = 100;
/// Between two looks at a topic on which nothing is new.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Clients that are read for at the same time: each takes a few megabytes.
static READERS: Semaphore = Semaphore::const_new(4);

/// What a client wants to see.
#[derive(Deserialize, JsonSchema, Validate)]
pub(super) struct Wanted {
    /// Where to begin: `end` (the default), `beginning`, an offset, a time (RFC 3339) or how long ago (`15m`)
    #[garde(skip)]
    from: Option<From>,
    /// Where to go on, instead: `cursor` of the answer before
    #[garde(skip)]
    cursor: Option<Places>,
    /// Only messages with this key
    #[garde(skip)]
    key: Option<String>,
    /// Only events of this type
    #[serde(rename = "type")]
    #[garde(skip)]
    event_type: Option<String>,
    /// At most this many messages
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    /// How long to wait, in seconds, for a first message
    #[garde(range(max = LONG_POLL_SECONDS_MAX))]
    wait: Option<u32>,
}

/// Some of what lies on a topic.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TopicMessages")]
pub(super) struct Messages {
    /// In the order of their times; those of a partition in the order of their offsets.
    messages: Vec<Shown>,
    /// Where to go on.
    cursor: String,
    /// Whether nothing more is there at the moment.
    is_end: bool,
}

/// A message, whatever it is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TopicMessage")]
struct Shown {
    topic: String,
    partition: i32,
    offset: i64,
    /// When the broker took it.
    time: String,
    /// The event's id, if it says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The event's type, if it says one.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// The event's number in its stream, if it says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    streamseq: Option<u64>,
    key: Option<Text>,
    /// A name that is there more than once has a list.
    headers: BTreeMap<String, Header>,
    /// The schema that the value names, in the frame that it was taken out of.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_id: Option<u32>,
    /// What the value was, and how it is shown.
    #[schemars(extend("enum" = ["json", "text", "base64"]))]
    encoding: &'static str,
    #[schemars(with = "serde_json::Value")]
    value: Box<RawValue>,
}

/// Reads on.
pub(super) async fn read(
    State(services): State<Arc<Vec<RunningService>>>,
    Path(topic): Path<String>,
    ValidQuery(wanted): ValidQuery<Wanted>,
) -> Result<Json<Messages>, Problem> {
    let broker = broker_of(&services, &topic)?;
    let mut places = begin(broker, &topic, &wanted).await?;
    let limit = wanted.limit.unwrap_or(LIMIT_DEFAULT) as usize;
    let until = Instant::now() + Duration::from_secs(wanted.wait.unwrap_or(0).into());
    loop {
        let stretches = {
            let _turn = READERS.acquire().await.expect("it is never closed");
            broker.stretches(&topic, &places.0).await.map_err(unread)?
        };
        let is_wanted = |record: &Record| wanted.includes(&record.message, &topic, &services);
        let (records, is_end) = merged(stretches, &mut places.0, limit, is_wanted);
        let is_over = Instant::now() >= until || services.iter().any(RunningService::is_stopping);
        if !records.is_empty() || is_over {
            let messages = records.iter().map(Shown::new).collect();
            return Ok(Json(Messages { messages, cursor: places.to_string(), is_end }));
        }
        if is_end {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Names the culprit: the client is an operator, who can see to it.
fn unread(e: Error) -> Problem {
    if !e.is_unavailable() {
        return e.into();
    }
    tracing::warn!(error = %e, "a topic cannot be read");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("the broker cannot be read: {e}"))
}

/// The broker of the services that know the topic.
fn broker_of<'a>(services: &'a [RunningService], topic: &str) -> Result<&'a Broker, Problem> {
    let knows = |service: &&RunningService| service.topics().iter().any(|known| known == topic);
    services.iter().find(knows).map(RunningService::broker).ok_or_else(|| {
        let mut known: Vec<&str> =
            services.iter().flat_map(RunningService::topics).map(String::as_str).collect();
        known.sort_unstable();
        known.dedup();
        Problem::not_found(format!("there is no topic {topic} here; there are {}", known.join(", ")))
    })
}

async fn begin(broker: &Broker, topic: &str, wanted: &Wanted) -> Result<Places, Problem> {
    let topics = broker.topics().await.map_err(unread)?;
    let Some(found) = topics.iter().find(|found| found.name == topic) else {
        return Err(Problem::not_found(format!("there is no topic {topic}; make it with: topics apply")));
    };
    match (&wanted.cursor, &wanted.from) {
        (Some(_), Some(_)) => Err(Problem::bad_query("give either `from` or `cursor`")),
        (Some(places), None) if places.0.len() != found.partitions as usize => Err(Problem::bad_query(
            format!("the cursor is not one of topic {topic}, which has {} partitions", found.partitions),
        )),
        (Some(places), None) => Ok(places.clone()),
        (None, from) => {
            let start = from.as_ref().map_or(Start::End, |from| from.0);
            Ok(Places(broker.offsets(topic, start).await.map_err(unread)?))
        }
    }
}

impl Wanted {
    fn includes(&self, message: &Message, topic: &str, services: &[RunningService]) -> bool {
        if self.key.as_ref().is_some_and(|key| message.key.as_deref() != Some(key.as_bytes())) {
            return false;
        }
        self.event_type.as_ref().is_none_or(|wanted| {
            EventIdentity::of(topic, message).event_type.is_some_and(|found| {
                found == *wanted || services.iter().any(|service| service.is_alias(&found, wanted))
            })
        })
    }
}

/// Id, type and number of an event, as far as the message says them.
struct EventIdentity<'a> {
    id: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    seq: Option<u64>,
}

impl<'a> EventIdentity<'a> {
    fn of(topic: &str, message: &'a Message) -> Self {
        match message::read(topic, message) {
            Ok(event) => Self {
                id: Some(event.metadata.id.into()),
                event_type: Some(event.event_type),
                seq: event.metadata.seq,
            },
            Err(_) => {
                let header = |name| message.header(name).map(Cow::Borrowed);
                Self { id: header("ce_id"), event_type: header("ce_type"), seq: None }
            }
        }
    }
}

/// Puts partitions together, oldest first, up to `limit` records that are wanted; moves on past what was looked
/// at. Says whether all of them are at their ends.
fn merged(
    mut stretches: Vec<Stretch>,
    places: &mut [i64],
    limit: usize,
    is_wanted: impl Fn(&Record) -> bool,
) -> (Vec<Record>, bool) {
    let mut records = Vec::new();
    while records.len() < limit {
        // What this partition has to say next is not known yet, and may be older than all else.
        if stretches.iter().any(|stretch| stretch.records.is_empty() && !stretch.is_end) {
            return (records, false);
        }
        let fronts = stretches
            .iter()
            .enumerate()
            .filter_map(|(partition, stretch)| Some((stretch.records.front()?.timestamp_us, partition)));
        let Some((_, partition)) = fronts.min() else { return (records, true) };
        let record = stretches[partition].records.pop_front().expect("it has a front");
        places[partition] = record.offset + 1;
        if is_wanted(&record) {
            records.push(record);
        }
    }
    let is_end = stretches.iter().all(|stretch| stretch.is_end && stretch.records.is_empty());
    (records, is_end)
}

impl Shown {
    fn new(record: &Record) -> Self {
        let message = &*record.message;
        let event = EventIdentity::of(&record.topic, message);
        let (schema_id, encoding, value) = match unframed(&message.value) {
            (Some(id), payload) if shown(payload).0 == "json" => (Some(id), "json", shown(payload).1),
            _ => (None, shown(&message.value).0, shown(&message.value).1),
        };
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            time: Timestamp::from_microsecond(record.timestamp_us).unwrap_or_default().to_string(),
            id: event.id.map(Cow::into_owned),
            event_type: event.event_type.map(Cow::into_owned),
            streamseq: event.seq,
            key: message.key.as_deref().map(Text::new),
            headers: headers(message),
            schema_id,
            encoding,
            value,
        }
    }
}

/// The point at which reading begins.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct From(Start);

impl TryFrom<String> for From {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let start = match text.as_str() {
            "end" => Some(Start::End),
            "beginning" => Some(Start::Offset(0)),
            // `parse` would take a sign.
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Start::Offset),
            time => {
                let time = tidings_schema::moment(time, Timestamp::now());
                time.map(|time| Start::Time(time.as_microsecond()))
            }
        };
        start.map(Self).ok_or_else(|| {
            format!("{text:?} is no place in a topic; use beginning, end, an offset, a time (2026-01-02T03:04:05Z) or how long ago (15m)")
        })
    }
}

impl JsonSchema for From {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "From".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"enum": ["beginning", "end"]},
                {"pattern": "^[0-9]{1,18}$"},
                {"format": "date-time"},
                {"pattern": "^[0-9]{1,6}[smhd]$"},
            ],
            "type": "string",
        })
    }
}

/// The next offset of each partition: `12.0.44`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Places(Vec<i64>);

impl TryFrom<String> for Places {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let place = |text: &str| text.parse().ok().filter(|place: &i64| *place >= 0);
        let places = text.split('.').map(place).collect::<Option<_>>();
        places.map(Self).ok_or("it is not one that an answer gave out")
    }
}

impl std::fmt::Display for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places: Vec<String> = self.0.iter().map(i64::to_string).collect();
        f.write_str(&places.join("."))
    }
}

impl JsonSchema for Places {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Places".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,18})*$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64, timestamp_us: i64) -> Record {
        Record {
            topic: "teas".into(),
            partition,
            offset,
            timestamp_us,
            message: Arc::default(),
            unreadable: None,
        }
    }

    fn stretch(partition: i32, first: i64, times: &[i64], is_end: bool) -> Stretch {
        let records = (first..).zip(times).map(|(offset, time)| record(partition, offset, *time)).collect();
        Stretch { records, is_end }
    }

    fn places(records: &[Record]) -> Vec<String> {
        records.iter().map(|record| format!("{}/{}", record.partition, record.offset)).collect()
    }

    #[test]
    fn partitions_are_put_together_by_time_and_each_keeps_its_order() {
        // The second partition's clock went back once.
        let stretches = vec![stretch(0, 5, &[10, 30], true), stretch(1, 0, &[20, 15, 40], true)];
        let mut next = vec![5, 0];
        let (records, is_end) = merged(stretches, &mut next, 10, |_| true);
        assert_eq!(places(&records), ["0/5", "1/0", "1/1", "0/6", "1/2"]);
        assert_eq!((next, is_end), (vec![7, 3], true));
    }

    #[test]
    fn what_is_not_known_yet_is_waited_for() {
        let stretches = vec![stretch(0, 0, &[10], false), stretch(1, 0, &[5, 20], true)];
        let mut next = vec![0, 0];
        let (records, is_end) = merged(stretches, &mut next, 10, |_| true);
        assert_eq!(places(&records), ["1/0", "0/0"]);
        assert_eq!((next, is_end), (vec![1, 1], false));
    }

    #[test]
    fn a_limit_counts_what_is_wanted_and_the_rest_is_passed_over() {
        let stretches = vec![stretch(0, 0, &[1, 2, 3, 4], true)];
        let mut next = vec![0];
        let (records, is_end) = merged(stretches, &mut next, 1, |record| record.offset == 2);
        assert_eq!(places(&records), ["0/2"]);
        assert_eq!((next, is_end), (vec![3], false));
    }

    #[test]
    fn a_beginning_is_a_word_an_offset_a_time_or_a_while() {
        let start = |text: &str| From::try_from(text.to_owned()).map(|from| from.0);
        assert_eq!(start("beginning"), Ok(Start::Offset(0)));
        assert_eq!(start("end"), Ok(Start::End));
        assert_eq!(start("17"), Ok(Start::Offset(17)));
        assert_eq!(start("1970-01-01T00:00:01+00:00"), Ok(Start::Time(1_000_000)));
        for ago in ["0s", "15m", "2h", "1d", "1h 30m"] {
            let Ok(Start::Time(time)) = start(ago) else { panic!("{ago}") };
            assert!(time <= Timestamp::now().as_microsecond(), "{ago}");
        }
        for wrong in ["", "-1", "-15m", "soon", "99999999999999999999", "1 year", "2026-01-02", "9999999999h"]
        {
            assert!(start(wrong).is_err_and(|e| e.contains("15m")), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let places = Places::try_from("12.0.44".to_owned()).expect("it is one");
        assert_eq!(places.to_string(), "12.0.44");
        for wrong in ["", "1.", "-1", "a"] {
            assert!(Places::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
