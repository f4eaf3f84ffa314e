//! The time, which tests may move on.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;

/// A difference from the server's clock that is worth a correction.
const OFF_BY: Duration = Duration::from_millis(20);

/// The time a store goes by: the system's, or the database server's, which all instances share. A test may put it
/// forward.
///
/// ```
/// let clock = tidings::Clock::default();
/// let before = clock.now();
/// clock.advance(std::time::Duration::from_secs(3600));
/// assert!(clock.now().duration_since(before).as_secs() >= 3600);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ahead_us: AtomicI64,
    /// A time of the server's clock, and when it was that.
    server: RwLock<Option<(Timestamp, Instant)>>,
    moved: Notify,
}

impl Clock {
    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = self.system();
        match self.0.ahead_us.load(Ordering::Relaxed) {
            0 => now,
            ahead_us => now + Duration::from_micros(ahead_us.unsigned_abs()),
        }
    }

    /// The time as it is, not put forward.
    pub(crate) fn system(&self) -> Timestamp {
        let server = self.0.server.read().unwrap_or_else(PoisonError::into_inner);
        server.map_or_else(Timestamp::now, |(time, then)| time + then.elapsed())
    }

    /// Goes by a server's clock from now on, which showed `time` between two moments; the time that passes in
    /// between is counted by this machine, whatever its own clock shows.
    pub(crate) fn follow(&self, time: Timestamp, asked: Instant, answered: Instant) {
        let round_trip = answered - asked;
        let (server, seen) = (time + round_trip / 2, self.system());
        let is_off = server.duration_since(seen).unsigned_abs() > OFF_BY.max(round_trip);
        let mut known = self.0.server.write().unwrap_or_else(PoisonError::into_inner);
        if is_off || known.is_none() {
            *known = Some((server, answered));
        }
    }

    /// Puts the clock forward: whatever has come due is taken up at once.
    pub fn advance(&self, by: Duration) {
        let by_us = i64::try_from(by.as_micros()).expect("a test does not span 290,000 years");
        self.0.ahead_us.fetch_add(by_us, Ordering::Relaxed);
        self.0.moved.notify_waiters();
    }

    /// Waits until `after` has passed or the clock was moved.
    pub(crate) async fn pass(&self, after: Duration) {
        tokio::select! {
            () = tokio::time::sleep(after) => {}
            () = self.0.moved.notified() => {}
        }
    }
}

/// The time that is left until something is due; none if it is.
pub(crate) fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_server_goes_before_that_of_the_machine() {
        let clock = Clock::default();
        let (two_days, now) = (Duration::from_secs(2 * 24 * 3600), Instant::now());
        clock.follow(Timestamp::now() + two_days, now, now);
        let is_ahead = |by: Duration| {
            let ahead = clock.now().duration_since(Timestamp::now());
            (ahead.as_secs_f64() - by.as_secs_f64()).abs() < 1.0
        };
        assert!(is_ahead(two_days));
        // Corrections are followed; what the network does is not.
        clock.follow(
            Timestamp::now() + two_days + Duration::from_secs(30),
            now,
            now + Duration::from_secs(61),
        );
        assert!(is_ahead(two_days));
        clock.follow(Timestamp::now(), Instant::now(), Instant::now());
        assert!(is_ahead(Duration::ZERO));
        clock.advance(two_days);
        assert!(is_ahead(two_days), "a test may still put it forward");
    }
}
