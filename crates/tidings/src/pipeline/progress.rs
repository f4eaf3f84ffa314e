//! A batch to its end, however often it takes: all together; if that fails, few by few; and if even that does
//! not go on although the database is there, each event alone.
//!
//! | Failure | Whose fault | Answer |
//! |---|---|---|
//! | the handler failed, or a statement of its event | the event's | fewer together; the event alone is parked or dead |
//! | a deadlock, a lock not got | nobody's | the same again at once; few by few after [`CONFLICTS_MAX`] |
//! | the database cannot be used | nobody's | the same again after a pause |
//! | a dependency cannot be used | nobody's | the events that need it wait, others go on (`hold`) |
//! | too many events in a row are dead | the release's, or a producer's | the service pauses (`flood`) |
//! | … although the database answers, [`UNEXPLAINED_MAX`] times | an event's | each in a transaction of its own; it is charged |

use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::decode::Batch;
use super::{Pipeline, Resolution};
use crate::error::{Error, HandlerError, THE_DATABASE};
use crate::health::{Loop, Reason};
use crate::retry::{backoff, conflict_pause};
use crate::stopping::{unless_stopped, until_stopped};

/// Events in a transaction when all together have failed: the others lock nothing for long. Twice as many after each
/// that goes well, unless others were in the way.
const FEW: usize = 16;
/// Conflicts after which a batch goes few by few: two large ones may meet again and again.
const CONFLICTS_MAX: u32 = 3;
/// Unexplained failures after which each event has a transaction of its own, and then is charged.
const UNEXPLAINED_MAX: u32 = 3;

/// A batch and how far it has come.
pub(super) struct BatchProgress<'a> {
    batch: &'a Batch,
    /// The resolution of each event, once it is committed.
    pub(super) resolutions: Vec<Option<Resolution>>,
    together: Grouping,
    conflicts: u32,
    unexplained: u32,
    failures: usize,
}

/// The number of events that share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grouping {
    All,
    Few,
    None,
}

/// A transaction that did not commit, and not for an event's sake.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    pub(super) error: String,
    /// A handler named the dependency that is away.
    is_believed: bool,
}

impl Trouble {
    /// True if a handler named what is away; else the event itself may be at fault.
    pub(super) fn is_believed(&self) -> bool {
        self.is_believed
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self { reason: Reason::of(&e), error: e.to_string(), is_believed: false }
    }
}

/// The trouble of a service that is paused.
fn paused() -> Trouble {
    Trouble { reason: Reason::Paused, error: "the service is paused".to_owned(), is_believed: true }
}

/// Tells a failure of an event from trouble that it is not to blame for.
pub(super) fn blame(e: HandlerError) -> Result<HandlerError, Trouble> {
    let error = e.to_string();
    match e {
        HandlerError::Dependency(THE_DATABASE) | HandlerError::InDoubt(_) => {
            Err(Trouble { reason: Reason::Away, error, is_believed: false })
        }
        HandlerError::Conflict(_) => Err(Trouble { reason: Reason::InTheWay, error, is_believed: false }),
        e => Ok(e),
    }
}

/// The trouble of events that were left out, since there would be too many dead letters: the service is paused, or those
/// of others that are under way come to nothing.
fn left_out() -> Trouble {
    let error = "too many events may be dead letters".to_owned();
    Trouble { reason: Reason::InTheWay, error, is_believed: true }
}

impl<'a> BatchProgress<'a> {
    pub(super) fn of(batch: &'a Batch) -> Self {
        let resolutions = vec![None; batch.items.len()];
        let together = Grouping::All;
        Self { batch, resolutions, together, conflicts: 0, unexplained: 0, failures: 0 }
    }

    /// Takes note of what became of events whose transaction is committed; of others it says nothing.
    fn resolve(&mut self, items: &[usize], resolutions: &[Option<Resolution>]) {
        for &item in items {
            self.resolutions[item] = resolutions[item];
        }
    }

    /// An error if some events were left out.
    fn is_through(&self) -> Result<(), Trouble> {
        if self.open().is_empty() { Ok(()) } else { Err(left_out()) }
    }

    /// An error if some of these events were left out.
    fn is_through_with(&self, items: &[usize]) -> Result<(), Trouble> {
        if items.iter().all(|&item| self.resolutions[item].is_some()) { Ok(()) } else { Err(left_out()) }
    }

    fn open(&self) -> Vec<usize> {
        let open = self.resolutions.iter().enumerate().filter(|(_, resolution)| resolution.is_none());
        open.map(|(item, _)| item).collect()
    }
}

