//! The order service's routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use contracts::catalogue::Product;
use contracts::{LINES_MAX, OrderCreated, OrderId, QUANTITY_MAX, Reason};
use futures_util::stream::{self, Stream};
use garde::Validate;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings::http::idempotency::{self, IdempotencyKey, InFlight};
use tidings::http::{
    Api, Created, Cursor, LIMIT_MAX, OperationDoc, Output, Page, PageRequest, Problem, ValidJson, ValidQuery,
};
use tidings::{Cause, HandlerError, Idempotency, Store, StoredResponse, Tx, WriteBatcher};
use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::domain::{Decision, Payment, Status, Stock};
use crate::handlers::{self, decide, take};
use crate::history::{self, HistoryEntry};
use crate::live::{Changes, LastEventId, Live};
use crate::store::{self, Filter, Order, Origin};

/// The time that a browser waits if it comes back to a stream that has ended, although it was told so.
const RETRY_AFTER_END: Duration = Duration::from_secs(10 * 60);

/// The state of the routes.
#[derive(Clone)]
pub struct Shop {
    store: Store,
    catalogue: Arc<Catalogue>,
    batcher: WriteBatcher<Placed, Answer>,
    changed: Changes,
}

impl Shop {
    pub fn new(store: &Store, catalogue: Arc<Catalogue>, deadline: Duration, changed: Changes) -> Self {
        Self { batcher: store.write_batcher(Place { deadline }), store: store.clone(), catalogue, changed }
    }
}

pub fn api() -> Api<Shop> {
    let missing = StatusCode::NOT_FOUND;
    Api::new()
        .post("/orders", "Place an order; answered once it is durable", place)
        .get("/orders", "Orders, newest first", list)
        .get("/orders/{id}", "An order", show)
        .problem(missing, "not-found")
        .post("/orders/{id}/cancel", "Cancel an order: a promise that it ends cancelled", cancel)
        .essential()
        .problem(missing, "not-found")
        .problem(StatusCode::CONFLICT, "completed")
        .get("/orders/{id}/history", "Every event of an order, and what handled it", whole_history)
        .problem(missing, "not-found")
        .get("/orders/{id}/events", "The same, live, as server-sent events; `end` after the last one", events)
        .problem(missing, "not-found")
        .get("/products", "What can be ordered", products)
        .get("/products/{id}", "A product", product)
        .problem(missing, "not-found")
}

/// Body of `POST /orders`.
#[derive(Debug, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({"items": [{"product_id": "tea", "quantity": 2}], "customer_id": "c-1"}))]
struct NewOrder {
    /// What is wanted.
    #[garde(length(min = 1, max = LINES_MAX), dive)]
    items: Vec<NewItem>,
    /// Who orders, if they say so.
    #[garde(length(chars, min = 1, max = 200))]
    customer_id: Option<String>,
    /// How they pay, if they say so.
    #[garde(length(chars, min = 1, max = 200))]
    payment_method: Option<String>,
}

/// A line of it.
#[derive(Debug, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
struct NewItem {
    /// Which product.
    #[garde(length(chars, min = 1, max = 200))]
    product_id: String,
    /// How many pieces.
    #[garde(range(min = 1, max = QUANTITY_MAX))]
    quantity: u32,
}

/// An order on its way into the store.
struct Placed {
    order: OrderCreated,
    created: Timestamp,
    answer: String,
    claim: Option<Idempotency>,
    cause: Cause,
}

enum Answer {
    Recorded,
    Before(StoredResponse),
}

