//! Keys in parallel: the gain where handlers wait, the cost where they do not, and one slow key among others.

use std::time::Duration;

use tidings::{Envelope, HandlerError, Service, Tx};
use tokio::time::sleep;

use crate::events::Happened;
use crate::faults::{OddKey, p99_of_others};
use crate::steps::{BATCH, KEYS, add, consumed, median, per_second};

/// Lanes of handlers that wait; a lane of one event each.
const MANY: usize = 64;
/// Lanes of handlers that do little.
const FEW: usize = 8;
/// The time that a handler waits.
const WAITS: Duration = Duration::from_millis(20);

/// The name of the measurement on the command line.
pub const NAME: &str = "lanes";

/// Prints the medians of the ratios.
pub async fn compare(rounds: usize, events: usize) {
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        for (ratios, of) in ratios.iter_mut().zip([0, 1, 2]) {
            // Whoever comes second finds warmer caches.
            let mut values = [0.0; 2];
            for turn in [round % 2, 1 - round % 2] {
                values[turn] = match of {
                    0 => little(events, [1, FEW][turn]).await,
                    1 => waiting([1, MANY][turn]).await,
                    _ => {
                        let odd = [OddKey::IsLikeOthers, OddKey::IsSlow][turn];
                        p99_of_others(odd, FEW).await.as_secs_f64()
                    }
                };
            }
            ratios.push(values[1] / values[0]);
        }
    }
    let [little, waiting, slow] = ratios.map(median);
    println!("{:<58} {little:>8.2}", format!("a handler that does little, {FEW} lanes / 1"));
    println!(
        "{:<58} {waiting:>8.2}",
        format!("a handler that waits {} ms, {MANY} lanes / 1", WAITS.as_millis())
    );
    println!("{:<58} {slow:>8.2}", "one slow key of 10000: p99 of the others, with / without");
}

/// Events a second of a handler that writes a row.
async fn little(events: usize, lanes: usize) -> f64 {
    per_second(events, consumed(Service::new("reader").on(add).lanes(lanes), events).await)
}

/// Events a second of a handler that waits, each event of another key.
async fn waiting(lanes: usize) -> f64 {
    let events = (100 * lanes).min(KEYS).min(13 * BATCH);
    per_second(events, consumed(Service::new("reader").on(wait).lanes(lanes), events).await)
}

async fn wait(event: &Envelope<Happened>, tx: &mut Tx) -> Result<(), HandlerError> {
    sleep(WAITS).await;
    add(event, tx).await
}
