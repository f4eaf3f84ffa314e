//! The provider's public HTTP API.
//!
//! ```text
//! authorize   POST /v1/payment_intents               look-up: GET /v1/payment_intents?created[gte]=…
//! capture     POST /v1/payment_intents/{id}/capture  ┐
//! void        POST /v1/payment_intents/{id}/cancel   ├ look-up: GET /v1/payment_intents/{id}
//! refund      POST /v1/refunds                       ┘
//! ```
//!
//! `docs/gateway.md` says what each answer means, and why.

mod book;
mod http;
pub mod units;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use form_urlencoded::Serializer;
use jiff::Timestamp;
use tidings::{EffectError, Error};

use self::http::Http;
use self::verdict::{End, FoundHolds, Intent, Meaning, Page};
use super::book::{BookSpan, ProviderPage, ProviderPayment};
use super::{Answer, Charge, PaymentGateway, Standing};
use crate::domain::Operation;

/// The provider forgets keys that are 24 hours old. From here on a key is not relied on any more.
const KEY_LIFE: Duration = Duration::from_secs(23 * 3600);
/// The largest time by which the provider's clock may be behind ours.
const CLOCK_SLACK: Duration = Duration::from_secs(600);
/// Intents on a page of the list: the most there can be.
const PAGE: usize = 100;
/// Pages that are searched for a hold, newest first, while its key can be relied on …
const PAGES_FRESH: usize = 3;
/// … and once it cannot: some seconds, well within the time that an external call has.
const PAGES_MAX: usize = 50;

/// A provider that speaks Stripe's API: Stripe, or `psp-sandbox`.
#[derive(Clone, Debug)]
pub struct Stripe(Arc<Http>);

impl Stripe {
    /// The provider at `url`, for whom `key` is the secret.
    ///
    /// # Errors
    /// Not a URL, not a key, or a live key that would be sent in clear; in one line.
    pub fn new(url: &str, key: &str) -> Result<Self, Error> {
        Http::new(url, key).map(|http| Self(Arc::new(http)))
    }
}

impl PaymentGateway for Stripe {
    async fn perform(&self, operation: Operation, key: &str, charge: &Charge) -> Result<Answer, EffectError> {
        let end = self.ask(operation, key, charge).await?;
        self.finish(charge, end).await
    }

    async fn look_at(&self, hold: &str) -> Result<Standing, EffectError> {
        let reply = self.0.get(&format!("/v1/payment_intents/{hold}?expand[]=latest_charge")).await?;
        if verdict::is_missing(&reply) {
            return Ok(Standing { words: "missing".to_owned(), order_id: None });
        }
        Ok(verdict::found::<Intent>(&reply)?.into_standing())
    }

    async fn book(&self, span: &BookSpan) -> Result<Option<ProviderPage>, EffectError> {
        self.read_book(span).await.map(Some)
    }

    async fn payment(&self, reference: &str) -> Result<Option<ProviderPayment>, EffectError> {
        self.read_payment(reference).await
    }

    fn remembers(&self, charge: &Charge) -> bool {
        is_key_alive(charge)
    }

