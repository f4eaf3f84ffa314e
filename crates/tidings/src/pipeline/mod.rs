//! The way of an event through its service: `decode → validate → inbox → handle → flush → commit → resolve`.
//!
//! A batch is what waits of one lane: events in the order of their streams, of whatever partitions. All of it is
//! handled in one transaction. If that fails, it is rolled back and the same events are handled few by few, then one
//! by one, so that the culprit alone is parked.
//!
//! | Module | Is |
//! |---|---|
//! | `decode` | records to a batch: checked, grouped for handlers (pure) |
//! | `admission` | whose turn it is |
//! | `process` | the one way an event is handled, and the transactions that take it |
//! | `failure` | events that are parked or dead |
//! | `dependencies` | dependencies that handlers have named, and whether they are away (pure) |
//! | `hold` | events that are held back: paused, or waiting for a dependency |
//! | `flood` | too many dead letters in a row pause the service |
//! | `progress` | a batch to its end, whatever is in the way |
//! | `retry` | parked events whose turn has come |

mod admission;
mod decode;
mod dependencies;
mod failure;
mod flood;
mod hold;
mod process;
mod progress;
mod retry;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use self::decode::{Batch, decode};
pub(crate) use self::dependencies::Dependencies;
pub(crate) use self::flood::Flood;
use self::progress::BatchProgress;
use crate::broker::Record;
use crate::health::{Health, Loop};
use crate::store::Store;
use crate::subscription::Subscription;

/// Delivered events by what became of them. Always: delivered = handled + duplicate + ignored + parked + dead.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: AtomicU64,
    pub(crate) handled: AtomicU64,
    pub(crate) duplicate: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) dead: AtomicU64,
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
}

/// The end of a delivered event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    Handled,
    Duplicate,
    Ignored,
    Parked,
    Dead,
}

/// A batch that was seen through.
pub(crate) struct Resolved {
    pub(crate) records: Vec<Record>,
    /// Some of it was parked.
    pub(crate) has_parked: bool,
    /// Something that was parked has become due.
    pub(crate) has_released: bool,
}

/// Sees the events of a subscription through. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) store: Store,
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) dependencies: Arc<Dependencies>,
    pub(crate) flood: Arc<Flood>,
    pub(crate) health: Health,
}

impl Pipeline {
    /// Sees a delivery through, however long that takes; `None` if the service stops first.
    pub(crate) async fn handle(&self, records: Vec<Record>, stop: &CancellationToken) -> Option<Resolved> {
        let batch = decode(&self.subscription, records, |_| 1);
        let awaited = self.counts.awaited.load(Ordering::Relaxed);
        let mut progress = BatchProgress::of(&batch);
        if !self.see_through(&mut progress, stop).await {
            return None;
        }
        let resolutions: Vec<Resolution> = progress.resolutions.into_iter().flatten().collect();
        self.count(&batch, &resolutions);
        let handled = batch.items.iter().zip(&resolutions);
        let types = handled.filter(|(_, resolution)| **resolution == Resolution::Handled);
        let types = types.filter_map(|(item, _)| item.handled_type());
        if let Err(e) = self.have_handled(types).await {
            self.health.failed(Loop::Depend, &e);
        }
        Some(Resolved {
            records: batch.items.into_iter().map(|item| item.record).collect(),
            has_parked: resolutions.contains(&Resolution::Parked),
            has_released: awaited != self.counts.awaited.load(Ordering::Relaxed),
        })
    }

    fn count(&self, batch: &Batch, resolutions: &[Resolution]) {
        assert_eq!(batch.items.len(), resolutions.len(), "every delivered event is resolved, one way");
        let counts = &self.counts;
        counts.delivered.fetch_add(resolutions.len() as u64, Ordering::Relaxed);
        for (item, resolution) in batch.items.iter().zip(resolutions) {
            let (counter, word) = match resolution {
                Resolution::Handled => (&counts.handled, "handled"),
                Resolution::Duplicate => (&counts.duplicate, "duplicate"),
                Resolution::Ignored => (&counts.ignored, "ignored"),
                Resolution::Parked => (&counts.parked, "parked"),
                Resolution::Dead => (&counts.dead, "dead"),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if item.is_other.load(Ordering::Relaxed) {
                counts.differing.fetch_add(1, Ordering::Relaxed);
                item.warn_of_another(&self.subscription.group);
            }
            if *resolution != Resolution::Ignored {
                item.log(word);
            }
        }
    }
}
