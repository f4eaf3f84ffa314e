//! Questions of an operator: what a key waits for, what became of an event, how far consumers are behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use garde::Validate;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::broker::Position;
use crate::error::Error;
use crate::event::stream;
use crate::http::{Api, Page, Problem, ValidQuery};
use crate::runtime::RunningService;
use crate::store::dead_letters::{self, Filter, ParkedRow, ParkedState};
use crate::store::effect_book::EffectState;
use crate::store::pauses::Scope;
use crate::store::trail::{self, Sending};
use crate::store::{effect_book, gaps, refused};

type Services = Arc<Vec<RunningService>>;

/// Rows of a kind that an answer names.
const ROWS_MAX: u32 = 20;
/// The longest wait for the ages of records that are still to be read; then the lag is told without.
const AGES_MAX: Duration = Duration::from_secs(3);

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/why", "The things that a key waits for", why)
        .get("/admin/events", "The way of an event", trail_of)
        .get("/admin/lag", "The records that each consumer has still to handle", lag)
        .get("/admin/topics", "The topics, and the services that write and read them", topics)
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct WhyQuery {
    /// The key: an order's id
    #[garde(length(min = 1, max = 1024))]
    key: String,
}

/// The things that a key waits for.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Waits")]
struct Why {
    key: String,
    /// Whether a service has published or handled an event of the key: if none has, another is perhaps meant.
    known: bool,
    /// Nothing is left to do for the key if it is empty.
    waits: Vec<Wait>,
}

/// One thing that a key waits for.
#[derive(Serialize, JsonSchema)]
struct Wait {
    service: String,
    /// `dead_letter`, `retry`, `gap`, `refused`, `unsent`, `effect`, `pause`, `unread`, `stopped`.
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    detail: String,
    /// The command that frees it, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl Wait {
    fn new(service: &RunningService, what: &'static str, detail: String) -> Self {
        Self { service: service.name().to_owned(), what, stream: None, since: None, detail, command: None }
    }

    fn of(self, stream: &str, since: Option<Timestamp>) -> Self {
        Self { stream: Some(stream.to_owned()), since: since.map(|since| since.to_string()), ..self }
    }

    fn freed_by(self, command: String) -> Self {
        Self { command: Some(command), ..self }
    }
}

async fn why(
    State(services): State<Services>,
    ValidQuery(WhyQuery { key }): ValidQuery<WhyQuery>,
) -> Result<Json<Why>, Problem> {
    let mut waits = Vec::new();
    for service in services.iter() {
        let streams: Vec<String> = service.topics().iter().map(|topic| stream(topic, &key)).collect();
        paused(service, &key, &mut waits);
        sending(service, &streams, &mut waits).await?;
        parked(service, &streams, &mut waits).await?;
        effects(service, &key, &mut waits).await?;
        waits.extend(
            service
                .stopped_loops()
                .into_iter()
                .filter(|stopped| stopped.is_unready())
                .map(|stopped| Wait::new(service, "stopped", stopped.to_string())),
        );
    }
    if waits.is_empty() {
        for service in services.iter() {
            unread(service, &key, &mut waits).await;
        }
    }
    let mut known = !waits.is_empty();
    for service in services.iter().filter(|_| waits.is_empty()) {
        let streams = service.topics().iter().map(|topic| stream(topic, &key)).collect::<Vec<_>>();
        known = known || trail::knows(service.store(), &streams).await?;
    }
    Ok(Json(Why { key, known, waits }))
}

fn paused(service: &RunningService, key: &str, waits: &mut Vec<Wait>) {
    for pause in service.store().pauses().iter() {
        let scope: &str = pause.scope.into();
        if pause.scope == Scope::Key && pause.name != key {
            continue;
        }
        let name = if pause.name.is_empty() { String::new() } else { format!(" {}", pause.name) };
        let detail = format!("{} paused {scope}{name}: {}", pause.by.actor, pause.by.reason);
        let wait = Wait::new(service, "pause", detail);
        waits.push(
            Wait { since: Some(pause.since.to_string()), ..wait }
                .freed_by(format!("tidings resume {scope}{name} --service {} --reason …", service.name())),
        );
    }
}

