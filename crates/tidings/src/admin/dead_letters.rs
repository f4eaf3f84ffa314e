//! Dead letters and waiting events: listed, shown, grouped by the kind of their failure.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::display::{Header, headers, shown};
use super::operator::{NamedRow, Paging, RowId, chosen, one};
use crate::event::stream;
use crate::http::{Api, Page, Problem, ValidQuery};
use crate::message::Message;
use crate::runtime::RunningService;
use crate::store::dead_letters::{self, Filter, ParkedRow, ParkedState};

type Services = Arc<Vec<RunningService>>;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/dead-letters", "Dead letters and waiting events, oldest first", list)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .get("/admin/dead-letters/summary", "Dead letters by the kind of their failure", summary)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .get("/admin/dead-letters/{id}", "A dead letter, whole", show)
        .problem(StatusCode::NOT_FOUND, "not-found")
}

/// The parked events that are meant: those for which everything that is said holds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Validate)]
#[schemars(rename = "DeadLetterFilter")]
#[garde(allow_unvalidated)]
pub(super) struct Wanted {
    /// Only of this service
    pub(super) service: Option<String>,
    /// Only of this consumer group
    pub(super) group: Option<String>,
    /// `dead` (the default), `waiting` or `discarded`
    #[serde(default)]
    pub(super) state: ParkedStateName,
    /// Only with this code
    pub(super) code: Option<String>,
    /// Only events of this type
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    /// Only from this topic
    pub(super) topic: Option<String>,
    /// Only events of this key
    pub(super) key: Option<String>,
    /// Only failures of this kind
    pub(super) fingerprint: Option<String>,
    /// Only this event
    pub(super) event_id: Option<String>,
    /// Only those that failed last at this time or later
    pub(super) since: Option<Timestamp>,
    /// Only those that failed last before this time
    pub(super) until: Option<Timestamp>,
    /// `true`: only those that were brought back before
    pub(super) redriven: Option<bool>,
}

/// A state of a parked event.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum ParkedStateName {
    #[default]
    Dead,
    Waiting,
    Discarded,
}

impl Wanted {
    pub(super) fn filter(&self, service: &RunningService) -> Filter {
        let streams = |key: &String| service.topics().iter().map(|topic| stream(topic, key)).collect();
        Filter {
            ids: None,
            state: match self.state {
                ParkedStateName::Dead => ParkedState::Dead,
                ParkedStateName::Waiting => ParkedState::Waiting,
                ParkedStateName::Discarded => ParkedState::Discarded,
            },
            group: self.group.clone(),
            code: self.code.clone(),
            event_type: self.event_type.clone(),
            topic: self.topic.clone(),
            streams: self.key.as_ref().map(streams),
            fingerprint: self.fingerprint.clone(),
            event_id: self.event_id.clone(),
            since: self.since,
            until: self.until,
            is_redriven: self.redriven,
        }
    }
}

/// A dead letter or a waiting event.
#[derive(Serialize, JsonSchema)]
pub(super) struct DeadLetter {
    id: String,
    service: String,
    group: String,
    state: String,
    topic: String,
    partition: i32,
    offset: i64,
    /// The time at which the broker took the event.
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    code: String,
    message: String,
    fingerprint: String,
    attempts: u32,
    /// The number of times it was brought back.
    redrives: u32,
    first_failed_at: String,
    last_failed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    /// True if later events of its key wait for it.
    blocks: bool,
    /// The number of events that wait in its stream beside it.
    behind: u64,
}

impl DeadLetter {
    pub(super) fn new(service: &str, row: &ParkedRow) -> Self {
        Self {
            id: format!("{service}:{}", row.id),
            service: service.to_owned(),
            group: row.group.clone(),
            state: row.state.clone(),
            topic: row.topic.clone(),
            partition: row.partition,
            offset: row.offset,
            timestamp: row.timestamp.to_string(),
            stream: row.stream.clone(),
            key: row.key().map(str::to_owned),
            seq: row.seq,
            event_id: row.event_id.clone(),
            event_type: row.event_type.clone(),
            code: row.code.clone(),
            message: row.message.clone(),
            fingerprint: row.fingerprint.clone(),
            attempts: row.attempts,
            redrives: row.redrives,
            first_failed_at: row.first_failed.to_string(),
            last_failed_at: row.last_failed.to_string(),
            due_at: row.due.map(|due| due.to_string()),
            blocks: row.blocks(),
            behind: row.behind,
        }
    }
}

