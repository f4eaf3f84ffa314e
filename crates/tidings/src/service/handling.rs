//! The way in which a service handles events: their order, their retries, and what is too much.

use super::Service;
use crate::retry::{HandlerOptions, RetryPolicy};

impl Service {
    /// Sets the number of transactions that may be under way at once, in one instance; 1, if it is not said.
    ///
    /// With several, handlers that take no time still share one transaction at a time: that costs least. Events of a
    /// handler whose calls take long, 2 ms and more, have a transaction each, as many at once as there are lanes; and a
    /// transaction that takes much longer than others did lets others pass. One key is always in order. On PostgreSQL a
    /// lane whose handler has written or read something holds a connection; on SQLite, the only writer.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// /// Asks something outside before it writes: meanwhile it holds no lock and no connection.
    /// async fn translate(note: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
    ///     # async fn ask(_: u32) -> u32 { 1 }
    ///     let answer = ask(1).await;
    ///     tx.execute("UPDATE page SET words = $1 WHERE key = $2", params![answer, note.key()]).await?;
    ///     Ok(())
    /// }
    /// let service = Service::new("pages").on(translate).lanes(64);
    /// ```
    #[must_use]
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.subscription.lanes = lanes.max(1);
        self
    }

    /// Has the transactions of its handlers, of all instances, exclude each other.
    ///
    /// For handlers that change rows which many keys share, such as the stock of a product: whatever order two
    /// instances lock them in, they cannot get into each other's way. One after the other they are as fast as
    /// the row that all of them wait for allows. Without it they deadlock now and then, which costs a second and
    /// does no harm: the transaction is done again.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.subscription.is_exclusive = true;
        self
    }

    /// Sets the options of the last handler: its retries, its deadline, what its dead letters mean for later events.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings::{HandlerOptions, OnDead, RetryPolicy};
    /// # use tidings_testkit::event::NoteTaken;
    /// async fn index(event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
    ///
    /// let service = Service::new("search")
    ///     .on(index)
    ///     .with(HandlerOptions::new().retry(RetryPolicy::attempts(3)).on_dead(OnDead::Skip));
    /// ```
    #[must_use]
    pub fn with(mut self, options: HandlerOptions) -> Self {
        match self.subscription.options.last_mut() {
            Some(last) => *last = Some(options),
            None => self.faults.push("options without a handler: say `.with(…)` after `.on(…)`".to_owned()),
        }
        self
    }

    /// Sets the number of dead letters in a row after which the service is paused until an operator resumes it: a
    /// handler that fails on everything must not drain a topic into the dead letters. 1,000, if it is not said.
    #[must_use]
    pub fn dead_letters_in_a_row_max(mut self, count: u64) -> Self {
        self.subscription.flood.in_a_row = count.max(1);
        self
    }

    /// Sets the share of dead letters, in percent of the last thousand events or two that were handled or dead, above
    /// which the service is paused until an operator resumes it. 50, if it is not said; 100 is never.
    #[must_use]
    pub fn dead_letters_percent_max(mut self, percent: u8) -> Self {
        self.subscription.flood.percent = percent;
        self
    }

    /// Sets how often a failing event is tried again, for handlers that do not say it themselves.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.subscription.retry = policy;
        self
    }
}
