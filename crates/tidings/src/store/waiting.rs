//! The figures of what waits, counted no further than somebody wants to know.

use std::time::Duration;

use super::{Store, effects};
use crate::bounds::Bound;
use crate::error::Error;
use crate::params;

/// Effects that are due later than this have not failed, and are not under way: they are timers.
const SOON: Duration = Duration::from_secs(2 * effects::PAUSE_MAX.as_secs());

/// Counts the events that wait for the broker; returns the time at which the oldest was recorded, too, in microseconds.
pub(crate) async fn pending(store: &Store) -> Result<(u64, Option<i64>), Error> {
    let rows = store
        .query(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT $1) pending),
                    (SELECT recorded_us FROM event_log WHERE id = (SELECT min(id) FROM outbox))",
            params![store.pressure().counted_max(Bound::OutboxRows)],
        )
        .await?;
    Ok((rows[0].get(0)?, rows[0].get(1)?))
}

/// Counts the effects that are due, fail or are under way. Timers whose time has not come do not count: nothing is late.
pub(crate) async fn due_effects(store: &Store) -> Result<u64, Error> {
    let now = store.clock().now();
    let rows = store
        .query(
            "SELECT count(*) FROM (SELECT 1 FROM effect WHERE due_us <= $1
                 AND (due_us <= $2 OR error IS NOT NULL OR state = 'called') LIMIT $3) due",
            params![now + SOON, now, store.pressure().counted_max(Bound::Effects)],
        )
        .await?;
    rows[0].get(0)
}
