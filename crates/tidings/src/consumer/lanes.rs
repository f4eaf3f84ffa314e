//! Transactions side by side: what goes together one after the other, what takes long beside it, each key in order.
//!
//! Handlers that take no time share one transaction at a time, as large as what waits: that costs least. Events of a
//! handler whose calls take long have a transaction each, as many at once as there are lanes. And a transaction that
//! takes much longer than others did lets those of other keys pass.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::read_ahead::{Manner, ReadAhead, Taken};
use crate::broker::Record;
use crate::handler::AnyHandler;
use crate::pipeline::{Pipeline, Resolved};
use crate::subscription::Subscription;

/// Events in one transaction: several times what one commit of a write batcher lets in, so that a backlog
/// shrinks.
const BATCH_MAX: usize = 1024;
/// Records that are read and have not ended; beyond it nothing more is read.
const READ_MAX: usize = 4 * BATCH_MAX;
/// A transaction that takes so many times as long as those before it lets others pass.
const MUCH_LONGER: u32 = 4;
/// Bounds of the time after which it does.
const PASS_AFTER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// The transactions that are under way, and what waits for one.
pub(super) struct ConsumerLanes {
    subscription: Arc<Subscription>,
    read_ahead: ReadAhead,
    running: JoinSet<LaneEnd>,
    /// Ends what is under way.
    stop: CancellationToken,
    /// The beginnings of the transactions that are under way, and the handler of those that are of one alone.
    under_way: Vec<(Instant, Option<usize>)>,
    /// Handlers whose first events are under way, and those whose first events have ended.
    trying: HashSet<usize>,
    tried: HashSet<usize>,
    /// Records that are under way.
    taken: usize,
    /// The time that transactions of events that go together take.
    usual: Duration,
    is_retrying: bool,
}

/// The end of what ran in a lane.
pub(super) enum LaneEnd {
    Batch(LaneBatch),
    /// The time at which the next parked event is due.
    Retried(Option<Timestamp>),
}

/// A transaction, or several, of some records.
pub(super) struct LaneBatch {
    pub(super) began: Instant,
    keys: Vec<u64>,
    count: usize,
    /// Handlers of which nobody knew yet how long they take.
    handlers: Vec<usize>,
    pub(super) alone: Option<usize>,
    /// Nothing if the service was stopped or paused first.
    pub(super) resolved: Option<Resolved>,
}

impl ConsumerLanes {
    pub(super) fn new(subscription: Arc<Subscription>) -> Self {
        Self {
            read_ahead: ReadAhead::new(subscription.lanes()),
            subscription,
            running: JoinSet::new(),
            stop: CancellationToken::new(),
            under_way: Vec::new(),
            trying: HashSet::new(),
            tried: HashSet::new(),
            taken: 0,
            usual: Duration::ZERO,
            is_retrying: false,
        }
    }

    /// Adds records that were read.
    pub(super) fn push(&mut self, records: Vec<Record>) {
        for record in records {
            let handler = if self.is_one() { None } else { self.handler_of(&record) };
            self.read_ahead.push(record, handler);
        }
    }

    fn handler_of(&self, record: &Record) -> Option<usize> {
        let event_type = record.message.header("ce_type")?;
        self.subscription.handled(event_type, &record.message).map(|handled| handled.handler)
    }

    /// True if one transaction is under way at a time: then nothing passes anything.
    pub(super) fn is_one(&self) -> bool {
        self.subscription.lanes() == 1
    }

    /// The number of records that may be read now.
    pub(super) fn room(&self) -> usize {
        let is_wanted = self.may_begin_together() || (self.has_room() && self.has_slow_handlers());
        let room = READ_MAX.saturating_sub(self.read_ahead.len() + self.taken);
        if is_wanted { room.min(BATCH_MAX) } else { 0 }
    }

    /// Begins as much as may be under way, of records of which `may` is true.
    pub(super) fn begin(&mut self, pipeline: &Pipeline, may: impl Fn(&Record) -> bool) {
        while self.has_room()
            && self.has_slow_handlers()
            && let Some(taken) = self.take(&may, |read_ahead, manner| read_ahead.take_alone(manner))
        {
            self.spawn(taken, pipeline);
        }
        if self.may_begin_together()
            && let Some(taken) =
                self.take(&may, |read_ahead, manner| read_ahead.take_together(BATCH_MAX, manner))
        {
            self.spawn(taken, pipeline);
        }
    }

    fn take(
        &mut self,
        may: impl Fn(&Record) -> bool,
        take: impl FnOnce(&mut ReadAhead, &dyn Fn(Option<usize>, &Record) -> Manner) -> Option<Taken>,
    ) -> Option<Taken> {
        let mut read_ahead = std::mem::take(&mut self.read_ahead);
        let taken = take(&mut read_ahead, &|handler, record| match may(record) {
            true => self.manner(handler, record),
            false => Manner::Later,
        });
        self.read_ahead = read_ahead;
        taken
    }

