//! The provider's book beside the ledger: what differs, and what to do about each line.
//!
//! ```text
//! GET /admin/reconciliation ── the provider's book, a page ── looked up here ──┐
//!                           └─ the ledger, a page ── looked up there ──────────┴─ looked at again ── lines
//! ```

mod compare;
mod walk;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use contracts::Money;
use garde::Validate;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::http::{Api, Problem, ValidQuery};
use tidings::{EffectError, Store};

use crate::domain::Status;
use crate::gateway::PaymentGateway;
use crate::gateway::book::ProviderPayment;
use crate::store::ledger::LedgerPayment;
use compare::Difference;
use walk::{BookWalk, WalkCursor, WalkError};

/// Payments of a book on a page, at most: the provider is asked for each that seems to differ, while the client waits.
const LIMIT_MAX: u32 = 100;
/// The period that is compared, if the client does not say since when.
const SINCE_DEFAULT: SignedDuration = SignedDuration::from_hours(24);

/// The state of the route: both books.
#[derive(Clone)]
pub struct BothBooks<G> {
    store: Store,
    gateway: G,
}

impl<G> BothBooks<G> {
    pub fn new(store: &Store, gateway: G) -> Self {
        Self { store: store.clone(), gateway }
    }
}

pub fn api<G: PaymentGateway>() -> Api<BothBooks<G>> {
    Api::new()
        .get(
            "/admin/reconciliation",
            "The differences between the provider's book and the ledger",
            reconcile::<G>,
        )
        .problem(StatusCode::CONFLICT, "no-book")
}

#[derive(Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
struct ReconciliationQuery {
    /// Payments from this second on; 24 hours before `until`, if it is not said
    since: Option<Timestamp>,
    /// Payments before this second; now, if it is not said
    until: Option<Timestamp>,
    /// At most so many payments of a book are compared
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    cursor: Option<WalkCursor>,
}

/// The differences among the payments of a page.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Reconciliation")]
pub struct ReconciliationPage {
    /// The beginning of the period, to be named again for the next page.
    pub since: Timestamp,
    /// Its end, likewise.
    pub until: Timestamp,
    /// Differences.
    pub items: Vec<ReconciliationLine>,
    /// Payments of the provider's book that were looked up here.
    pub seen_at_provider: u32,
    /// Payments here that were looked up at the provider.
    pub seen_here: u32,
    /// Effects that are under way, by their keys: no difference yet.
    pub under_way: Vec<String>,
    /// Beginning of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl ReconciliationPage {
    fn new(since: Timestamp, until: Timestamp) -> Self {
        let (items, under_way) = (Vec::new(), Vec::new());
        Self { since, until, items, seen_at_provider: 0, seen_here: 0, under_way, next_cursor: None }
    }
}

/// A difference, and what to do about it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReconciliationLine {
    /// Kind of the difference.
    pub difference: Difference,
    /// Order that is paid for.
    pub order_id: String,
    /// Name of the payment at the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_ref: Option<String>,
    /// Payment as the ledger has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub here: Option<LedgerSide>,
    /// Payment as the provider has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub there: Option<ProviderSide>,
    /// Action to take.
    pub todo: String,
}

/// A payment as the ledger has it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LedgerSide {
    /// State of the money.
    pub status: Status,
    /// Price of the order.
    pub amount: Money,
    /// Sum that was collected, in minor units.
    pub captured: i64,
    /// Sum that was given back.
    pub refunded: i64,
}

/// A payment as the provider has it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProviderSide {
    /// Standing in the provider's words.
    pub standing: String,
    /// Amount that was asked for, if that is a whole number of our units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
    /// Sum that was collected, in minor units.
    pub captured: i64,
    /// Sum that was given back.
    pub refunded: i64,
}

impl ReconciliationLine {
    fn new(
        difference: Difference,
        todo: String,
        order_id: String,
        reference: String,
        here: Option<LedgerPayment>,
        there: Option<ProviderPayment>,
    ) -> Self {
        let (here, there) = (here.map(LedgerSide::new), there.map(ProviderSide::new));
        Self { difference, order_id, provider_ref: Some(reference), here, there, todo }
    }

    /// A payment whose next step the provider contradicts.
    fn in_conflict(row: LedgerPayment, key: &str, there: Option<ProviderPayment>) -> Self {
        let todo = format!(
            "the provider contradicts {key}: `tidings effects show {key}`; put it right there, then `tidings effects retry \
             {key} --reason …`"
        );
        Self {
            difference: Difference::StatusDiffers,
            order_id: row.order_id.clone(),
            provider_ref: row.provider_ref.clone(),
            here: Some(LedgerSide::new(row)),
            there: there.map(ProviderSide::new),
            todo,
        }
    }

    /// A payment that was made, by our word, and has no name at the provider.
    fn nameless(row: LedgerPayment) -> Self {
        let order_id = row.order_id.clone();
        let todo = format!(
            "look for order {order_id} at the provider: the ledger does not say what it is called there"
        );
        let here = Some(LedgerSide::new(row));
        Self {
            difference: Difference::MissingAtProvider,
            order_id,
            provider_ref: None,
            here,
            there: None,
            todo,
        }
    }
}

impl LedgerSide {
    fn new(row: LedgerPayment) -> Self {
        Self { status: row.status, amount: row.amount, captured: row.captured, refunded: row.refunded }
    }
}

impl ProviderSide {
    fn new(there: ProviderPayment) -> Self {
        let ProviderPayment { words, amount, captured, refunded, .. } = there;
        Self { standing: words, amount, captured, refunded }
    }
}

async fn reconcile<G: PaymentGateway>(
    State(books): State<BothBooks<G>>,
    ValidQuery(query): ValidQuery<ReconciliationQuery>,
) -> Result<Json<ReconciliationPage>, Problem> {
    let BothBooks { store, gateway } = &books;
    let until =
        whole_second(query.until.unwrap_or_else(|| store.clock().now() + SignedDuration::from_secs(1)));
    let since =
        whole_second(query.since.unwrap_or_else(|| until.checked_sub(SINCE_DEFAULT).unwrap_or(until)));
    if since >= until {
        return Err(Problem::bad_query(format!("since: {since} is not before {until}")));
    }
    let walk = BookWalk { store, gateway, since, until, limit: query.limit.unwrap_or(LIMIT_MAX) };
    match walk.page(query.cursor).await {
        Ok(page) => Ok(Json(page)),
        Err(WalkError::Store(e)) => Err(e.into()),
        Err(WalkError::Provider(e)) => {
            let why = match e {
                EffectError::Unknown(why) | EffectError::NotDone(why) | EffectError::NoTurn(why) => why,
                other => other.to_string(),
            };
            let detail = format!("the provider's book cannot be read: {why}");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail))
        }
        Err(WalkError::NoBook) => {
            let detail = "the gateway sandbox in process keeps no book that could be compared: run with --gateway \
                          stripe:URL, at a psp-sandbox for example";
            Err(Problem::new(StatusCode::CONFLICT, "no-book", detail))
        }
    }
}

/// The second in which a time lies: the provider knows no parts of it.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_microsecond().div_euclid(1_000_000)).unwrap_or(time)
}
