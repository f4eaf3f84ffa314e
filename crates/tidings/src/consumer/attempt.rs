//! A batch to its end, however often it takes: all together; if that fails, few by few; and if even that does
//! not go on although the database is there, each event alone.
//!
//! | Failure | Whose fault | Answer |
//! |---|---|---|
//! | the handler failed, or a statement of its event | the event's | fewer together; the event alone is parked or dead |
//! | a deadlock, a lock not got | nobody's | the same again at once; few by few after [`CONFLICTS_MAX`] |
//! | the database or a dependency cannot be used | nobody's | the same again after a pause |
//! | … although the database answers, [`UNEXPLAINED_MAX`] times | an event's | each in a transaction of its own; it is charged |

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::decode::{Batch, Item, Task};
use super::{Engine, Resolution, pause, unless_stopped, until_stopped};
use crate::envelope::Metadata;
use crate::error::{Error, HandlerError, THE_DATABASE};
use crate::health::{Loop, Reason};
use crate::retry::{Verdict, jitter};
use crate::store::Tx;
use crate::store::inbox::{self, Admission, Moves, SeqRange};
use crate::store::parked::{self, Failure};

/// Events in a transaction when all together have failed: the others lock nothing for long.
const FEW: usize = 16;
/// Conflicts after which a batch goes few by few: two large ones may meet again and again.
const CONFLICTS_MAX: u32 = 3;
/// Failures that nobody explains, after which each event has a transaction of its own, and then is charged.
const UNEXPLAINED_MAX: u32 = 3;
/// Pause after a conflict, spread from zero: who met once should not meet again.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(20);

/// A batch and how far it has come.
pub(super) struct Progress<'a> {
    batch: &'a Batch,
    /// The resolution of each event, once it is committed.
    pub(super) resolutions: Vec<Option<Resolution>>,
    together: Together,
    conflicts: u32,
    unexplained: u32,
    failures: usize,
}

/// How many events share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
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
    /// Whether a handler named what is away; else it may be the event itself.
    pub(super) fn is_believed(&self) -> bool {
        self.is_believed
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self { reason: Reason::of(&e), error: e.to_string(), is_believed: false }
    }
}

/// Tells a failure of an event from trouble that it is not to blame for.
pub(super) fn blame(tx: &Tx, e: HandlerError) -> Result<HandlerError, Trouble> {
    if let Some(trouble) = tx.trouble() {
        return Err(trouble.clone().into());
    }
    let error = e.to_string();
    match e {
        HandlerError::Dependency(what) => {
            let is_believed = what != THE_DATABASE;
            Err(Trouble { reason: Reason::Away, error, is_believed })
        }
        HandlerError::InDoubt(_) => Err(Trouble { reason: Reason::Away, error, is_believed: false }),
        HandlerError::Conflict(_) => Err(Trouble { reason: Reason::InTheWay, error, is_believed: false }),
        e => Ok(e),
    }
}

impl<'a> Progress<'a> {
    pub(super) fn of(batch: &'a Batch) -> Self {
        let resolutions = vec![None; batch.items.len()];
        let together = Together::All;
        Self { batch, resolutions, together, conflicts: 0, unexplained: 0, failures: 0 }
    }

    /// Takes note of what became of events whose transaction is committed; of others it says nothing.
    fn resolve(&mut self, items: &[usize], resolutions: &[Option<Resolution>]) {
        for &item in items {
            self.resolutions[item] = resolutions[item];
        }
    }

    fn open(&self) -> Vec<usize> {
        let open = self.resolutions.iter().enumerate().filter(|(_, resolution)| resolution.is_none());
        open.map(|(item, _)| item).collect()
    }
}

impl Engine {
    /// Sees a batch through, however long the database or a dependency stays away; says whether it is through.
    pub(super) async fn see_through(&self, progress: &mut Progress<'_>, stop: &CancellationToken) -> bool {
        while !stop.is_cancelled() {
            match until_stopped(stop, self.attempt(progress, stop)).await {
                Some(Ok(())) => {
                    self.health.goes_on(Loop::Consume);
                    return true;
                }
                Some(Err(trouble)) => self.wait(progress, &trouble, stop).await,
                None => return false,
            }
        }
        false
    }

    async fn wait(&self, progress: &mut Progress<'_>, trouble: &Trouble, stop: &CancellationToken) {
        self.health.waits(Loop::Consume, trouble.reason, &trouble.error);
        if trouble.reason == Reason::InTheWay {
            self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
            progress.conflicts += 1;
            if progress.conflicts >= CONFLICTS_MAX && progress.together == Together::All {
                progress.together = Together::Few;
            }
            return unless_stopped(stop, CONFLICT_PAUSE_MAX.mul_f64(jitter())).await;
        }
        if !trouble.is_believed && self.store.probe().await.is_ok() {
            progress.unexplained += 1;
            if progress.unexplained >= UNEXPLAINED_MAX {
                progress.together = Together::None;
            }
        }
        unless_stopped(stop, pause(progress.failures)).await;
        progress.failures += 1;
    }

