//! Parked events whose turn has come, each in a transaction of its own.

use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::decode::decode;
use super::process::Turn;
use super::progress::{Trouble, blame};
use crate::error::{Error, HandlerError};
use crate::health::{Loop, Reason};
use crate::retry::backoff;
use crate::stopping::{unless_stopped, until_stopped};
use crate::store::parked::{self, Parked};

/// Parked events taken up at once.
const RETRY_BATCH_MAX: u32 = 64;

impl Pipeline {
    /// Gives every parked event whose turn has come another try. One that is in trouble stops no other.
    pub(crate) async fn retry_due(&self, stop: &CancellationToken) -> Result<(), Error> {
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

    /// Puts an event off that is only in its own way; waits where no event would get on.
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
            unless_stopped(stop, backoff(1)).await;
            return Ok(());
        }
        // The database answers, and cannot do this event's work: it is charged like any other failure.
        let mut tx = self.begin().await?;
        if parked::claim(&mut tx, &self.subscription.group, parked).await? {
            let e = HandlerError::Transient(trouble.error.clone());
            self.fail_again(&mut tx, parked, &e).await?;
            tx.commit().await?;
            self.counts.failed_again.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn retry(&self, parked: &Parked) -> Result<(), Trouble> {
        let batch = decode(&self.subscription, vec![parked.record.clone()], parked.attempts + 1);
        let mut tx = self.begin().await?;
        if !parked::claim(&mut tx, &self.subscription.group, parked).await? {
            return Ok(());
        }
        let processed =
            tx.attempt(async |tx| self.process(tx, &batch, &[0], Turn::Parked(parked)).await).await?;
        let failed = match processed {
            Ok(_) => None,
            Err(e) => Some(self.fail_again(&mut tx, parked, &blame(e)?).await?),
        };
        tx.commit().await?;
        failed.unwrap_or(&self.counts.recovered).fetch_add(1, Ordering::Relaxed);
        if failed.is_none() {
            batch.items[0].log("handled");
        }
        Ok(())
    }
}