async fn list(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<Wanted>,
    ValidQuery(paging): ValidQuery<Paging>,
) -> Result<Json<Page<DeadLetter>>, Problem> {
    let mut items: Vec<DeadLetter> = Vec::new();
    for service in chosen(&services, wanted.service.as_deref())? {
        let (Some(after), room @ 1..) = (paging.after(service.name()), paging.room(items.len())) else {
            continue;
        };
        let rows = dead_letters::list(service.store(), &wanted.filter(service), after, room).await?;
        items.extend(rows.iter().map(|row| DeadLetter::new(service.name(), row)));
    }
    let is_full = paging.room(items.len()) == 0;
    let next_cursor = items.last().filter(|_| is_full).map(|last| last.id.clone());
    Ok(Json(Page { items, next_cursor }))
}

/// Dead letters that failed alike.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterGroup")]
pub(super) struct Group {
    service: String,
    fingerprint: String,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// The message of the newest.
    message: String,
    pub(super) count: u64,
    first_failed_at: String,
    last_failed_at: String,
    /// The id of the newest.
    example: String,
}

/// Dead letters by the kind of their failure, largest group first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterSummary")]
pub(super) struct Summary {
    total: u64,
    pub(super) groups: Vec<Group>,
}

async fn summary(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<Wanted>,
) -> Result<Json<Summary>, Problem> {
    let mut groups = Vec::new();
    for service in chosen(&services, wanted.service.as_deref())? {
        groups.extend(groups_of(service, &wanted.filter(service)).await?);
    }
    Ok(Json(Summary::of(groups)))
}

pub(super) async fn groups_of(service: &RunningService, filter: &Filter) -> Result<Vec<Group>, Problem> {
    let groups = dead_letters::summary(service.store(), filter).await?;
    let group = |group: dead_letters::FailureGroup| Group {
        service: service.name().to_owned(),
        fingerprint: group.fingerprint,
        code: group.code,
        event_type: group.event_type,
        message: group.example.1,
        count: group.count,
        first_failed_at: group.first_failed.to_string(),
        last_failed_at: group.last_failed.to_string(),
        example: format!("{}:{}", service.name(), group.example.0),
    };
    Ok(groups.into_iter().map(group).collect())
}

impl Summary {
    pub(super) fn of(mut groups: Vec<Group>) -> Self {
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        Self { total: groups.iter().map(|group| group.count).sum(), groups }
    }
}

/// A dead letter with its message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WholeDeadLetter")]
pub(super) struct Whole {
    #[serde(flatten)]
    letter: DeadLetter,
    headers: BTreeMap<String, Header>,
    #[serde(flatten)]
    payload: Payload,
    /// The payload as it came, if an operator edited it.
    #[serde(skip_serializing_if = "Option::is_none")]
    original_payload: Option<Value>,
}

/// A payload: JSON or text, or else its bytes.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Payload {
    Shown {
        #[schemars(with = "Value")]
        payload: Box<RawValue>,
    },
    Bytes {
        #[schemars(with = "String")]
        payload_base64: Box<RawValue>,
    },
}

impl Payload {
    pub(super) fn new(bytes: &[u8]) -> Self {
        match shown(bytes) {
            ("base64", payload_base64) => Self::Bytes { payload_base64 },
            (_, payload) => Self::Shown { payload },
        }
    }
}

async fn show(State(services): State<Services>, NamedRow(id): NamedRow) -> Result<Json<Whole>, Problem> {
    whole(&services, &id).await.map(Json)
}

pub(super) async fn whole(services: &[RunningService], id: &RowId) -> Result<Whole, Problem> {
    let service = one(services, &id.service)?;
    let found = dead_letters::show(service.store(), id.id).await?;
    let (row, message, original) =
        found.ok_or_else(|| Problem::not_found(format!("there is no dead letter {id}")))?;
    let text = |message: Message| {
        serde_json::from_slice(&message.value)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&message.value).into_owned()))
    };
    Ok(Whole {
        letter: DeadLetter::new(service.name(), &row),
        headers: headers(&message),
        payload: Payload::new(&message.value),
        original_payload: original.map(text),
    })
}
