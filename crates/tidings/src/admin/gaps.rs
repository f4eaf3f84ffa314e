//! Streams that wait for events: listed, filled from the publisher's event log, skipped.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use garde::Validate;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operator::{CallerName, chosen, one};
use crate::broker::Record;
use crate::event::stream as stream_of;
use crate::http::{Api, EVENT_BODY_BYTES_MAX, Page, Problem, ValidJson, ValidQuery};
use crate::message::{self, Headers, MESSAGE_BYTES_MAX, Message};
use crate::runtime::RunningService;
use crate::store::gaps::{self, Gap};
use crate::store::outbox::StoredEvent;

type Services = Arc<Vec<RunningService>>;

/// Events of a stream in one answer, and in one request that fills a gap.
const EVENTS_MAX: u64 = 200;
/// Events that are read at once, and bytes of an answer after which it ends: 200 of the largest are too many.
const LOG_STEP: u64 = 10;
const LOG_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/gaps", "Streams that wait for events", list)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post("/admin/gaps/skip", "Have a stream go on without the events that are missing", skip)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post_large(
            "/admin/gaps/fill",
            "Hand a stream the events that are missing",
            EVENT_BODY_BYTES_MAX,
            fill,
        )
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "event")
        .get("/admin/log", "Events of a stream, from the event log of the service that publishes it", log)
        .problem(StatusCode::NOT_FOUND, "not-found")
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct Wanted {
    /// Only of this service
    service: Option<String>,
    /// Only of this key
    key: Option<String>,
}

/// A stream that waits for events.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Gap")]
struct Missing {
    service: String,
    group: String,
    stream: String,
    topic: String,
    key: String,
    /// The first number that is missing.
    expected: u64,
    /// The last number that is missing before an event that waits.
    last_missing: u64,
    /// The number of events that wait.
    waiting: u64,
    since: String,
}

impl Missing {
    fn new(service: &str, gap: &Gap) -> Self {
        let (topic, key) = gap.stream.split_once('/').unwrap_or((&gap.stream, ""));
        Self {
            service: service.to_owned(),
            group: gap.group.clone(),
            stream: gap.stream.clone(),
            topic: topic.to_owned(),
            key: key.to_owned(),
            expected: gap.missing.0,
            last_missing: gap.missing.1,
            waiting: gap.waiting,
            since: gap.since.to_string(),
        }
    }
}

async fn list(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<Wanted>,
) -> Result<Json<Page<Missing>>, Problem> {
    let mut items = Vec::new();
    for service in chosen(&services, wanted.service.as_deref())? {
        let gaps = gaps::list(service.store(), None).await?;
        items.extend(gaps.iter().map(|gap| Missing::new(service.name(), gap)));
    }
    items.retain(|gap| wanted.key.as_ref().is_none_or(|key| gap.key == *key));
    Ok(Json(Page::whole(items)))
}

/// Body of `POST /admin/gaps/skip`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "GapSkip", example = serde_json::json!({"service": "order", "stream": "payments/o-1", "reason": "nobody has them"}))]
struct Skip {
    service: String,
    stream: String,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "GapSkipped")]
struct Skipped {
    /// The first and the last number that were passed.
    skipped: (u64, u64),
}

async fn skip(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Skip>,
) -> Result<Json<Skipped>, Problem> {
    let Skip { service, stream, reason, actor } = body.value;
    let service = one(&services, &service)?;
    let skipped = gaps::skip(service.store(), &stream, &caller.acts(actor, reason)).await?;
    skipped.map(|skipped| Json(Skipped { skipped })).ok_or_else(|| no_gap(service, &stream))
}

fn no_gap(service: &RunningService, stream: &str) -> Problem {
    Problem::not_found(format!("{stream} waits for no event in {}", service.name()))
}

