//! The shadow of a handler: an event handled in a transaction that is rolled back, to see what would be done.

use super::Pipeline;
use super::decode::{Task, decode};
use crate::broker::Record;
use crate::error::{Error, HandlerError};
use crate::retry::{Verdict, jitter};
use crate::store::deeds::Deeds;

/// The thing that a handler would do with an event if it were its turn.
pub(crate) enum Shadow {
    /// Nothing: no handler here takes it.
    Ignored,
    /// It handles it.
    Handled(Deeds),
    /// It fails, and the event would be tried again.
    Fails(String),
    /// It would be a dead letter, by this code.
    Dead(String, String),
}

impl Pipeline {
    /// Has an event handled, and undoes it. The inbox is not asked: what the handler would do, not whether it would
    /// get the event.
    ///
    /// # Errors
    /// An unusable database.
    pub(crate) async fn shadow(&self, record: Record) -> Result<Shadow, Error> {
        let batch = decode(&self.subscription, vec![record], |_| 1);
        let item = &batch.items[0];
        match &item.task {
            Task::Skip | Task::Ignore => return Ok(Shadow::Ignored),
            Task::Bury(broken) => {
                return Ok(Shadow::Dead(broken.reason.code().to_owned(), broken.message.clone()));
            }
            Task::Handle => {}
        }
        let mut tx = self.begin().await?;
        let handled = tx
            .attempt(async |tx| {
                for list in &batch.lists {
                    list.events.handle(0..list.items.len(), tx).await?;
                }
                let deeds = tx.deeds();
                // Whether what it publishes can be written is a part of it.
                tx.flush().await?;
                Ok(deeds)
            })
            .await?;
        Ok(match handled {
            Ok(deeds) => Shadow::Handled(deeds),
            Err(e @ (HandlerError::Dependency(_) | HandlerError::InDoubt(_) | HandlerError::Conflict(_))) => {
                Shadow::Fails(e.to_string())
            }
            Err(e) => match self.options(item).retry.decide(1, &e, jitter()) {
                Verdict::Retry(_) => Shadow::Fails(e.to_string()),
                Verdict::Dead(reason) => Shadow::Dead(reason.code().to_owned(), e.to_string()),
            },
        })
    }
}