async fn sending(service: &RunningService, streams: &[String], waits: &mut Vec<Wait>) -> Result<(), Error> {
    let refused = refused::list(service.store(), Some(streams), None, 0, ROWS_MAX).await?;
    for row in &refused {
        let detail =
            format!("the broker refuses event {}, and {} wait behind it: {}", row.seq, row.behind, row.error);
        let wait = Wait::new(service, "refused", detail).of(&row.stream, Some(row.recorded));
        waits.push(wait.freed_by(format!("tidings outbox retry {}:{} --reason …", service.name(), row.id)));
    }
    for stream in streams.iter().filter(|stream| refused.iter().all(|row| row.stream != **stream)) {
        let unsent = trail::unsent(service.store(), stream).await?;
        if unsent.count > 0 {
            let detail = format!("{} events wait to be sent to the broker", unsent.count);
            waits.push(Wait::new(service, "unsent", detail).of(stream, unsent.since));
        }
    }
    Ok(())
}

async fn parked(service: &RunningService, streams: &[String], waits: &mut Vec<Wait>) -> Result<(), Error> {
    let filter = |state| Filter { state, streams: Some(streams.to_vec()), ..Filter::default() };
    for row in dead_letters::list(service.store(), &filter(ParkedState::Dead), 0, ROWS_MAX).await? {
        let behind = match row.blocks() {
            true => format!("; {} wait behind it", row.behind),
            false => "; nothing waits for it".to_owned(),
        };
        let detail = format!("{} is a dead letter ({}): {}{behind}", named(&row), row.code, row.message);
        let wait = Wait::new(service, "dead_letter", detail)
            .of(row.stream.as_deref().unwrap_or_default(), Some(row.last_failed));
        waits.push(wait.freed_by(format!("tidings dlq replay {}:{} --reason …", service.name(), row.id)));
    }
    for stream in streams {
        if let Some(gap) = gaps::list(service.store(), Some(stream)).await?.first() {
            let (first, last) = gap.missing;
            let detail =
                format!("events {first} to {last} have not arrived, and {} wait behind them", gap.waiting);
            let wait = Wait::new(service, "gap", detail).of(stream, Some(gap.since));
            waits.push(wait.freed_by(format!("tidings gaps fetch {} {stream} --reason …", service.name())));
        }
    }
    for row in dead_letters::list(service.store(), &filter(ParkedState::Waiting), 0, ROWS_MAX).await? {
        let Some(due) = row.due else { continue };
        let detail = format!(
            "{} waits ({}), is tried again at {due} and has been tried {} times; {} wait behind it: {}",
            named(&row),
            row.code,
            row.attempts,
            row.behind,
            row.message
        );
        waits.push(
            Wait::new(service, "retry", detail)
                .of(row.stream.as_deref().unwrap_or_default(), Some(row.first_failed)),
        );
    }
    Ok(())
}

fn named(row: &ParkedRow) -> String {
    let event_type = row.event_type.as_deref().unwrap_or("an event");
    row.seq.map_or_else(|| event_type.to_owned(), |seq| format!("{event_type} #{seq}"))
}

async fn effects(service: &RunningService, key: &str, waits: &mut Vec<Wait>) -> Result<(), Error> {
    for row in effect_book::list(service.store(), None, None, Some(key), ROWS_MAX).await? {
        let state: &str = match row.state {
            EffectState::Conflict => "in conflict",
            state => state.into(),
        };
        let due = row.due.map_or_else(String::new, |due| format!(", next at {due}"));
        let error = row.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        let error = error.replacen(": conflict: ", ": ", 1);
        let detail = format!("the effect {} is {state}{due}{error}", row.key);
        let since = row.conflict.unwrap_or(row.asked);
        let wait = Wait { since: Some(since.to_string()), ..Wait::new(service, "effect", detail) };
        let freed_by = |verb: &str| format!("tidings effects {verb} --service {} --reason …", service.name());
        let key = &row.key;
        waits.push(match (row.state, &row.error) {
            // To try again what the provider contradicts leads nowhere by itself.
            (EffectState::Conflict, _) => {
                wait.freed_by(freed_by(&format!("resolve {key} --outcome JSON|--absent")))
            }
            (_, Some(_)) => wait.freed_by(freed_by(&format!("retry {key}"))),
            (_, None) => wait,
        });
    }
    Ok(())
}

