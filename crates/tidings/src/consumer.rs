//! From the broker to the pipeline and back: polls, has what waits seen through, commits its offsets.

mod read_ahead;
mod lanes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::lanes::{ConsumerLanes, LaneBatch, LaneEnd};
use crate::broker::{Broker, Consumer};
use crate::clock::until;
use crate::error::Error;
use crate::health::{Loop, Reason};
use crate::pace::Pace;
use crate::pipeline::Pipeline;
use crate::stopping::{unless_stopped, until_stopped};
use crate::store::parked;
use crate::store::pauses::Pauses;

/// Events that are worth a transaction of their own at once.
const BATCH_FULL: usize = 256;
/// Parked events are looked at at least so often: the clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause before parked events are looked at again that could not be.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The time that transactions may take to end by themselves when the service stops.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before a broker that is away is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Parked events per consumer; beyond it nothing more is read.
const PARKED_MAX: u64 = 100_000;
/// Events that are parked before those that wait are counted again: counting looks at each.
const COUNT_EVERY: u64 = 1000;

/// Reads a subscription's topics and sees every event through.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) pipeline: Pipeline,
    pub(crate) broker: Broker,
}

impl Engine {
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            let topics = self.wait_while_paused(&stop).await;
            let Some(consumer) = self.subscribe(&topics, &stop).await? else { return Ok(()) };
            self.consume(consumer, &topics, &stop).await?;
        }
    }

    /// Joins the group; waits for a broker that is away.
    async fn subscribe(
        &self,
        topics: &[String],
        stop: &CancellationToken,
    ) -> Result<Option<Consumer>, Error> {
        while !stop.is_cancelled() {
            let group = &self.pipeline.subscription.group;
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

    /// Handles what comes, until the stop, until other topics are to be read, or until the consumer has to join anew.
    /// While all is paused it is in no group: others need not wait for it, and its offsets can be set.
    async fn consume(
        &self,
        mut consumer: Consumer,
        topics: &[String],
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut lanes = ConsumerLanes::new(self.pipeline.subscription.clone());
        let consumed = self.consume_in(&mut lanes, &mut consumer, topics, stop).await;
        // What is under way may end, and what others have passed: else it makes those be delivered again.
        let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
        if stop.is_cancelled() && lanes.is_one() {
            lanes.cancel();
        }
        loop {
            if !lanes.is_cancelled() {
                lanes.begin(&self.pipeline, |record| consumer.is_passed(record));
            }
            if lanes.is_empty() {
                break;
            }
            tokio::select! {
                ended = lanes.ended() => if let LaneEnd::Batch(batch) = ended {
                    match batch.resolved {
                        Some(resolved) => consumer.commit(&resolved.records),
                        None => lanes.cancel(),
                    }
                },
                () = &mut patience, if !lanes.is_cancelled() => lanes.cancel(),
            }
        }
        self.pipeline.health.is_busy(Loop::Consume, None);
        self.pipeline.counts.lanes_busy.store(0, Ordering::Relaxed);
        // If it is paused: once it is resumed, it may have as many dead letters again.
        self.pipeline.flood.forget();
        if consumed? {
            consumer.leave().await;
        }
        Ok(())
    }

    /// Says whether there is a group to be left.
    async fn consume_in(
        &self,
        lanes: &mut ConsumerLanes,
        consumer: &mut Consumer,
        topics: &[String],
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        let Pipeline { store, health, .. } = &self.pipeline;
        let clock = store.clock().clone();
        // Looked at at once: due times may stem from another clock.
        let mut next_due = Some(clock.now());
        let mut pace = Pace::of(store);
        let mut joining = consumer.joining();
        let mut pauses = store.watch_pauses();
        while !stop.is_cancelled() {
            if !self.topics(&pauses.borrow_and_update()).eq(topics) {
                break;
            }
            if self.has_waited_for_pressure(stop).await {
                continue;
            }
            if pace.is_pausing() && lanes.is_empty() && lanes.waiting() < BATCH_FULL {
                Self::keep_pace(&pace, consumer, stop).await;
            }
            lanes.begin(&self.pipeline, |_| true);
            health.is_busy(Loop::Consume, lanes.since());
            self.pipeline.counts.lanes_busy.store(lanes.busy() as u64, Ordering::Relaxed);
            let wait = self.time_to_retry(next_due.map(|due| until(due, clock.now())));
            let wait = wait.filter(|_| !lanes.is_retrying());
            let (room, passes_at) = (lanes.room(), lanes.passes_at());
            tokio::select! {
                polled = consumer.poll(room), if room > 0 => match polled {
                    Ok(records) => {
                        health.goes_on(Loop::Subscribe);
                        lanes.push(records);
                    }
                    Err(e) => {
                        if self.has_ended(e, consumer, stop).await? {
                            return Ok(false);
                        }
                    }
                },
                ended = lanes.ended() => {
                    if let LaneEnd::Batch(batch) = &ended && batch.alone.is_none() {
                        pace.ended(batch.began);
                    }
                    if self.has_left(ended, &mut next_due, consumer, stop).await {
                        // It is delivered again to who joins anew.
                        break;
                    }
                }
                stuck = joining.changed() => match stuck {
                    Some(why) => health.waits(Loop::Subscribe, Reason::Ours, &why),
                    None => health.goes_on(Loop::Subscribe),
                },
                () = clock.pass(wait.unwrap_or_default()), if wait.is_some() => {
                    let (engine, stop) = (self.clone(), stop.clone());
                    lanes.retry(async move { engine.retry(&stop).await });
                }
                () = sleep_until(passes_at.unwrap_or_else(Instant::now)), if passes_at.is_some() => {}
                Ok(()) = pauses.changed() => {}
                () = store.pressure().is_full() => {}
                () = store.parked_changed() => next_due = Some(clock.now()),
                () = stop.cancelled() => {}
            }
        }
        Ok(true)
    }

    /// Waits after a poll that failed; says whether the consumer has to be replaced.
    async fn has_ended(
        &self,
        e: Error,
        consumer: &Consumer,
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        if e.is_config() || e.is_corrupt() {
            return Err(e);
        }
        self.pipeline.health.failed(Loop::Subscribe, &e);
        unless_stopped(stop, ASK_AGAIN).await;
        Ok(consumer.has_ended())
    }

    /// Waits for the moment of the next transaction, unless as much is there as is worth one at once.
    async fn keep_pace(pace: &Pace, consumer: &mut Consumer, stop: &CancellationToken) {
        tokio::select! {
            () = pace.pause() => {}
            () = consumer.filled(BATCH_FULL) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Commits what was seen through, and takes note of when the next parked event is due, if that may have changed.
    /// Says whether something was left.
    async fn has_left(
        &self,
        ended: LaneEnd,
        next_due: &mut Option<Timestamp>,
        consumer: &mut Consumer,
        stop: &CancellationToken,
    ) -> bool {
        let resolved = match ended {
            LaneEnd::Retried(due) => {
                *next_due = due;
                return false;
            }
            LaneEnd::Batch(LaneBatch { resolved: Some(resolved), .. }) => resolved,
            LaneEnd::Batch(_) => return true,
        };
        consumer.commit(&resolved.records);
        let counts = &self.pipeline.counts;
        let is_to_count =
            || counts.parked.load(Ordering::Relaxed) >= counts.counted_again_at.load(Ordering::Relaxed);
        if resolved.has_parked && is_to_count() {
            self.wait_for_room(stop).await;
        }
        if resolved.has_parked || resolved.has_released {
            *next_due = self.next_due().await;
        }
        false
    }

    /// The topics that are to be read.
    fn topics<'a>(&'a self, pauses: &'a Pauses) -> impl Iterator<Item = &'a String> {
        self.pipeline.subscription.topics.iter().filter(|topic| pauses.of_topic(topic).is_none())
    }

    /// Waits while an operator, or the flood breaker, has paused the service or each of its topics; returns those that
    /// are to be read.
    async fn wait_while_paused(&self, stop: &CancellationToken) -> Vec<String> {
        let mut pauses = self.pipeline.store.watch_pauses();
        let mut topics = Vec::new();
        while !stop.is_cancelled() {
            let paused = pauses.borrow_and_update().clone();
            topics = self.topics(&paused).cloned().collect();
            let first = self.pipeline.subscription.topics.first().filter(|_| topics.is_empty());
            let Some(pause) = first.and_then(|topic| paused.of_topic(topic)) else { break };
            let what = match pause.name.as_str() {
                "" => "the service".to_owned(),
                topic => format!("topic {topic}, and nothing else is left to read"),
            };
            let paused = format!("{} paused {what}: {}", pause.by.actor, pause.by.reason);
            self.pipeline.health.waits(Loop::Consume, Reason::Paused, &paused);
            tokio::select! {
                _ = pauses.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
        self.pipeline.health.goes_on(Loop::Consume);
        topics
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
