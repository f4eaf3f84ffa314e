//! Dead letters brought back, discarded, edited.

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

use super::dead_letters::{Group, ParkedStateName, Summary, Wanted, Whole, groups_of, whole};
use super::operator::{CallerName, NamedRow, RowId, chosen, no_reason, one};
use crate::http::{Api, EVENT_BODY_BYTES_MAX, LIMIT_MAX, Problem, ValidJson};
use crate::runtime::RunningService;
use crate::store::dead_letters::{self, Filter, REDRIVES_MAX};

type Services = Arc<Vec<RunningService>>;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.post(
        "/admin/dead-letters/redrive",
        "Have dead letters handled again, in the order of their keys",
        redrive,
    )
    .problem(StatusCode::NOT_FOUND, "not-found")
    .problem(StatusCode::BAD_REQUEST, "selection")
    .problem(StatusCode::BAD_REQUEST, "reason")
    .post("/admin/dead-letters/discard", "Give dead letters up for good", discard)
    .problem(StatusCode::NOT_FOUND, "not-found")
    .problem(StatusCode::BAD_REQUEST, "selection")
    .problem(StatusCode::BAD_REQUEST, "reason")
    .post_large(
        "/admin/dead-letters/{id}/edit",
        "Replace the payload of a dead letter",
        EVENT_BODY_BYTES_MAX,
        edit,
    )
    .problem(StatusCode::NOT_FOUND, "not-found")
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

/// Body of `POST /admin/dead-letters/redrive` and `…/discard`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "DeadLetterAction", example = serde_json::json!({"filter": {"code": "attempts_exhausted"}, "dry_run": true}))]
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
            return Err(no_reason());
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
#[schemars(rename = "DeadLetterEdit", example = serde_json::json!({"payload": {"order_id": "o-1"}, "reason": "the producer sends names in capitals"}))]
struct Edit {
    /// The payload that is to be handled instead, as it is written
    #[schemars(with = "Value")]
    payload: Box<RawValue>,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

async fn edit(
    State(services): State<Services>,
    NamedRow(id): NamedRow,
    caller: CallerName,
    body: ValidJson<Edit>,
) -> Result<Json<Whole>, Problem> {
    let Edit { payload, reason, actor } = body.value;
    let service = one(&services, &id.service)?;
    let payload = payload.get().as_bytes();
    if !dead_letters::edit(service.store(), id.id, payload, &caller.acts(actor, reason)).await? {
        return Err(Problem::not_found(format!("there is no dead letter {id}")));
    }
    whole(&services, &id).await.map(Json)
}

/// Redrives of a dead letter, for the docs' sake.
const _: () = assert!(REDRIVES_MAX == 5, "docs/admin-api.md says five");