async fn place(
    State(shop): State<Shop>,
    cause: Cause,
    key: IdempotencyKey,
    body: ValidJson<NewOrder>,
) -> Result<Created<Order>, Problem> {
    let claim = key.claim("POST /orders", &body.bytes);
    let _running = InFlight::enter(claim.as_ref()).await?;
    let wanted = body.value;
    let lines = wanted.items.into_iter().map(|line| (line.product_id, line.quantity));
    let (items, total) = shop.catalogue.price(lines).map_err(Problem::invalid)?;
    let id = Uuid::now_v7().hyphenated().to_string();
    let created = whole_micros(shop.store.clock().now());
    let view = Order {
        id: id.clone(),
        status: Status::Processing,
        customer_id: wanted.customer_id,
        items,
        total,
        payment: Payment::Unknown,
        stock: Stock::Unknown,
        reason: None,
        created_at: created,
        updated_at: created,
    };
    let answer = serde_json::to_string(&view).map_err(|e| HandlerError::fatal("not_json", e))?;
    let location = format!("/orders/{id}");
    let placed = Placed {
        order: OrderCreated {
            order_id: OrderId::from(id),
            customer_id: view.customer_id,
            items: view.items,
            total: view.total,
            payment_method: wanted.payment_method,
        },
        created,
        answer: answer.clone(),
        claim,
        cause,
    };
    match shop.batcher.submit(placed).await? {
        Answer::Recorded => Ok(created_answer(&location, answer)),
        Answer::Before(before) => Ok(replayed(before)),
    }
}

/// Records the orders that wait, in one transaction.
struct Place {
    deadline: Duration,
}

impl tidings::store::BatchWork<Placed, Answer> for Place {
    async fn handle(&self, requests: &[Placed], tx: &mut Tx) -> Result<Vec<Answer>, HandlerError> {
        let claims: Vec<_> = requests.iter().filter_map(|p| Some((p.claim.as_ref()?, &*p.answer))).collect();
        let mut before = tx.save_responses(201, &claims).await?.into_iter();
        let mut answers = Vec::with_capacity(requests.len());
        for placed in requests {
            let before = placed.claim.as_ref().and_then(|_| before.next().flatten());
            answers.push(before.map_or(Answer::Recorded, Answer::Before));
        }
        let first = requests.iter().zip(&answers).filter(|(_, a)| matches!(a, Answer::Recorded));
        let first: Vec<&Placed> = first.map(|(placed, _)| placed).collect();
        let orders: Vec<_> = first.iter().map(|placed| (&placed.order, placed.created)).collect();
        let new = handlers::open(tx, &orders, Origin::Here, self.deadline).await?;
        for (placed, new) in first.into_iter().zip(new) {
            // Not new: it was recorded by a commit whose success was never learned.
            if new {
                tx.caused_by(&placed.cause);
                tx.publish(placed.order.clone()).await?;
            }
        }
        Ok(answers)
    }
}

/// The time as the table holds it, so that every answer shows the same time.
fn whole_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

fn created_answer(location: &str, answer: String) -> Created<Order> {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::LOCATION, HeaderValue::try_from(location).expect("a path of a UUID is ASCII")),
    ];
    Created::new((StatusCode::CREATED, headers, answer))
}

/// The first answer again, with the same `Location`.
fn replayed(before: StoredResponse) -> Created<Order> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let location = match &before {
        StoredResponse::Replay { answer, .. } => serde_json::from_str::<Id>(answer).ok(),
        StoredResponse::Mismatch => None,
    };
    let mut response = idempotency::replay(before);
    if let Some(Id { id }) = location
        && let Ok(location) = HeaderValue::try_from(format!("/orders/{id}"))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Created::new(response)
}

async fn show(State(shop): State<Shop>, Path(id): Path<String>) -> Result<Json<Order>, Problem> {
    find(&shop, &id).await.map(Json)
}

async fn find(shop: &Shop, id: &str) -> Result<Order, Problem> {
    let order = store::find(&shop.store, id).await?;
    order.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))
}

#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only those in this status.
    #[garde(skip)]
    status: Option<Status>,
    /// Only those of this customer.
    #[garde(skip)]
    customer_id: Option<String>,
    /// How many, at most.
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    #[garde(skip)]
    cursor: Option<Cursor>,
}

