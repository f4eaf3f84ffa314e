//! The provider's own news: disputes, refunds in its dashboard, holds that expire.
//!
//! ```text
//! POST /webhooks/stripe ── signature ── kept, once an event ── commit ── look: GET the intent ── noted, beside our status
//! ```
//!
//! The provider's word moves nothing here, neither the ledger nor a status: a difference is logged for an operator.

mod signature;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use garde::{Path, Report, Validate};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tidings::http::{Problem, body_bytes, valid};
use tidings::{Effect, EffectError, EffectHandler, HandlerError, Settled, Store, Tx};

use crate::gateway::{PROVIDER, PaymentGateway, Standing, agrees};
use crate::handlers::Operations;
use crate::store::provider_event;
pub use signature::Secret;

/// Longest name that is taken: the provider's have some thirty characters.
const NAME_BYTES_MAX: usize = 255;
/// Kinds of events that are heard; of these, whatever follows: `charge.dispute.created`, `refund.updated`, …
const HEARD: [&str; 2] = ["charge.dispute.", "refund."];
/// Events that are heard.
const HEARD_EXACTLY: [&str; 4] =
    ["charge.refunded", "charge.refund.updated", "charge.expired", "payment_intent.canceled"];

/// Deliveries since the start, for `/statusz`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(Arc<[AtomicU64; 4]>);

#[derive(Clone, Copy)]
enum Count {
    Recorded,
    Repeated,
    Ignored,
    Refused,
}

impl Counts {
    fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts as `/statusz` shows them.
    pub fn shown(&self) -> Value {
        let [recorded, repeated, ignored, refused] =
            [0, 1, 2, 3].map(|n: usize| self.0[n].load(Ordering::Relaxed));
        json!({"recorded": recorded, "repeated": repeated, "ignored": ignored, "refused": refused})
    }
}

/// The state of the route.
#[derive(Clone)]
pub(crate) struct Hooks {
    store: Store,
    secret: Option<Secret>,
    counts: Counts,
}

impl Hooks {
    /// Without a secret, nothing is heard.
    pub fn new(store: &Store, secret: Option<Secret>, counts: Counts) -> Self {
        Self { store: store.clone(), secret, counts }
    }
}

/// The route. What it takes and answers is the provider's business, so no document of ours names it.
pub(crate) fn routes(hooks: Hooks) -> Router {
    Router::new().route("/webhooks/stripe", post(receive)).with_state(hooks)
}

/// The answer to a delivery.
#[derive(Serialize)]
struct Receipt {
    /// Set if the delivery is kept: it is news, of a kind that is heard.
    recorded: bool,
}

async fn receive(State(hooks): State<Hooks>, notice: Notice) -> Result<Json<Receipt>, Problem> {
    let Notice { id, event_type, at, hold: Some(hold) } = notice else {
        hooks.counts.add(Count::Ignored);
        return Ok(Json(Receipt { recorded: false }));
    };
    let recorded = hooks
        .store
        .transaction(async move |tx: &mut Tx| {
            let is_news = provider_event::keep(tx, &id, &event_type, &hold, at).await?;
            if is_news && event_type.starts_with("charge.dispute.") {
                tracing::warn!(
                    event.id = id,
                    event.r#type = event_type,
                    hold,
                    "a payment is disputed at the provider"
                );
            }
            if is_news {
                tx.perform(Look { event_id: id, event_type, hold }).await?;
            }
            Ok(is_news)
        })
        .await?;
    hooks.counts.add(if recorded { Count::Recorded } else { Count::Repeated });
    Ok(Json(Receipt { recorded }))
}

/// A delivery whose signature is right.
struct Notice {
    id: String,
    event_type: String,
    at: Timestamp,
    /// The hold that it is about, if it is of a kind that is heard.
    hold: Option<String>,
}

/// As the provider writes it: what matters of it.
#[derive(Deserialize, JsonSchema)]
struct Delivery {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    created: i64,
    data: Data,
}

#[derive(Deserialize, JsonSchema)]
struct Data {
    object: Map<String, Value>,
}

impl Validate for Delivery {
    type Context = ();

