//! From the broker to the handlers: `decode → validate → inbox → handle → flush → commit → resolve`.
//!
//! Whatever is waiting is handled in one transaction. If that fails, it is rolled back and the same
//! events are handled few by few, then one by one, so that the culprit alone is parked.
//!
//! | Module | Is |
//! |---|---|
//! | `decode` | records to a batch: checked, grouped for handlers |
//! | `attempt` | a batch to its end, whoever is in the way |
//! | `retry` | parked events whose turn has come |

mod attempt;
mod decode;
mod retry;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::attempt::Progress;
use self::decode::{Batch, decode};
use crate::broker::{Broker, Consumer, Record};
use crate::clock::until;
use crate::error::Error;
use crate::handler::AnyHandler;
use crate::health::{Health, Loop, Reason};
use crate::message::{self, Message};
use crate::pace::Pace;
use crate::retry::{RetryPolicy, jitter};
use crate::store::Store;
use crate::store::parked;

/// Events in one transaction: several times what one commit of the intake lets in, so that a backlog
/// shrinks.
const BATCH_MAX: usize = 1024;
/// Events that are worth a transaction of their own at once.
const BATCH_FULL: usize = 256;
/// A batch under way has so long to end when the service stops; what has not is undone, and comes again.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Parked events are looked at at least so often: the clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pauses while the database or a dependency is away, the last one repeated.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
/// Parked events per consumer; beyond it nothing more is read.
const PARKED_MAX: u64 = 100_000;

/// What a service listens to, as one consumer group.
#[derive(Default)]
pub(crate) struct Subscription {
    pub(crate) group: Arc<str>,
    pub(crate) topics: Vec<String>,
    /// Topics of which only events of programs outside count.
    pub(crate) external_only: HashSet<String>,
    pub(crate) handlers: Vec<Arc<dyn AnyHandler>>,
    /// Event types that are taken from programs outside too.
    pub(crate) external: HashSet<&'static str>,
    /// Event types and their aliases.
    pub(crate) types: HashMap<&'static str, Handled>,
    /// Older event types that are read as newer ones.
    pub(crate) former: HashMap<&'static str, Handled>,
    pub(crate) retry: RetryPolicy,
    /// Transactions of its instances exclude each other.
    pub(crate) is_exclusive: bool,
}

/// The handler of a type, and the only topic from which the type counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handled {
    /// An index of [`Subscription::handlers`].
    pub(crate) handler: usize,
    pub(crate) topic: &'static str,
}

/// What became of delivered events. Always: delivered = handled + duplicate + ignored + parked + dead.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: AtomicU64,
    pub(crate) handled: AtomicU64,
    pub(crate) duplicate: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) dead: AtomicU64,
    /// Of the parked ones: handled later, given up later.
    pub(crate) recovered: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) failed_again: AtomicU64,
    pub(crate) gaps: AtomicU64,
    /// Missing events that came after all: those that waited for them have become due.
    pub(crate) awaited: AtomicU64,
    /// Events with the number or id of another one.
    pub(crate) differing: AtomicU64,
    /// Events that could not be kept whole.
    pub(crate) narrowly_buried: AtomicU64,
    /// Transactions that met others and were done again.
    pub(crate) conflicts: AtomicU64,
}

/// What became of one delivered event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    Handled,
    Duplicate,
    Ignored,
    Parked,
    Dead,
}

/// Reads a subscription's topics and sees every event through.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) health: Health,
}