async fn list(
    State(shop): State<Shop>,
    ValidQuery(query): ValidQuery<ListQuery>,
) -> Result<Json<Page<Order>>, Problem> {
    let page = PageRequest::new(query.limit, query.cursor.as_ref());
    let filter = Filter { status: query.status, customer_id: query.customer_id };
    Ok(Json(page.answer(store::list(&shop.store, &filter, &page).await?)))
}

/// 200 if it is cancelled, 202 if it will be.
struct Cancelled(StatusCode, Order);

impl IntoResponse for Cancelled {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl Output for Cancelled {
    fn describe(to: &mut OperationDoc<'_>) {
        to.answers::<Order>(StatusCode::OK);
        to.answers::<Order>(StatusCode::ACCEPTED);
    }
}

/// A promise: the order ends cancelled, also when it was already confirmed.
async fn cancel(
    State(shop): State<Shop>,
    cause: Cause,
    Path(id): Path<String>,
) -> Result<Cancelled, Problem> {
    let changed = shop.changed.clone();
    let wanted = id.clone();
    let order = shop
        .store
        .transaction(async move |tx: &mut Tx| {
            let Some(mut order) = store::kept(tx, &wanted).await?.filter(|order| order.is_known) else {
                return Ok(None);
            };
            if order.progress.can_be_cancelled() {
                tx.caused_by(&cause);
                take(tx, &wanted, &mut order, Decision::Cancel(Reason::CancelledByCustomer)).await?;
                decide(tx, &wanted, &mut order).await?;
                store::update(tx, &[(&*wanted, order)]).await?;
                changed.announce(tx, &wanted);
            }
            Ok(store::find_in(tx, &wanted).await?)
        })
        .await?;
    let order = order.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))?;
    let status = match order.status {
        Status::Cancelled => StatusCode::OK,
        Status::Completed => {
            let detail = "the order is completed and cannot be cancelled any more";
            return Err(Problem::new(StatusCode::CONFLICT, "completed", detail));
        }
        _ => StatusCode::ACCEPTED,
    };
    Ok(Cancelled(status, order))
}

/// Every event of an order, in the order in which this service saw them.
#[derive(Serialize, JsonSchema)]
struct History {
    /// Of which order.
    order_id: String,
    /// The first one first.
    events: Vec<HistoryEntry>,
}

async fn whole_history(State(shop): State<Shop>, Path(id): Path<String>) -> Result<Json<History>, Problem> {
    find(&shop, &id).await?;
    let events = history::history(&shop.store, &id).await?;
    Ok(Json(History { order_id: id, events }))
}

/// The history, live: what there is, then each event as it is stated or handled here.
async fn events(
    State(shop): State<Shop>,
    Path(id): Path<String>,
    last: LastEventId,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Problem> {
    find(&shop, &id).await?;
    let live = Live::follow(&shop.store, &shop.changed, id, last).await?;
    let events = stream::unfold(Some(live), |live| async {
        let mut live = live?;
        let Some(entry) = live.next().await else {
            // Browsers come back by themselves unless they are told not to, or not soon.
            let end = SseEvent::default().event("end").retry(RETRY_AFTER_END).data("{}");
            return Some((Ok(end), None));
        };
        let event = SseEvent::default().id(entry.n.to_string()).event(&entry.event_type).json_data(&entry);
        Some((Ok(event.unwrap_or_default()), Some(live)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

async fn products(State(shop): State<Shop>) -> Json<Page<Product>> {
    Json(Page::whole(shop.catalogue.products().cloned().collect()))
}

async fn product(State(shop): State<Shop>, Path(id): Path<String>) -> Result<Json<Product>, Problem> {
    match shop.catalogue.product(&id) {
        Some(product) => Ok(Json(product.clone())),
        None => Err(Problem::not_found(format!("there is no product {id}"))),
    }
}
