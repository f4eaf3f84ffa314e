//! Events that the broker refuses: listed, shown, sent again, given up with an explained hole.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dead_letters::Payload;
use super::display::{Header, headers};
use super::operator::{CallerName, NamedRow, Paging, RowId, chosen, one};
use crate::event::stream;
use crate::http::{Api, Page, Problem, ValidJson, ValidQuery};
use crate::runtime::RunningService;
use crate::store::refused::{self, RefusedRow};

type Services = Arc<Vec<RunningService>>;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/outbox", "Events that the broker refuses, oldest first", list)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .get("/admin/outbox/{id}", "An event that the broker refuses, whole", show)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post("/admin/outbox/retry", "Have refused events sent again", retry)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::BAD_REQUEST, "selection")
        .post(
            "/admin/outbox/discard",
            "Give refused events up, with an event that says so in their place",
            discard,
        )
        .problem(StatusCode::NOT_FOUND, "not-found")
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct Wanted {
    /// Only of this service
    service: Option<String>,
    /// Only for this topic
    topic: Option<String>,
    /// Only events of this key
    key: Option<String>,
}

/// An event that the broker refuses.
#[derive(Serialize, JsonSchema)]
struct RefusedEvent {
    id: String,
    service: String,
    topic: String,
    stream: String,
    key: String,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// The broker's reason.
    error: String,
    /// True if no broker will ever take it.
    for_good: bool,
    recorded_at: String,
    /// The number of events that wait behind it.
    behind: u64,
}

impl RefusedEvent {
    fn new(service: &str, row: &RefusedRow) -> Self {
        let header = |name| row.message.as_ref().and_then(|message| message.header(name)).map(str::to_owned);
        Self {
            id: format!("{service}:{}", row.id),
            service: service.to_owned(),
            topic: row.topic.clone(),
            stream: row.stream.clone(),
            key: row.key().to_owned(),
            seq: row.seq,
            event_id: header("ce_id"),
            event_type: header("ce_type"),
            error: row.error.clone(),
            for_good: row.is_for_good,
            recorded_at: row.recorded.to_string(),
            behind: row.behind,
        }
    }
}

async fn list(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<Wanted>,
    ValidQuery(paging): ValidQuery<Paging>,
) -> Result<Json<Page<RefusedEvent>>, Problem> {
    let mut items: Vec<RefusedEvent> = Vec::new();
    for service in chosen(&services, wanted.service.as_deref())? {
        let (Some(after), room @ 1..) = (paging.after(service.name()), paging.room(items.len())) else {
            continue;
        };
        let streams = wanted
            .key
            .as_ref()
            .map(|key| service.topics().iter().map(|topic| stream(topic, key)).collect::<Vec<_>>());
        let topic = wanted.topic.as_deref();
        let rows = refused::list(service.store(), streams.as_deref(), topic, after, room).await?;
        items.extend(rows.iter().map(|row| RefusedEvent::new(service.name(), row)));
    }
    let is_full = paging.room(items.len()) == 0;
    let next_cursor = items.last().filter(|_| is_full).map(|last| last.id.clone());
    Ok(Json(Page { items, next_cursor }))
}

/// A refused event with its message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WholeRefusedEvent")]
struct Whole {
    #[serde(flatten)]
    event: RefusedEvent,
    headers: BTreeMap<String, Header>,
    #[serde(flatten)]
    payload: Payload,
}

async fn show(State(services): State<Services>, NamedRow(id): NamedRow) -> Result<Json<Whole>, Problem> {
    let service = one(&services, &id.service)?;
    let row = refused::show(service.store(), id.id).await?;
    let row = row.ok_or_else(|| Problem::not_found(format!("the broker refuses no event {id}")))?;
    let message = row.message.clone().unwrap_or_default();
    Ok(Json(Whole {
        event: RefusedEvent::new(service.name(), &row),
        headers: headers(&message),
        payload: Payload::new(&message.value),
    }))
}

/// Body of `POST /admin/outbox/retry`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "RefusedRetry", example = serde_json::json!({"all": true, "reason": "the topic takes 2 MB now"}))]
struct Retry {
    /// These
    #[garde(length(min = 1, max = 1000))]
    ids: Option<Vec<RowId>>,
    /// All
    #[serde(default)]
    all: bool,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RefusedRetried")]
struct Retried {
    /// The number of events that are sent again.
    retried: u64,
}

async fn retry(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Retry>,
) -> Result<Json<Retried>, Problem> {
    let Retry { ids, all, reason, actor } = body.value;
    if ids.is_some() == all {
        let detail = "say which: either `ids`, or `\"all\": true`";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "selection", detail));
    }
    let by = caller.acts(actor, reason);
    let mut retried = 0;
    for (service, ids) in by_service(&services, ids.as_deref())? {
        retried += refused::retry(service.store(), ids.as_deref(), &by).await?;
    }
    Ok(Json(Retried { retried }))
}

/// Rows of a service; all, if none is named.
type RowsOf<'a> = (&'a RunningService, Option<Vec<i64>>);

/// The services whose rows are meant, and the rows; all rows of all services, if none is named.
fn by_service<'a>(services: &'a [RunningService], ids: Option<&[RowId]>) -> Result<Vec<RowsOf<'a>>, Problem> {
    let Some(ids) = ids else { return Ok(services.iter().map(|service| (service, None)).collect()) };
    let mut all: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for id in ids {
        all.entry(&id.service).or_default().push(id.id);
    }
    all.into_iter().map(|(name, ids)| Ok((one(services, name)?, Some(ids)))).collect()
}

/// Body of `POST /admin/outbox/discard`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "RefusedDiscard", example = serde_json::json!({"ids": ["order:42"], "reason": "too large for good"}))]
struct Discard {
    /// These
    #[garde(length(min = 1, max = 1000))]
    ids: Vec<RowId>,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RefusedDiscarded")]
struct Discarded {
    /// The number of events that were given up.
    discarded: u64,
}

async fn discard(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Discard>,
) -> Result<Json<Discarded>, Problem> {
    let Discard { ids, reason, actor } = body.value;
    let by = caller.acts(actor, reason);
    let mut discarded = 0;
    for (service, ids) in by_service(&services, Some(&ids))? {
        for id in ids.into_iter().flatten() {
            discarded += u64::from(refused::discard(service.store(), id, &by).await?);
        }
    }
    Ok(Json(Discarded { discarded }))
}
