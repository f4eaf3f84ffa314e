//! The payment service's routes: reading only.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tidings::Store;
use tidings::http::{Asked, Page, Problem};

use crate::domain::Status;
use crate::store;

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

async fn list(State(store): State<Store>, Asked(query): Asked<ListQuery>) -> Result<Response, Problem> {
    let page = Page::new(query.limit, query.cursor.as_deref())?;
    Ok(page.answer(store::list(&store, query.status, &page).await?))
}
