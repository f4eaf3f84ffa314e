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
//! | `outlook` | events that have to wait, told together |
//! | `process` | the one way an event is handled, and the transactions that take it |
//! | `failure` | events that are parked or dead |
//! | `dependencies` | dependencies that handlers have named, and whether they are away (pure) |
//! | `hold` | events that are held back: paused, or waiting for a dependency |
//! | `budget` | how many parked events may be tried at once while they fail (pure) |
//! | `flood` | too many dead letters pause the service |
//! | `counts` | what became of events, and how long it took |
//! | `progress` | a batch to its end, whatever is in the way |
//! | `shadow` | an event handled and undone, to see what would be done |
//! | `retry` | parked events whose turn has come |

mod admission;
mod budget;
mod counts;
mod decode;
mod dependencies;
mod failure;
mod flood;
mod hold;
mod outlook;
mod process;
mod progress;
mod retry;
mod shadow;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

pub(crate) use self::budget::RetryBudget;
pub(crate) use self::counts::Counts;
use self::decode::decode;
pub(crate) use self::dependencies::Dependencies;
pub(crate) use self::flood::Flood;
use self::progress::BatchProgress;
pub(crate) use self::shadow::Shadow;
use crate::broker::Record;
use crate::health::{Health, Loop};
use crate::store::Store;
use crate::subscription::Subscription;

/// The end of a delivered event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
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
    /// The end of each record, in the same order.
    pub(crate) resolutions: Vec<Resolution>,
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
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) health: Health,
}

impl Pipeline {
    /// Sees a delivery through, however long that takes; `None` if the service stops or is paused first: what is left
    /// of it is to be delivered again.
    pub(crate) async fn handle(&self, records: Vec<Record>, stop: &CancellationToken) -> Option<Resolved> {
        let batch = decode(&self.subscription, records, |_| 1);
        let awaited = self.counts.awaited.load(Ordering::Relaxed);
        let mut progress = BatchProgress::of(&batch);
        let is_through = self.see_through(&mut progress, stop).await;
        self.count(&batch, &progress.resolutions);
        if !is_through {
            return None;
        }
        let resolutions: Vec<Resolution> = progress.resolutions.into_iter().flatten().collect();
        self.allow_retries(&resolutions);
        let handled = batch.items.iter().zip(&resolutions);
        let types = handled.filter(|(_, resolution)| **resolution == Resolution::Handled);
        let types = types.filter_map(|(item, _)| item.handled_type());
        if let Err(e) = self.have_handled(types).await {
            self.health.failed(Loop::Depend, &e);
        }
        Some(Resolved {
            records: batch.items.into_iter().map(|item| item.record).collect(),
            has_parked: resolutions.contains(&Resolution::Parked),
            resolutions,
            has_released: awaited != self.counts.awaited.load(Ordering::Relaxed),
        })
    }
}
