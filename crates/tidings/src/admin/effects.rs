//! Effects: listed, shown, tried again, decided by an operator's word.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::operator::{CallerName, chosen, one};
use crate::http::{Api, LIMIT_MAX, Page, Problem, ValidJson, ValidQuery};
use crate::runtime::RunningService;
use crate::store::effect_book::{self, EffectRow, EffectState};

type Services = Arc<Vec<RunningService>>;

/// Effects of an answer, if the client does not say.
const LIMIT_DEFAULT: u32 = 100;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/effects", "Effects and timers that are not done", list)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .get("/admin/effects/show", "An effect, whole", show)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post("/admin/effects/retry", "Have an effect that failed tried again now", retry)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post(
            "/admin/effects/resolve",
            "Say what became of an effect that is unknown or in conflict",
            resolve,
        )
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::BAD_REQUEST, "selection")
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "outcome")
}

/// A state of an effect.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum EffectStateName {
    New,
    Calling,
    Failing,
    Unknown,
    Conflict,
    Done,
}

impl EffectStateName {
    fn state(self) -> EffectState {
        match self {
            Self::New => EffectState::New,
            Self::Calling => EffectState::Calling,
            Self::Failing => EffectState::Failing,
            Self::Unknown => EffectState::Unknown,
            Self::Conflict => EffectState::Conflict,
            Self::Done => EffectState::Done,
        }
    }
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct Wanted {
    /// Only of this service
    service: Option<String>,
    /// Only in this state; all but `done`, if it is not said
    state: Option<EffectStateName>,
    /// Only of this kind
    kind: Option<String>,
    /// Only with this in their key
    key: Option<String>,
    /// At most this many of a service
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
}

/// An effect or a timer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Effect")]
struct Shown {
    service: String,
    key: String,
    kind: String,
    provider: String,
    state: String,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Since when it has waited for an operator
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict_since: Option<String>,
    asked_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_at: Option<String>,
}

impl Shown {
    fn new(service: &RunningService, row: &EffectRow) -> Self {
        Self {
            service: service.name().to_owned(),
            key: row.key.clone(),
            kind: row.kind.clone(),
            provider: service.provider(&row.kind).to_owned(),
            state: <&str>::from(row.state).to_owned(),
            attempts: row.attempts,
            due_at: row.due.map(|due| due.to_string()),
            error: row.error.clone(),
            conflict_since: row.conflict.map(|since| since.to_string()),
            asked_at: row.asked.to_string(),
            done_at: row.done.map(|done| done.to_string()),
        }
    }
}

async fn list(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<Wanted>,
) -> Result<Json<Page<Shown>>, Problem> {
    let mut items = Vec::new();
    for service in chosen(&services, wanted.service.as_deref())? {
        let (state, limit) =
            (wanted.state.map(EffectStateName::state), wanted.limit.unwrap_or(LIMIT_DEFAULT));
        let (kind, key) = (wanted.kind.as_deref(), wanted.key.as_deref());
        let rows = effect_book::list(service.store(), state, kind, key, limit).await?;
        items.extend(rows.iter().map(|row| Shown::new(service, row)));
    }
    Ok(Json(Page::whole(items)))
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct One {
    /// The service
    service: String,
    /// The effect's key
    key: String,
}

/// An effect with its request.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WholeEffect")]
struct Whole {
    #[serde(flatten)]
    effect: Shown,
    request: Value,
}

async fn show(
    State(services): State<Services>,
    ValidQuery(One { service, key }): ValidQuery<One>,
) -> Result<Json<Whole>, Problem> {
    let service = one(&services, &service)?;
    let row = effect_book::show(service.store(), &key).await?.ok_or_else(|| none(service, &key))?;
    let request = serde_json::from_str(&row.request).unwrap_or_else(|_| Value::String(row.request.clone()));
    Ok(Json(Whole { effect: Shown::new(service, &row), request }))
}

fn none(service: &RunningService, key: &str) -> Problem {
    Problem::not_found(format!("{} has no effect {key} to which this could be done", service.name()))
}

/// Body of `POST /admin/effects/retry`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "EffectRetry", example = serde_json::json!({"service": "payment", "key": "authorize/o-1", "reason": "the provider is back"}))]
struct Retry {
    service: String,
    key: String,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EffectRetried")]
struct Retried {
    retried: bool,
}

async fn retry(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Retry>,
) -> Result<Json<Retried>, Problem> {
    let Retry { service, key, reason, actor } = body.value;
    let service = one(&services, &service)?;
    match effect_book::retry(service.store(), &key, &caller.acts(actor, reason)).await? {
        true => Ok(Json(Retried { retried: true })),
        false => Err(none(service, &key)),
    }
}

/// Reads an outcome that is there: `null` is one.
fn stated<'de, D: Deserializer<'de>>(outcome: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(outcome).map(Some)
}

/// Body of `POST /admin/effects/resolve`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "EffectResolution", example = serde_json::json!({"service": "payment", "key": "authorize/o-1", "absent": true, "reason": "not in their books"}))]
struct Resolve {
    service: String,
    key: String,
    /// It was not done: it is done at its next try
    #[serde(default)]
    absent: bool,
    /// Its outcome, as its handler reads it from an operator
    #[serde(default, deserialize_with = "stated")]
    #[schemars(with = "Option<Value>")]
    outcome: Option<Value>,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EffectResolved")]
struct Resolved {
    resolved: bool,
}

async fn resolve(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Resolve>,
) -> Result<Json<Resolved>, Problem> {
    let Resolve { service, key, absent, outcome, reason, actor } = body.value;
    let service = one(&services, &service)?;
    let by = caller.acts(actor, reason);
    let resolved = match (absent, outcome) {
        (true, None) => effect_book::resolve_absent(service.store(), &key, &by).await?,
        (false, Some(outcome)) => match service.resolve_effect(&key, outcome, &by).await {
            Err(e) if e.is_invalid() => {
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "outcome", e.to_string()));
            }
            resolved => resolved?,
        },
        _ => {
            let detail = "say what became of it: either `\"absent\": true`, or its `outcome`";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "selection", detail));
        }
    };
    if resolved { Ok(Json(Resolved { resolved })) } else { Err(none(service, &key)) }
}
