//! The sandbox payment provider, in process.
//!
//! What it does depends on the payment method alone, and what it answers on the operation key: asked
//! again with the same key, it gives the same answer, also after a restart. That is what a provider's
//! idempotency promises.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidings::EffectError;

/// How long `pm_sandbox_slow` takes.
const SLOW: Duration = Duration::from_secs(2);
/// How often `pm_sandbox_unavailable` fails.
const FAILURES: u32 = 3;
/// Operations remembered for the methods that fail at first; half of them is forgotten beyond it.
const REMEMBERED_MAX: usize = 10_000;

/// What the provider answers to a deed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, under this reference.
    Done(String),
    /// Refused for good: (code, in words).
    Refused(&'static str, &'static str),
}

/// A provider whose cards behave as their names say.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(Arc<Mutex<HashMap<String, u32>>>);

impl Sandbox {
    /// Holds the money.
    ///
    /// # Errors
    /// As the payment method says.
    pub async fn authorize(&self, key: &str, method: &str) -> Result<Answer, EffectError> {
        match method {
            "pm_sandbox_slow" => tokio::time::sleep(SLOW).await,
            "pm_sandbox_unavailable" if self.attempt(key) <= FAILURES => {
                return Err(EffectError::NotDone("the provider answered 503".into()));
            }
            "pm_sandbox_reply_lost" if self.attempt(key) == 1 => {
                return Err(EffectError::Unknown("the answer was lost".into()));
            }
            _ => {}
        }
        Ok(authorization(key, method))
    }

    /// Collects what is held.
    ///
    /// # Errors
    /// Never: the port allows for it.
    #[allow(clippy::unused_async)] // a provider over the network would be waited for
    pub async fn capture(&self, key: &str, method: &str) -> Result<Answer, EffectError> {
        Ok(match method {
            "pm_sandbox_capture_fails" => Answer::Refused("capture_failed", "the hold has expired"),
            _ => Answer::Done(reference("ch", key)),
        })
    }

    /// Gives a hold up, or gives money back.
    ///
    /// # Errors
    /// Never: the port allows for it.
    #[allow(clippy::unused_async)] // as `capture`
    pub async fn undo(&self, key: &str) -> Result<Answer, EffectError> {
        Ok(Answer::Done(reference("re", key)))
    }

    /// What became of an authorisation under this key, if it was ever received.
    ///
    /// # Errors
    /// Never: the port allows for it.
    #[allow(clippy::unused_async)] // as `capture`
    pub async fn find_authorization(&self, key: &str, method: &str) -> Result<Option<Answer>, EffectError> {
        // A lost answer means that the deed was done; the others leave no trace before they answer.
        let done = method == "pm_sandbox_reply_lost";
        Ok(done.then(|| authorization(key, method)))
    }

    /// Counts the attempts under a key, from 1.
    fn attempt(&self, key: &str) -> u32 {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() >= REMEMBERED_MAX {
            let mut keep = false;
            attempts.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let count = attempts.entry(key.to_owned()).or_insert(0);
        *count += 1;
        *count
    }
}

fn authorization(key: &str, method: &str) -> Answer {
    match method {
        "pm_card_visa_chargeDeclined" => Answer::Refused("card_declined", "the card was declined"),
        "pm_card_visa_chargeDeclinedInsufficientFunds" => {
            Answer::Refused("insufficient_funds", "the card has insufficient funds")
        }
        _ => Answer::Done(reference("pi", key)),
    }
}

/// The same reference for the same key, for ever.
fn reference(kind: &str, key: &str) -> String {
    let id: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{kind}_{id}")
}
