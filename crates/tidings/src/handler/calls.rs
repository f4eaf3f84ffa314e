//! Calls of handlers: each within its deadline, timed, and its failures counted by what they were.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use strum::{EnumCount, EnumIter, IntoEnumIterator as _, IntoStaticStr};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout};

use crate::buckets::SecondsBuckets;
use crate::error::{HandlerError, THE_DATABASE};
use crate::panic::{lock, panic_message};
use crate::retry::HandlerOptions;

/// Figures of a handler since the start: its calls, and the time that its events took to get to their end.
#[derive(Debug, Default)]
pub(crate) struct HandlerFigures {
    pub(crate) event_type: &'static str,
    /// Calls, well or not.
    pub(crate) calls: SecondsBuckets,
    /// From the broker's time of a record until it was handled.
    pub(crate) waits: SecondsBuckets,
    /// From the time of the fact until it was handled.
    pub(crate) ways: SecondsBuckets,
    failures: [AtomicU64; CallFailure::COUNT],
    /// Calls that held their thread for [`BLOCKING_MIN`] or longer without yielding.
    blocking: AtomicU64,
    /// The beginnings of the calls that are under way.
    running: Mutex<Vec<Instant>>,
    pace: CallPace,
}

/// The time that calls of late have taken, as far as it decides how events share transactions.
#[derive(Debug, Default)]
struct CallPace {
    /// A moving average; 0 before the first call.
    mean_us: AtomicU64,
    is_slow: AtomicBool,
    /// Keys whose last call took long although others do not: the latest first.
    slow_keys: Mutex<VecDeque<String>>,
    has_slow_keys: AtomicBool,
}

/// A call that takes longer than this is not like others.
const LONG: Duration = Duration::from_millis(50);
/// Keys of such calls that are remembered.
const SLOW_KEYS_MAX: usize = 256;

/// A handler whose calls take longer than this waits for something, or computes: one at a time is too few.
const SLOW_US: u64 = 2_000;
/// One whose calls take less again shares a transaction with others, which costs less.
const QUICK_US: u64 = 1_000;
/// A call counts with this at most: a single one does not tell of the others.
const CALL_MAX_US: u64 = 24_000;
/// A call weighs as much as a sixteenth of all before it.
const WEIGHT: u64 = 16;

impl CallPace {
    fn note(&self, call: Duration) {
        let us = u64::try_from(call.as_micros()).unwrap_or(u64::MAX).clamp(1, CALL_MAX_US);
        // Of two calls that end at the same time one may be lost: it is an average.
        let mean = match self.mean_us.load(Ordering::Relaxed) {
            0 => us,
            mean => (mean * (WEIGHT - 1)).saturating_add(us).div_ceil(WEIGHT),
        };
        self.mean_us.store(mean, Ordering::Relaxed);
        if mean >= SLOW_US {
            self.is_slow.store(true, Ordering::Relaxed);
        } else if mean < QUICK_US {
            self.is_slow.store(false, Ordering::Relaxed);
        }
    }
}

/// A handler that computes for so long without yielding holds up everything else on its thread; nothing can end it.
const BLOCKING_MIN: Duration = Duration::from_millis(500);

/// The kind of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
enum CallFailure {
    /// It is to be tried again.
    Transient,
    /// Something that the handler named is away.
    Dependency,
    /// Trying again cannot help.
    Fatal,
    /// The handler panicked.
    Panic,
    /// The call did not end in time.
    Deadline,
}

impl HandlerFigures {
    pub(crate) fn of(event_type: &'static str) -> Self {
        Self { event_type, ..Self::default() }
    }

