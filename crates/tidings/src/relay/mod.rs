//! From the outbox to the broker: at most one un-acknowledged event per stream, a row deleted only
//! after the acknowledgement.
//!
//! Committed events come in memory. The table behind them is the truth, read at start, after an overflow
//! and for backlog. How it is read safely depends on who else writes: [`cursor`] with one writer, [`lanes`]
//! with many.

mod cursor;
mod lanes;

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
use crate::store::outbox::{self, Pending};
use crate::store::{Database, Store};

/// Events held in memory; a backlog beyond it stays in the table.
const IN_MEMORY_MAX: usize = 8192;
/// Events in one send.
const BURST_MAX: usize = 1024;
/// Events that are worth a send of their own while others are under way.
const BURST_MIN: usize = 512;
/// How long a stopping relay waits for what is in flight: a broker that is away may not answer at all.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// Pauses after a failed send, the last one repeated.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];

/// What the relay has done, for metrics.
#[derive(Debug, Default)]
pub(crate) struct RelayCounts {
    pub(crate) published: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) blocked: AtomicU64,
    /// Lanes that this process relays, and how often it found that one was no longer its own.
    pub(crate) lanes: AtomicU64,
    pub(crate) lanes_lost: AtomicU64,
}

/// Sends what is committed, for as long as it runs.
pub(crate) struct Relay {
    queues: Queues,
    source: Source,
    broker: Broker,
    failures: usize,
    pause_until: Option<Instant>,
}

/// Where pending events come from, and where acknowledged ones go.
enum Source {
    Cursor(cursor::Cursor),
    Lanes(Box<lanes::Lanes>),
}

/// What is pending and in memory.
struct Queues {
    store: Store,
    counts: Arc<RelayCounts>,
    /// Not yet acknowledged, in order, by stream.
    streams: HashMap<Arc<str>, Queue>,
    /// Streams with an event to send and none in flight.
    ready: VecDeque<Arc<str>>,
    /// Streams whose first event the broker refuses for good.
    blocked: HashSet<Arc<str>>,
    in_memory: usize,
}

/// The events of a stream that are not acknowledged, in order.
#[derive(Default)]
struct Queue {
    events: VecDeque<Pending>,
    /// The first of them has been sent.
    in_flight: bool,
}

/// What came of a burst: each event's stream, id, and whether the broker has it.
type Sent = Vec<(Arc<str>, i64, Result<(), Error>)>;

impl Relay {
    pub(crate) fn new(store: Store, broker: Broker, counts: Arc<RelayCounts>) -> Self {
        let source = match store.database() {
            Database::Sqlite(database) => Source::Cursor(cursor::Cursor::new(database.clone())),
            Database::Postgres(database) => {
                Source::Lanes(Box::new(lanes::Lanes::new(database.clone(), store.instance())))
            }
        };
        let queues = Queues {
            store,
            counts,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            blocked: HashSet::new(),
            in_memory: 0,
        };
        Self { queues, source, broker, failures: 0, pause_until: None }
    }

