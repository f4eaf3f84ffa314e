//! Pauses: seen, made, ended.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operator::{CallerName, one, read_by};
use crate::http::{Api, Page, Problem, ValidJson};
use crate::runtime::RunningService;
use crate::store::pauses::{self, Scope};

type Services = Arc<Vec<RunningService>>;

/// Adds the routes.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/pauses", "The things that are held back", list)
        .post("/admin/pauses", "Hold something back until it is resumed", pause)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::BAD_REQUEST, "selection")
        .post("/admin/pauses/resume", "Let something go on", resume)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::BAD_REQUEST, "selection")
}

/// A thing that is held back.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Pause")]
struct Held {
    service: String,
    scope: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    since: String,
    actor: String,
    reason: String,
}

async fn list(State(services): State<Services>) -> Result<Json<Page<Held>>, Problem> {
    let mut items = Vec::new();
    for service in services.iter() {
        for pause in pauses::read(service.store()).await?.iter() {
            items.push(Held {
                service: service.name().to_owned(),
                scope: <&str>::from(pause.scope).to_owned(),
                name: pause.name.clone(),
                since: pause.since.to_string(),
                actor: pause.by.actor.clone(),
                reason: pause.by.reason.clone(),
            });
        }
    }
    Ok(Json(Page::whole(items)))
}

/// A kind of thing that can be held back.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum ScopeName {
    Service,
    Topic,
    Type,
    Key,
    Effects,
}

/// Body of `POST /admin/pauses` and `…/resume`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "PauseRequest", example = serde_json::json!({"service": "order", "scope": "key", "name": "o-1", "reason": "a dispute"}))]
struct Request {
    service: String,
    scope: ScopeName,
    /// The topic, the type, the key or the kind of effects
    #[garde(length(max = 512))]
    name: Option<String>,
    /// The reason
    #[garde(length(chars, min = 1, max = 500))]
    reason: String,
    /// The operator
    #[garde(length(chars, min = 1, max = 100))]
    actor: Option<String>,
}

impl Request {
    /// The scope and the name, if they fit together.
    fn target(&self, service: &RunningService) -> Result<(Scope, &str), Problem> {
        let refused = |detail: String| Err(Problem::new(StatusCode::BAD_REQUEST, "selection", detail));
        match (self.scope, self.name.as_deref()) {
            (ScopeName::Service, None) => Ok((Scope::Service, "")),
            (ScopeName::Service, Some(_)) => {
                refused("a service is paused as a whole: leave `name` out".to_owned())
            }
            (ScopeName::Effects, kind) => match kind {
                Some(kind) if service.provider(kind).is_empty() => {
                    refused(format!("{} has no effects of kind {kind}", service.name()))
                }
                kind => Ok((Scope::Effects, kind.unwrap_or_default())),
            },
            (ScopeName::Topic, Some(name)) => read_by(service, name).map(|()| (Scope::Topic, name)),
            (ScopeName::Type, Some(name)) => match service.canonical_type(name) {
                Some(name) => Ok((Scope::Type, name)),
                None => refused(format!("{} handles no events of type {name}", service.name())),
            },
            (ScopeName::Key, Some(name)) => Ok((Scope::Key, name)),
            (ScopeName::Topic | ScopeName::Type | ScopeName::Key, None) => {
                refused("say which, in `name`".to_owned())
            }
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PauseChanged")]
struct Changed {
    /// False if it was so before.
    changed: bool,
}

async fn pause(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Request>,
) -> Result<Json<Changed>, Problem> {
    change(&services, caller, &body.value, true).await
}

async fn resume(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Request>,
) -> Result<Json<Changed>, Problem> {
    change(&services, caller, &body.value, false).await
}

async fn change(
    services: &[RunningService],
    caller: CallerName,
    request: &Request,
    is_paused: bool,
) -> Result<Json<Changed>, Problem> {
    let service = one(services, &request.service)?;
    let (scope, name) = request.target(service)?;
    let by = caller.acts(request.actor.clone(), request.reason.clone());
    let changed = match is_paused {
        true => pauses::pause(service.store(), scope, name, &by).await?,
        false => pauses::resume(service.store(), scope, name, &by).await?,
    };
    Ok(Json(Changed { changed }))
}