    /// Runs a call: a panic in it, or one that does not end, is a failure of its events. Pinned, since the future of a
    /// handler may be large and each layer around it would move it once more.
    pub(super) async fn call(
        &self,
        call: Pin<&mut (impl Future<Output = Result<(), HandlerError>> + Send)>,
        how: impl Into<CallOptions>,
    ) -> Result<(), HandlerError> {
        let CallOptions { deadline, is_cpu_bound } = how.into();
        let is_cpu_bound = is_cpu_bound && may_block();
        let began = Instant::now();
        let mut call = AssertUnwindSafe(call).catch_unwind();
        let mut blocked = Duration::ZERO;
        let watched = poll_fn(|context| {
            let polled = std::time::Instant::now();
            let poll = match is_cpu_bound {
                true => block_in_place(|| call.poll_unpin(context)),
                false => call.poll_unpin(context),
            };
            blocked = blocked.max(polled.elapsed());
            poll
        });
        let running = Running::of(self, began);
        let called = timeout(deadline, watched).await;
        drop(running);
        self.calls.record(began.elapsed());
        self.pace.note(began.elapsed());
        if !is_cpu_bound {
            self.note_blocking(blocked);
        }
        let (failure, e) = match called {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(e))) => (CallFailure::of(&e), e),
            Ok(Err(panic)) => {
                let words = format!("panicked: {}", panic_message(&*panic));
                (Some(CallFailure::Panic), HandlerError::Transient(words))
            }
            Err(_) => {
                let words = format!("the handler did not end within {deadline:?}");
                (Some(CallFailure::Deadline), HandlerError::Transient(words))
            }
        };
        if let Some(failure) = failure {
            self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
        }
        Err(e)
    }

    fn note_blocking(&self, blocked: Duration) {
        if blocked >= BLOCKING_MIN {
            self.blocking.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                event_type = self.event_type,
                seconds = blocked.as_secs_f64(),
                "a handler computes without yielding: set HandlerOptions::cpu_bound, or move it to tokio::task::spawn_blocking"
            );
        }
    }

    /// The number of calls that computed for too long without yielding.
    pub(crate) fn blocking(&self) -> u64 {
        self.blocking.load(Ordering::Relaxed)
    }

    /// The number of calls that did not end in time.
    pub(crate) fn late(&self) -> u64 {
        self.failures[CallFailure::Deadline as usize].load(Ordering::Relaxed)
    }

    /// The time since which the oldest call has been running, if one is.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        lock(&self.running).iter().min().copied()
    }

    /// Takes note of the time that a call for a key took.
    pub(super) fn note_key(&self, key: &str, took: Duration) {
        let pace = &self.pace;
        if took < LONG && !pace.has_slow_keys.load(Ordering::Relaxed) {
            return;
        }
        let mut keys = lock(&pace.slow_keys);
        keys.retain(|known| known != key);
        if took >= LONG {
            keys.truncate(SLOW_KEYS_MAX - 1);
            keys.push_front(key.to_owned());
        }
        pace.has_slow_keys.store(!keys.is_empty(), Ordering::Relaxed);
    }

    /// True if calls take long, or some do.
    pub(crate) fn has_slow_calls(&self) -> bool {
        self.is_slow() == Some(true) || self.pace.has_slow_keys.load(Ordering::Relaxed)
    }

    /// True if the last call for this key took long.
    pub(crate) fn is_slow_key(&self, key: &[u8]) -> bool {
        self.pace.has_slow_keys.load(Ordering::Relaxed)
            && lock(&self.pace.slow_keys).iter().any(|known| known.as_bytes() == key)
    }

    /// Tells whether calls of late have taken long; `None` before the first call.
    pub(crate) fn is_slow(&self) -> Option<bool> {
        let is_known = self.pace.mean_us.load(Ordering::Relaxed) > 0;
        is_known.then(|| self.pace.is_slow.load(Ordering::Relaxed))
    }

    /// Counts an event that was handled: the broker's time of its record, the time of its fact, and now.
    pub(crate) fn handled(&self, timestamp_us: i64, time: Option<Timestamp>, now: Timestamp) {
        // -1 is Kafka's word for a record without a time.
        if timestamp_us > 0 {
            self.waits.record_since_us(timestamp_us, now);
        }
        if let Some(time) = time {
            self.ways.record_between(time, now);
        }
    }

    /// The number of failed calls by kind.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |kind: CallFailure| self.failures[kind as usize].load(Ordering::Relaxed);
        CallFailure::iter().map(move |kind| (kind.into(), count(kind)))
    }
}

/// The way in which a handler is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    deadline: Duration,
    is_cpu_bound: bool,
}

impl From<&HandlerOptions> for CallOptions {
    fn from(options: &HandlerOptions) -> Self {
        Self { deadline: options.deadline, is_cpu_bound: options.is_cpu_bound }
    }
}

impl From<Duration> for CallOptions {
    fn from(deadline: Duration) -> Self {
        Self { deadline, is_cpu_bound: false }
    }
}

/// True if others can go on while this thread computes: with one thread there is none for them.
fn may_block() -> bool {
    Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread
}

/// A call under way, also one that is dropped.
struct Running<'a>(&'a HandlerFigures, Instant);

