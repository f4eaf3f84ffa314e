//! Calls of handlers: each within its deadline, timed, and its failures counted by what they were.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use strum::{EnumCount, EnumIter, IntoEnumIterator as _, IntoStaticStr};
use tokio::time::{Instant, timeout};

use crate::buckets::SecondsBuckets;
use crate::error::{HandlerError, THE_DATABASE};
use crate::panic::{lock, panic_message};

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
    running: Mutex<Option<Instant>>,
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
        deadline: Duration,
    ) -> Result<(), HandlerError> {
        let began = Instant::now();
        let mut call = AssertUnwindSafe(call).catch_unwind();
        let mut blocked = Duration::ZERO;
        let watched = poll_fn(|context| {
            let polled = std::time::Instant::now();
            let poll = call.poll_unpin(context);
            blocked = blocked.max(polled.elapsed());
            poll
        });
        let running = Running::of(self, began);
        let called = timeout(deadline, watched).await;
        drop(running);
        self.calls.record(began.elapsed());
        self.note_blocking(blocked);
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
                "a handler computes without yielding; move it to tokio::task::spawn_blocking"
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

    /// The time since which a call has been running, if one is.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        *lock(&self.running)
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

/// A call under way, also one that is dropped.
struct Running<'a>(&'a HandlerFigures);

impl<'a> Running<'a> {
    fn of(figures: &'a HandlerFigures, began: Instant) -> Self {
        *lock(&figures.running) = Some(began);
        Self(figures)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *lock(&self.0.running) = None;
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