impl Engine {
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        while let Some(consumer) = self.subscribe(&stop).await? {
            self.consume(consumer, &stop).await?;
        }
        Ok(())
    }

    /// Joins the group; waits for a broker that is away.
    async fn subscribe(&self, stop: &CancellationToken) -> Result<Option<Consumer>, Error> {
        while !stop.is_cancelled() {
            let Subscription { group, topics, .. } = &*self.subscription;
            let subscribing = async {
                let store = self.store.id().await?;
                self.broker.subscribe_for(Some(&store), group, topics).await
            };
            match until_stopped(stop, subscribing).await {
                Some(Err(e)) if e.is_unavailable() => {
                    self.health.failed(Loop::Subscribe, &e);
                    unless_stopped(stop, PAUSES[2]).await;
                }
                Some(subscribed) => return subscribed.map(Some),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Handles what comes, until the stop or until the consumer has to join anew.
    async fn consume(&self, mut consumer: Consumer, stop: &CancellationToken) -> Result<(), Error> {
        let clock = self.store.clock().clone();
        // Looked at at once: due times may stem from another clock.
        let mut next_due = Some(clock.now());
        let mut pace = Pace::of(&self.store);
        let mut joining = consumer.joining();
        while !stop.is_cancelled() {
            if pace.is_pausing() {
                tokio::select! {
                    () = pace.pause() => {}
                    () = consumer.filled(BATCH_FULL) => {}
                    () = stop.cancelled() => {}
                }
            }
            let wait = next_due.map(|due| until(due, clock.now()).min(LOOK_EVERY));
            tokio::select! {
                polled = consumer.poll(BATCH_MAX) => match polled {
                    Ok(records) => {
                        self.health.goes_on(Loop::Subscribe);
                        let began = Instant::now();
                        self.health.is_busy(Loop::Consume, Some(began));
                        if self.handle(records, &mut consumer, stop).await {
                            next_due = self.next_due().await;
                        }
                        self.health.is_busy(Loop::Consume, None);
                        pace.ended(began);
                    }
                    Err(e) if e.is_config() => return Err(e),
                    Err(e) => {
                        self.health.failed(Loop::Subscribe, &e);
                        unless_stopped(stop, PAUSES[2]).await;
                        if consumer.has_ended() {
                            return Ok(());
                        }
                    }
                },
                stuck = joining.changed() => match stuck {
                    Some(why) => self.health.waits(Loop::Subscribe, Reason::Ours, &why),
                    None => self.health.goes_on(Loop::Subscribe),
                },
                () = clock.pass(wait.unwrap_or_default()), if wait.is_some() => {
                    if let Err(e) = self.retry_due(stop).await {
                        self.health.failed(Loop::Retry, &e);
                        unless_stopped(stop, PAUSES[1]).await;
                    }
                    next_due = self.next_due().await;
                }
                () = stop.cancelled() => {}
            }
        }
        consumer.leave().await;
        Ok(())
    }

    /// Sees a delivery through. Says whether anything was parked or what was parked has become due.
    async fn handle(&self, records: Vec<Record>, consumer: &mut Consumer, stop: &CancellationToken) -> bool {
        let batch = decode(&self.subscription, records, 1);
        let awaited = self.counts.awaited.load(Ordering::Relaxed);
        let mut progress = Progress::of(&batch);
        if !self.see_through(&mut progress, stop).await {
            return false;
        }
        let resolutions: Vec<Resolution> = progress.resolutions.into_iter().flatten().collect();
        self.count(&batch, &resolutions);
        let records: Vec<Record> = batch.items.into_iter().map(|i| i.record).collect();
        consumer.commit(&records);
        let parked = resolutions.contains(&Resolution::Parked);
        if parked {
            self.wait_for_room(stop).await;
        }
        parked || awaited != self.counts.awaited.load(Ordering::Relaxed)
    }

    fn count(&self, batch: &Batch, resolutions: &[Resolution]) {
        assert_eq!(batch.items.len(), resolutions.len(), "every delivered event is resolved, one way");
        let counts = &self.counts;
        counts.delivered.fetch_add(resolutions.len() as u64, Ordering::Relaxed);
        for (item, resolution) in batch.items.iter().zip(resolutions) {
            let (counter, word) = match resolution {
                Resolution::Handled => (&counts.handled, "handled"),
                Resolution::Duplicate => (&counts.duplicate, "duplicate"),
                Resolution::Ignored => (&counts.ignored, "ignored"),
                Resolution::Parked => (&counts.parked, "parked"),
                Resolution::Dead => (&counts.dead, "dead"),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if item.is_other.load(Ordering::Relaxed) {
                counts.differing.fetch_add(1, Ordering::Relaxed);
                item.warn_of_another(&self.subscription.group);
            }
            if *resolution != Resolution::Ignored {
                item.log(word);
            }
        }
    }

    async fn next_due(&self) -> Option<Timestamp> {
        let due = parked::next_due(&self.store, &self.subscription.group).await;
        // An unreadable table is asked again in a while.
        due.unwrap_or_else(|_| Some(self.store.clock().now() + PAUSES[2]))
    }

    /// Stops reading while too many events are parked: a lag that grows is a better signal than a full disk.
    async fn wait_for_room(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match parked::counts(&self.store, &self.subscription.group).await {
                Ok((waiting, _)) if waiting >= PARKED_MAX => {
                    let full = format!("{waiting} events are parked; reading stops until there are fewer");
                    self.health.waits(Loop::Room, Reason::Full, &full);
                    if let Err(e) = self.retry_due(stop).await {
                        self.health.failed(Loop::Retry, &e);
                    }
                    unless_stopped(stop, PAUSES[1]).await;
                }
                _ => return self.health.goes_on(Loop::Room),
            }
        }
    }
}

impl Subscription {
    /// The handler of events of a type. An older type is read as the newer one, unless its fact is published as
    /// that one too.
    fn handled(&self, event_type: &str, message: &Message) -> Option<Handled> {
        if let Some(&handled) = self.types.get(event_type) {
            return Some(handled);
        }
        let former = *self.former.get(event_type)?;
        let newer = message.header(message::SUPERSEDED_BY);
        let reads = |newer| self.types.get(newer).or_else(|| self.former.get(newer));
        let is_published_anew = newer.and_then(reads).is_some_and(|newer| newer.handler == former.handler);
        (!is_published_anew).then_some(former)
    }

    /// Whether a handler takes events of programs outside.
    fn welcomes(&self, handler: usize) -> bool {
        self.external.contains(self.handlers[handler].names().0)
    }
}

/// The pause after so many failures, spread so that instances do not come back together.
fn pause(failures: usize) -> Duration {
    PAUSES[failures.min(PAUSES.len() - 1)].mul_f64(0.5 + jitter() / 2.0)
}

/// Sleeps, but not into a stop.
async fn unless_stopped(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stop.cancelled() => {}
    }
}

/// Does work that a stop leaves a moment to end by itself; `None` if it did not.
async fn until_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = over => None,
    }
}
