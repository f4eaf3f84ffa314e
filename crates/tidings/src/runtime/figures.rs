//! The figures of a service: counts in memory, rows of the database, the lag at the broker.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Map;

use super::supervisor::ANSWER_MAX;
use super::{Counters, RunningService};
use crate::error::Error;
use crate::status::{
    ConsumerStatus, EffectRows, EffectsStatus, OutboxRows, OutboxStatus, ParkedRows, Status,
};
use crate::store::{effects, outbox, parked};

impl RunningService {
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
        let backlog = outbox::backlog(&self.store).await?;
        let (waiting, dead) = parked::counts(&self.store, &self.subscription.group).await?;
        let (open, failing) = effects::counts(&self.store).await?;
        let now_us = self.store.clock().now().as_microsecond();
        let seconds_since = |us: i64| now_us.saturating_sub(us).max(0).unsigned_abs() / 1_000_000;
        status.outbox.rows = Some(OutboxRows {
            pending: backlog.pending,
            blocked: backlog.blocked,
            oldest_seconds: backlog.oldest_us.map(seconds_since),
        });
        status.parked = Some(ParkedRows { waiting, dead });
        status.effects.rows = Some(EffectRows { open, failing });
        Ok(())
    }

    /// Counts in memory.
    async fn memory(&self) -> Status {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { pipeline, relay, effects } = &self.counts;
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
                lag: self.lag.recent().await.map(|lag| lag.records),
                delivered: count(&pipeline.delivered),
                handled: count(&pipeline.handled),
                duplicate: count(&pipeline.duplicate),
                ignored: count(&pipeline.ignored),
                parked: count(&pipeline.parked),
                dead: count(&pipeline.dead),
                recovered: count(&pipeline.recovered),
                given_up: count(&pipeline.given_up),
                differing: count(&pipeline.differing),
                conflicts: count(&pipeline.conflicts),
                gaps: count(&pipeline.gaps),
                unstorable: count(&pipeline.narrowly_buried),
            },
            effects: EffectsStatus { done: count(&effects.done), failed: count(&effects.failed), rows: None },
            parked: None,
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
