//! The account of a service: every delivered event by what became of it, and the time that took.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::time::Instant;

use super::decode::Batch;
use super::{Pipeline, Resolution};
use crate::buckets::SecondsBuckets;
use crate::error::Error;
use crate::store::Tx;

/// Looks at counts that another task may be adding to: additions of a batch take less than a microsecond.
const LOOKS_MAX: u32 = 1000;

/// Delivered events by what became of them. Always: delivered = handled + duplicate + ignored + parked + dead.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: AtomicU64,
    pub(crate) handled: AtomicU64,
    pub(crate) duplicate: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) dead: AtomicU64,
    /// The number of parked ones at which those that wait are counted again.
    pub(crate) counted_again_at: AtomicU64,
    /// Of the parked ones: handled later, given up later.
    pub(crate) recovered: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) failed_again: AtomicU64,
    pub(crate) gaps: AtomicU64,
    /// Missing events that came after all: those that waited for them have become due.
    pub(crate) awaited: AtomicU64,
    /// Events with the number or id of another one.
    pub(crate) differing: AtomicU64,
    /// Events that could not be kept whole.
    pub(crate) narrowly_buried: AtomicU64,
    /// Transactions that met others and were done again.
    pub(crate) conflicts: AtomicU64,
    /// Transactions that are under way.
    pub(crate) lanes_busy: AtomicU64,
    /// Commits of transactions in which events were handled.
    pub(crate) commits: SecondsBuckets,
    /// The last difference that was reported.
    told_difference: AtomicI64,
}

impl Counts {
    /// Delivered events of which nothing became, or that ended twice: 0, or this program has a fault. Counts that are
    /// being added to are looked at again.
    pub(crate) fn difference(&self) -> i64 {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire).cast_signed();
        let difference = || {
            let ends = [&self.handled, &self.duplicate, &self.ignored, &self.parked, &self.dead];
            count(&self.delivered) - ends.into_iter().map(count).sum::<i64>()
        };
        let mut last = difference();
        for _ in 0..LOOKS_MAX {
            if last == 0 {
                break;
            }
            std::hint::spin_loop();
            last = difference();
        }
        last
    }

    /// Reports a difference once.
    fn watch_difference(&self) {
        let difference = self.difference();
        if self.told_difference.swap(difference, Ordering::Relaxed) != difference && difference != 0 {
            tracing::error!(
                difference,
                "delivered events are not all accounted for: a fault of this program; see docs/runbook.md"
            );
        }
    }

    fn of(&self, resolution: Resolution) -> (&AtomicU64, &'static str) {
        match resolution {
            Resolution::Handled => (&self.handled, "handled"),
            Resolution::Duplicate => (&self.duplicate, "duplicate"),
            Resolution::Ignored => (&self.ignored, "ignored"),
            Resolution::Parked => (&self.parked, "parked"),
            Resolution::Dead => (&self.dead, "dead"),
        }
    }
}

impl Pipeline {
    /// Counts what became of the events of a batch that have come to an end; others are delivered again.
    pub(super) fn count(&self, batch: &Batch, resolutions: &[Option<Resolution>]) {
        assert_eq!(batch.items.len(), resolutions.len(), "every delivered event is resolved, one way");
        let counts = &self.counts;
        counts.delivered.fetch_add(resolutions.iter().flatten().count() as u64, Ordering::Relaxed);
        let ended = batch.items.iter().zip(resolutions);
        for (item, resolution) in ended.filter_map(|(item, end)| Some((item, end.as_ref()?))) {
            let (counter, word) = counts.of(*resolution);
            counter.fetch_add(1, Ordering::Relaxed);
            if item.is_other.load(Ordering::Relaxed) {
                counts.differing.fetch_add(1, Ordering::Relaxed);
                item.warn_of_another(&self.subscription.group);
            }
            if *resolution != Resolution::Ignored {
                item.log(word);
            }
        }
        counts.watch_difference();
        self.time(batch, |item| resolutions[item] == Some(Resolution::Handled));
    }

    /// Counts how long events took that were handled.
    pub(super) fn time(&self, batch: &Batch, is_handled: impl Fn(usize) -> bool) {
        let now = self.store.clock().now();
        for list in &batch.lists {
            let figures = self.subscription.handlers[list.handler].figures();
            for item in list.items.iter().copied().filter(|item| is_handled(*item)) {
                let item = &batch.items[item];
                let time = item.metadata.as_ref().and_then(|metadata| metadata.time);
                figures.handled(item.record.timestamp_us, time, now);
            }
        }
    }

    /// Commits a transaction in which events were handled.
    pub(super) async fn commit(&self, tx: Tx) -> Result<(), Error> {
        let began = Instant::now();
        let done = tx.commit().await;
        self.counts.commits.record(began.elapsed());
        done
    }
}
