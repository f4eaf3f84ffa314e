//! What is forgotten after a while, so that a database does not grow with what nobody asks for any more.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Store;
use crate::error::Error;
use crate::health::{Health, Loop};
use crate::params;

/// How often somebody looks.
pub(crate) const EVERY: Duration = Duration::from_secs(3600);
/// Rows forgotten in one transaction: others wait no longer than for a batch of events.
const ROWS_MAX: u32 = 1000;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Published events can be looked up and sent again for so long.
const EVENTS: Duration = Duration::from_secs(30 * 24 * 3600);
/// An event without a number that comes again after so long is taken for a new one.
const FOREIGN_IDS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A request repeated after so long is a new one.
const IDEMPOTENCY_KEYS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Effects that are done. Their keys are asked for again by events that come again, so for longer than those.
const EFFECTS: Duration = EVENTS.saturating_add(DAY);

/// What is forgotten, and after how long. The last event of a stream stays: it holds the stream's number.
const RULES: [(&str, Duration); 4] = [
    (
        "DELETE FROM event_log WHERE id IN
         (SELECT id FROM event_log e WHERE recorded_us < $1
             AND id NOT IN (SELECT id FROM outbox)
             AND seq < (SELECT max(seq) FROM event_log l WHERE l.stream = e.stream)
          ORDER BY id LIMIT $2)",
        EVENTS,
    ),
    (
        "DELETE FROM inbox_id WHERE (consumer, source, event_id) IN
         (SELECT consumer, source, event_id FROM inbox_id WHERE seen_us < $1 LIMIT $2)",
        FOREIGN_IDS,
    ),
    (
        "DELETE FROM idempotency_key WHERE (route, key) IN
         (SELECT route, key FROM idempotency_key WHERE created_us < $1 LIMIT $2)",
        IDEMPOTENCY_KEYS,
    ),
    ("DELETE FROM effect WHERE key IN (SELECT key FROM effect WHERE done_us < $1 LIMIT $2)", EFFECTS),
];

/// Forgets, every now and then, until `stop`.
pub(crate) async fn run(store: Store, health: Health, stop: CancellationToken) {
    let clock = store.clock().clone();
    loop {
        tokio::select! {
            () = clock.pass(EVERY) => {}
            () = stop.cancelled() => return,
        }
        match forget(&store, clock.now()).await {
            Ok(_) => health.goes_on(Loop::CleanUp),
            Err(e) => health.failed(Loop::CleanUp, &e),
        }
    }
}

/// Forgets what is too old at `now`; returns how many rows that were.
pub(crate) async fn forget(store: &Store, now: Timestamp) -> Result<u64, Error> {
    let mut forgotten = 0;
    for (sql, age) in RULES {
        loop {
            let mut tx = store.begin().await?;
            let rows = tx.execute(sql, params![now - age, ROWS_MAX]).await?;
            tx.commit().await?;
            forgotten += rows;
            if rows < u64::from(ROWS_MAX) {
                break;
            }
        }
    }
    Ok(forgotten)
}
