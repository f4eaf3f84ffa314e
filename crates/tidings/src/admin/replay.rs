//! A stretch of a topic handled once more, or seen through by the shadows of its handlers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::operator::{CallerName, no_reason, one, read_by};
use super::place::{NamedPlace, SpanCursor};
use crate::broker::Record;
use crate::http::{Api, LIMIT_MAX, Problem, ValidJson};
use crate::pipeline::Shadow;
use crate::runtime::{Place, RunningService};
use crate::store::deeds::Deeds;

type Services = Arc<Vec<RunningService>>;

/// Events of an answer, if the client does not say.
const LIMIT_DEFAULT: u32 = 100;

/// Adds the route.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.post("/admin/replay", "Handle a stretch of a topic again, or see what would be done", replay)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::BAD_REQUEST, "selection")
        .problem(StatusCode::BAD_REQUEST, "reason")
        .problem(StatusCode::CONFLICT, "paused")
}

/// Body of `POST /admin/replay`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "ReplayRequest", example = serde_json::json!({"service": "payment", "topic": "orders", "from": "2026-01-31T12:00:00Z", "shadow": true}))]
struct Replay {
    service: String,
    topic: String,
    /// The first record
    from: Option<NamedPlace>,
    /// The record before which it ends; if it is not said, those that are there now
    until: Option<NamedPlace>,
    /// Only events of these types
    #[garde(length(min = 1, max = 100))]
    types: Option<Vec<String>>,
    /// Only events of this key
    key: Option<String>,
    /// Undo everything, and say what would be done
    #[serde(default)]
    shadow: bool,
    /// At most so many events in this answer
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    /// The part of the range that is left, instead of `from` and `until`
    cursor: Option<SpanCursor>,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: Option<String>,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

/// The result of a part of a replay.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReplayResult")]
struct Replayed {
    /// The number of records that were read.
    read: u64,
    /// The number of those that were meant.
    matched: u64,
    /// The number of those by what became of them, or would have.
    results: BTreeMap<&'static str, u64>,
    /// Of a shadow: each event, and what would have been done.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<ShadowedEvent>>,
    /// The part of the range that is left, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// An event, and the things that its handler would have done.
#[derive(Serialize, JsonSchema)]
struct ShadowedEvent {
    partition: i32,
    offset: i64,
    key: String,
    event_type: Option<&'static str>,
    /// `handled`, `failed`, `dead` or `ignored`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Types and keys of the events that it would have published.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    published: Vec<(String, String)>,
    /// Kinds and keys of the effects that it would have asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    effects: Vec<(String, String)>,
    /// Keys of the effects that it would have taken back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cancelled: Vec<String>,
}

impl ShadowedEvent {
    fn new(record: &Record, names: Option<(&'static str, String)>, shadow: Shadow) -> Self {
        let (result, code, error, deeds) = match shadow {
            Shadow::Ignored => ("ignored", None, None, Deeds::default()),
            Shadow::Handled(deeds) => ("handled", None, None, deeds),
            Shadow::Fails(error) => ("failed", None, Some(error), Deeds::default()),
            Shadow::Dead(code, error) => ("dead", Some(code), Some(error), Deeds::default()),
        };
        let Deeds { published, effects, cancelled } = deeds;
        let (event_type, key) = match names {
            Some((event_type, key)) => (Some(event_type), key),
            None => (None, record.message.key_text().into_owned()),
        };
        let (partition, offset) = (record.partition, record.offset);
        Self { partition, offset, key, event_type, result, code, error, published, effects, cancelled }
    }
}

/// Refuses a topic of which nothing is to be handled.
fn refuse_paused(service: &RunningService, topic: &str) -> Result<(), Problem> {
    let pauses = service.store().pauses();
    let Some(pause) = pauses.of_topic(topic) else { return Ok(()) };
    let paused = if pause.name.is_empty() { service.name() } else { &pause.name };
    let detail = format!("{paused} is paused: resume it first, or ask for a `shadow`");
    Err(Problem::new(StatusCode::CONFLICT, "paused", detail))
}

async fn replay(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Replay>,
) -> Result<Json<Replayed>, Problem> {
    let wanted = body.value;
    let service = one(&services, &wanted.service)?;
    read_by(service, &wanted.topic)?;
    let types = canonical(service, wanted.types.as_deref())?;
    let (mut span, is_first) = match (wanted.cursor, wanted.from) {
        (Some(SpanCursor(span)), _) => (span, false),
        (None, Some(NamedPlace(from))) => {
            let until = wanted.until.map_or(Place::End, |until| until.0);
            (service.span(&wanted.topic, from, until).await?, true)
        }
        (None, None) => return Err(unclear("say where to begin, in `from`".to_owned())),
    };
    if !wanted.shadow {
        refuse_paused(service, &wanted.topic)?;
    }
    let by = match (wanted.shadow, wanted.reason) {
        (true, _) => None,
        (false, Some(reason)) => Some(caller.acts(wanted.actor, reason)),
        (false, None) => return Err(no_reason()),
    };
    let is_wanted = |record: &Record| match service.names_of(record) {
        None => types.is_none() && wanted.key.is_none(),
        Some((event_type, key)) => {
            types.as_ref().is_none_or(|types| types.contains(&event_type))
                && wanted.key.as_ref().is_none_or(|wanted| *wanted == key)
        }
    };
    let limit = wanted.limit.unwrap_or(LIMIT_DEFAULT) as usize;
    if let (true, Some(by)) = (is_first, &by) {
        let detail = json!({"spans": span.0, "types": types, "key": wanted.key});
        service.note(by, "replay", &wanted.topic, &detail).await?;
    }
    let (records, read) = service.read_on(&wanted.topic, &mut span, limit, is_wanted).await?;
    let mut done = Replayed {
        read,
        matched: records.len() as u64,
        results: BTreeMap::new(),
        events: wanted.shadow.then(Vec::new),
        next_cursor: SpanCursor::of(&span),
    };
    match &mut done.events {
        None => {
            for end in service.replay(records).await? {
                *done.results.entry(end.into()).or_default() += 1;
            }
        }
        Some(events) => {
            for record in records {
                let shadow = service.shadow(record.clone()).await?;
                let event = ShadowedEvent::new(&record, service.names_of(&record), shadow);
                *done.results.entry(event.result).or_default() += 1;
                events.push(event);
            }
        }
    }
    Ok(Json(done))
}

fn unclear(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "selection", detail)
}

/// The names by which the handlers know these types.
fn canonical(
    service: &RunningService,
    types: Option<&[String]>,
) -> Result<Option<Vec<&'static str>>, Problem> {
    let known = |name: &String| {
        service
            .canonical_type(name)
            .ok_or_else(|| unclear(format!("{} handles no events of type {name}", service.name())))
    };
    types.map(|types| types.iter().map(known).collect()).transpose()
}
