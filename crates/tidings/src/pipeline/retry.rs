//! Parked events whose turn has come, each in a transaction of its own.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decode::{Batch, Item, decode};
use super::hold::HELD_MAX;
use super::process::Turn;
use super::progress::{Trouble, blame};
use super::{Pipeline, Resolution};
use crate::error::{Error, HandlerError};
use crate::health::{Loop, Reason};
use crate::retry::backoff;
use crate::stopping::{unless_stopped, until_stopped};
use crate::store::parked::{self, Parked};

/// Parked events taken up at once.
const RETRY_BATCH_MAX: u32 = 256;
/// Those of them that share a transaction when all together have failed.
const FEW: usize = 16;

impl Pipeline {
    /// Gives every parked event whose turn has come another try: all together, few by few if one of them fails, and
    /// then each alone. One that is in trouble stops no other.
    pub(crate) async fn retry_due(&self, stop: &CancellationToken) -> Result<(), Error> {
        let group = &self.subscription.group;
        if self.is_paused().await? {
            return Ok(());
        }
        let pause_max = self.subscription.pause_max().max(HELD_MAX);
        parked::mend_due(&self.store, group, pause_max).await?;
        self.probe_dependencies().await?;
        let tries = self.tries(Instant::now());
        let due = one_of_each_stream(parked::due(&self.store, group, tries.min(RETRY_BATCH_MAX)).await?);
        if self.retry_together(&due, stop).await {
            return Ok(());
        }
        for few in due.chunks(FEW) {
            if few.len() < due.len() && self.retry_together(few, stop).await {
                continue;
            }
            for parked in few {
                match until_stopped(stop, self.retry(parked)).await {
                    None => return Ok(()),
                    Some(Ok(())) => self.health.goes_on(Loop::Retry),
                    Some(Err(trouble)) => self.in_trouble(parked, &trouble, stop).await?,
                }
            }
        }
        Ok(())
    }

    /// Tries events in one transaction; says whether all were handled. If not, nothing was done.
    async fn retry_together(&self, due: &[Parked], stop: &CancellationToken) -> bool {
        if due.len() < 2 {
            return due.is_empty();
        }
        let is_done = matches!(until_stopped(stop, self.try_together(due)).await, Some(Ok(true)));
        if is_done {
            self.health.goes_on(Loop::Retry);
        }
        is_done
    }

    async fn try_together(&self, due: &[Parked]) -> Result<bool, Trouble> {
        let mut tx = self.begin().await?;
        let due: Vec<&Parked> = due.iter().collect();
        let claimed = parked::claim(&mut tx, &self.subscription.group, &due).await?;
        let due: Vec<&Parked> =
            due.into_iter().zip(claimed).filter_map(|(p, is_ours)| is_ours.then_some(p)).collect();
        if due.is_empty() {
            return Ok(true);
        }
        let records = due.iter().map(|parked| parked.record.clone()).collect();
        let batch = decode(&self.subscription, records, |index| due[index].attempts + 1);
        let items: Vec<usize> = (0..due.len()).collect();
        let mut held =
            batch.items.iter().zip(&due).filter_map(|(item, parked)| self.hold(item, Some(parked.id)));
        if self.may_hold() && held.next().is_some() {
            return Ok(false);
        }
        let processed = self.process(&mut tx, &batch, &items, Turn::Parked(&due)).await;
        if tx.trouble().is_some() || processed.is_err() {
            return Ok(false);
        }
        self.commit(tx).await?;
        self.have_recovered(&batch).await?;
        Ok(true)
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
        if parked::claim(&mut tx, &self.subscription.group, &[parked]).await? == [true] {
            let e = HandlerError::Transient(trouble.error.clone());
            let batch = decode(&self.subscription, vec![parked.record.clone()], |_| parked.attempts + 1);
            let end = self.fail_again(&mut tx, parked, &batch.items[0], &e).await?;
            tx.commit().await?;
            self.have_failed_again(end);
        }
        Ok(())
    }

    async fn retry(&self, parked: &Parked) -> Result<(), Trouble> {
        let batch = decode(&self.subscription, vec![parked.record.clone()], |_| parked.attempts + 1);
        let mut tx = self.begin().await?;
        if parked::claim(&mut tx, &self.subscription.group, &[parked]).await? != [true] {
            return Ok(());
        }
        if let Some(hold) = self.hold(&batch.items[0], Some(parked.id)) {
            self.put_off(&mut tx, parked, &hold).await?;
            return Ok(tx.commit().await?);
        }
        match self.try_alone(&mut tx, &batch, 0, Turn::Parked(&[parked])).await? {
            Ok(_) => {
                self.commit(tx).await?;
                self.have_recovered(&batch).await?;
            }
            Err(e) => {
                let end = self.fail_again(&mut tx, parked, &batch.items[0], &blame(e)?).await?;
                self.commit(tx).await?;
                self.have_failed_again(end);
            }
        }
        Ok(())
    }

    /// Takes note that parked events were handled.
    async fn have_recovered(&self, batch: &Batch) -> Result<(), Error> {
        let count = batch.items.len();
        self.counts.recovered.fetch_add(count as u64, Ordering::Relaxed);
        self.budget.recovered(count);
        self.time(batch, |_| true);
        self.flood.note([Resolution::Handled]);
        batch.items.iter().for_each(|item| item.log("handled"));
        self.have_handled(batch.items.iter().filter_map(Item::handled_type)).await
    }

    /// Takes note that a parked event failed once more.
    fn have_failed_again(&self, end: Option<Resolution>) {
        let counter = match end {
            Some(Resolution::Dead) => {
                self.flood.note([Resolution::Dead]);
                &self.counts.given_up
            }
            Some(_) => {
                self.budget.failed(1);
                &self.counts.failed_again
            }
            None => &self.counts.failed_again,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Leaves the first due event of each stream, in the order of their keys, in which a batch has them.
fn one_of_each_stream(mut due: Vec<Parked>) -> Vec<Parked> {
    let mut seen = HashSet::new();
    due.retain(|parked| parked.stream.as_ref().is_none_or(|stream| seen.insert(stream.clone())));
    due.sort_by(|a, b| a.record.message.key.cmp(&b.record.message.key));
    due
}
