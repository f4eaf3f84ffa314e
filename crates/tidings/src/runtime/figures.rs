//! The figures of a service: counts in memory, rows of the database, the lag at the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde_json::Map;

use super::supervisor::ANSWER_MAX;
use super::{Counters, RunningService, intake};
use crate::buckets::BucketCounts;
use crate::error::Error;
use crate::relay::RelayCounts;
use crate::status::{
    ConsumerStatus, EffectRows, EffectsStatus, IntakeStatus, LanesStatus, OutboxRows, OutboxStatus,
    ParkedRows, PausedPart, SlowHandler, Status,
};
use crate::store::pauses::{Pause, Scope};
use crate::store::{effects, gaps, outbox, parked};
use crate::subscription::Subscription;

/// Paused parts that a status names.
const PAUSED_MAX: usize = 100;

/// A histogram of a service, and the label that tells it from others of its name.
pub(crate) struct TimedFigure<'a> {
    pub(crate) name: &'static str,
    pub(crate) label: Option<(&'static str, &'a str)>,
    pub(crate) counts: BucketCounts,
}

impl Counters {
    /// Counts for a service that writes to these topics and reads by this subscription.
    pub(super) fn of(written: &[String], subscription: &Subscription) -> Self {
        let mut topics = written.to_vec();
        if !subscription.handlers.is_empty() {
            topics.push(format!("{}_dlq", subscription.group));
        }
        topics.sort();
        topics.dedup();
        Self { pipeline: Arc::default(), relay: Arc::new(RelayCounts::of(topics)), effects: Arc::default() }
    }
}

