//! The loops of a service that try again: what each waits for, since when, and whether it still runs.
//!
//! A loop that cannot go on says so at once and then each minute, with a count; when it goes on it says that
//! too. `/statusz`, `/readyz` and `/metrics` show the same. The loops are listed in `docs/loops.md`.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;
use strum::{EnumIter, IntoEnumIterator as _, IntoStaticStr};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::panic::lock;
use crate::panic::panic_message;

/// A loop that waits for longer is reported again.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A loop with work that makes no progress for this long has stalled: a service with one is not ready.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// The loops that try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, IntoStaticStr, Serialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Loop {
    /// Joins the group and reads records.
    Subscribe,
    /// Handles what was read.
    Consume,
    /// Tries parked events again.
    Retry,
    /// Waits for a dependency that handlers have named.
    Depend,
    /// Stops reading while too many events are parked.
    Room,
    /// Sends events to the broker.
    Send,
    /// Sends events again that the broker refused.
    Refused,
    /// Looks for pending events in the outbox.
    Scan,
    /// Deletes what the broker has acknowledged.
    Acknowledge,
    /// Leases lanes of the outbox.
    Lease,
    /// Takes due effects up.
    Claim,
    /// Performs effects.
    Perform,
    /// Records outcomes of effects.
    Settle,
    /// Leaves effects of a lost or overflowing hand-over to the table.
    HandOver,
    /// Reads the pauses that operators have made through other instances.
    Pauses,
    /// Takes requests that write, and events, while there is room for what they lead to.
    Intake,
    /// Forgets what is old.
    CleanUp,
    /// Compares the topics with what they were.
    Topics,
}

/// The reason that a loop does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, Serialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A server or dependency cannot be used at the moment.
    Away,
    /// Another transaction or instance holds what is needed.
    InTheWay,
    /// One event, row or effect is at fault.
    Event,
    /// A bound is reached.
    Full,
    /// A bound is exceeded by far.
    Closed,
    /// An operator, or the flood breaker, holds it back.
    Paused,
    /// None of these: a fault of this program.
    Ours,
}

impl Reason {
    /// The reason that an error gives.
    pub(crate) fn of(e: &Error) -> Self {
        match e {
            e if e.is_unavailable() => Self::Away,
            e if e.is_conflict() => Self::InTheWay,
            e if e.is_invalid() || e.is_refused() => Self::Event,
            _ => Self::Ours,
        }
    }
}

/// The state of every loop of a service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Vec<LoopState>>);

#[derive(Debug)]
struct LoopState {
    of: Loop,
    /// True if [`Inner::waiting`] is set: looked at for every batch.
    is_waiting: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Option<LoopWaiting>,
    busy_since: Option<Instant>,
    ended: Option<String>,
}

#[derive(Debug)]
struct LoopWaiting {
    reason: Reason,
    error: String,
    since: Instant,
    reported: Instant,
    tries: u64,
}

/// A loop that does not go on, for `/statusz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stopped {
    /// Its name in `docs/loops.md`.
    #[serde(rename = "loop")]
    pub of: Loop,
    /// `away`, `in_the_way`, `event`, `full`, `closed`, `paused`, `ours`; `ended` is said by its absence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The error in words.
    pub error: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// The number of tries.
    pub tries: u64,
}

impl Stopped {
    /// Its loop and its reason, for metrics.
    pub(crate) fn names(&self) -> (&'static str, &'static str) {
        (self.of.into(), self.reason.map_or("ended", Into::into))
    }

    /// Tells whether a service with this loop should get no more requests. The service may go on without a broker or
    /// a provider, with an event that is refused, and without forgetting what is old.
    pub(crate) fn is_unready(&self) -> bool {
        let Some(reason) = self.reason else { return true };
        let has_stalled = self.seconds >= STALLED_AFTER.as_secs();
        match self.of {
            Loop::Room => true,
            Loop::Intake => reason == Reason::Closed,
            Loop::Topics => reason != Reason::Away,
            Loop::Consume => has_stalled && reason != Reason::Paused,
            Loop::Retry if reason == Reason::Full => false,
            Loop::Subscribe | Loop::Retry | Loop::Settle => has_stalled && reason != Reason::Away,
            _ => false,
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reason) = self.names();
        write!(f, "the loop {name} has not gone on for {} s ({reason}): {}", self.seconds, self.error)
    }
}

impl Default for Health {
    fn default() -> Self {
        let state = |of| LoopState { of, is_waiting: AtomicBool::new(false), inner: Mutex::default() };
        Self(Arc::new(Loop::iter().map(state).collect()))
    }
}

impl Health {
    fn state(&self, of: Loop) -> &LoopState {
        &self.0[of as usize]
    }

    /// Takes note that a loop could not do its work; reports it the first time, then each minute.
    pub(crate) fn waits(&self, of: Loop, reason: Reason, error: &impl ToString) {
        let (state, now, error) = (self.state(of), Instant::now(), error.to_string());
        let mut inner = lock(&state.inner);
        let (reported, tries, since) = match &mut inner.waiting {
            Some(waiting) => {
                waiting.tries += 1;
                let is_due = now - waiting.reported >= TELL_EVERY || waiting.reason != reason;
                waiting.reported = if is_due { now } else { waiting.reported };
                (is_due, waiting.tries, waiting.since)
            }
            None => (true, 1, now),
        };
        if reported {
            let (of, reason): (&str, &str) = (of.into(), reason.into());
            let seconds = (now - since).as_secs();
            tracing::warn!("loop" = of, reason, tries, seconds, error, "waiting; nothing is lost");
        }
        match &mut inner.waiting {
            Some(waiting) => (waiting.reason, waiting.error) = (reason, error),
            None => inner.waiting = Some(LoopWaiting { reason, error, since, reported: now, tries }),
        }
        state.is_waiting.store(true, Ordering::Release);
    }

