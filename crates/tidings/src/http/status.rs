//! How the process is: `/livez`, `/readyz`, `/statusz`, `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use serde_json::{Map, Value, json};

use crate::service::Running;

/// Routes over everything that runs in this process.
pub(crate) fn routes(services: Arc<Vec<Running>>) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({"status": "live"}))))
        .route("/readyz", get(ready))
        .route("/statusz", get(status))
        .route("/metrics", get(metrics))
        .with_state(services)
}

/// Ready: not stopping, and every database answers. The broker may be away.
async fn ready(State(services): State<Arc<Vec<Running>>>) -> impl IntoResponse {
    for service in services.iter() {
        if service.is_stopping() {
            return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "stopping"})));
        }
        if let Some(refusal) = service.refusal() {
            let detail = refusal.to_string();
            let body = json!({"status": "not ready", "service": service.name(), "detail": detail});
            return (StatusCode::SERVICE_UNAVAILABLE, Json(body));
        }
        if let Err(e) = service.store().query("SELECT 1", &[]).await {
            let body = json!({"status": "not ready", "service": service.name(), "detail": e.to_string()});
            return (StatusCode::SERVICE_UNAVAILABLE, Json(body));
        }
    }
    (StatusCode::OK, Json(json!({"status": "ready"})))
}

/// Each service, its backlog and its lag.
async fn status(State(services): State<Arc<Vec<Running>>>) -> impl IntoResponse {
    let mut all = Map::new();
    for service in services.iter() {
        let status = service.status().await;
        let status = status.unwrap_or_else(|e| json!({"error": e.to_string()}));
        all.insert(service.name().to_owned(), status);
    }
    Json(Value::Object(all))
}

/// The same for Prometheus: gathered when asked for, so that counting costs nothing.
async fn metrics(State(services): State<Arc<Vec<Running>>>) -> impl IntoResponse {
    let recorder = PrometheusBuilder::new().build_recorder();
    for service in services.iter() {
        if let Err(e) = service.gather(&recorder).await {
            tracing::warn!(service = service.name(), error = %e, "metrics are incomplete");
        }
    }
    let text = PrometheusRecorder::handle(&recorder).render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