    async fn attempt(&self, progress: &mut Progress<'_>, stop: &CancellationToken) -> Result<(), Trouble> {
        let batch = progress.batch;
        if progress.together == Together::All {
            let open = progress.open();
            match self.together(batch, &open).await? {
                Ok(resolutions) => {
                    progress.resolve(&open, &resolutions);
                    return Ok(());
                }
                Err(_) if open.len() <= FEW => {
                    let resolutions = self.one_by_one(batch, &open).await?;
                    progress.resolve(&open, &resolutions);
                    return Ok(());
                }
                // Few by few will show whose fault it is.
                Err(_) => {}
            }
        }
        if progress.together == Together::None {
            return self.alone(progress, stop).await;
        }
        let open = progress.open();
        for few in open.chunks(FEW) {
            if stop.is_cancelled() {
                return Err(Trouble {
                    reason: Reason::Away,
                    error: "stopping".to_owned(),
                    is_believed: true,
                });
            }
            self.few(progress, few).await?;
        }
        Ok(())
    }

    /// A few events in a transaction of theirs: together, or one by one.
    async fn few(&self, progress: &mut Progress<'_>, few: &[usize]) -> Result<(), Trouble> {
        let batch = progress.batch;
        let tried = match few {
            [_] => None,
            _ => self.together(batch, few).await?.ok(),
        };
        let resolutions = match tried {
            Some(resolutions) => resolutions,
            None => self.one_by_one(batch, few).await?,
        };
        progress.resolve(few, &resolutions);
        Ok(())
    }

    /// All of these events in one transaction. The inner error is one of theirs.
    async fn together(
        &self,
        batch: &Batch,
        items: &[usize],
    ) -> Result<Result<Vec<Option<Resolution>>, HandlerError>, Trouble> {
        let mut tx = self.begin().await?;
        let mut resolutions = vec![None; batch.items.len()];
        let handled = async {
            self.admit_together(&mut tx, batch, items, &mut resolutions).await?;
            for list in &batch.lists {
                for range in list.runs(&resolutions) {
                    list.events.handle(range, &mut tx).await?;
                }
            }
            tx.flush().await?;
            Ok(())
        };
        if let Err(e) = handled.await {
            return blame(&tx, e).map(Err);
        }
        match tx.commit().await {
            Ok(()) => Ok(Ok(resolutions)),
            Err(e) if e.is_unavailable() || e.is_conflict() => Err(e.into()),
            Err(e) => Ok(Err(e.into())),
        }
    }

    /// Each behind a savepoint, so that the culprit alone is parked or dead.
    async fn one_by_one(&self, batch: &Batch, items: &[usize]) -> Result<Vec<Option<Resolution>>, Trouble> {
        let mut tx = self.begin().await?;
        let mut resolutions = vec![None; batch.items.len()];
        for &item in items {
            let savepoint = tx.savepoint().await?;
            resolutions[item] = Some(match self.one(&mut tx, batch, &batch.items[item]).await {
                Ok(resolution) => {
                    tx.release(savepoint).await?;
                    resolution
                }
                Err(e) => {
                    let e = blame(&tx, e)?;
                    tx.roll_back(savepoint).await?;
                    self.fail(&mut tx, &batch.items[item], &e).await?
                }
            });
        }
        tx.commit().await?;
        Ok(resolutions)
    }

