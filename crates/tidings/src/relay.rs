//! From the outbox to the broker: at most one un-acknowledged event per stream, a row deleted only
//! after the acknowledgement.
//!
//! Committed events come in memory, in commit order. The table behind them is read at start, after an
//! overflow, and for backlog.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Outgoing};
use crate::error::Error;
use crate::store::Store;
use crate::store::outbox::{self, Pending};

/// Events held in memory; a backlog beyond it stays in the table.
const IN_MEMORY_MAX: usize = 16_384;
/// Events in one send.
const BURST_MAX: usize = 1024;
/// Sends under way at once: while one is being made durable, the next forms.
const BURSTS_IN_FLIGHT_MAX: usize = 2;
/// Rows read from the table at once.
const SCAN_MAX: usize = 4096;
/// Pauses after a failed send, the last one repeated.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];

/// What the relay has done, for metrics.
#[derive(Debug, Default)]
pub(crate) struct RelayCounts {
    pub(crate) published: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) blocked: AtomicU64,
}

pub(crate) struct Relay {
    store: Store,
    broker: Broker,
    counts: Arc<RelayCounts>,
    /// Not yet acknowledged, in order, by stream.
    streams: HashMap<Arc<str>, VecDeque<Pending>>,
    /// Streams with an event to send and none in flight.
    ready: VecDeque<Arc<str>>,
    /// Streams whose first event the broker refuses for good.
    blocked: HashSet<Arc<str>>,
    /// The highest id taken into memory; ids come in order.
    taken: i64,
    in_memory: usize,
    /// The table holds events that were not handed over.
    behind: bool,
    failures: usize,
    pause_until: Option<Instant>,
}

type Sent = (Vec<Arc<str>>, Vec<Result<(), Error>>);

impl Relay {
    pub(crate) fn new(store: Store, broker: Broker, counts: Arc<RelayCounts>) -> Self {
        Self {
            store,
            broker,
            counts,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            blocked: HashSet::new(),
            taken: 0,
            in_memory: 0,
            behind: true,
            failures: 0,
            pause_until: None,
        }
    }

    /// Relays until `stop`, then waits for what is in flight.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Sent>> = FuturesUnordered::new();
        while !stop.is_cancelled() {
            self.take_in().await;
            while in_flight.len() < BURSTS_IN_FLIGHT_MAX
                && let Some(burst) = self.next_burst()
            {
                in_flight.push(burst);
            }
            let store = self.store.clone();
            tokio::select! {
                Some(sent) = in_flight.next() => self.settle(sent).await,
                () = store.outbox().changed() => {}
                () = wait_until(self.pause_until), if self.pause_until.is_some() => self.pause_until = None,
                () = tokio::time::sleep(PAUSES[0]), if self.behind && self.has_room() => {}
                () = stop.cancelled() => {}
            }
        }
        while let Some(sent) = in_flight.next().await {
            self.settle(sent).await;
        }
    }

    /// Takes committed events into memory, from the hand-over or, when behind, from the table.
    async fn take_in(&mut self) {
        if self.store.outbox().take_overflowed() {
            self.behind = true;
        }
        while self.behind && self.has_room() {
            // What was handed over is in the table too; and before it may stand what was not.
            self.store.outbox().take(usize::MAX);
            match outbox::scan(&self.store, self.taken, SCAN_MAX).await {
                Ok(found) => {
                    self.behind = found.len() == SCAN_MAX;
                    self.admit(found);
                }
                Err(e) => {
                    tracing::warn!(error = %e, "the outbox cannot be read; trying again");
                    return;
                }
            }
        }
        if !self.behind && self.has_room() {
            let handed_over = self.store.outbox().take(SCAN_MAX);
            self.admit(handed_over);
        }
    }

    fn has_room(&self) -> bool {
        self.in_memory < IN_MEMORY_MAX
    }

    fn admit(&mut self, events: Vec<Pending>) {
        for event in events {
            if event.id <= self.taken {
                continue;
            }
            self.taken = event.id;
            if event.blocked.is_some() {
                self.blocked.insert(event.stream.clone());
            }
            if self.blocked.contains(&event.stream) {
                continue;
            }
            self.in_memory += 1;
            let stream = event.stream.clone();
            let queue = self.streams.entry(stream.clone()).or_default();
            queue.push_back(event);
            if queue.len() == 1 {
                self.ready.push_back(stream);
            }
        }
    }

    /// The first event of every stream that is ready, as one send.
    fn next_burst(&mut self) -> Option<BoxFuture<'static, Sent>> {
        if self.pause_until.is_some() || self.ready.is_empty() {
            return None;
        }
        let count = self.ready.len().min(BURST_MAX);
        let streams: Vec<Arc<str>> = self.ready.drain(..count).collect();
        let burst = streams
            .iter()
            .map(|stream| {
                let event = &self.streams[stream][0];
                Outgoing { topic: event.topic.clone(), message: event.message.clone() }
            })
            .collect();
        let broker = self.broker.clone();
        Some(Box::pin(async move {
            let results = broker.send(burst).await;
            (streams, results)
        }))
    }

    async fn settle(&mut self, (streams, results): Sent) {
        let mut acknowledged = Vec::with_capacity(streams.len());
        let mut failure = None;
        for (stream, result) in streams.into_iter().zip(results) {
            match result {
                Ok(()) => acknowledged.extend(self.acknowledge(&stream)),
                Err(e) if e.is_refused() => self.block(&stream, &e).await,
                Err(e) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    self.ready.push_back(stream);
                    failure = Some(e);
                }
            }
        }
        if !acknowledged.is_empty() {
            let count = acknowledged.len() as u64;
            self.counts.published.fetch_add(count, Ordering::Relaxed);
            outbox::delete(self.store.database(), acknowledged);
        }
        match failure {
            None => self.failures = 0,
            Some(e) => self.back_off(&e),
        }
    }

    /// Takes the first event of a stream out of memory; the next one becomes ready.
    fn acknowledge(&mut self, stream: &Arc<str>) -> Option<i64> {
        let queue = self.streams.get_mut(stream)?;
        let event = queue.pop_front()?;
        self.in_memory -= 1;
        if queue.is_empty() {
            self.streams.remove(stream);
        } else {
            self.ready.push_back(stream.clone());
        }
        Some(event.id)
    }

    /// The broker will never take this event: its stream waits for an operator, the rest goes on.
    async fn block(&mut self, stream: &Arc<str>, e: &Error) {
        let Some(queue) = self.streams.remove(stream) else {
            return;
        };
        self.in_memory -= queue.len();
        self.blocked.insert(stream.clone());
        self.counts.blocked.fetch_add(1, Ordering::Relaxed);
        let id = queue[0].id;
        tracing::error!(%stream, outbox_id = id, error = %e, "the broker refuses an event for good; its stream waits");
        if let Err(e) = outbox::block(&self.store, id, &e.to_string()).await {
            tracing::warn!(error = %e, "the blocked event could not be marked; it will be tried again after a restart");
        }
    }

    fn back_off(&mut self, e: &Error) {
        let pause = PAUSES[self.failures.min(PAUSES.len() - 1)];
        if self.failures == 0 {
            tracing::warn!(error = %e, "the broker is away; events wait in the outbox");
        }
        self.failures += 1;
        self.pause_until = Some(Instant::now() + pause);
    }
}

async fn wait_until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}