/// Names what a consumer has still to read, where its lag is known: an event of the key may be among it.
async fn unread(service: &RunningService, key: &str, waits: &mut Vec<Wait>) {
    let Ok(positions) = service.positions().await else { return };
    let mut behind: BTreeMap<String, i64> = BTreeMap::new();
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for position in &positions {
        let count = counts.entry(position.topic.to_string()).or_default();
        *count = (*count).max(position.partition + 1);
    }
    for position in &positions {
        let count = counts[&*position.topic].unsigned_abs();
        let lag = position.end.saturating_sub(position.offset);
        if lag > 0 && crate::broker::partition_of(key.as_bytes(), count) == position.partition {
            *behind.entry(position.topic.to_string()).or_default() += lag;
        }
    }
    for (topic, lag) in behind {
        let detail = format!("{lag} records of the key's partition of {topic} are still to be read");
        waits.push(Wait::new(service, "unread", detail).of(&stream(&topic, key), None));
    }
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct TrailQuery {
    /// The event's id
    #[garde(length(min = 1, max = 512))]
    id: String,
    /// Its stream, for services in other processes than the one that publishes it
    stream: Option<String>,
    /// Its number in its stream
    #[garde(range(max = i64::MAX as u64))]
    seq: Option<u64>,
}

/// The way of an event.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventTrail")]
struct Trail {
    event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    steps: Vec<Step>,
}

/// One step of an event.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventStep")]
struct Step {
    service: String,
    /// `published`, `unsent`, `refused`, `sent`, `not_arrived`, `waiting`, `handled`, `dead`, `discarded`.
    step: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    detail: String,
}

impl Step {
    fn new(service: &RunningService, step: &'static str, at: Option<Timestamp>, detail: String) -> Self {
        Self { service: service.name().to_owned(), step, at: at.map(|at| at.to_string()), detail }
    }
}

async fn trail_of(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<TrailQuery>,
) -> Result<Json<Trail>, Problem> {
    let TrailQuery { id, stream, seq } = wanted;
    let mut trail = Trail { event_id: id, event_type: None, stream, seq, steps: Vec::new() };
    for service in services.iter() {
        published(service, &mut trail).await?;
    }
    for service in services.iter() {
        consumed(service, &mut trail).await?;
    }
    Ok(Json(trail))
}

async fn published(service: &RunningService, trail: &mut Trail) -> Result<(), Error> {
    let Some(event) = trail::published(service.store(), &trail.event_id).await? else { return Ok(()) };
    let detail = format!("recorded as number {} of {}", event.seq, event.stream);
    trail.steps.push(Step::new(service, "published", Some(event.recorded), detail));
    let (step, detail) = match trail::sending(service.store(), event.id).await? {
        Sending::Sent => ("sent", "the broker has it".to_owned()),
        Sending::Unsent => ("unsent", "it waits in the outbox".to_owned()),
        Sending::Refused(reason) => ("refused", reason),
    };
    trail.steps.push(Step::new(service, step, None, detail));
    trail.event_type = event.message.header("ce_type").map(str::to_owned);
    (trail.stream, trail.seq) = (Some(event.stream), Some(event.seq));
    Ok(())
}

async fn consumed(service: &RunningService, trail: &mut Trail) -> Result<(), Error> {
    if !service.reads() {
        return Ok(());
    }
    let mut rows = Vec::new();
    for state in [ParkedState::Dead, ParkedState::Waiting, ParkedState::Discarded] {
        let filter = Filter { state, event_id: Some(trail.event_id.clone()), ..Filter::default() };
        rows.extend(dead_letters::list(service.store(), &filter, 0, ROWS_MAX).await?);
    }
    for row in &rows {
        let step = match row.state.as_str() {
            "dead" => "dead",
            "discarded" => "discarded",
            _ => "waiting",
        };
        let detail = format!(
            "{}:{} ({}, {} attempts): {}",
            service.name(),
            row.id,
            row.code,
            row.attempts,
            row.message
        );
        trail.steps.push(Step::new(service, step, Some(row.last_failed), detail));
        trail.event_type = trail.event_type.take().or_else(|| row.event_type.clone());
        trail.stream = trail.stream.take().or_else(|| row.stream.clone());
        trail.seq = trail.seq.or(row.seq);
    }
    if !rows.is_empty() {
        return Ok(());
    }
    let (Some(stream), Some(seq)) = (&trail.stream, trail.seq) else {
        if let Some(at) = trail::seen(service.store(), service.group(), &trail.event_id).await? {
            let detail = "an event without a number, of a program outside".to_owned();
            trail.steps.push(Step::new(service, "handled", Some(at), detail));
        }
        return Ok(());
    };
    let topic = stream.split_once('/').map_or(&**stream, |(topic, _)| topic);
    if !service.reads_topic(topic) || service.reads_external_only(topic) {
        return Ok(());
    }
    let last = trail::last_handled(service.store(), service.group(), stream).await?;
    let is_of_interest =
        trail.event_type.as_deref().is_none_or(|name| service.canonical_type(name).is_some());
    let (step, detail) = match last >= seq {
        true if is_of_interest => ("handled", format!("it has handled {stream} up to number {last}")),
        true => ("handled", "it has no handler for this type, and has passed it".to_owned()),
        false => ("not_arrived", format!("it has handled {stream} up to number {last}")),
    };
    trail.steps.push(Step::new(service, step, None, detail));
    Ok(())
}

/// The progress of a consumer in a partition.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PartitionLag")]
struct PartitionLag {
    service: String,
    group: String,
    topic: String,
    partition: i32,
    /// The next offset that is handled.
    offset: i64,
    /// The next offset that the broker gives out.
    end: i64,
    lag: i64,
    /// The time since the broker took the next record, in seconds; left out if there is none, or it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<u64>,
}

async fn lag(State(services): State<Services>) -> Result<Json<Page<PartitionLag>>, Problem> {
    let mut items = Vec::new();
    for service in services.iter().filter(|service| service.reads()) {
        let positions = service.positions().await?;
        let ages = ages_of(service, &positions).await;
        for position in positions {
            items.push(PartitionLag {
                oldest_seconds: ages.get(&(position.topic.clone(), position.partition)).copied(),
                service: service.name().to_owned(),
                group: service.group().to_owned(),
                topic: position.topic.to_string(),
                partition: position.partition,
                offset: position.offset,
                end: position.end,
                lag: position.end.saturating_sub(position.offset).max(0),
            });
        }
    }
    Ok(Json(Page::whole(items)))
}

/// The ages of the records that are next in partitions where a consumer is behind, as far as the broker tells in time.
async fn ages_of(service: &RunningService, positions: &[Position]) -> BTreeMap<(Arc<str>, i32), u64> {
    let behind: Vec<Position> = positions.iter().filter(|p| p.end > p.offset).cloned().collect();
    let times = timeout(AGES_MAX, service.oldest_unread(&behind)).await;
    let times = times.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_default();
    let ages = behind.into_iter().zip(times).filter_map(|(position, time_us)| {
        Some(((position.topic, position.partition), service.seconds_since(time_us?)))
    });
    ages.collect()
}

/// A topic, and who uses it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TopicUse")]
struct TopicUse {
    name: String,
    partitions: u32,
    services: Vec<Use>,
}

/// A service's use of a topic.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ServiceUse")]
struct Use {
    service: String,
    publishes: bool,
    reads: bool,
}

async fn topics(State(services): State<Services>) -> Result<Json<Page<TopicUse>>, Problem> {
    let mut all: BTreeMap<String, TopicUse> = BTreeMap::new();
    for service in services.iter() {
        for topic in service.broker().topics().await? {
            if !service.topics().iter().any(|known| *known == topic.name) {
                continue;
            }
            let name = topic.name.into_owned();
            let (publishes, reads) = (service.publishes_to(&name), service.reads_topic(&name));
            let used = Use { service: service.name().to_owned(), publishes, reads };
            let entry = all.entry(name.clone());
            entry
                .or_insert_with(|| TopicUse { name, partitions: topic.partitions, services: Vec::new() })
                .services
                .push(used);
        }
    }
    Ok(Json(Page::whole(all.into_values().collect())))
}
