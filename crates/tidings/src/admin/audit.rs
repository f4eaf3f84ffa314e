//! The actions of operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::operator::{Paging, chosen};
use crate::http::{Api, Page, Problem, ValidQuery};
use crate::runtime::RunningService;
use crate::store::audit::{self, AuditRow};

type Services = Arc<Vec<RunningService>>;

/// Adds the route.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.get("/admin/audit", "What operators did, newest first", list)
        .problem(StatusCode::NOT_FOUND, "not-found")
}

#[derive(Deserialize, JsonSchema, Validate)]
#[garde(allow_unvalidated)]
struct Wanted {
    /// Only of this service
    service: Option<String>,
    /// Only this action
    action: Option<String>,
    /// Only at this time or later
    since: Option<Timestamp>,
}

/// An operator's action.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
struct Entry {
    id: String,
    service: String,
    at: String,
    /// The operator.
    actor: String,
    /// The action by name: `dead_letter.redrive`.
    action: String,
    /// The thing it was done to.
    subject: String,
    /// The reason.
    reason: String,
    /// The state before and after.
    detail: Value,
}

impl Entry {
    fn new(service: &str, row: AuditRow) -> Self {
        Self {
            id: format!("{service}:{}", row.id),
            service: service.to_owned(),
            at: row.at.to_string(),
            actor: row.operator.actor,
            action: row.action,
            subject: row.subject,
            reason: row.operator.reason,
            detail: row.detail,
        }
    }
}

async fn list(
    State(services): State<Services>,
    ValidQuery(wanted): ValidQuery<Wanted>,
    ValidQuery(paging): ValidQuery<Paging>,
) -> Result<Json<Page<Entry>>, Problem> {
    let mut items: Vec<Entry> = Vec::new();
    for service in chosen(&services, wanted.service.as_deref())? {
        let (Some(before), room @ 1..) = (paging.before(service.name()), paging.room(items.len())) else {
            continue;
        };
        let rows = audit::list(service.store(), wanted.action.as_deref(), wanted.since, before, room).await?;
        items.extend(rows.into_iter().map(|row| Entry::new(service.name(), row)));
    }
    let is_full = paging.room(items.len()) == 0;
    let next_cursor = items.last().filter(|_| is_full).map(|last| last.id.clone());
    Ok(Json(Page { items, next_cursor }))
}