    // By hand: derived, a rule is told by the field's name in Rust.
    fn validate_into(&self, (): &(), parent: &mut dyn FnMut() -> Path, report: &mut Report) {
        let mut broken =
            |name: &str, message: &str| report.append(parent().join(name), garde::Error::new(message));
        for (name, text) in [("id", &self.id), ("type", &self.event_type)] {
            if !is_name(text) {
                broken(name, "must be a name of 1 to 255 letters, digits, `_`, `.` and `-`");
            }
        }
        if Timestamp::from_second(self.created).is_err() {
            broken("created", "must be a time, in seconds");
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

impl FromRequest<Hooks> for Notice {
    type Rejection = Problem;

    async fn from_request(request: Request, hooks: &Hooks) -> Result<Self, Problem> {
        let Some(secret) = &hooks.secret else {
            return Err(Problem::not_found("no webhook is set up here: STRIPE_WEBHOOK_SECRET is not set"));
        };
        let signature = header(request.headers());
        let body = body_bytes(request, hooks).await?;
        let now = hooks.store.clock().now();
        let verified = signature.and_then(|signature| secret.verify(&signature, &body, now));
        let notice = verified.map_err(|why| Problem::new(StatusCode::BAD_REQUEST, "signature", why));
        let notice = notice.and_then(|()| read(&body));
        if let Err(problem) = &notice {
            hooks.counts.add(Count::Refused);
            tracing::warn!(?problem, "a delivery to the webhook was refused");
        }
        notice
    }
}

fn header(headers: &HeaderMap) -> Result<String, &'static str> {
    let mut found = headers.get_all("stripe-signature").iter();
    match (found.next(), found.next()) {
        (Some(value), None) => {
            value.to_str().map(ToOwned::to_owned).map_err(|_| "Stripe-Signature is no text")
        }
        _ => Err("there is no Stripe-Signature, or there are several"),
    }
}

/// Reads what was signed.
fn read(body: &[u8]) -> Result<Notice, Problem> {
    let Delivery { id, event_type, created, data } = valid(body)?;
    let at = Timestamp::from_second(created).unwrap_or_default();
    let is_heard =
        HEARD.iter().any(|kind| event_type.starts_with(kind)) || HEARD_EXACTLY.contains(&&*event_type);
    let hold = hold(&data.object).filter(|hold| is_heard && is_name(hold)).map(ToOwned::to_owned);
    Ok(Notice { id, event_type, at, hold })
}

/// The intent that an object of the provider's is or belongs to: named, or shown as a whole.
fn hold(object: &Map<String, Value>) -> Option<&str> {
    if object.get("object").is_some_and(|kind| kind == "payment_intent") {
        return object.get("id")?.as_str();
    }
    let whole = object.get("payment_intent")?;
    whole.as_str().or_else(|| whole["id"].as_str())
}

/// Look at a payment at the provider after the provider has told something of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    event_id: String,
    event_type: String,
    hold: String,
}

impl Effect for Look {
    const KIND: &'static str = "look";
    const PROVIDER: &'static str = PROVIDER;
    type Outcome = Standing;

    fn key(&self) -> String {
        format!("look/{}", self.event_id)
    }
}

impl<G: PaymentGateway> EffectHandler<Look> for Operations<G> {
    async fn perform(&self, _: &str, look: &Look) -> Result<Standing, EffectError> {
        self.0.look_at(&look.hold).await
    }

    async fn look_up(&self, _: &str, _: &Look) -> Result<Option<Standing>, EffectError> {
        // To look again does no harm.
        Ok(None)
    }

    async fn settle(&self, done: &[Settled<Look>], tx: &mut Tx) -> Result<(), HandlerError> {
        for Settled { effect: Look { event_id, event_type, hold }, outcome: standing, .. } in done {
            let order_id = standing.order_id.as_deref().unwrap_or_default();
            // The provider may serve other programs too.
            let Some(status) = provider_event::status_of(tx, order_id, hold).await? else {
                tracing::info!(event.id = event_id, hold, "the provider told of a payment that is not ours");
                provider_event::forget(tx, event_id).await?;
                continue;
            };
            if !agrees(status, &standing.words) {
                let (at_provider, here) = (&standing.words, <&str>::from(status));
                tracing::warn!(
                    event.id = event_id,
                    event.r#type = event_type,
                    order_id,
                    hold,
                    at_provider,
                    here,
                    "a payment stands otherwise at the provider than here: somebody has to look"
                );
            }
            provider_event::note(tx, event_id, order_id, standing, status).await?;
        }
        Ok(())
    }
}