    /// Notes that a loop waits, for the reason that the error gives.
    pub(crate) fn failed(&self, of: Loop, e: &Error) {
        self.waits(of, Reason::of(e), e);
    }

    /// Takes note that a loop did its work; reports it if it had been waiting.
    pub(crate) fn goes_on(&self, of: Loop) {
        let state = self.state(of);
        if !state.is_waiting.load(Ordering::Acquire) {
            return;
        }
        state.is_waiting.store(false, Ordering::Release);
        if let Some(LoopWaiting { tries, since, .. }) = lock(&state.inner).waiting.take() {
            let (of, seconds): (&str, _) = (of.into(), since.elapsed().as_secs());
            tracing::info!("loop" = of, tries, seconds, "goes on");
        }
    }

    /// Takes note that a loop has begun work whose end is awaited, or has ended it.
    pub(crate) fn is_busy(&self, of: Loop, busy: Option<Instant>) {
        lock(&self.state(of).inner).busy_since = busy;
    }

    /// Takes note that a loop has ended and will do nothing more.
    pub(crate) fn ended(&self, of: Loop, why: &impl ToString) {
        lock(&self.state(of).inner).ended = Some(why.to_string());
    }

    /// Runs a loop's task; one that ends before the stop, or panics, is shown as ended.
    pub(crate) async fn watch(self, of: Loop, stop: CancellationToken, task: impl Future<Output = ()>) {
        let done = AssertUnwindSafe(task).catch_unwind().await;
        let why = match &done {
            Err(panic) => format!("it panicked: {}", panic_message(&**panic)),
            Ok(()) if !stop.is_cancelled() => "it has ended".to_owned(),
            Ok(()) => return,
        };
        let name: &str = of.into();
        tracing::error!("loop" = name, why, "this service does not go on; start it again");
        self.ended(of, &why);
    }

    /// The loops that do not go on at the moment.
    pub(crate) fn stopped(&self) -> Vec<Stopped> {
        self.stopped_at(Instant::now())
    }

    fn stopped_at(&self, now: Instant) -> Vec<Stopped> {
        self.0.iter().filter_map(|state| state.stopped(now)).collect()
    }
}

impl LoopState {
    fn stopped(&self, now: Instant) -> Option<Stopped> {
        let inner = lock(&self.inner);
        let stopped = |reason, error: &str, since: Option<Instant>, tries| Stopped {
            of: self.of,
            reason,
            error: error.to_owned(),
            seconds: since.map_or(0, |since| (now - since).as_secs()),
            tries,
        };
        if let Some(why) = &inner.ended {
            return Some(stopped(None, why, None, 0));
        }
        if let Some(w) = &inner.waiting {
            return Some(stopped(Some(w.reason), &w.error, Some(w.since), w.tries));
        }
        let since = inner.busy_since.filter(|since| now - *since >= STALLED_AFTER)?;
        Some(stopped(Some(Reason::Ours), "it makes no progress", Some(since), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped_in(health: &Health, seconds: u64) -> Vec<Stopped> {
        health.stopped_at(Instant::now() + Duration::from_secs(seconds))
    }

    #[test]
    fn a_loop_that_waits_is_shown_until_it_goes_on() {
        let health = Health::default();
        assert_eq!(health.stopped(), []);
        health.waits(Loop::Send, Reason::Away, &"no broker");
        health.waits(Loop::Send, Reason::Away, &"still no broker");
        let [stopped] = &stopped_in(&health, 90)[..] else { panic!("one loop waits") };
        assert_eq!((stopped.of, stopped.seconds, stopped.tries), (Loop::Send, 90, 2));
        assert_eq!(stopped.error, "still no broker");
        assert!(!stopped.is_unready(), "a broker may be away for hours");
        health.goes_on(Loop::Send);
        assert_eq!(stopped_in(&health, 90), []);
    }

    #[test]
    fn a_loop_that_stalls_for_a_minute_makes_a_service_unready() {
        let health = Health::default();
        health.waits(Loop::Consume, Reason::Event, &"a statement fails");
        assert!(!stopped_in(&health, 0)[0].is_unready(), "it may be over in a moment");
        assert!(stopped_in(&health, 60)[0].is_unready());
        health.goes_on(Loop::Consume);
        health.is_busy(Loop::Consume, Some(Instant::now()));
        assert_eq!(stopped_in(&health, 59), []);
        assert!(stopped_in(&health, 60)[0].is_unready(), "a batch that never ends");
        health.is_busy(Loop::Consume, None);
        assert_eq!(stopped_in(&health, 60), []);
    }

    #[tokio::test]
    async fn a_task_that_ends_before_the_stop_makes_a_service_unready_at_once() {
        for task in [true, false] {
            let health = Health::default();
            let stop = CancellationToken::new();
            let task = async move { assert!(task, "as planned") };
            health.clone().watch(Loop::Settle, stop, task).await;
            assert!(health.stopped()[0].is_unready(), "{:?}", health.stopped());
        }
        let (health, stop) = (Health::default(), CancellationToken::new());
        stop.cancel();
        health.clone().watch(Loop::Settle, stop, async {}).await;
        assert_eq!(health.stopped(), [], "it was told to end");
    }
}
