//! The payment service's routes: reading only.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;
use tidings::Store;
use tidings::http::{Api, Cursor, LIMIT_MAX, Page, PageRequest, Problem, ValidQuery};

use crate::domain::Status;
use crate::store::{self, View};

pub fn api() -> Api<Store> {
    Api::new()
        .get("/payments", "Payments, newest first", list)
        .get("/payments/{order_id}", "The payment of an order, with its ledger", show)
        .problem(StatusCode::NOT_FOUND, "not-found")
}

async fn show(State(store): State<Store>, Path(order_id): Path<String>) -> Result<Json<View>, Problem> {
    match store::view(&store, &order_id).await? {
        Some(payment) => Ok(Json(payment)),
        None => Err(Problem::not_found(format!("there is no payment for order {order_id}"))),
    }
}

#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only those in this status.
    #[garde(skip)]
    status: Option<Status>,
    /// How many, at most.
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    #[garde(skip)]
    cursor: Option<Cursor>,
}

async fn list(
    State(store): State<Store>,
    ValidQuery(query): ValidQuery<ListQuery>,
) -> Result<Json<Page<View>>, Problem> {
    let page = PageRequest::new(query.limit, query.cursor.as_ref());
    Ok(Json(page.answer(store::list(&store, query.status, &page).await?)))
}