    fn spawn(&mut self, taken: Taken, pipeline: &Pipeline) {
        let Taken { records, keys, handlers, alone } = taken;
        let (began, count) = (Instant::now(), records.len());
        self.taken += count;
        self.trying.extend(&handlers);
        self.under_way.push((began, alone));
        let (pipeline, stop) = (pipeline.clone(), self.stop.clone());
        self.running.spawn(async move {
            let resolved = pipeline.handle(records, &stop).await;
            LaneEnd::Batch(LaneBatch { began, keys, count, handlers, alone, resolved })
        });
    }

    /// Has parked events tried again, unless that is under way.
    pub(super) fn retry(&mut self, retrying: impl Future<Output = Option<Timestamp>> + Send + 'static) {
        if !std::mem::replace(&mut self.is_retrying, true) {
            self.running.spawn(async move { LaneEnd::Retried(retrying.await) });
        }
    }

    pub(super) fn is_retrying(&self) -> bool {
        self.is_retrying
    }

    /// Waits for the end of anything that is under way; for ever, if nothing is.
    pub(super) async fn ended(&mut self) -> LaneEnd {
        let ended = match self.running.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(e)) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Some(Err(_)) | None => std::future::pending().await,
        };
        match &ended {
            LaneEnd::Retried(_) => self.is_retrying = false,
            LaneEnd::Batch(batch) => {
                self.read_ahead.ended(&batch.keys);
                self.taken -= batch.count;
                for handler in &batch.handlers {
                    self.trying.remove(handler);
                    self.tried.insert(*handler);
                }
                let its = (batch.began, batch.alone);
                if let Some(place) = self.under_way.iter().position(|under_way| *under_way == its) {
                    self.under_way.swap_remove(place);
                }
                if batch.alone.is_none() {
                    self.usual = (self.usual * 3 + batch.began.elapsed()) / 4;
                }
            }
        }
        ended
    }

    /// Has what is under way end where it is; it is done again some time.
    pub(super) fn cancel(&self) {
        self.stop.cancel();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The beginning of the oldest transaction that is under way.
    pub(super) fn since(&self) -> Option<Instant> {
        self.under_way.iter().map(|(began, _)| *began).min()
    }

    /// The number of transactions that are under way.
    pub(super) fn busy(&self) -> usize {
        self.under_way.len()
    }

    /// The number of records that wait.
    pub(super) fn waiting(&self) -> usize {
        self.read_ahead.len()
    }

    /// The moment, still to come, at which others may pass what is under way.
    pub(super) fn passes_at(&self) -> Option<Instant> {
        let at = self.together().max()? + self.pass_after();
        (self.has_room() && at > Instant::now()).then_some(at)
    }

    fn pass_after(&self) -> Duration {
        (self.usual * MUCH_LONGER).clamp(PASS_AFTER.0, PASS_AFTER.1)
    }

    /// The beginnings of transactions of events that go together.
    fn together(&self) -> impl Iterator<Item = Instant> {
        self.under_way.iter().filter(|(_, alone)| alone.is_none()).map(|(began, _)| *began)
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < self.subscription.lanes()
    }

    /// True if events that go together may begin: nothing of them is under way, or it takes too long.
    fn may_begin_together(&self) -> bool {
        let is_fresh = |began: Instant| began.elapsed() < self.pass_after();
        self.together().next().is_none() || (self.has_room() && !self.together().any(is_fresh))
    }

    fn has_slow_handlers(&self) -> bool {
        let is_slow = |called: &Arc<dyn AnyHandler>| called.figures().has_slow_calls();
        !self.is_one() && self.subscription.handlers.iter().any(is_slow)
    }

    /// The way in which an event of a handler is taken up now.
    fn manner(&self, handler: Option<usize>, record: &Record) -> Manner {
        let Some(handler) = handler else { return Manner::Together };
        let called = &self.subscription.handlers[handler];
        let key = record.message.key.as_deref().unwrap_or_default();
        match called.figures().is_slow() {
            _ if called.takes_batches() => Manner::Together,
            None if self.trying.contains(&handler) => Manner::Later,
            None if !self.tried.contains(&handler) => Manner::Unknown,
            None => Manner::Together,
            Some(false) if !called.figures().is_slow_key(key) => Manner::Together,
            Some(_) => {
                let calls = self.under_way.iter().filter(|(_, alone)| *alone == Some(handler)).count();
                let may_run = calls < self.subscription.options(handler).concurrency;
                if may_run { Manner::Alone } else { Manner::Later }
            }
        }
    }
}