/// An event of an event log, whole.
#[derive(Serialize, JsonSchema)]
struct LoggedEvent {
    /// The service whose event log has it.
    service: String,
    topic: String,
    key: String,
    seq: u64,
    event_id: Option<String>,
    event_type: Option<String>,
    recorded_at: Timestamp,
    /// Names and values.
    headers: Vec<(String, String)>,
    payload_base64: String,
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct WantedLog {
    /// The stream: `orders/4711`
    stream: String,
    /// The first number
    #[garde(range(max = i64::MAX as u64))]
    first: Option<u64>,
    /// The last number
    #[garde(range(max = i64::MAX as u64))]
    last: Option<u64>,
}

async fn log(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<WantedLog>,
) -> Result<Json<Page<LoggedEvent>>, Problem> {
    let Some((topic, key)) = wanted.stream.split_once('/') else {
        return Err(Problem::bad_query("stream: it is of the form TOPIC/KEY"));
    };
    let first = wanted.first.unwrap_or(1);
    let last = wanted.last.unwrap_or(u64::MAX).min(first.saturating_add(EVENTS_MAX - 1)).min(i64::MAX as u64);
    let (mut items, mut bytes, mut next) = (Vec::new(), 0, first);
    while next <= last && bytes < LOG_BYTES_MAX {
        let end = last.min(next.saturating_add(LOG_STEP - 1));
        for service in services.iter().filter(|service| service.publishes_to(topic)) {
            for event in service.store().published_between(&wanted.stream, next, end).await? {
                bytes += event.message.size();
                items.push(LoggedEvent::new(service.name(), (topic, key), &event));
            }
        }
        next = end + 1;
    }
    Ok(Json(Page { items, next_cursor: (next <= last).then(|| next.to_string()) }))
}

impl LoggedEvent {
    fn new(service: &str, (topic, key): (&str, &str), event: &StoredEvent) -> Self {
        let message = &event.message;
        let headers = message
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into_owned()));
        Self {
            service: service.to_owned(),
            topic: topic.to_owned(),
            key: key.to_owned(),
            seq: event.seq,
            event_id: message.header("ce_id").map(str::to_owned),
            event_type: message.header("ce_type").map(str::to_owned),
            recorded_at: Timestamp::from_microsecond(event.recorded_us).unwrap_or_default(),
            headers: headers.collect(),
            payload_base64: BASE64_STANDARD.encode(&message.value),
        }
    }
}

/// An event of an event log, as it is handed over: what else its log says of it is not needed.
#[derive(Deserialize, JsonSchema)]
struct MissingEvent {
    topic: String,
    key: String,
    seq: u64,
    recorded_at: Timestamp,
    /// Names and values.
    headers: Vec<(String, String)>,
    payload_base64: String,
}

/// Body of `POST /admin/gaps/fill`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "GapFill", example = serde_json::json!({"service": "order", "stream": "payments/o-1", "reason": "the topic was lost", "events": [{"topic": "payments", "key": "o-1", "seq": 1, "recorded_at": "2026-01-01T00:00:00Z", "headers": [], "payload_base64": "e30="}]}))]
struct Fill {
    service: String,
    stream: String,
    /// The events that are missing, from `GET /admin/log`
    #[garde(length(min = 1, max = 200))]
    events: Vec<MissingEvent>,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "GapFilled")]
struct Filled {
    /// The number of events that were handed over.
    filled: u64,
}

/// Hands events to the pipeline as the broker would: each is checked, and counts once.
async fn fill(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Fill>,
) -> Result<Json<Filled>, Problem> {
    let Fill { service, stream, events, reason, actor } = body.value;
    let service = one(&services, &service)?;
    let gap = gaps::list(service.store(), Some(&stream)).await?.into_iter().next();
    let gap = gap.ok_or_else(|| no_gap(service, &stream))?;
    let records = events.iter().map(|event| record(event, &stream, &gap)).collect::<Result<Vec<_>, _>>()?;
    let filled = service.hand_over(records, &stream, &caller.acts(actor, reason)).await?;
    Ok(Json(Filled { filled }))
}

fn record(event: &MissingEvent, stream: &str, gap: &Gap) -> Result<Record, Problem> {
    let wrong = |what: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "event", what);
    let value = BASE64_STANDARD.decode(&event.payload_base64);
    let value = value.map_err(|e| wrong(format!("event {}: payload_base64: {e}", event.seq)))?;
    let mut headers = Headers::default();
    for (name, value) in &event.headers {
        headers.push(name, value.as_bytes());
    }
    let message =
        Message { key: Some(event.key.clone().into()), headers, value: value.into(), is_tombstone: false };
    let read = message::read(&event.topic, &message).map_err(wrong)?;
    let seq = read.metadata.seq.unwrap_or_default();
    if stream_of(&event.topic, &event.key) != stream || !(gap.missing.0..=gap.missing.1).contains(&seq) {
        let (first, last) = gap.missing;
        return Err(wrong(format!("event {seq} is none of {first} to {last} of {stream}")));
    }
    drop(read);
    Ok(Record {
        topic: event.topic.as_str().into(),
        // It came past the broker: no partition has it, and its number stands for its place.
        partition: -1,
        offset: seq.cast_signed(),
        timestamp_us: event.recorded_at.as_microsecond(),
        message: message.into(),
        unreadable: None,
    })
}