impl Pipeline {
    /// Sees a batch through, however long the database or a dependency stays away; says whether it is through. A
    /// service that stops or is paused leaves the rest of it.
    pub(super) async fn see_through(
        &self,
        progress: &mut BatchProgress<'_>,
        stop: &CancellationToken,
    ) -> bool {
        while !stop.is_cancelled() {
            match until_stopped(stop, self.attempt(progress, stop)).await {
                Some(Ok(())) => {
                    self.health.goes_on(Loop::Consume);
                    return true;
                }
                Some(Err(trouble)) if trouble.reason == Reason::Paused => return false,
                Some(Err(trouble)) => self.wait(progress, &trouble, stop).await,
                None => return false,
            }
        }
        false
    }

    async fn wait(&self, progress: &mut BatchProgress<'_>, trouble: &Trouble, stop: &CancellationToken) {
        self.health.waits(Loop::Consume, trouble.reason, &trouble.error);
        if trouble.reason == Reason::InTheWay {
            self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
            progress.conflicts += 1;
            if progress.conflicts >= CONFLICTS_MAX && progress.together == Grouping::All {
                progress.together = Grouping::Few;
            }
            return unless_stopped(stop, conflict_pause()).await;
        }
        if !trouble.is_believed && self.store.probe().await.is_ok() {
            progress.unexplained += 1;
            if progress.unexplained >= UNEXPLAINED_MAX {
                progress.together = Grouping::None;
            }
        }
        unless_stopped(stop, backoff(progress.failures)).await;
        progress.failures += 1;
    }

    async fn attempt(
        &self,
        progress: &mut BatchProgress<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        if self.is_paused().await? {
            return Err(paused());
        }
        let batch = progress.batch;
        if progress.together == Grouping::All {
            let open = progress.open();
            let deferred = if progress.conflicts == 0 { self.deferred(batch).await? } else { None };
            let tried = match deferred {
                Some(tried) => tried,
                None => self.together(batch, &open).await?,
            };
            match tried {
                Ok(resolutions) => {
                    progress.resolve(&open, &resolutions);
                    return Ok(());
                }
                Err(_) if open.len() <= FEW => {
                    let resolutions = self.one_by_one(batch, &open).await?;
                    progress.resolve(&open, &resolutions);
                    return progress.is_through();
                }
                // Few by few will show whose fault it is.
                Err(_) => {}
            }
        }
        if progress.together == Grouping::None {
            return self.alone(progress, stop).await;
        }
        let open = progress.open();
        let (mut left, mut size) = (&open[..], FEW);
        while !left.is_empty() {
            let (few, others) = left.split_at(size.min(left.len()));
            if stop.is_cancelled() {
                return Err(Trouble {
                    reason: Reason::Away,
                    error: "stopping".to_owned(),
                    is_believed: true,
                });
            }
            let is_well = self.few(progress, few).await?;
            progress.is_through_with(few)?;
            size = if is_well && progress.together == Grouping::All { 2 * size } else { FEW };
            left = others;
        }
        Ok(())
    }

    /// A few events in a transaction of theirs: together, or one by one. Says whether none of them failed.
    async fn few(&self, progress: &mut BatchProgress<'_>, few: &[usize]) -> Result<bool, Trouble> {
        let batch = progress.batch;
        let tried = match few {
            [_] => None,
            _ => self.together(batch, few).await?.ok(),
        };
        let is_well = tried.is_some();
        let resolutions = match tried {
            Some(resolutions) => resolutions,
            None => self.one_by_one(batch, few).await?,
        };
        progress.resolve(few, &resolutions);
        Ok(is_well)
    }

    /// Each in a transaction of its own; one that cannot be handled although the database answers is charged.
    async fn alone(&self, progress: &mut BatchProgress<'_>, stop: &CancellationToken) -> Result<(), Trouble> {
        let batch = progress.batch;
        for item in progress.open() {
            let mut tried = 0;
            let resolutions = loop {
                let trouble = match self.one_by_one(batch, &[item]).await {
                    Ok(resolutions) => break resolutions,
                    Err(trouble) => trouble,
                };
                if stop.is_cancelled() || self.store.probe().await.is_err() {
                    return Err(trouble);
                }
                tried += 1;
                self.health.waits(Loop::Consume, Reason::Event, &trouble.error);
                if tried >= UNEXPLAINED_MAX {
                    break self.charge(batch, item, &trouble).await?;
                }
                unless_stopped(stop, backoff(0)).await;
            };
            progress.resolve(&[item], &resolutions);
            progress.is_through_with(&[item])?;
        }
        Ok(())
    }
}
