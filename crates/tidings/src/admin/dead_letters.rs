//! Dead letters and waiting events: listed, shown, brought back, discarded, edited.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use garde::Validate;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::display::{Header, headers, shown};
use super::operator::{CallerName, Paging, RowId, chosen, one};
use crate::event::stream;
use crate::http::{Api, LIMIT_MAX, Page, Problem, ValidJson, ValidQuery};
use crate::message::Message;
use crate::runtime::RunningService;
use crate::store::dead_letters::{self, Filter, ParkedRow, ParkedState, REDRIVES_MAX};

type Services = Arc<Vec<RunningService>>;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/dead-letters", "Dead letters and waiting events, oldest first", list)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .get("/admin/dead-letters/summary", "Dead letters by the kind of their failure", summary)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .get("/admin/dead-letters/{id}", "A dead letter, whole", show)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post(
            "/admin/dead-letters/redrive",
            "Have dead letters handled again, in the order of their keys",
            redrive,
        )
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post("/admin/dead-letters/discard", "Give dead letters up for good", discard)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post("/admin/dead-letters/{id}/edit", "Replace the payload of a dead letter", edit)
        .problem(StatusCode::NOT_FOUND, "not-found")
}

/// The parked events that are meant: those for which everything that is said holds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Validate)]
#[schemars(rename = "DeadLetterFilter")]
#[garde(allow_unvalidated)]
struct Wanted {
    /// Only of this service
    service: Option<String>,
    /// Only of this consumer group
    group: Option<String>,
    /// `dead` (the default), `waiting` or `discarded`
    #[serde(default)]
    state: ParkedStateName,
    /// Only with this code
    code: Option<String>,
    /// Only events of this type
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Only from this topic
    topic: Option<String>,
    /// Only events of this key
    key: Option<String>,
    /// Only failures of this kind
    fingerprint: Option<String>,
    /// Only this event
    event_id: Option<String>,
    /// Only those that failed last at this time or later
    since: Option<Timestamp>,
    /// Only those that failed last before this time
    until: Option<Timestamp>,
    /// `true`: only those that were brought back before
    redriven: Option<bool>,
}

/// The same in a body, where a misspelt name would mean everything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DeadLetterSelection")]
#[garde(allow_unvalidated)]
struct Selection {
    service: Option<String>,
    group: Option<String>,
    code: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    topic: Option<String>,
    key: Option<String>,
    fingerprint: Option<String>,
    event_id: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    redriven: Option<bool>,
}

impl From<Selection> for Wanted {
    fn from(selection: Selection) -> Self {
        let Selection {
            service,
            group,
            code,
            event_type,
            topic,
            key,
            fingerprint,
            event_id,
            since,
            until,
            redriven,
        } = selection;
        Self {
            service,
            group,
            state: ParkedStateName::Dead,
            code,
            event_type,
            topic,
            key,
            fingerprint,
            event_id,
            since,
            until,
            redriven,
        }
    }
}

/// A state of a parked event.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum ParkedStateName {
    #[default]
    Dead,
    Waiting,
    Discarded,
}