    /// Each in a transaction of its own; one that cannot be handled although the database answers is charged.
    async fn alone(&self, progress: &mut Progress<'_>, stop: &CancellationToken) -> Result<(), Trouble> {
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
                unless_stopped(stop, pause(0)).await;
            };
            progress.resolve(&[item], &resolutions);
        }
        Ok(())
    }

    /// Fails an event in a transaction that does nothing else.
    async fn charge(
        &self,
        batch: &Batch,
        item: usize,
        trouble: &Trouble,
    ) -> Result<Vec<Option<Resolution>>, Trouble> {
        let mut tx = self.begin().await?;
        let mut resolutions = vec![None; batch.items.len()];
        let e = HandlerError::Transient(trouble.error.clone());
        resolutions[item] = Some(self.fail(&mut tx, &batch.items[item], &e).await?);
        tx.commit().await?;
        Ok(resolutions)
    }

    async fn one(&self, tx: &mut Tx, batch: &Batch, item: &Item) -> Result<Resolution, HandlerError> {
        let resolution = self.admit(tx, item).await?;
        if resolution == Resolution::Handled {
            self.call_one(tx, batch, item).await?;
        }
        tx.flush().await?;
        Ok(resolution)
    }

    /// Does what is to be done with an event whose turn it is.
    pub(super) async fn call_one(&self, tx: &mut Tx, batch: &Batch, item: &Item) -> Result<(), HandlerError> {
        match &item.task {
            Task::Handle { list, place } => batch.lists[*list].events.handle(*place..*place + 1, tx).await,
            Task::Bury(broken) => Err(HandlerError::fatal(broken.code, &broken.message)),
            Task::Skip | Task::Ignore => Ok(()),
        }
    }

    /// Decides what becomes of each event. Streams in which all is as it should be take one statement.
    async fn admit_together(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        items: &[usize],
        resolutions: &mut [Option<Resolution>],
    ) -> Result<(), HandlerError> {
        let mut ranges: Vec<SeqRange<'_>> = Vec::with_capacity(items.len());
        let mut indexes: HashMap<&str, usize> = HashMap::with_capacity(items.len());
        // Those with an event that is broken, or does not follow its predecessor in the batch.
        let mut looked_at: HashSet<usize> = HashSet::new();
        for item in items.iter().map(|&item| &batch.items[item]) {
            let Some((metadata, seq)) = item.numbered() else { continue };
            let index = *indexes.entry(&metadata.stream).or_insert(ranges.len());
            match ranges.get_mut(index) {
                None => ranges.push(SeqRange {
                    stream: &metadata.stream,
                    first: seq,
                    last: seq,
                    id: &metadata.id,
                }),
                Some(range) if range.last + 1 == seq => (range.last, range.id) = (seq, &metadata.id),
                Some(_) => drop(looked_at.insert(index)),
            }
            if matches!(item.task, Task::Bury(_)) {
                looked_at.insert(index);
            }
        }
        let moved = inbox::advance(tx, &self.subscription.group, &ranges, &looked_at).await?;
        for (at, item) in items.iter().map(|&at| (at, &batch.items[at])) {
            let index = item.numbered().and_then(|(metadata, _)| indexes.get(&*metadata.stream));
            let resolution = match (index, &item.task) {
                (Some(&index), Task::Ignore) if moved[index] => Resolution::Ignored,
                (Some(&index), _) if moved[index] => Resolution::Handled,
                _ => self.admit(tx, item).await?,
            };
            resolutions[at] = Some(match &item.task {
                Task::Bury(broken) if resolution == Resolution::Handled => {
                    self.fail(tx, item, &HandlerError::fatal(broken.code, &broken.message)).await?
                }
                _ => resolution,
            });
        }
        Ok(())
    }

    /// Decides what becomes of an event: `Handled` or `Ignored` if it is its turn.
    async fn admit(&self, tx: &mut Tx, item: &Item) -> Result<Resolution, HandlerError> {
        let group = &self.subscription.group;
        let Some(metadata) = &item.metadata else {
            return Ok(match item.task {
                Task::Skip => Resolution::Ignored,
                _ => Resolution::Handled,
            });
        };
        let is_ignored = matches!(item.task, Task::Ignore);
        let admission = match metadata.seq {
            None if is_ignored => return Ok(Resolution::Ignored),
            None => {
                let is_broken = matches!(item.task, Task::Bury(_));
                inbox::admit_by_id(tx, group, metadata, &item.record.message, is_broken).await?
            }
            Some(seq) => {
                let moves = if matches!(item.task, Task::Bury(_)) { Moves::No } else { Moves::Onto };
                inbox::admit_by_number(tx, group, metadata, seq, moves).await?
            }
        };
        match (admission, metadata.seq) {
            (Admission::Next | Admission::Awaited, _) => {
                if admission == Admission::Awaited && !matches!(item.task, Task::Bury(_)) {
                    self.counts.awaited.fetch_add(1, Ordering::Relaxed);
                    parked::release_next(tx, group, &metadata.stream).await?;
                }
                Ok(if is_ignored { Resolution::Ignored } else { Resolution::Handled })
            }
            (Admission::Duplicate, _) => Ok(Resolution::Duplicate),
            (Admission::Differs, _) => self.differs(tx, item, metadata).await,
            (Admission::Behind | Admission::Gap { .. }, Some(seq)) if is_ignored => {
                // Its turn will come without it.
                inbox::skip(tx, group, &metadata.stream, seq).await?;
                Ok(Resolution::Ignored)
            }
            (Admission::Behind, _) => {
                self.park(tx, item, metadata, "behind", "an earlier event of its key is parked").await
            }
            (Admission::Gap { expected }, _) => {
                self.counts.gaps.fetch_add(1, Ordering::Relaxed);
                let (consumer, stream, seq) = (&**group, &*metadata.stream, metadata.seq);
                tracing::error!(
                    consumer,
                    stream,
                    seq,
                    expected,
                    "events are missing: the stream waits for them"
                );
                let message = format!("event {expected} of its stream has not arrived");
                self.park(tx, item, metadata, "gap", &message).await
            }
        }
    }

    /// An event has the number or the id of another one that was handled: it is kept, and somebody should look.
    async fn differs(
        &self,
        tx: &mut Tx,
        item: &Item,
        metadata: &Metadata,
    ) -> Result<Resolution, HandlerError> {
        // Said and counted once it is committed: a batch may be tried several times.
        item.is_other.store(true, Ordering::Relaxed);
        let (consumer, seq) = (&*self.subscription.group, metadata.seq);
        if seq.is_none() {
            return Ok(Resolution::Duplicate);
        }
        let metadata = Metadata { seq: None, ..metadata.clone() };
        let message =
            format!("another event of its stream was handled as number {}", seq.unwrap_or_default());
        let failure = Failure { code: "number_taken", message: &message, attempts: 0, due: None };
        let is_new = parked::bury(tx, consumer, &item.record, Some(&metadata), &failure).await?;
        Ok(if is_new { Resolution::Dead } else { Resolution::Duplicate })
    }

    async fn park(
        &self,
        tx: &mut Tx,
        item: &Item,
        metadata: &Metadata,
        code: &str,
        message: &str,
    ) -> Result<Resolution, HandlerError> {
        let failure = Failure { code, message, attempts: 0, due: None };
        let is_new = parked::park(tx, &self.subscription.group, &item.record, metadata, &failure).await?;
        Ok(if is_new { Resolution::Parked } else { Resolution::Duplicate })
    }

    /// Parks an event that failed for the first time, or gives it up.
    async fn fail(&self, tx: &mut Tx, item: &Item, e: &HandlerError) -> Result<Resolution, Error> {
        let group = &self.subscription.group;
        let message = e.to_string();
        let (code, due) = match self.subscription.retry.decide(1, e, jitter()) {
            Verdict::Retry(delay) => ("transient".to_owned(), Some(tx.now() + delay)),
            Verdict::Dead(code) => (code, None),
        };
        let failure = Failure { code: &code, message: &message, attempts: 1, due };
        let savepoint = tx.savepoint().await?;
        let kept = match self.keep(tx, item, &failure).await {
            Err(e) if !e.is_unavailable() && !e.is_conflict() => {
                // Something of it does not fit its columns: what is left always does.
                tx.roll_back(savepoint).await?;
                self.counts.narrowly_buried.fetch_add(1, Ordering::Relaxed);
                let message = format!("{message}; and it could not be kept whole: {e}");
                let failure = Failure { code: "unstorable", message: &message, attempts: 1, due: None };
                parked::bury_narrowly(tx, group, &item.record, &failure).await.map(|()| Resolution::Dead)?
            }
            kept => {
                let kept = kept?;
                tx.release(savepoint).await?;
                kept
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

    async fn keep(&self, tx: &mut Tx, item: &Item, failure: &Failure<'_>) -> Result<Resolution, Error> {
        let (group, record) = (&self.subscription.group, &item.record);
        if let Some(metadata) = &item.metadata
            && metadata.seq.is_none()
        {
            // Seen, from now on: parked is not forgotten.
            inbox::admit_by_id(tx, group, metadata, &record.message, true).await?;
        }
        let (is_new, resolution) = match &item.metadata {
            Some(metadata) if failure.due.is_some() => {
                (parked::park(tx, group, record, metadata, failure).await?, Resolution::Parked)
            }
            metadata => {
                (parked::bury(tx, group, record, metadata.as_deref(), failure).await?, Resolution::Dead)
            }
        };
        tx.flush().await?;
        Ok(if is_new { resolution } else { Resolution::Duplicate })
    }

    pub(super) async fn begin(&self) -> Result<Tx, Error> {
        match self.subscription.is_exclusive {
            true => self.store.begin_exclusive(&self.subscription.group).await,
            false => self.store.begin().await,
        }
    }
}

impl Item {
    /// The metadata and number of an event that has one.
    fn numbered(&self) -> Option<(&Metadata, u64)> {
        let metadata = self.metadata.as_deref()?;
        Some((metadata, metadata.seq?))
    }
}