    async fn look_up(
        &self,
        operation: Operation,
        _: &str,
        charge: &Charge,
    ) -> Result<Option<Answer>, EffectError> {
        match self.search(operation, charge, charge.provider_ref.as_deref()).await? {
            Some(end) => self.finish(charge, end).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Stripe {
    async fn ask(&self, operation: Operation, key: &str, charge: &Charge) -> Result<End, EffectError> {
        let hold = charge.provider_ref.as_deref();
        if !is_key_alive(charge)
            && let Some(end) = self.search(operation, charge, hold).await?
        {
            return Ok(end);
        }
        let (path, form) = match (operation, units::to_provider(&charge.amount)) {
            (Operation::Authorize, Ok(amount)) => {
                ("/v1/payment_intents".to_owned(), new_hold(charge, amount))
            }
            (Operation::Authorize, Err(refusal)) => return Ok(End::Answer(refusal)),
            _ => about_hold(operation, charge)?,
        };
        let reply = self.0.post(&path, key, form).await?;
        match verdict::meaning(operation, charge, &reply) {
            Ok(Meaning::End(end)) => Ok(end),
            Ok(Meaning::Rejected(rejection)) => match self.search(operation, charge, hold).await? {
                Some(end) => Ok(end),
                None => rejection.verdict(operation).map(End::Answer),
            },
            // It was stored under the key: asked again, the provider would say the same, whatever has happened since.
            Err(e @ (EffectError::Unknown(_) | EffectError::Conflict(_))) if reply.is_replayed => {
                let shown = verdict::id(&reply);
                let found = self.search(operation, charge, hold.or(shown.as_deref())).await?;
                found.ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Gives up what a refusal has left open at the provider, before the refusal is published: nothing would look at
    /// the intent again, and its holder could still make a hold of it.
    async fn finish(&self, charge: &Charge, end: End) -> Result<Answer, EffectError> {
        let (id, refusal) = match end {
            End::Answer(answer) => return Ok(answer),
            End::LeftOpen { id, refusal } => (id, refusal),
        };
        let key = format!("cancel/{id}");
        let open = Charge { provider_ref: Some(id.clone()), ..charge.clone() };
        match self.ask(Operation::Void, &key, &open).await {
            Ok(End::Answer(Answer::Done(_))) => Ok(refusal),
            Ok(end) => Err(EffectError::Unknown(format!("{id} is open and was not given up: {end:?}"))),
            // The refusal is certain, but not yet that nothing is left of it.
            Err(EffectError::NotDone(why) | EffectError::Unknown(why)) => {
                Err(EffectError::Unknown(format!("{id} is open, and is to be given up: {why}")))
            }
            Err(e) => Err(e),
        }
    }

    /// Searches the provider's books for the outcome of an external call; `hold` is the provider's name for its hold.
    async fn search(
        &self,
        operation: Operation,
        charge: &Charge,
        hold: Option<&str>,
    ) -> Result<Option<End>, EffectError> {
        let id = match (operation, hold) {
            (Operation::Authorize, None) => return self.find(charge).await,
            (_, Some(id)) => id,
            (_, None) => reference(charge)?,
        };
        let path = format!("/v1/payment_intents/{id}?expand[]=latest_charge");
        verdict::standing(operation, charge, &verdict::found(&self.0.get(&path).await?)?)
    }

    /// The hold of an order, by the order id in its metadata. The provider cannot be asked for that alone, or
    /// only in an index that lags behind.
    async fn find(&self, charge: &Charge) -> Result<Option<End>, EffectError> {
        let (list, is_key_alive) = (list(charge), is_key_alive(charge));
        let pages = if is_key_alive { PAGES_FRESH } else { PAGES_MAX };
        let mut path = list.clone();
        let mut found = FoundHolds::default();
        for _ in 0..pages {
            let page: Page = verdict::found(&self.0.get(&path).await?)?;
            let of_order = |intent: &&Intent| intent.order_id() == Some(charge.order_id.as_str());
            for intent in page.data.iter().filter(of_order) {
                found.add(verdict::standing(Operation::Authorize, charge, intent)?, charge)?;
            }
            match page.data.last() {
                Some(last) if page.has_more => path = format!("{list}&starting_after={}", last.id),
                _ => return Ok(found.best()),
            }
        }
        // Asked again under its key, the provider does it once at most: that will tell.
        if is_key_alive || found.has_ended() {
            return Ok(found.best());
        }
        let order_id = &charge.order_id;
        Err(EffectError::Unknown(format!(
            "there is no hold for order {order_id} among the newest {}: look for it in the dashboard",
            pages * PAGE
        )))
    }
}

/// The form that asks for a hold of `amount`, in the provider's units.
fn new_hold(charge: &Charge, amount: i64) -> String {
    Serializer::new(String::new())
        .append_pair("amount", &amount.to_string())
        .append_pair("currency", &charge.amount.currency.to_lowercase())
        .append_pair("payment_method", &charge.method)
        .append_pair("confirm", "true")
        .append_pair("capture_method", "manual")
        .append_pair("metadata[order_id]", charge.order_id.as_str())
        .finish()
}

/// The path and form that ask for an external call to a hold.
fn about_hold(operation: Operation, charge: &Charge) -> Result<(String, String), EffectError> {
    Ok(match operation {
        Operation::Refund => {
            let mut form = Serializer::new(String::new());
            ("/v1/refunds".to_owned(), form.append_pair("payment_intent", reference(charge)?).finish())
        }
        Operation::Capture => (format!("{}/capture", hold(charge)?), String::new()),
        Operation::Authorize | Operation::Void => (format!("{}/cancel", hold(charge)?), String::new()),
    })
}

/// The list, from before this hold can have been made.
fn list(charge: &Charge) -> String {
    let path = String::from("/v1/payment_intents?");
    let start = path.len();
    let mut query = Serializer::for_suffix(path, start);
    query.append_pair("limit", &PAGE.to_string());
    if let Some(asked_at) = charge.asked_at {
        let earliest = asked_at.min(Timestamp::now()) - CLOCK_SLACK;
        query.append_pair("created[gte]", &earliest.as_second().to_string());
    }
    query.finish()
}

/// Tells whether the provider still knows every key under which this charge can have been asked for.
fn is_key_alive(charge: &Charge) -> bool {
    charge.asked_at.is_some_and(|at| Timestamp::now() < at + KEY_LIFE)
}

fn hold(charge: &Charge) -> Result<String, EffectError> {
    Ok(format!("/v1/payment_intents/{}", reference(charge)?))
}

fn reference(charge: &Charge) -> Result<&str, EffectError> {
    charge.provider_ref.as_deref().ok_or_else(|| {
        let order_id = &charge.order_id;
        EffectError::NotDone(format!("the hold of order {order_id} was not made through this gateway"))
    })
}
