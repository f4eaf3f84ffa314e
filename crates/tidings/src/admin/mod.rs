//! Routes for operators: `/livez`, `/readyz`, `/statusz`, `/metrics`, and the messages on topics.

mod audit;
mod dead_letters;
mod display;
mod effects;
mod gaps;
mod histograms;
mod messages;
mod metrics;
mod operator;
mod outbox;
mod pauses;
mod place;
mod questions;
mod redrive;
mod replay;
mod seek;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::http::{Api, Operation, OperationDoc, Output};
use crate::runtime::RunningService;
use crate::status::Stopped;

/// Routes over everything that runs in this process: `/statusz`, `/metrics`, `/admin/…`. Each program has them.
pub fn routes(services: Arc<Vec<RunningService>>) -> Router {
    let (router, _) = api().into_parts();
    router.with_state(services)
}

/// The routes that orchestrators and Prometheus ask, for an address of their own.
pub(crate) fn probes(services: Arc<Vec<RunningService>>) -> Router {
    let (router, _) = probing().into_parts();
    router.with_state(services)
}

/// The operations of all routes, for the documents.
pub(crate) fn operations() -> Vec<Operation> {
    api().into_parts().1
}

fn probing() -> Api<Arc<Vec<RunningService>>> {
    Api::new()
        .get("/livez", "Whether the process answers; depends on nothing", live)
        .get("/readyz", "Whether it takes requests", ready)
        .get("/statusz", "Each service's backlog, lag and counts", status)
        .get("/metrics", "Metrics, for Prometheus", exposition)
}

fn api() -> Api<Arc<Vec<RunningService>>> {
    let api = probing()
        .get("/admin/topics/{topic}/messages", "What lies on a topic, or is put there next", messages::read)
        .problem(StatusCode::NOT_FOUND, "not-found");
    let parts = [
        audit::routes,
        dead_letters::routes,
        effects::routes,
        gaps::routes,
        outbox::routes,
        pauses::routes,
        questions::routes,
        redrive::routes,
        replay::routes,
        seek::routes,
    ];
    parts.into_iter().fold(api, |api, routes| routes(api))
}

/// How the process is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Health")]
struct ProcessHealth {
    /// `live`, `ready`, `not ready` or `stopping`.
    status: &'static str,
    /// Which service is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl ProcessHealth {
    fn new(status: &'static str) -> Self {
        Self { status, service: None, detail: None }
    }
}

/// Ready, or 503 with the reason.
struct Readiness(StatusCode, ProcessHealth);

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl Output for Readiness {
    fn describe(to: &mut OperationDoc<'_>) {
        to.answers::<ProcessHealth>(StatusCode::OK);
        to.answers::<ProcessHealth>(StatusCode::SERVICE_UNAVAILABLE);
    }
}

async fn live() -> Json<ProcessHealth> {
    Json(ProcessHealth::new("live"))
}

/// Ready: not stopping, and every database answers. The broker may be away.
async fn ready(State(services): State<Arc<Vec<RunningService>>>) -> Readiness {
    for service in services.iter() {
        if service.is_stopping() {
            return Readiness(StatusCode::SERVICE_UNAVAILABLE, ProcessHealth::new("stopping"));
        }
        let stopped = service.stopped_loops().into_iter().find(Stopped::is_unready);
        let trouble = match (service.stopped_by(), stopped) {
            (Some(refusal), _) => Some(refusal.to_string()),
            (None, Some(stopped)) => Some(stopped.to_string()),
            (None, None) => service.store().probe().await.err().map(|e| e.to_string()),
        };
        if trouble.is_some() {
            let health = ProcessHealth {
                service: Some(service.name().to_owned()),
                detail: trouble,
                ..ProcessHealth::new("not ready")
            };
            return Readiness(StatusCode::SERVICE_UNAVAILABLE, health);
        }
    }
    Readiness(StatusCode::OK, ProcessHealth::new("ready"))
}

/// Each service, its backlog and its lag.
async fn status(State(services): State<Arc<Vec<RunningService>>>) -> Json<Map<String, Value>> {
    let mut all = Map::new();
    for service in services.iter() {
        let mut status = serde_json::to_value(service.glance().await).unwrap_or_default();
        // Not asked for where the database does not answer.
        if status.pointer("/effects/open").is_some()
            && let Some(count) = service.effects_in_conflict().await
        {
            status["effects"]["conflict"] = count.into();
        }
        all.insert(service.name().to_owned(), status);
    }
    Json(all)
}

/// The state of all services, for Prometheus.
async fn exposition(State(services): State<Arc<Vec<RunningService>>>) -> Exposition {
    Exposition(metrics::render(&services).await)
}

/// Metrics in Prometheus' text format.
struct Exposition(String);

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], self.0).into_response()
    }
}

impl Output for Exposition {
    fn describe(to: &mut OperationDoc<'_>) {
        to.answer(StatusCode::OK, "Metrics", json!({"text/plain": {"schema": {"type": "string"}}}));
    }
}
