//! Parked events whose turn has come, each in a transaction of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::attempt::{Trouble, blame};
use super::decode::{Batch, decode};
use super::{Engine, pause, unless_stopped, until_stopped};
use crate::error::{Error, HandlerError};
use crate::health::{Loop, Reason};
use crate::retry::{Verdict, jitter};
use crate::store::Tx;
use crate::store::inbox;
use crate::store::parked::{self, Failure, Parked};
use tokio_util::sync::CancellationToken;

/// Parked events taken up at once.
const RETRY_BATCH_MAX: u32 = 64;

impl Engine {
    /// Gives every parked event whose turn has come another try. One that is in trouble stops no other.
    pub(super) async fn retry_due(&self, stop: &CancellationToken) -> Result<(), Error> {
        let group = &self.subscription.group;
        parked::mend_due(&self.store, group, self.subscription.retry.delay_max).await?;
        for parked in parked::due(&self.store, group, RETRY_BATCH_MAX).await? {
            match until_stopped(stop, self.retry(&parked)).await {
                None => return Ok(()),
                Some(Ok(())) => self.health.goes_on(Loop::Retry),
                Some(Err(trouble)) => self.in_trouble(&parked, &trouble, stop).await?,
            }
        }
        Ok(())
    }

    /// Puts an event off that is in the way of nobody but itself; waits where nobody would get on.
    async fn in_trouble(
        &self,
        parked: &Parked,
        trouble: &Trouble,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.health.waits(Loop::Retry, trouble.reason, &trouble.error);
        if trouble.reason == Reason::InTheWay {
            return Ok(());
        }
        if trouble.is_believed() || self.store.probe().await.is_err() {
            unless_stopped(stop, pause(1)).await;
            return Ok(());
        }
        // The database answers, and cannot do this event's work: it is charged like any other failure.
        let mut tx = self.begin().await?;
        if parked::claim(&mut tx, &self.subscription.group, parked).await? {
            let e = HandlerError::Transient(trouble.error.clone());
            self.fail_again(&mut tx, parked, parked.attempts + 1, &e).await?;
            tx.commit().await?;
            self.counts.failed_again.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn retry(&self, parked: &Parked) -> Result<(), Trouble> {
        let attempts = parked.attempts + 1;
        let batch = decode(&self.subscription, vec![parked.record.clone()], attempts);
        let mut tx = self.begin().await?;
        if !parked::claim(&mut tx, &self.subscription.group, parked).await? {
            return Ok(());
        }
        let savepoint = tx.savepoint().await?;
        let outcome = match self.again(&mut tx, &batch, parked).await {
            Ok(()) => {
                tx.release(savepoint).await?;
                None
            }
            Err(e) => {
                let e = blame(&tx, e)?;
                tx.roll_back(savepoint).await?;
                Some(self.fail_again(&mut tx, parked, attempts, &e).await?)
            }
        };
        tx.commit().await?;
        outcome.unwrap_or(&self.counts.recovered).fetch_add(1, Ordering::Relaxed);
        if outcome.is_none() {
            batch.items[0].log("handled");
        }
        Ok(())
    }

    async fn again(&self, tx: &mut Tx, batch: &Batch, parked: &Parked) -> Result<(), HandlerError> {
        let group = &self.subscription.group;
        if let (Some(stream), Some(seq)) = (&parked.stream, parked.seq)
            && !inbox::move_to(tx, group, stream, seq, parked.event_id.as_deref()).await?
        {
            let behind = format!("it is not the turn of event {seq} of {stream}");
            return Err(HandlerError::Transient(behind));
        }
        self.call_one(tx, batch, &batch.items[0]).await?;
        tx.flush().await?;
        parked::resolve(tx, group, parked).await?;
        Ok(())
    }

    async fn fail_again(
        &self,
        tx: &mut Tx,
        parked: &Parked,
        attempts: u32,
        e: &HandlerError,
    ) -> Result<&AtomicU64, Error> {
        let group = &self.subscription.group;
        let message = e.to_string();
        let verdict = self.subscription.retry.decide(attempts, e, jitter());
        tracing::warn!(
            consumer = &**group, stream = parked.stream, seq = parked.seq, event.id = parked.event_id,
            attempt = attempts, error = message, verdict = ?verdict, "a parked event failed again"
        );
        let failure = |code, due| Failure { code, message: &message, attempts, due };
        match verdict {
            Verdict::Retry(delay) => {
                let due = Some(tx.now() + delay);
                parked::postpone(tx, parked, &failure("transient", due)).await?;
                Ok(&self.counts.failed_again)
            }
            Verdict::Dead(code) => {
                parked::give_up(tx, group, parked, &failure(&code, None)).await?;
                Ok(&self.counts.given_up)
            }
        }
    }
}