impl RunningService {
    /// The histograms of the service.
    pub(crate) fn timed(&self) -> Vec<TimedFigure<'_>> {
        let commits = &self.counts.pipeline.commits;
        let mut timed = vec![TimedFigure { name: "commit_seconds", label: None, counts: commits.read() }];
        for (topic, times) in self.counts.relay.times() {
            let label = Some(("topic", topic));
            timed.push(TimedFigure { name: "outbox_seconds", label, counts: times.read() });
        }
        for handler in &self.subscription.handlers {
            let figures = handler.figures();
            for (name, times) in [
                ("handle_seconds", &figures.calls),
                ("event_wait_seconds", &figures.waits),
                ("event_end_to_end_seconds", &figures.ways),
            ] {
                let label = Some(("type", figures.event_type));
                timed.push(TimedFigure { name, label, counts: times.read() });
            }
        }
        timed
    }

    /// The failed calls of each handler, by the type of its events and the kind of failure.
    pub(crate) fn failed_calls(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.subscription.handlers.iter().flat_map(|handler| {
            let figures = handler.figures();
            figures.failures().map(|(kind, count)| (figures.event_type, kind, count))
        })
    }

    /// The calls of each handler that held their thread for too long, by the type of its events.
    pub(crate) fn blocking_calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.handler_figures().map(|figures| (figures.event_type, figures.blocking()))
    }

    fn paused_parts(&self) -> Vec<PausedPart> {
        let pauses = self.store.pauses();
        let parts = pauses.iter().filter(|pause| pause.scope != Scope::Service).take(PAUSED_MAX);
        let part = |pause: &Pause| PausedPart {
            scope: pause.scope.into(),
            name: pause.name.clone(),
            actor: pause.by.actor.clone(),
            reason: pause.by.reason.clone(),
        };
        parts.map(part).collect()
    }

    fn slow_handlers(&self) -> Vec<SlowHandler> {
        let slow = self.handler_figures().map(|figures| SlowHandler {
            event_type: figures.event_type,
            late: figures.late(),
            blocking: figures.blocking(),
        });
        slow.filter(|handler| handler.late + handler.blocking > 0).collect()
    }

    /// Each provider of its effects, and whether it counts as down.
    pub(crate) fn providers_down(&self) -> Vec<(&'static str, bool)> {
        self.executor.providers_down()
    }

    /// Delivered events that are not accounted for: 0, or this program has a fault.
    pub(crate) fn inbox_difference(&self) -> i64 {
        self.counts.pipeline.difference()
    }

    /// The service's backlog, its lag and the fate of every delivered event: its part of `/statusz`.
    ///
    /// # Errors
    /// An unusable database.
    pub async fn status(&self) -> Result<Status, Error> {
        let mut status = self.memory().await;
        self.add_rows(&mut status).await?;
        for (name, read) in &self.extras {
            status.extras.insert((*name).to_owned(), read(self.store.clone()).await?);
        }
        Ok(status)
    }

    /// The status, or the part of it that is in memory and why the rest is not known: never late.
    pub(crate) async fn glance(&self) -> Status {
        match in_time(self.status()).await {
            Ok(status) => status,
            Err(e) => Status { error: Some(e.to_string()), ..self.memory().await },
        }
    }

    /// The status without what the service itself adds, for metrics.
    pub(crate) async fn counted(&self) -> Status {
        let mut status = self.memory().await;
        if let Err(e) = in_time(self.add_rows(&mut status)).await {
            status.error = Some(e.to_string());
        }
        status
    }

    /// Adds what is counted in the database: all of it or nothing.
    async fn add_rows(&self, status: &mut Status) -> Result<(), Error> {
        let begun = self.store.pressure().begin_look();
        let backlog = outbox::backlog(&self.store).await?;
        let (waiting, dead) = parked::counts(&self.store, &self.subscription.group).await?;
        let ages = parked::ages(&self.store, &self.subscription.group).await?;
        let (open, failing) = effects::counts(&self.store).await?;
        let age = |since: Timestamp| self.seconds_since(since.as_microsecond());
        status.outbox.rows = Some(OutboxRows {
            pending: backlog.pending,
            blocked: backlog.blocked,
            oldest_seconds: backlog.oldest_us.map(|us| self.seconds_since(us)),
        });
        status.parked = Some(ParkedRows {
            waiting,
            dead,
            oldest_seconds: ages.waiting_since.map(age),
            dead_oldest_seconds: ages.dead_since.map(age),
            blocked_keys: ages.blocked_keys,
            blocked_oldest_seconds: ages.blocked_since.map(age),
            gap_streams: gaps::count(&self.store, &self.subscription.group).await?,
        });
        status.effects.rows = Some(EffectRows { open, failing });
        // What is shown is what is acted upon.
        let figures = intake::figures(&self.store, backlog.pending, backlog.oldest_us).await?;
        self.store.pressure().look(begun, &figures, self.store.health());
        status.intake = self.intake();
        status.waiting = self.stopped_loops();
        Ok(())
    }

    /// The time since a moment, in whole seconds, by the clock of the store.
    pub(crate) fn seconds_since(&self, us: i64) -> u64 {
        let now_us = self.store.clock().now().as_microsecond();
        now_us.saturating_sub(us).max(0).unsigned_abs() / 1_000_000
    }

    /// The bounds that are reached, and what was refused.
    fn intake(&self) -> IntakeStatus {
        let pressure = self.store.pressure();
        IntakeStatus { full: pressure.full(), refused: pressure.refused().collect() }
    }

    /// The lanes of its consumer, if it has more than one.
    fn lanes(&self) -> Option<LanesStatus> {
        let all = self.subscription.lanes() as u64;
        (all > 1).then(|| LanesStatus { all, busy: self.counts.pipeline.lanes_busy.load(Ordering::Relaxed) })
    }

    /// Counts in memory.
    async fn memory(&self) -> Status {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { pipeline, relay, effects } = &self.counts;
        let lag = self.lag.recent().await;
        Status {
            outbox: OutboxStatus {
                published: count(&relay.published),
                failed: count(&relay.failed),
                refused: count(&relay.blocked),
                lanes: count(&relay.lanes),
                lanes_lost: count(&relay.lanes_lost),
                rows: None,
            },
            consumer: ConsumerStatus {
                group: self.subscription.group.to_string(),
                lag: lag.map(|lag| lag.records),
                oldest_unread_seconds: lag.and_then(|lag| lag.oldest_us).map(|us| self.seconds_since(us)),
                delivered: count(&pipeline.delivered),
                handled: count(&pipeline.handled),
                duplicate: count(&pipeline.duplicate),
                ignored: count(&pipeline.ignored),
                parked: count(&pipeline.parked),
                dead: count(&pipeline.dead),
                recovered: count(&pipeline.recovered),
                given_up: count(&pipeline.given_up),
                failed_again: count(&pipeline.failed_again),
                differing: count(&pipeline.differing),
                conflicts: count(&pipeline.conflicts),
                retries_left: self.pipeline.budget.left().into(),
                lanes: self.lanes(),
                gaps: count(&pipeline.gaps),
                unstorable: count(&pipeline.narrowly_buried),
            },
            effects: EffectsStatus { done: count(&effects.done), failed: count(&effects.failed), rows: None },
            parked: None,
            slow_handlers: self.slow_handlers(),
            paused: self.paused_parts(),
            intake: self.intake(),
            dependencies: self.pipeline.dependencies.away(),
            waiting: self.stopped_loops(),
            refusal: self.stopped_by().map(ToString::to_string),
            error: None,
            extras: Map::new(),
        }
    }
}

/// Waits for the database, but not for long: a page for operators is never late.
async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
    answer.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("the database has not answered within {ANSWER_MAX:?}")))
    })
}
