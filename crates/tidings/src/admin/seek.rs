//! Groups set to other offsets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operator::{CallerName, no_reason, one, read_by};
use super::place::NamedPlace;
use crate::http::{Api, Problem, ValidJson};
use crate::runtime::{Move, RunningService};

type Services = Arc<Vec<RunningService>>;

/// Adds the route.
pub(super) fn routes(api: Api<Services>) -> Api<Services> {
    api.post("/admin/seek", "Have a paused service read a topic on from elsewhere", seek)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .problem(StatusCode::BAD_REQUEST, "selection")
        .problem(StatusCode::BAD_REQUEST, "reason")
        .problem(StatusCode::CONFLICT, "not-paused")
        .problem(StatusCode::CONFLICT, "skips")
}

/// Body of `POST /admin/seek`.
#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schemars(rename = "SeekRequest", example = serde_json::json!({"service": "payment", "topic": "orders", "to": "2026-01-31T12:00:00Z", "dry_run": true}))]
struct Seek {
    service: String,
    topic: String,
    /// Only this partition
    #[garde(range(min = 0, max = 1_000_000))]
    partition: Option<i32>,
    to: NamedPlace,
    /// Records that were not read may be left out
    #[serde(default)]
    skip: bool,
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

/// A partition and the next offset that the group reads of it, before and after.
#[derive(Serialize, JsonSchema)]
struct Sought {
    partition: i32,
    from: i64,
    to: i64,
}

/// The result of a seek.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SeekResult")]
struct SeekDone {
    partitions: Vec<Sought>,
    /// The number of records that are read again; those that were handled are recognised.
    read_again: u64,
    /// The number of records that are left out.
    skipped: u64,
    /// False for a dry run.
    changed: bool,
}

impl SeekDone {
    fn of(moves: &[Move], changed: bool) -> Self {
        let sum = |count: fn(&Move) -> i64| moves.iter().map(count).map(|n| n.max(0).unsigned_abs()).sum();
        Self {
            partitions: moves
                .iter()
                .map(|&Move { partition, from, to }| Sought { partition, from, to })
                .collect(),
            read_again: sum(|to| to.from - to.to),
            skipped: sum(|to| to.to - to.from),
            changed,
        }
    }
}

async fn seek(
    State(services): State<Services>,
    caller: CallerName,
    body: ValidJson<Seek>,
) -> Result<Json<SeekDone>, Problem> {
    let Seek { service, topic, partition, to, skip, dry_run, reason, actor } = body.value;
    let service = one(&services, &service)?;
    read_by(service, &topic)?;
    let moves = service.moves(&topic, partition, to.0).await?;
    if moves.is_empty() {
        let detail = format!("{topic} has no partition {}", partition.unwrap_or_default());
        return Err(Problem::new(StatusCode::BAD_REQUEST, "selection", detail));
    }
    let mut done = SeekDone::of(&moves, false);
    if dry_run {
        return Ok(Json(done));
    }
    let Some(reason) = reason else {
        return Err(no_reason());
    };
    if service.store().pauses().of_service().is_none() {
        let detail = format!(
            "{} reads at the moment: pause the service first, then seek, then resume it",
            service.name()
        );
        return Err(Problem::new(StatusCode::CONFLICT, "not-paused", detail));
    }
    if done.skipped > 0 && !skip {
        let detail = format!(
            "{} records that were not read would be left out, and later events of their keys would wait for them: say `skip` if that is meant",
            done.skipped
        );
        return Err(Problem::new(StatusCode::CONFLICT, "skips", detail));
    }
    match service.seek(&topic, &moves, &caller.acts(actor, reason)).await {
        Err(e) if e.is_conflict() => {
            let detail = format!("{e}: some instance has not left it yet; try again in a few seconds");
            return Err(Problem::new(StatusCode::CONFLICT, "not-paused", detail));
        }
        sought => sought?,
    }
    done.changed = true;
    Ok(Json(done))
}
