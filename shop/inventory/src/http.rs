//! The inventory service's routes.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use contracts::catalogue::STOCK_MAX;
use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tidings::http::{Api, OperationDoc, Output, Page, Problem, ValidJson, Violation};
use tidings::{Store, Tx};

use crate::store::{self, Booking, View};

/// Most pieces in one delivery.
const RECEIPT_MAX: u64 = 1_000_000_000;

pub fn api() -> Api<Store> {
    Api::new()
        .get("/stock", "Every product's stock", list)
        .get("/stock/{product_id}", "A product's stock", show)
        .problem(StatusCode::NOT_FOUND, "not-found")
        .post("/stock/{product_id}/receipts", "Add stock, once per reference", receive)
        .problem(StatusCode::NOT_FOUND, "not-found")
}

async fn list(State(store): State<Store>) -> Result<Json<Page<View>>, Problem> {
    Ok(Json(Page::whole(store::list(&store).await?)))
}

async fn show(State(store): State<Store>, Path(product_id): Path<String>) -> Result<Json<View>, Problem> {
    match store::view(&store, &product_id).await? {
        Some(view) => Ok(Json(view)),
        None => Err(unknown(&product_id)),
    }
}

/// Body of `POST /stock/{product_id}/receipts`.
#[derive(Debug, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({"quantity": 100, "reference": "delivery-1"}))]
struct Receipt {
    /// How many pieces came.
    #[garde(range(min = 1, max = RECEIPT_MAX))]
    quantity: u64,
    /// What the delivery is called; the same again adds nothing.
    #[garde(length(chars, min = 1, max = 200))]
    reference: String,
}

/// 201 the first time, 200 after that.
struct Received(StatusCode, View);

impl IntoResponse for Received {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl Output for Received {
    fn describe(to: &mut OperationDoc<'_>) {
        to.answers::<View>(StatusCode::CREATED);
        to.answers::<View>(StatusCode::OK);
    }
}

/// Adds stock once per reference.
async fn receive(
    State(store): State<Store>,
    Path(product_id): Path<String>,
    body: ValidJson<Receipt>,
) -> Result<Received, Problem> {
    if store::view(&store, &product_id).await?.is_none() {
        return Err(unknown(&product_id));
    }
    let Receipt { quantity, reference } = body.value;
    let id = product_id.clone();
    let booking = store
        .transaction(async move |tx: &mut Tx| store::receive(tx, &id, quantity, &reference).await)
        .await?;
    let status = match booking {
        Booking::New => StatusCode::CREATED,
        Booking::Before => StatusCode::OK,
        Booking::TooMuch => {
            let message = format!("more than {STOCK_MAX} pieces of {product_id:?} would be available");
            return Err(Problem::invalid(vec![Violation::new("/quantity", "stock", message)]));
        }
    };
    match store::view(&store, &product_id).await? {
        Some(view) => Ok(Received(status, view)),
        None => Err(unknown(&product_id)),
    }
}

fn unknown(product_id: &str) -> Problem {
    Problem::not_found(format!("there is no product {product_id}"))
}
