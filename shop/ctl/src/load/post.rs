//! Placing the orders: one task a connection, each order asked for until it is accepted.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Deserialize;
use tidings_client::{Answer, Client, Endpoint, Error};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::plan::Plan;
use super::retry::Backoff;

/// Latencies up to an hour, to three digits.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// The timer wakes up to a millisecond late; that lateness is ours, not the shop's.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// Places every order over this many connections and says what came of it. An order the shop
/// refuses for good ends the run: the next ones would fare no better.
pub(crate) async fn all(
    posting: Arc<Posting>,
    endpoints: &Arc<[Endpoint]>,
    connections: u32,
) -> Result<Placed, Error> {
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let client = Client::starting_at(endpoints.clone(), number as usize);
        tasks.spawn(place_in_turn(posting.clone(), client));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Error::new(format!("cannot place orders: {error}")))??;
    }
    Ok(posting.placed())
}

async fn place_in_turn(posting: Arc<Posting>, mut client: Client) -> Result<(), Error> {
    while let Some(order) = posting.next_order() {
        let due = posting.pace.due(posting.begun, order).await;
        let id = posting.place(&mut client, order).await?;
        posting.accepted(id, due);
    }
    Ok(())
}

/// The state that the connections of one run share.
pub(crate) struct Posting {
    plan: Plan,
    pace: Pace,
    patience: Duration,
    begun: Instant,
    next: AtomicU32,
    accepted: AtomicU64,
    tally: Mutex<Tally>,
}

struct Tally {
    /// A list while the clock runs; the set that is searched later costs more to fill.
    ids: Vec<Uuid>,
    latency_us: Histogram<u64>,
    last_accepted: Instant,
    retries: BTreeMap<String, u64>,
}

impl Posting {
    /// Starts the clock.
    pub(crate) fn start(plan: Plan, pace: Pace, patience: Duration) -> Arc<Posting> {
        let begun = Instant::now();
        let tally = Tally {
            ids: Vec::with_capacity(plan.orders() as usize),
            latency_us: latencies(),
            last_accepted: begun,
            retries: BTreeMap::new(),
        };
        Arc::new(Posting {
            plan,
            pace,
            patience,
            begun,
            next: AtomicU32::new(0),
            accepted: AtomicU64::new(0),
            tally: Mutex::new(tally),
        })
    }

    /// The number of orders of the run.
    pub(crate) fn orders(&self) -> u64 {
        u64::from(self.plan.orders())
    }

    /// The number of orders that were accepted so far.
    pub(crate) fn accepted_count(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Since the clock started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn next_order(&self) -> Option<u32> {
        let order = self.next.fetch_add(1, Ordering::Relaxed);
        (order < self.plan.orders()).then_some(order)
    }

    /// Asks with the same key until accepted: when the shop was killed after its commit and before
    /// its answer, the next attempt is told the order that already exists.
    async fn place(&self, client: &mut Client, order: u32) -> Result<Uuid, Error> {
        let mut backoff = Backoff::new();
        loop {
            match client.send(self.plan.request(order)).await.and_then(id_of) {
                Err(error) if error.is_passing() => {
                    self.retrying(&error)?;
                    sleep(backoff.wait_after(&error)).await;
                }
                done => return done,
            }
        }
    }

    fn retrying(&self, error: &Error) -> Result<(), Error> {
        let mut tally = self.tally();
        if tally.last_accepted.elapsed() > self.patience {
            return Err(Error::new(format!(
                "gave up after {} s without progress, {} of {} orders accepted: {error}",
                self.patience.as_secs(),
                tally.ids.len(),
                self.plan.orders(),
            )));
        }
        *tally.retries.entry(error.label()).or_default() += 1;
        Ok(())
    }

    fn accepted(&self, id: Uuid, due: Instant) {
        let now = Instant::now();
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally();
        tally.ids.push(id);
        tally.last_accepted = now;
        tally.latency_us.saturating_record(micros(now - due));
    }

    fn placed(&self) -> Placed {
        let mut tally = self.tally();
        Placed {
            accepted: tally.ids.len() as u64,
            ids: tally.ids.drain(..).collect(),
            latency_us: tally.latency_us.clone(),
            duration: tally.last_accepted - self.begun,
            retries: std::mem::take(&mut tally.retries),
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("nothing panics while it counts")
    }
}

/// The result of placing all orders.
pub(crate) struct Placed {
    pub(crate) accepted: u64,
    pub(crate) ids: HashSet<Uuid>,
    pub(crate) latency_us: Histogram<u64>,
    /// From the start to the last acceptance.
    pub(crate) duration: Duration,
    /// The number of times an order was asked for again, by what had gone wrong.
    pub(crate) retries: BTreeMap<String, u64>,
}

/// The schedule on which orders are placed.
pub(crate) enum Pace {
    /// Each connection places its next order when the last was answered.
    Unhurried,
    /// Order `n` is due `n` intervals after the start, whatever became of the others.
    Every(Duration),
}

impl Pace {
    /// A schedule of `rate` orders a second.
    pub(crate) fn per_second(rate: f64) -> Pace {
        Pace::Every(Duration::from_secs_f64(1.0 / rate))
    }

    /// Waits until an order is due and returns the moment its latency counts from. An order that
    /// was due while all connections were busy counts from then: waiting for a slow shop is part
    /// of its slowness.
    async fn due(&self, begun: Instant, order: u32) -> Instant {
        let Pace::Every(interval) = self else {
            return Instant::now();
        };
        let due = begun + interval.mul_f64(f64::from(order));
        sleep_until(due).await;
        let now = Instant::now();
        if now - due < TIMER_GRAIN { now } else { due }
    }
}

/// An empty histogram of microseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order")
}

/// Whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn id_of(answer: Answer) -> Result<Uuid, Error> {
    #[derive(Deserialize)]
    struct Accepted {
        id: Uuid,
    }
    let body = answer.success()?;
    let accepted: Accepted = serde_json::from_slice(&body)
        .map_err(|error| Error::new(format!("cannot read the answer to POST /orders: {error}")))?;
    Ok(accepted.id)
}
