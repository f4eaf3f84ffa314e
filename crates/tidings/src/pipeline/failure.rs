//! Events that are parked or dead: another event under a number, one whose handler failed, one that failed again.

use std::sync::atomic::Ordering;

use super::decode::Item;
use super::{Pipeline, Resolution};
use crate::envelope::Metadata;
use crate::error::{Error, HandlerError};
use crate::failure::{DeadReason, Failure, Fate, WaitReason};
use crate::retry::{HandlerOptions, OnDead, Verdict, jitter};
use crate::store::parked::{self, Parked};
use crate::store::{Tx, dead_letters, inbox};

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
        let options = self.options(item);
        let hold = self.hold_for(e, item);
        let fate = match options.retry.decide(1, e, jitter()) {
            _ if let Some(hold) = &hold => hold.fate(tx),
            Verdict::Retry(delay) if item.metadata.is_some() => {
                Fate::Waits(WaitReason::Transient, Some(tx.now() + delay))
            }
            // Without an envelope it has no key that could wait.
            Verdict::Retry(_) => Fate::Dead(DeadReason::Unstorable),
            Verdict::Dead(reason) => Fate::Dead(reason),
        };
        let attempts = u32::from(hold.is_none());
        let failure = Failure { fate, message: &message, attempts };
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
        if let (true, Fate::Dead(_), Some(metadata)) = (is_new, failure.fate, &item.metadata)
            && self.options(item).on_dead == OnDead::Skip
        {
            self.pass(tx, &metadata.stream, metadata.seq, &metadata.id).await?;
        }
        Ok(match failure.fate {
            _ if !is_new => Resolution::Duplicate,
            Fate::Waits(..) => Resolution::Parked,
            Fate::Dead(_) => Resolution::Dead,
        })
    }

    /// The options of an event's handler.
    pub(super) fn options(&self, item: &Item) -> HandlerOptions {
        let event_type = item.metadata.as_ref().map_or("", |metadata| metadata.delivery.event_type);
        self.subscription.options_of(event_type)
    }

    /// Has a stream go on without a dead letter of it.
    async fn pass(&self, tx: &mut Tx, stream: &str, seq: Option<u64>, id: &str) -> Result<(), Error> {
        let Some(seq) = seq else { return Ok(()) };
        let group = &self.subscription.group;
        dead_letters::pass(tx, group, stream, seq, Some(id)).await?;
        parked::release(tx, group, &[stream]).await
    }

    /// Puts a parked event off that failed again, or gives it up; `None` if it is only held back.
    pub(super) async fn fail_again(
        &self,
        tx: &mut Tx,
        parked: &Parked,
        item: &Item,
        e: &HandlerError,
    ) -> Result<Option<Resolution>, Error> {
        if let Some(hold) = self.hold_for(e, item) {
            self.put_off(tx, parked, &hold).await?;
            return Ok(None);
        }
        let group = &self.subscription.group;
        let (message, attempts) = (e.to_string(), parked.attempts + 1);
        let options = self.options(item);
        let age = tx.now().duration_since(parked.first_failed);
        let too_old = options.retry.decide_by_age(age.try_into().unwrap_or_default());
        let verdict = too_old.unwrap_or_else(|| options.retry.decide(attempts, e, jitter()));
        tracing::warn!(
            consumer = &**group, stream = parked.stream, seq = parked.seq, event.id = parked.event_id,
            attempt = attempts, error = message, verdict = ?verdict, "a parked event failed again"
        );
        let fate = match verdict {
            Verdict::Retry(delay) => Fate::Waits(WaitReason::Transient, Some(tx.now() + delay)),
            Verdict::Dead(reason) => Fate::Dead(reason),
        };
        parked::fail_again(tx, group, parked, &Failure { fate, message: &message, attempts }).await?;
        if let (Fate::Dead(_), OnDead::Skip, Some(stream)) = (fate, options.on_dead, &parked.stream) {
            self.pass(tx, stream, parked.seq, parked.event_id.as_deref().unwrap_or_default()).await?;
        }
        Ok(Some(if matches!(fate, Fate::Dead(_)) { Resolution::Dead } else { Resolution::Parked }))
    }
}
