//! Pure decisions on how often, and after which pauses, a failure is tried again.

use std::time::Duration;

use crate::error::HandlerError;
use crate::failure::DeadReason;

/// The number of attempts for a failing event, and the pauses between them.
///
/// ```
/// use std::time::Duration;
/// use tidings::{HandlerError, RetryPolicy, Service, Verdict};
///
/// let mut patient = RetryPolicy::default();
/// patient.attempts_max = 100;
/// let busy = HandlerError::Transient("busy".to_owned());
/// assert_eq!(patient.decide(3, &busy, 1.0), Verdict::Retry(Duration::from_secs(4)));
/// let service = Service::new("parcels").retry(patient);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts in all, the first included; then the event is a dead letter.
    pub attempts_max: u32,
    /// Tries within one attempt, at once and in the same transaction: 1 is none but the attempt itself.
    pub tries_at_once: u32,
    /// The time since its first failure after which an event that fails is a dead letter, however few its attempts.
    pub age_max: Option<Duration>,
    /// The first pause; each further one is twice as long.
    pub delay_min: Duration,
    /// No pause is longer.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    /// 20 attempts, pauses from one second to ten minutes: about two hours in all.
    fn default() -> Self {
        Self {
            attempts_max: 20,
            tries_at_once: 1,
            age_max: None,
            delay_min: Duration::from_secs(1),
            delay_max: Duration::from_secs(600),
        }
    }
}

/// The way in which a handler's events are called, tried again and given up.
///
/// ```
/// # use std::time::Duration;
/// # use tidings::{HandlerOptions, OnDead, RetryPolicy};
/// let options = HandlerOptions::new()
///     .retry(RetryPolicy::attempts(5).delays(Duration::from_millis(100), Duration::from_secs(30)))
///     .deadline(Duration::from_secs(2))
///     .on_dead(OnDead::Skip);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// The number of attempts, and the pauses between them.
    pub retry: RetryPolicy,
    /// The time that a call may take; longer ones have failed. At most [`DEADLINE_MAX`].
    pub deadline: Duration,
    /// The fate of later events of a key whose event is dead.
    pub on_dead: OnDead,
    /// Calls that may be under way at once, in one instance, while calls take long.
    pub concurrency: usize,
    /// Calls compute: each runs on a thread of its own.
    pub is_cpu_bound: bool,
}

/// The longest deadline of a handler: shorter than the time after which PostgreSQL ends a transaction in which nothing
/// happens, so that the handler is blamed and not the server.
pub const DEADLINE_MAX: Duration = Duration::from_secs(10);

/// The fate of later events of a stream whose event is a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDead {
    /// They wait until an operator has brought it back or discarded it.
    #[default]
    Block,
    /// They go on without it. It stays a dead letter, and may be brought back out of turn.
    Skip,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            deadline: DEADLINE_MAX,
            on_dead: OnDead::Block,
            concurrency: usize::MAX,
            is_cpu_bound: false,
        }
    }
}

impl HandlerOptions {
    /// The options of a handler for which nothing is said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of attempts, and the pauses between them.
    #[must_use]
    pub fn retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// Sets the time that a call may take, [`DEADLINE_MAX`] at most.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: deadline.min(DEADLINE_MAX), ..self }
    }

    /// Sets the fate of later events of a stream whose event is a dead letter.
    #[must_use]
    pub fn on_dead(self, on_dead: OnDead) -> Self {
        Self { on_dead, ..self }
    }

    /// Sets the number of calls that may be under way at once, in one instance, while calls take long: for what cannot
    /// stand more. Without it, as many as the service has lanes.
    #[must_use]
    pub fn concurrency(self, calls: usize) -> Self {
        Self { concurrency: calls.max(1), ..self }
    }

    /// Has each call run on a thread of its own: for a handler that computes for long without waiting, which would hold
    /// up everything else on its thread.
    #[must_use]
    pub fn cpu_bound(self) -> Self {
        Self { is_cpu_bound: true, ..self }
    }
}

