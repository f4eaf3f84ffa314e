//! Events that are parked or dead: another event under a number, one whose handler failed, one that failed again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::decode::Item;
use super::{Pipeline, Resolution};
use crate::envelope::Metadata;
use crate::error::{Error, HandlerError};
use crate::failure::{DeadReason, Failure, Fate, WaitReason};
use crate::retry::{Verdict, jitter};
use crate::store::parked::{self, Parked};
use crate::store::{Tx, inbox};

impl Pipeline {
    /// Keeps an event that has the number of another one that was handled, for an operator to look at.
    pub(super) async fn differs(
        &self,
        tx: &mut Tx,
        item: &Item,
        metadata: &Metadata,
    ) -> Result<Resolution, HandlerError> {
        // Said and counted once it is committed: a batch may be tried several times.
        item.is_other.store(true, Ordering::Relaxed);
        let Some(seq) = metadata.seq else { return Ok(Resolution::Duplicate) };
        let metadata = Metadata { seq: None, ..metadata.clone() };
        let message = format!("another event of its stream was handled as number {seq}");
        let fate = Fate::Dead(DeadReason::NumberTaken);
        let failure = Failure { fate, message: &message, attempts: 0 };
        let is_new =
            parked::keep(tx, &self.subscription.group, &item.record, Some(&metadata), &failure).await?;
        Ok(if is_new { Resolution::Dead } else { Resolution::Duplicate })
    }

    /// Parks an event whose turn has not come.
    pub(super) async fn park(
        &self,
        tx: &mut Tx,
        item: &Item,
        metadata: &Metadata,
        reason: WaitReason,
        message: &str,
    ) -> Result<Resolution, HandlerError> {
        let failure = Failure { fate: Fate::Waits(reason, None), message, attempts: 0 };
        let is_new =
            parked::keep(tx, &self.subscription.group, &item.record, Some(metadata), &failure).await?;
        Ok(if is_new { Resolution::Parked } else { Resolution::Duplicate })
    }

    /// Parks an event that failed for the first time, or gives it up.
    pub(super) async fn fail(&self, tx: &mut Tx, item: &Item, e: &HandlerError) -> Result<Resolution, Error> {
        let group = &self.subscription.group;
        let message = e.to_string();
        let fate = match self.subscription.retry.decide(1, e, jitter()) {
            Verdict::Retry(delay) if item.metadata.is_some() => {
                Fate::Waits(WaitReason::Transient, Some(tx.now() + delay))
            }
            // Without an envelope it has no key that could wait.
            Verdict::Retry(_) => Fate::Dead(DeadReason::Unstorable),
            Verdict::Dead(reason) => Fate::Dead(reason),
        };
        let failure = Failure { fate, message: &message, attempts: 1 };
        let kept = match tx.attempt(async |tx| self.keep(tx, item, &failure).await).await? {
            Ok(kept) => kept,
            Err(e) => {
                // Something of it does not fit its columns: what is left always does.
                self.counts.narrowly_buried.fetch_add(1, Ordering::Relaxed);
                let message = format!("{message}; and it could not be kept whole: {e}");
                let fate = Fate::Dead(DeadReason::Unstorable);
                let failure = Failure { fate, message: &message, attempts: 1 };
                parked::bury_narrowly(tx, group, &item.record, &failure).await?;
                Resolution::Dead
            }
        };
        let record = &item.record;
        tracing::warn!(
            consumer = &**group, topic = &*record.topic, partition = record.partition, offset = record.offset,
            key = %record.message.key_text(), event.id = item.metadata.as_ref().map(|m| &*m.id),
            attempt = 1, resolution = ?kept, error = message, "an event failed"
        );
        Ok(kept)
    }

    async fn keep(
        &self,
        tx: &mut Tx,
        item: &Item,
        failure: &Failure<'_>,
    ) -> Result<Resolution, HandlerError> {
        let (group, record) = (&self.subscription.group, &item.record);
        if let Some(metadata) = &item.metadata
            && metadata.seq.is_none()
        {
            // Seen, from now on: parked is not forgotten.
            inbox::admit_by_id(tx, group, metadata, &record.message, true).await?;
        }
        let is_new = parked::keep(tx, group, record, item.metadata.as_deref(), failure).await?;
        Ok(match failure.fate {
            _ if !is_new => Resolution::Duplicate,
            Fate::Waits(..) => Resolution::Parked,
            Fate::Dead(_) => Resolution::Dead,
        })
    }

    /// Puts a parked event off that failed again, or gives it up; returns what counts it.
    pub(super) async fn fail_again(
        &self,
        tx: &mut Tx,
        parked: &Parked,
        e: &HandlerError,
    ) -> Result<&AtomicU64, Error> {
        let group = &self.subscription.group;
        let (message, attempts) = (e.to_string(), parked.attempts + 1);
        let verdict = self.subscription.retry.decide(attempts, e, jitter());
        tracing::warn!(
            consumer = &**group, stream = parked.stream, seq = parked.seq, event.id = parked.event_id,
            attempt = attempts, error = message, verdict = ?verdict, "a parked event failed again"
        );
        let (fate, counter) = match verdict {
            Verdict::Retry(delay) => {
                (Fate::Waits(WaitReason::Transient, Some(tx.now() + delay)), &self.counts.failed_again)
            }
            Verdict::Dead(reason) => (Fate::Dead(reason), &self.counts.given_up),
        };
        parked::fail_again(tx, group, parked, &Failure { fate, message: &message, attempts }).await?;
        Ok(counter)
    }
}
