//! The budget of retries: while parked events fail, only so many are tried as others succeed. A service whose events all
//! fail must not spend its time, and that of what they need, on them.
//!
//! The rule is that of gRPC's retry throttling (its proposal A6): a failure costs one, a success gives a tenth back; a
//! retry that succeeds gives one, so that a backlog is worked off as fast as it recovers.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::{Pipeline, Resolution};
use crate::health::{Loop, Reason};
use crate::panic::lock;

/// Failed tries that may come at once: a round of retries.
const TRIES_MAX: u32 = 256;
/// Successes for which one failed try may come.
const SUCCESSES: u32 = 10;
/// Once nothing is left, one event is tried in this time.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The failed tries that may still come at once.
#[derive(Debug)]
pub(crate) struct RetryBudget(Mutex<Spending>);

#[derive(Clone, Copy, Debug)]
struct Spending {
    /// In parts of which [`SUCCESSES`] are one try.
    left: u32,
    probed: Option<Instant>,
    is_told: bool,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Mutex::new(Spending { left: TRIES_MAX * SUCCESSES, probed: None, is_told: false }))
    }
}

impl RetryBudget {
    /// Takes note of parked events that were handled.
    pub(super) fn recovered(&self, count: usize) {
        self.add(count.saturating_mul(SUCCESSES as usize));
    }

    /// Takes note of delivered events that were handled.
    pub(super) fn handled(&self, count: usize) {
        self.add(count);
    }

    fn add(&self, parts: usize) {
        let mut spending = lock(&self.0);
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        spending.left = spending.left.saturating_add(parts).min(TRIES_MAX * SUCCESSES);
    }

    /// Takes note of parked events that failed again.
    pub(super) fn failed(&self, count: u32) {
        let mut spending = lock(&self.0);
        spending.left = spending.left.saturating_sub(count.saturating_mul(SUCCESSES));
    }

    /// The number of parked events that may be tried now.
    fn tries(&self, now: Instant) -> u32 {
        let mut spending = lock(&self.0);
        let left = spending.left / SUCCESSES;
        if left > 0 {
            return left;
        }
        if spending.probed.is_some_and(|at| now < at + PROBE_EVERY) {
            return 0;
        }
        spending.probed = Some(now);
        1
    }

    /// The number of failed tries that may still come at once; 0 while one event at a time is tried.
    pub(crate) fn left(&self) -> u32 {
        lock(&self.0).left / SUCCESSES
    }

    /// Tells whether nothing is left, and whether that was so when it was last told.
    fn tell(&self) -> (bool, bool) {
        let mut spending = lock(&self.0);
        let is_spent = spending.left < SUCCESSES;
        (is_spent, std::mem::replace(&mut spending.is_told, is_spent))
    }

    /// The time of the next try, while nothing is left.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        let spending = *lock(&self.0);
        spending.probed.map(|at| at + PROBE_EVERY).filter(|_| spending.left < SUCCESSES)
    }
}

impl Pipeline {
    /// The number of parked events that may be tried now. Says so while it is bounded.
    pub(super) fn tries(&self, now: Instant) -> u32 {
        let tries = self.budget.tries(now);
        let (is_spent, was_spent) = self.budget.tell();
        if is_spent {
            let spent = "the retry budget is spent: one event is tried each second until some succeed";
            self.health.waits(Loop::Retry, Reason::Full, &spent);
        } else if was_spent {
            self.health.goes_on(Loop::Retry);
        }
        tries
    }

    /// Gives the retries what these ends allow.
    pub(super) fn allow_retries(&self, resolutions: &[Resolution]) {
        let is_handled = |resolution: &&Resolution| **resolution == Resolution::Handled;
        self.budget.handled(resolutions.iter().filter(is_handled).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_failures_is_tried_once_a_second() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        assert_eq!(budget.tries(now), TRIES_MAX);
        budget.failed(TRIES_MAX);
        let second = Duration::from_secs(1);
        let tried: u32 = (0..60_000).map(|ms| budget.tries(now + Duration::from_millis(ms))).sum();
        assert_eq!(tried, 60, "one a second for a minute");
        assert_eq!(budget.next_try(), Some(now + 60 * second));
    }

    #[test]
    fn each_success_of_a_retry_allows_another_and_ten_of_others_do() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        budget.failed(TRIES_MAX);
        budget.recovered(1);
        assert_eq!((budget.tries(now), budget.next_try()), (1, None));
        budget.failed(1);
        budget.handled(9);
        assert_eq!(budget.left(), 0);
        budget.handled(1);
        assert_eq!(budget.left(), 1);
        budget.handled(usize::MAX);
        assert_eq!(budget.left(), TRIES_MAX);
    }
}