/// The decision about a failed event.
///
/// ```
/// use tidings::{DeadReason, HandlerError, RetryPolicy, Verdict};
///
/// let no = HandlerError::fatal("no_such_parcel", "p1");
/// let verdict = RetryPolicy::default().decide(1, &no, 0.5);
/// assert_eq!(verdict, Verdict::Dead(DeadReason::Handler("no_such_parcel")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Park it and try again after this pause.
    Retry(Duration),
    /// Give it up: a dead letter for this reason.
    Dead(DeadReason),
}

impl RetryPolicy {
    /// A policy of this many attempts in all, with the pauses of the default one.
    #[must_use]
    pub fn attempts(attempts_max: u32) -> Self {
        Self { attempts_max, ..Self::default() }
    }

    /// Sets the number of tries within one attempt, for failures that are over at once.
    #[must_use]
    pub fn tries_at_once(self, tries_at_once: u32) -> Self {
        Self { tries_at_once, ..self }
    }

    /// Sets the time since its first failure after which an event that fails is a dead letter.
    #[must_use]
    pub fn age_max(self, age_max: Duration) -> Self {
        Self { age_max: Some(age_max), ..self }
    }

    /// Decides about an event that has failed for this long, if that is too long.
    pub(crate) fn decide_by_age(&self, age: Duration) -> Option<Verdict> {
        self.age_max.is_some_and(|age_max| age >= age_max).then_some(Verdict::Dead(DeadReason::TooOld))
    }

    /// Sets the first pause, and the longest one.
    #[must_use]
    pub fn delays(self, delay_min: Duration, delay_max: Duration) -> Self {
        Self { delay_min, delay_max, ..self }
    }

    /// Decides after the `attempts`-th attempt failed. `jitter` in 0..=1 spreads the pauses (full
    /// jitter), so that events that failed together do not come back together.
    #[must_use]
    pub fn decide(&self, attempts: u32, error: &HandlerError, jitter: f64) -> Verdict {
        match error {
            HandlerError::Fatal { code, .. } => Verdict::Dead(DeadReason::of(code)),
            _ if attempts >= self.attempts_max => Verdict::Dead(DeadReason::AttemptsExhausted),
            _ => {
                let doubled = self.delay_min.saturating_mul(1 << (attempts - 1).min(30));
                Verdict::Retry(doubled.min(self.delay_max).mul_f64(jitter.clamp(0.0, 1.0)))
            }
        }
    }
}

/// Pauses while a server is away, the last one repeated.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];

/// The pause after this many failures, spread so that instances do not come back together.
pub(crate) fn backoff(failures: usize) -> Duration {
    BACKOFF[failures.min(BACKOFF.len() - 1)].mul_f64(0.5 + jitter() / 2.0)
}

/// The longest pause after a conflict.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Returns the pause after a conflict, spread from zero: transactions that met once should not meet again.
pub(crate) fn conflict_pause() -> Duration {
    CONFLICT_PAUSE_MAX.mul_f64(jitter())
}

/// A number in 0..=1, different each time.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(attempts: u32) -> Verdict {
        RetryPolicy::default().decide(attempts, &HandlerError::Transient("busy".into()), 1.0)
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_then_the_event_is_dead() {
        assert_eq!(pause(1), Verdict::Retry(Duration::from_secs(1)));
        assert_eq!(pause(4), Verdict::Retry(Duration::from_secs(8)));
        assert_eq!(pause(19), Verdict::Retry(Duration::from_secs(600)));
        assert_eq!(pause(20), Verdict::Dead(DeadReason::AttemptsExhausted));
    }

    #[test]
    fn a_fatal_error_is_never_tried_again() {
        let verdict = RetryPolicy::default().decide(1, &HandlerError::fatal("no_such_order", "o-1"), 1.0);
        assert_eq!(verdict, Verdict::Dead(DeadReason::Handler("no_such_order")));
    }
}
