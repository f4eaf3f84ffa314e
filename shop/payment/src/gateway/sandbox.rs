//! The sandbox payment provider, in process.
//!
//! What it does depends on the payment method alone, and what it answers on the operation key: asked
//! again with the same key, it gives the same answer, also after a restart. That is what a provider's
//! idempotency promises.

use std::sync::{Arc, Mutex, PoisonError};

use tidings::EffectError;

use super::cards::{Act, Attempts, act};
use super::{Answer, Charge, PaymentGateway, Standing};
use crate::domain::Deed;

/// A provider whose cards behave as their names say.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(Arc<Mutex<Attempts>>);

impl PaymentGateway for Sandbox {
    async fn perform(&self, deed: Deed, key: &str, charge: &Charge) -> Result<Answer, EffectError> {
        let act = self.0.lock().unwrap_or_else(PoisonError::into_inner).act(deed, &charge.method, key);
        match act {
            Act::Fail => return Err(EffectError::NotDone("the provider answered 503".into())),
            Act::DoUnheard => return Err(EffectError::Unknown("the answer was lost".into())),
            Act::AskHolder => return Ok(Answer::needs_holder()),
            Act::Refuse(code, reason) => return Ok(Answer::refused(code, reason)),
            Act::DoAfter(pause) => tokio::time::sleep(pause).await,
            Act::Do => {}
        }
        Ok(done(deed, key))
    }

    async fn look_up(&self, deed: Deed, key: &str, charge: &Charge) -> Result<Option<Answer>, EffectError> {
        if deed != Deed::Authorize {
            // A repeated key is answered as at first: doing it again is looking it up.
            return self.perform(deed, key, charge).await.map(Some);
        }
        // A lost answer means that the hold was made; the others leave no trace before they answer.
        let made = act(deed, &charge.method, 1) == Act::DoUnheard;
        Ok(made.then(|| done(deed, key)))
    }

    /// The sandbox in process keeps no book.
    async fn look_at(&self, _: &str) -> Result<Standing, EffectError> {
        Ok(Standing { words: "missing".to_owned(), order_id: None })
    }
}

/// The answer of a call that was done: one reference for each key, for ever.
fn done(deed: Deed, key: &str) -> Answer {
    let kind = match deed {
        Deed::Authorize => "pi",
        Deed::Capture => "ch",
        Deed::Void | Deed::Refund => "re",
    };
    let id: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    Answer::Done(format!("{kind}_{id}"))
}
