//! The inventory service's routes.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use garde::Validate;
use serde::Deserialize;
use serde_json::json;
use tidings::http::{Problem, Valid};
use tidings::{Store, Tx};

use crate::store;

/// Most pieces in one delivery.
const RECEIPT_MAX: u64 = 1_000_000_000;

pub fn routes(store: &Store) -> Router {
    Router::new()
        .route("/stock", get(list))
        .route("/stock/{product_id}", get(show))
        .route("/stock/{product_id}/receipts", post(receive))
        .with_state(store.clone())
}

async fn list(State(store): State<Store>) -> Result<Response, Problem> {
    let items = store::list(&store).await?;
    Ok(Json(json!({ "items": items })).into_response())
}

async fn show(State(store): State<Store>, Path(product_id): Path<String>) -> Result<Response, Problem> {
    match store::view(&store, &product_id).await? {
        Some(view) => Ok(Json(view).into_response()),
        None => Err(unknown(&product_id)),
    }
}

/// Body of `POST /stock/{product_id}/receipts`.
#[derive(Debug, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
struct Receipt {
    #[garde(range(min = 1, max = RECEIPT_MAX))]
    quantity: u64,
    #[garde(length(chars, min = 1, max = 200))]
    reference: String,
}

/// Adds stock once per reference: 201 the first time, 200 after that.
async fn receive(
    State(store): State<Store>,
    Path(product_id): Path<String>,
    body: Valid<Receipt>,
) -> Result<Response, Problem> {
    if store::view(&store, &product_id).await?.is_none() {
        return Err(unknown(&product_id));
    }
    let Receipt { quantity, reference } = body.value;
    let id = product_id.clone();
    let booked = store
        .transaction(async move |tx: &mut Tx| store::receive(tx, &id, quantity, &reference).await)
        .await?;
    let status = if booked { StatusCode::CREATED } else { StatusCode::OK };
    let view = store::view(&store, &product_id).await?;
    Ok((status, Json(view)).into_response())
}

fn unknown(product_id: &str) -> Problem {
    Problem::not_found(format!("there is no product {product_id}"))
}