impl<'a> Running<'a> {
    fn of(figures: &'a HandlerFigures, began: Instant) -> Self {
        lock(&figures.running).push(began);
        Self(figures, began)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = lock(&self.0.running);
        if let Some(place) = running.iter().position(|began| *began == self.1) {
            running.swap_remove(place);
        }
    }
}

impl CallFailure {
    /// The kind of an error; none of trouble that is not the handler's: the database is away, another transaction was
    /// in the way.
    fn of(e: &HandlerError) -> Option<Self> {
        match e {
            HandlerError::Dependency(THE_DATABASE) | HandlerError::InDoubt(_) | HandlerError::Conflict(_) => {
                None
            }
            HandlerError::Transient(_) => Some(Self::Transient),
            HandlerError::Dependency(_) => Some(Self::Dependency),
            HandlerError::Fatal { .. } => Some(Self::Fatal),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn failed_calls_are_counted_by_what_they_were() {
        let figures = HandlerFigures::of("note.taken.v1");
        // Calls that end at once are never late.
        let deadline = Duration::from_millis(1);
        let call = async |call| figures.call(pin!(call), deadline).await;
        let _ = call(async { Ok(()) }.boxed()).await;
        for e in [
            HandlerError::Transient("busy".to_owned()),
            HandlerError::Dependency("printer"),
            HandlerError::Dependency(THE_DATABASE),
            HandlerError::Conflict("a deadlock".to_owned()),
            HandlerError::fatal("no_weight", "?"),
        ] {
            let _ = call(async { Err(e) }.boxed()).await;
        }
        let panicked = call(async { panic!("in the handler") }.boxed()).await;
        assert_eq!(panicked.unwrap_err().to_string(), "panicked: in the handler");
        let late = call(std::future::pending().boxed()).await;
        assert_eq!(late.unwrap_err().to_string(), "the handler did not end within 1ms");
        let counted: Vec<(&str, u64)> = figures.failures().collect();
        let once = ["transient", "dependency", "fatal", "panic", "deadline"].map(|kind| (kind, 1));
        assert_eq!(counted, once);
        assert_eq!(figures.calls.read().up_to.last(), Some(&8));
    }

    #[test]
    fn a_handler_is_slow_while_its_calls_of_late_take_long() {
        let figures = HandlerFigures::of("note.taken.v1");
        let note = |calls: usize, us| (0..calls).for_each(|_| figures.pace.note(Duration::from_micros(us)));
        assert_eq!(figures.is_slow(), None);
        note(1, 20_000);
        assert_eq!(figures.is_slow(), Some(true), "the first call decides");
        note(100, 1_500);
        assert_eq!(figures.is_slow(), Some(true), "between the bounds it stays what it is");
        note(100, 10);
        assert_eq!(figures.is_slow(), Some(false));
        note(1, 10_000_000);
        assert_eq!(figures.is_slow(), Some(false), "a single call tells nothing");
        note(1, 10_000_000);
        assert_eq!(figures.is_slow(), Some(true));
    }

    #[test]
    fn a_key_is_slow_until_a_call_for_it_is_quick() {
        let figures = HandlerFigures::of("note.taken.v1");
        let slow = || ["k0", "k1", "k300"].map(|key| figures.is_slow_key(key.as_bytes()));
        figures.note_key("k0", LONG);
        figures.note_key("k1", Duration::from_millis(1));
        assert_eq!(slow(), [true, false, false]);
        figures.note_key("k0", Duration::from_millis(1));
        assert_eq!(slow(), [false; 3]);
        (0..=300).for_each(|n| figures.note_key(&format!("k{n}"), LONG));
        assert_eq!(slow(), [false, false, true], "the oldest are forgotten");
    }

    #[tokio::test]
    async fn a_call_that_computes_without_yielding_is_counted() {
        let figures = HandlerFigures::of("note.taken.v1");
        let deadline = Duration::from_secs(60);
        let _ = figures.call(pin!(async { Ok(()) }), deadline).await;
        assert_eq!((figures.blocking(), figures.running_since()), (0, None));
        let computes = async {
            let began = std::time::Instant::now();
            while began.elapsed() < BLOCKING_MIN {
                std::hint::spin_loop();
            }
            assert!(figures.running_since().is_some());
            Ok(())
        };
        figures.call(pin!(computes), deadline).await.expect("it ends well");
        assert_eq!((figures.blocking(), figures.running_since()), (1, None));
    }
}
