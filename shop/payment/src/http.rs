//! The payment service's routes: reading only.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tidings::Store;
use tidings::http::Problem;

use crate::domain::Status;
use crate::store;

/// Payments on a page of a list, if the client does not say.
const PAGE_DEFAULT: u32 = 50;
/// Payments on a page of a list, at most.
const PAGE_MAX: u32 = 1000;

pub fn routes(store: &Store) -> Router {
    Router::new()
        .route("/payments", get(list))
        .route("/payments/{order_id}", get(show))
        .with_state(store.clone())
}

async fn show(State(store): State<Store>, Path(order_id): Path<String>) -> Result<Response, Problem> {
    match store::view(&store, &order_id).await? {
        Some(payment) => Ok(Json(payment).into_response()),
        None => Err(Problem::not_found(format!("there is no payment for order {order_id}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    status: Option<Status>,
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn list(
    State(store): State<Store>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_query(e.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::bad_query(format!("limit is 1 to {PAGE_MAX}")));
    }
    let before = query.cursor.as_deref().map(str::parse).transpose();
    let before = before.map_err(|_| Problem::bad_query("the cursor is not one that a list gave out"))?;
    let payments = store::list(&store, query.status, before, limit).await?;
    let more = payments.len() == limit as usize;
    let next_cursor = payments.last().filter(|_| more).map(|(n, _)| n.to_string());
    let items: Vec<_> = payments.into_iter().map(|(_, payment)| payment).collect();
    let mut page = json!({ "items": items });
    if let Some(next_cursor) = next_cursor {
        page["next_cursor"] = next_cursor.into();
    }
    Ok(Json(page).into_response())
}