impl Wanted {
    fn filter(&self, service: &RunningService) -> Filter {
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
struct Group {
    service: String,
    fingerprint: String,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// The message of the newest.
    message: String,
    count: u64,
    first_failed_at: String,
    last_failed_at: String,
    /// The id of the newest.
    example: String,
}

/// Dead letters by the kind of their failure, largest group first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterSummary")]
struct Summary {
    total: u64,
    groups: Vec<Group>,
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

async fn groups_of(service: &RunningService, filter: &Filter) -> Result<Vec<Group>, Problem> {
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
    fn of(mut groups: Vec<Group>) -> Self {
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        Self { total: groups.iter().map(|group| group.count).sum(), groups }
    }
}

/// A dead letter with its message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WholeDeadLetter")]
struct Whole {
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

async fn show(State(services): State<Services>, Path(id): Path<RowId>) -> Result<Json<Whole>, Problem> {
    whole(&services, &id).await.map(Json)
}

async fn whole(services: &[RunningService], id: &RowId) -> Result<Whole, Problem> {
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

/// Body of `POST /admin/dead-letters/redrive` and `…/discard`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "DeadLetterAction")]
struct Action {
    /// These
    #[garde(length(min = 1, max = 1000))]
    ids: Option<Vec<RowId>>,
    /// All of these; `{}` is every dead letter
    filter: Option<Selection>,
    /// At most so many of them, oldest first
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    /// Change nothing, and say what would be done
    #[serde(default)]
    dry_run: bool,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: Option<String>,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

/// The result of a redrive.
#[derive(Default, Serialize, JsonSchema)]
struct Redriven {
    /// The number of dead letters that were meant.
    matched: u64,
    /// The number of those that wait for their turn again.
    redriven: u64,
    /// The number of those left out, since they were brought back too often.
    quarantined: u64,
    /// The number of those still to be brought back.
    left: u64,
    groups: Vec<Group>,
}

/// The result of a discard.
#[derive(Default, Serialize, JsonSchema)]
struct Discarded {
    matched: u64,
    discarded: u64,
    left: u64,
    groups: Vec<Group>,
}

impl Action {
    /// The services whose dead letters are meant, each with a filter for them.
    fn targets<'a>(
        &self,
        services: &'a [RunningService],
    ) -> Result<Vec<(&'a RunningService, Filter)>, Problem> {
        if self.reason.is_none() && !self.dry_run {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "reason", "say why, in `reason`"));
        }
        if self.ids.is_none() && self.filter.is_none() {
            let detail = "say which, by `ids` or by `filter`; {\"filter\": {}} is all";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "selection", detail));
        }
        for id in self.ids.iter().flatten() {
            one(services, &id.service)?;
        }
        let wanted = Wanted::from(self.filter.clone().unwrap_or_default());
        let mut targets = Vec::new();
        for service in chosen(services, wanted.service.as_deref())? {
            let ids = self.ids.as_ref().map(|ids| {
                ids.iter().filter(|id| id.service == service.name()).map(|id| id.id).collect::<Vec<_>>()
            });
            if ids.as_ref().is_none_or(|ids| !ids.is_empty()) {
                targets.push((service, Filter { ids, ..wanted.filter(service) }));
            }
        }
        Ok(targets)
    }

    /// The number of dead letters that may still be changed after so many.
    fn room(&self, changed: u64) -> u32 {
        self.limit.unwrap_or(LIMIT_MAX).saturating_sub(u32::try_from(changed).unwrap_or(u32::MAX))
    }
}

async fn redrive(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Action>,
) -> Result<Json<Redriven>, Problem> {
    let action = body.value;
    let targets = action.targets(&services)?;
    let by = caller.acts(action.actor.clone(), action.reason.clone().unwrap_or_default());
    let mut done = Redriven::default();
    let mut groups = Vec::new();
    for (service, filter) in targets {
        let found = groups_of(service, &filter).await?;
        let matched: u64 = found.iter().map(|group| group.count).sum();
        done.matched += matched;
        if filter.ids.is_none() {
            done.quarantined += dead_letters::quarantined(service.store(), &filter).await?;
        }
        groups.extend(found);
        if !action.dry_run && action.room(done.redriven) > 0 {
            let room = action.room(done.redriven);
            done.redriven += dead_letters::redrive(service.store(), &filter, room, &by).await?;
        }
    }
    done.left = done.matched.saturating_sub(done.redriven + done.quarantined);
    done.groups = Summary::of(groups).groups;
    Ok(Json(done))
}

async fn discard(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Action>,
) -> Result<Json<Discarded>, Problem> {
    let action = body.value;
    let targets = action.targets(&services)?;
    let by = caller.acts(action.actor.clone(), action.reason.clone().unwrap_or_default());
    let mut done = Discarded::default();
    let mut groups = Vec::new();
    for (service, filter) in targets {
        let found = groups_of(service, &filter).await?;
        done.matched += found.iter().map(|group| group.count).sum::<u64>();
        groups.extend(found);
        if !action.dry_run && action.room(done.discarded) > 0 {
            let room = action.room(done.discarded);
            done.discarded += dead_letters::discard(service.store(), &filter, room, &by).await?;
        }
    }
    done.left = done.matched.saturating_sub(done.discarded);
    done.groups = Summary::of(groups).groups;
    Ok(Json(done))
}

/// Body of `POST /admin/dead-letters/{id}/edit`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "DeadLetterEdit")]
struct Edit {
    /// The payload that is to be handled instead
    payload: Value,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

async fn edit(
    State(services): State<Services>,
    Path(id): Path<RowId>,
    caller: CallerName,
    body: ValidJson<Edit>,
) -> Result<Json<Whole>, Problem> {
    let Edit { payload, reason, actor } = body.value;
    let service = one(&services, &id.service)?;
    let payload = payload.to_string();
    if !dead_letters::edit(service.store(), id.id, payload.as_bytes(), &caller.acts(actor, reason)).await? {
        return Err(Problem::not_found(format!("there is no dead letter {id}")));
    }
    whole(&services, &id).await.map(Json)
}

/// Redrives of a dead letter, for the docs' sake.
const _: () = assert!(REDRIVES_MAX == 5, "docs/admin-api.md says five");