    /// Relays until `stop`, then waits for what is in flight.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Sent>> = FuturesUnordered::new();
        let store = self.queues.store.clone();
        while !stop.is_cancelled() {
            self.source.take_in(&mut self.queues).await;
            while self.source.may_send(in_flight.len(), self.queues.ready.len())
                && let Some(burst) = self.next_burst()
            {
                in_flight.push(burst);
            }
            tokio::select! {
                Some(sent) = in_flight.next() => self.settle(sent).await,
                () = store.outbox().committed.changed() => {}
                () = wait_until(self.pause_until), if self.pause_until.is_some() => self.pause_until = None,
                () = self.source.go_on(&mut self.queues) => {}
                () = stop.cancelled() => {}
            }
        }
        let deadline = Instant::now() + FINISH_MAX;
        while let Ok(Some(sent)) = tokio::time::timeout_at(deadline, in_flight.next()).await {
            self.settle(sent).await;
        }
        self.source.leave().await;
    }

    /// The first event of every stream that is ready, as one send.
    fn next_burst(&mut self) -> Option<BoxFuture<'static, Sent>> {
        if self.pause_until.is_some() {
            return None;
        }
        let queues = &mut self.queues;
        let count = queues.ready.len().min(BURST_MAX);
        let mut events = Vec::with_capacity(count);
        let mut burst = Vec::with_capacity(count);
        for stream in queues.ready.drain(..count) {
            // A stream that was dropped with its lane, and perhaps taken again, may be here twice or in vain.
            if let Some(queue) = queues.streams.get_mut(&stream).filter(|queue| !queue.in_flight) {
                queue.in_flight = true;
                let event = &queue.events[0];
                burst.push(Outgoing { topic: event.topic.clone(), message: event.message.clone() });
                events.push((stream, event.id));
            }
        }
        if burst.is_empty() {
            return None;
        }
        let broker = self.broker.clone();
        Some(Box::pin(async move {
            let results = broker.send(burst).await;
            events.into_iter().zip(results).map(|((stream, id), result)| (stream, id, result)).collect()
        }))
    }

    async fn settle(&mut self, sent: Sent) {
        let mut acknowledged = Vec::with_capacity(sent.len());
        let mut failure = None;
        for (stream, id, result) in sent {
            match result {
                Ok(()) => acknowledged.extend(self.queues.acknowledge(&stream, id)),
                Err(e) if e.is_refused() => self.queues.block(&stream, id, &e).await,
                Err(e) => {
                    self.queues.counts.failed.fetch_add(1, Ordering::Relaxed);
                    self.queues.send_again(&stream, id);
                    failure = Some(e);
                }
            }
        }
        if !acknowledged.is_empty() {
            self.queues.counts.published.fetch_add(acknowledged.len() as u64, Ordering::Relaxed);
            self.source.acknowledged(acknowledged);
        }
        match failure {
            None => self.failures = 0,
            Some(e) => self.back_off(&e),
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

impl Source {
    /// Takes committed events into memory.
    async fn take_in(&mut self, queues: &mut Queues) {
        match self {
            Self::Cursor(cursor) => cursor.take_in(queues).await,
            Self::Lanes(lanes) => lanes.take_in(queues),
        }
    }

    /// Ends when there may be something new to take in or to send.
    async fn go_on(&mut self, queues: &mut Queues) {
        match self {
            Self::Cursor(cursor) => cursor.go_on(queues).await,
            Self::Lanes(lanes) => lanes.go_on(queues).await,
        }
    }

    /// Whether another burst may go while so many are under way: at once when there is none, so that a
    /// lone event does not wait; else the next one forms meanwhile.
    fn may_send(&self, under_way: usize, ready: usize) -> bool {
        match self {
            // A send is a commit of the log's, which others may join.
            Self::Cursor(_) => under_way < 2,
            // A send is a request to each broker, whatever is in it: few and full ones cost least.
            Self::Lanes(lanes) => {
                lanes.may_send() && (under_way == 0 || (under_way < 4 && ready >= BURST_MIN))
            }
        }
    }

    /// The broker has these: their rows may go.
    fn acknowledged(&mut self, events: Vec<Pending>) {
        match self {
            Self::Cursor(cursor) => cursor.acknowledged(&events),
            Self::Lanes(lanes) => lanes.acknowledged(events),
        }
    }

    async fn leave(&mut self) {
        if let Self::Lanes(lanes) = self {
            lanes.leave().await;
        }
    }
}

impl Queues {
    fn has_room(&self) -> bool {
        self.in_memory < IN_MEMORY_MAX
    }

    /// Takes an event that is next in its stream, as far as memory goes. Says whether it will be sent.
    fn admit(&mut self, event: Pending) -> bool {
        if event.blocked.is_some() {
            self.blocked.insert(event.stream.clone());
        }
        if self.blocked.contains(&event.stream) {
            return false;
        }
        self.in_memory += 1;
        let stream = event.stream.clone();
        let queue = self.streams.entry(stream.clone()).or_default();
        queue.events.push_back(event);
        if queue.events.len() == 1 {
            self.ready.push_back(stream);
        }
        true
    }

    /// The queue of a stream, if this event is in flight at its front.
    fn in_flight(&mut self, stream: &Arc<str>, id: i64) -> Option<&mut Queue> {
        self.streams.get_mut(stream).filter(|queue| queue.in_flight && queue.events[0].id == id)
    }

    /// Takes the first event of a stream out of memory; the next one becomes ready.
    fn acknowledge(&mut self, stream: &Arc<str>, id: i64) -> Option<Pending> {
        let queue = self.in_flight(stream, id)?;
        queue.in_flight = false;
        let event = queue.events.pop_front();
        if queue.events.is_empty() {
            self.streams.remove(stream);
        } else {
            self.ready.push_back(stream.clone());
        }
        self.in_memory -= 1;
        event
    }

    fn send_again(&mut self, stream: &Arc<str>, id: i64) {
        if let Some(queue) = self.in_flight(stream, id) {
            queue.in_flight = false;
            self.ready.push_back(stream.clone());
        }
    }

    /// Forgets a stream that waits for an operator, or that somebody else relays from now on.
    fn drop_stream(&mut self, stream: &Arc<str>) {
        if let Some(queue) = self.streams.remove(stream) {
            self.in_memory -= queue.events.len();
        }
    }

    /// The broker will never take this event: its stream waits for an operator, the rest goes on.
    async fn block(&mut self, stream: &Arc<str>, id: i64, e: &Error) {
        if self.in_flight(stream, id).is_none() {
            return;
        }
        self.drop_stream(stream);
        self.blocked.insert(stream.clone());
        self.counts.blocked.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%stream, outbox_id = id, error = %e, "the broker refuses an event for good; its stream waits");
        if let Err(e) = outbox::block(&self.store, id, &e.to_string()).await {
            tracing::warn!(error = %e, "the blocked event could not be marked; it will be tried again after a restart");
        }
    }
}

async fn wait_until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}
