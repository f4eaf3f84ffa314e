//! The look at what waits, from time to time: whether there is room for more.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bounds::WaitingFigures;
use crate::error::Error;
use crate::health::Loop;
use crate::stopping::unless_stopped;
use crate::store::{Store, waiting};

/// Pause before figures are asked for again that could not be counted.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A look takes at most this part of the time: counting millions of rows takes a while.
const PART: u32 = 20;

/// Looks at what waits, for as long as the service runs.
pub(super) async fn watch(store: Store, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let pause = match look(&store).await {
            Ok(pause) => pause,
            Err(e) => {
                store.health().failed(Loop::Intake, &e);
                LOOK_AGAIN
            }
        };
        let is_open = store.pressure().full().is_empty();
        tokio::select! {
            () = unless_stopped(&stop, pause.max(begun.elapsed() * PART)) => {}
            // Somebody else has looked: when there is room again is for us to see.
            () = store.pressure().is_full(), if is_open => {}
        }
    }
}

/// Counts what waits, and opens or shuts the intake; returns when it is worth looking again.
async fn look(store: &Store) -> Result<Duration, Error> {
    let begun = store.pressure().begin_look();
    let (rows, oldest_us) = waiting::pending(store).await?;
    let figures = figures(store, rows, oldest_us).await?;
    store.pressure().look(begun, &figures, store.health());
    Ok(store.pressure().next_look(&figures))
}

/// The figures that are bounded, with what is known of the outbox.
pub(super) async fn figures(
    store: &Store,
    outbox_rows: u64,
    oldest_us: Option<i64>,
) -> Result<WaitingFigures, Error> {
    let now_us = store.clock().now().as_microsecond();
    let age_us = oldest_us.map_or(0, |oldest_us| now_us.saturating_sub(oldest_us));
    Ok(WaitingFigures {
        outbox_rows,
        outbox_age: age_us.max(0).unsigned_abs() / 1_000_000,
        effects: waiting::due_effects(store).await?,
    })
}
