//! The provider's book, read.
//!
//! ```text
//! GET /v1/payment_intents?created[gte]=…&created[lt]=…&expand[]=data.latest_charge&starting_after=…
//! ```

use form_urlencoded::Serializer;
use jiff::Timestamp;
use tidings::EffectError;

use super::verdict::{self, Intent, Page};
use super::{PAGE, Stripe, units};
use crate::gateway::book::{BookSpan, ProviderPage, ProviderPayment};

impl Stripe {
    pub(super) async fn read_book(&self, span: &BookSpan) -> Result<ProviderPage, EffectError> {
        let page: Page = verdict::found(&self.0.get(&path(span)).await?)?;
        let payments = page.data.into_iter().map(payment).collect::<Result<_, _>>()?;
        Ok(ProviderPage { payments, has_more: page.has_more })
    }

    pub(super) async fn read_payment(&self, reference: &str) -> Result<Option<ProviderPayment>, EffectError> {
        let reply = self.0.get(&format!("/v1/payment_intents/{reference}?expand[]=latest_charge")).await?;
        if verdict::is_missing(&reply) {
            return Ok(None);
        }
        payment(verdict::found::<Intent>(&reply)?).map(Some)
    }
}

fn path(span: &BookSpan) -> String {
    let path = String::from("/v1/payment_intents?");
    let start = path.len();
    let mut query = Serializer::for_suffix(path, start);
    query.append_pair("limit", &(span.limit as usize).clamp(1, PAGE).to_string());
    query.append_pair("created[gte]", &span.since.as_second().to_string());
    query.append_pair("created[lt]", &span.until.as_second().to_string());
    query.append_pair("expand[]", "data.latest_charge");
    if let Some(after) = &span.after {
        query.append_pair("starting_after", after);
    }
    query.finish()
}

/// A payment in our units.
fn payment(intent: Intent) -> Result<ProviderPayment, EffectError> {
    let created = intent.created.and_then(|second| Timestamp::from_second(second).ok());
    let created = created.ok_or_else(|| EffectError::Unknown(format!("{} has no time", intent.id)))?;
    let ours = |amount| units::from_provider(amount, intent.currency()).map(|money| money.amount);
    let (captured, refunded) = intent.moved();
    Ok(ProviderPayment {
        reference: intent.id.clone(),
        created,
        amount: units::from_provider(intent.amount(), intent.currency()),
        // A part that is no whole number of our units differs from whatever we have.
        captured: ours(captured).unwrap_or(captured),
        refunded: ours(refunded).unwrap_or(refunded),
        order_id: intent.order_id().map(ToOwned::to_owned),
        words: intent.into_standing().words,
    })
}
