//! The time, which tests may move on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

/// The time a store goes by. Moves with the system's clock; a test may put it forward.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ahead_us: AtomicI64,
    moved: Notify,
}

impl Clock {
    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        match self.0.ahead_us.load(Ordering::Relaxed) {
            0 => now,
            ahead_us => now + Duration::from_micros(ahead_us.unsigned_abs()),
        }
    }

    /// Puts the clock forward: whatever has come due is taken up at once.
    pub fn advance(&self, by: Duration) {
        let by_us = i64::try_from(by.as_micros()).expect("a test does not span 290,000 years");
        self.0.ahead_us.fetch_add(by_us, Ordering::Relaxed);
        self.0.moved.notify_waiters();
    }

    /// Waits until `after` has passed or somebody moved the clock.
    pub(crate) async fn pass(&self, after: Duration) {
        tokio::select! {
            () = tokio::time::sleep(after) => {}
            () = self.0.moved.notified() => {}
        }
    }
}
