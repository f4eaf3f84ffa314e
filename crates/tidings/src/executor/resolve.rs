//! Outcomes that an operator knows.

use serde_json::{Value, json};

use super::Executor;
use crate::error::{Error, HandlerError};
use crate::panic::catch_panic;
use crate::store::audit::{self, Operator};
use crate::store::effects;

impl Executor {
    /// Settles an effect that is not done with the outcome that an operator states; says whether there was one.
    ///
    /// # Errors
    /// Its handler takes no outcome from an operator, or not this one.
    pub(crate) async fn resolve(&self, key: &str, outcome: Value, by: &Operator) -> Result<bool, Error> {
        let mut tx = self.store.begin().await?;
        let Some(asked) = effects::open(&mut tx, key).await? else { return Ok(false) };
        let Some(handler) = self.effect_handlers.get(&*asked.kind) else { return Ok(false) };
        let detail = json!({"outcome": outcome, "attempts": asked.attempts});
        let settled = handler.stated(&asked, outcome).map_err(Error::invalid)?;
        let mut list = handler.clone().list();
        list.push(settled);
        if effects::mark_done(&mut tx, std::slice::from_ref(&asked)).await? == [0] {
            return Ok(false);
        }
        let recorded = catch_panic(list.settle(0..1, &mut tx)).await;
        recorded.map_err(|e: HandlerError| Error::invalid(format!("the outcome cannot be recorded: {e}")))?;
        audit::record(&mut tx, by, "effect.resolve", key, &detail).await?;
        tx.commit().await?;
        Ok(true)
    }
}
