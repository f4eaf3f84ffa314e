//! From the broker to the pipeline and back: polls, has a batch seen through, commits its offsets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Consumer, Record};
use crate::clock::until;
use crate::error::Error;
use crate::health::{Loop, Reason};
use crate::pace::Pace;
use crate::pipeline::Pipeline;
use crate::stopping::{unless_stopped, until_stopped};
use crate::store::parked;
use crate::subscription::Subscription;

/// Events in one transaction: several times what one commit of a write batcher lets in, so that a backlog
/// shrinks.
const BATCH_MAX: usize = 1024;
/// Events that are worth a transaction of their own at once.
const BATCH_FULL: usize = 256;
/// Parked events are looked at at least so often: the clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause before parked events are looked at again that could not be.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Pause before a broker that is away is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Parked events per consumer; beyond it nothing more is read.
const PARKED_MAX: u64 = 100_000;
/// Events that are parked before those that wait are counted again: counting looks at each.
const COUNT_EVERY: u64 = 1000;

/// Reads a subscription's topics and sees every event through.
pub(crate) struct Engine {
    pub(crate) pipeline: Pipeline,
    pub(crate) broker: Broker,
}

impl Engine {
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            self.wait_while_paused(&stop).await;
            let Some(consumer) = self.subscribe(&stop).await? else { return Ok(()) };
            self.consume(consumer, &stop).await?;
        }
    }

    /// Joins the group; waits for a broker that is away.
    async fn subscribe(&self, stop: &CancellationToken) -> Result<Option<Consumer>, Error> {
        while !stop.is_cancelled() {
            let Subscription { group, topics, .. } = &*self.pipeline.subscription;
            let subscribing = async {
                let store = self.pipeline.store.id().await?;
                self.broker.subscribe_for(Some(&store), group, topics).await
            };
            match until_stopped(stop, subscribing).await {
                Some(Err(e)) if e.is_unavailable() => {
                    self.pipeline.health.failed(Loop::Subscribe, &e);
                    unless_stopped(stop, ASK_AGAIN).await;
                }
                Some(subscribed) => return subscribed.map(Some),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Handles what comes, until the stop, a pause, or until the consumer has to join anew. While it is paused it is in
    /// no group: others need not wait for it, and its offsets can be set.
    async fn consume(&self, mut consumer: Consumer, stop: &CancellationToken) -> Result<(), Error> {
        let clock = self.pipeline.store.clock().clone();
        // Looked at at once: due times may stem from another clock.
        let mut next_due = Some(clock.now());
        let mut pace = Pace::of(&self.pipeline.store);
        let mut joining = consumer.joining();
        let mut pauses = self.pipeline.store.watch_pauses();
        while !stop.is_cancelled() {
            if pace.is_pausing() {
                tokio::select! {
                    () = pace.pause() => {}
                    () = consumer.filled(BATCH_FULL) => {}
                    () = stop.cancelled() => {}
                }
            }
            if pauses.borrow_and_update().of_service().is_some() {
                break;
            }
            if self.has_waited_for_pressure(stop).await {
                continue;
            }
            let wait = self.time_to_retry(next_due.map(|due| until(due, clock.now())));
            tokio::select! {
                polled = consumer.poll(BATCH_MAX) => match polled {
                    Ok(records) => {
                        self.pipeline.health.goes_on(Loop::Subscribe);
                        let began = Instant::now();
                        self.pipeline.health.is_busy(Loop::Consume, Some(began));
                        if self.handle(records, &mut consumer, stop).await {
                            next_due = self.next_due().await;
                        }
                        self.pipeline.health.is_busy(Loop::Consume, None);
                        pace.ended(began);
                    }
                    Err(e) if e.is_config() || e.is_corrupt() => return Err(e),
                    Err(e) => {
                        self.pipeline.health.failed(Loop::Subscribe, &e);
                        unless_stopped(stop, ASK_AGAIN).await;
                        if consumer.has_ended() {
                            return Ok(());
                        }
                    }
                },
                stuck = joining.changed() => match stuck {
                    Some(why) => self.pipeline.health.waits(Loop::Subscribe, Reason::Ours, &why),
                    None => self.pipeline.health.goes_on(Loop::Subscribe),
                },
                () = clock.pass(wait.unwrap_or_default()), if wait.is_some() => {
                    next_due = self.retry(stop).await;
                }
                Ok(()) = pauses.changed() => {}
                () = self.pipeline.store.pressure().is_full() => {}
                () = self.pipeline.store.parked_changed() => next_due = Some(clock.now()),
                () = stop.cancelled() => {}
            }
        }
        consumer.leave().await;
        Ok(())
    }

    /// Sees a delivery through. Says whether anything was parked or what was parked has become due.
    async fn handle(&self, records: Vec<Record>, consumer: &mut Consumer, stop: &CancellationToken) -> bool {
        let Some(resolved) = self.pipeline.handle(records, stop).await else { return false };
        consumer.commit(&resolved.records);
        let counts = &self.pipeline.counts;
        let is_to_count =
            || counts.parked.load(Ordering::Relaxed) >= counts.counted_again_at.load(Ordering::Relaxed);
        if resolved.has_parked && is_to_count() {
            self.wait_for_room(stop).await;
        }
        resolved.has_parked || resolved.has_released
    }

    /// Waits while an operator, or the flood breaker, has paused the service.
    async fn wait_while_paused(&self, stop: &CancellationToken) {
        let mut pauses = self.pipeline.store.watch_pauses();
        while !stop.is_cancelled() {
            let Some(pause) = pauses.borrow_and_update().of_service().cloned() else { break };
            let paused = format!("{} paused the service: {}", pause.by.actor, pause.by.reason);
            self.pipeline.health.waits(Loop::Consume, Reason::Paused, &paused);
            tokio::select! {
                _ = pauses.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
        self.pipeline.health.goes_on(Loop::Consume);
    }

    /// Waits while a bound is reached that more work would exceed, unless the service is paused; says whether it did.
    async fn has_waited_for_pressure(&self, stop: &CancellationToken) -> bool {
        let store = &self.pipeline.store;
        let mut pauses = store.watch_pauses();
        tokio::select! {
            has_waited = store.pressure().wait_for_room(stop) => has_waited,
            _ = pauses.wait_for(|pauses| pauses.of_service().is_some()) => true,
        }
    }

    /// The time until parked events are looked at, of which the first is due after a while.
    fn time_to_retry(&self, due: Option<Duration>) -> Option<Duration> {
        let Pipeline { budget, dependencies, .. } = &self.pipeline;
        let budget = budget.next_try().map(|at| at - Instant::now()).unwrap_or_default();
        let due = due.map(|due| due.min(LOOK_EVERY).max(budget));
        let probe = dependencies.next_probe().map(|at| at - Instant::now());
        due.into_iter().chain(probe).min()
    }

    /// Tries parked events again; returns when the next one is due.
    async fn retry(&self, stop: &CancellationToken) -> Option<Timestamp> {
        if let Err(e) = self.pipeline.retry_due(stop).await {
            self.pipeline.health.failed(Loop::Retry, &e);
            unless_stopped(stop, LOOK_AGAIN).await;
        }
        self.next_due().await
    }

    async fn next_due(&self) -> Option<Timestamp> {
        let due = parked::next_due(&self.pipeline.store, &self.pipeline.subscription.group).await;
        // An unreadable table is asked again in a while.
        due.unwrap_or_else(|_| Some(self.pipeline.store.clock().now() + ASK_AGAIN))
    }

    /// Stops reading while too many events are parked: a lag that grows is a better signal than a full disk.
    async fn wait_for_room(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match parked::counts(&self.pipeline.store, &self.pipeline.subscription.group).await {
                Ok((waiting, _)) if waiting >= PARKED_MAX => {
                    let full = format!("{waiting} events are parked; reading stops until there are fewer");
                    self.pipeline.health.waits(Loop::Room, Reason::Full, &full);
                    if let Err(e) = self.pipeline.retry_due(stop).await {
                        self.pipeline.health.failed(Loop::Retry, &e);
                    }
                    unless_stopped(stop, LOOK_AGAIN).await;
                }
                counted => {
                    let room = counted.map_or(0, |(waiting, _)| PARKED_MAX - waiting);
                    let counts = &self.pipeline.counts;
                    // Others park, too: half of the room is theirs.
                    let next = counts.parked.load(Ordering::Relaxed) + (room / 2).min(COUNT_EVERY);
                    counts.counted_again_at.store(next, Ordering::Relaxed);
                    return self.pipeline.health.goes_on(Loop::Room);
                }
            }
        }
    }
}
