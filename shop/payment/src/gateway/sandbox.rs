//! The sandbox payment provider, in process.
//!
//! What it does depends on the payment method alone, and what it answers on the operation key: asked
//! again with the same key, it gives the same answer, also after a restart. That is what a provider's
//! idempotency promises.

use std::sync::{Arc, Mutex, PoisonError};

use tidings::EffectError;

use super::cards::{Act, Attempts, act};
use super::{Answer, Charge, PaymentGateway, Standing};
use crate::domain::Operation;

/// A provider whose cards behave as their names say.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(Arc<Mutex<Attempts>>);

impl PaymentGateway for Sandbox {
    async fn perform(&self, operation: Operation, key: &str, charge: &Charge) -> Result<Answer, EffectError> {
        let act = self.0.lock().unwrap_or_else(PoisonError::into_inner).act(operation, &charge.method, key);
        match act {
            Act::Fail => return Err(EffectError::NotDone("the provider answered 503".into())),
            Act::DoUnheard => return Err(EffectError::Unknown("the answer was lost".into())),
            Act::AskHolder => return Ok(Answer::needs_holder()),
            Act::Refuse(code, reason) => return Ok(Answer::refused(code, reason)),
            Act::DoAfter(pause) => tokio::time::sleep(pause).await,
            Act::Do => {}
        }
        Ok(done(operation, key))
    }

    async fn look_up(
        &self,
        operation: Operation,
        key: &str,
        charge: &Charge,
    ) -> Result<Option<Answer>, EffectError> {
        if operation != Operation::Authorize {
            // A repeated key is answered as at first: doing it again is looking it up.
            return self.perform(operation, key, charge).await.map(Some);
        }
        // A lost answer means that the hold was made; the others leave no trace before they answer.
        let made = act(operation, &charge.method, 1) == Act::DoUnheard;
        Ok(made.then(|| done(operation, key)))
    }

    /// The sandbox in process keeps no book.
    async fn look_at(&self, _: &str) -> Result<Standing, EffectError> {
        Ok(Standing { words: "missing".to_owned(), order_id: None })
    }
}

/// The answer of a call that was done: one reference for each key, for ever.
fn done(operation: Operation, key: &str) -> Answer {
    let kind = match operation {
        Operation::Authorize => "pi",
        Operation::Capture => "ch",
        Operation::Void | Operation::Refund => "re",
    };
    let id: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    Answer::Done(format!("{kind}_{id}"))
}
