//! Batches where a transaction costs more than the rows in it: on a database server.
//!
//! A transaction that took d is followed by a pause of d, in which the next batch forms. When little is going on the
//! pause is not noticed: the first event after a quiet moment is handled at once. In between the pause halves the
//! round trips, and with them the load and every wait. A batch that is full does not wait.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::store::Store;

/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// The time from which the next transaction may begin.
pub(crate) struct Pace {
    applies: bool,
    until: Instant,
}

impl Pace {
    pub(crate) fn of(store: &Store) -> Self {
        Self { applies: store.has_round_trips(), until: Instant::now() }
    }

    /// A transaction that began then has ended.
    pub(crate) fn ended(&mut self, began: Instant) {
        if self.applies {
            let now = Instant::now();
            self.until = now + (now - began).min(PAUSE_MAX);
        }
    }

    pub(crate) fn is_pausing(&self) -> bool {
        self.applies && Instant::now() < self.until
    }

    pub(crate) async fn pause(&self) {
        sleep_until(self.until).await;
    }
}
