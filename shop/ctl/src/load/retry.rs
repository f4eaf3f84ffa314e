//! Carrying on while the shop is away: it may be killed and started again in the middle of a load.

use std::time::Duration;

use tidings_client::Error;
use tokio::time::{Instant, sleep};

const WAIT_FIRST: Duration = Duration::from_millis(25);

/// Short enough that a restarted shop is found again at once, long enough not to hammer it.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// The waits before further attempts.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Starts with a short wait.
    pub(crate) fn new() -> Backoff {
        Backoff { next: WAIT_FIRST }
    }

    /// Twice as long as the last time, up to a bound; never shorter than the service asked for.
    pub(crate) fn wait_after(&mut self, error: &Error) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(WAIT_MAX);
        error.retry_after().map_or(wait, |asked| asked.max(wait))
    }
}

/// Asks until there is an answer, or until `patience` has passed without one.
pub(crate) async fn patiently<T>(
    patience: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let begun = Instant::now();
    let mut backoff = Backoff::new();
    loop {
        match ask().await {
            Err(error) if error.is_passing() && begun.elapsed() < patience => {
                sleep(backoff.wait_after(&error)).await;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    #[test]
    fn waits_grow_to_a_bound_and_honour_the_service() {
        let mut backoff = Backoff::new();
        let broken = Error::no_answer("broken");
        let waits: Vec<u128> = (0..7).map(|_| backoff.wait_after(&broken).as_millis()).collect();
        assert_eq!(vec![25, 50, 100, 200, 400, 500, 500], waits);
        let asked = Some(Duration::from_secs(3));
        let busy = Error::refused("busy".into(), StatusCode::SERVICE_UNAVAILABLE, asked);
        assert_eq!(Duration::from_secs(3), backoff.wait_after(&busy));
    }
}
