//! From the outbox to the broker: at most one un-acknowledged event per stream, a row deleted only
//! after the acknowledgement.
//!
//! Committed events come in memory. The table behind them is the truth, read at start, after an overflow
//! and for backlog. How it is read safely depends on the other writers: [`cursor`] with one writer, [`lanes`]
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
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Outgoing};
use crate::buckets::SecondsBuckets;
use crate::clock::until;
use crate::error::Error;
use crate::health::{Health, Loop, Reason};
use crate::retry::{backoff, jitter};
use crate::store::Store;
use crate::store::outbox::{self, Pending, PendingSet};

/// Events held in memory; a backlog beyond it stays in the table.
const IN_MEMORY_MAX: usize = 8192;
/// Events in one send.
const BURST_MAX: usize = 1024;
/// Events that are worth a send of their own while others are under way.
const BURST_MIN: usize = 512;
/// The longest time that a stopping relay waits for what is in flight: a broker that is away may not answer at all.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// Streams whose first event the broker refuses are tried again this often: a topic, a right or a limit may have
/// been mended, or an operator may have freed them.
const REFUSED_EVERY: Duration = Duration::from_secs(15);

/// Counts of the relay's work, for metrics.
#[derive(Debug, Default)]
pub(crate) struct RelayCounts {
    pub(crate) published: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) blocked: AtomicU64,
    /// Lanes that this process relays, and how often it found that one was no longer its own.
    pub(crate) lanes: AtomicU64,
    pub(crate) lanes_lost: AtomicU64,
    /// From an event's record in the outbox to the acknowledgement of the broker, by topic.
    times: Vec<(String, SecondsBuckets)>,
}

impl RelayCounts {
    /// Counts for a service that writes to these topics.
    pub(crate) fn of(topics: impl IntoIterator<Item = String>) -> Self {
        let times = topics.into_iter().map(|topic| (topic, SecondsBuckets::default())).collect();
        Self { times, ..Self::default() }
    }

    /// The times that events of each topic were in the outbox.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&str, &SecondsBuckets)> {
        self.times.iter().map(|(topic, times)| (&**topic, times))
    }

    fn acknowledged(&self, events: &[Pending], now: Timestamp) {
        self.published.fetch_add(events.len() as u64, Ordering::Relaxed);
        for event in events {
            if let Some((_, times)) = self.times.iter().find(|(topic, _)| *topic == event.topic) {
                times.record_since_us(event.recorded_us, now);
            }
        }
    }
}

/// Sends what is committed, for as long as it runs.
pub(crate) struct Relay {
    queues: Queues,
    source: Source,
    broker: Broker,
    failures: usize,
    pause_until: Option<Instant>,
    /// The time at which refused events are tried again, by the clock of the store.
    refused_at: Timestamp,
}

/// The source of pending events, which also takes the acknowledged ones.
enum Source {
    Cursor(cursor::TableCursor),
    Lanes(Box<lanes::Lanes>),
}

/// The pending events that are in memory.
struct Queues {
    store: Store,
    counts: Arc<RelayCounts>,
    health: Health,
    /// Not yet acknowledged, in order, by stream.
    streams: HashMap<Arc<str>, StreamQueue>,
    /// Streams with an event to send and none in flight.
    ready: VecDeque<Arc<str>>,
    /// Streams whose first event the broker refuses, and the lowest of their ids.
    blocked: HashSet<Arc<str>>,
    blocked_from: i64,
    in_memory: usize,
}

/// The events of a stream that are not acknowledged, in order.
#[derive(Default)]
struct StreamQueue {
    events: VecDeque<Pending>,
    /// The first of them has been sent.
    in_flight: bool,
}

/// The result of a burst: each event's stream, its id, and whether the broker has it.
type Sent = Vec<(Arc<str>, i64, Result<(), Error>)>;

impl Relay {
    pub(crate) fn new(store: Store, broker: Broker, counts: Arc<RelayCounts>, health: Health) -> Self {
        let source = match store.pending() {
            PendingSet::Ordered(database) => Source::Cursor(cursor::TableCursor::new(database)),
            PendingSet::Shared(database) => {
                Source::Lanes(Box::new(lanes::Lanes::new(database, store.instance(), health.clone())))
            }
        };
        let queues = Queues {
            store,
            counts,
            health,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            blocked: HashSet::new(),
            blocked_from: i64::MAX,
            in_memory: 0,
        };
        let refused_at = queues.store.clock().now() + REFUSED_EVERY;
        Self { queues, source, broker, failures: 0, pause_until: None, refused_at }
    }

    /// Relays until `stop`, then waits for what is in flight.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Sent>> = FuturesUnordered::new();
        let store = self.queues.store.clone();
        while !stop.is_cancelled() {
            let now = store.clock().now();
            if now >= self.refused_at {
                self.refused_at = now + REFUSED_EVERY.mul_f64(0.75 + jitter() / 2.0);
                self.source.forget_blocked(&mut self.queues);
            }
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
                () = self.source.wait(&mut self.queues) => {}
                () = store.clock().pass(until(self.refused_at, now)), if !self.queues.blocked.is_empty() => {}
                () = store.refused_changed() => self.refused_at = now,
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
            let results = broker.send_burst(burst).await;
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
            self.queues.counts.acknowledged(&acknowledged, self.queues.store.clock().now());
            self.source.acknowledged(acknowledged);
        }
        match failure {
            None => {
                self.failures = 0;
                self.queues.health.goes_on(Loop::Send);
            }
            Some(e) => self.back_off(&e),
        }
    }

    fn back_off(&mut self, e: &Error) {
        self.queues.health.failed(Loop::Send, e);
        self.pause_until = Some(Instant::now() + backoff(self.failures));
        self.failures += 1;
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
    async fn wait(&mut self, queues: &mut Queues) {
        match self {
            Self::Cursor(cursor) => cursor.wait(queues).await,
            Self::Lanes(lanes) => lanes.wait(queues).await,
        }
    }

    /// Tells whether another burst may go while `under_way` are under way: at once when there is none, so that a lone
    /// event does not wait; else the next burst forms meanwhile.
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

    /// Has streams tried again that the broker refused.
    fn forget_blocked(&mut self, queues: &mut Queues) {
        if queues.blocked.is_empty() {
            return;
        }
        match self {
            Self::Cursor(cursor) => cursor.go_back(queues.blocked_from),
            Self::Lanes(lanes) => lanes.forget_blocked(queues),
        }
        queues.blocked.clear();
        queues.blocked_from = i64::MAX;
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
        if event.is_blocked_for_good() {
            self.blocked.insert(event.stream.clone());
        }
        if self.blocked.contains(&event.stream) {
            self.blocked_from = self.blocked_from.min(event.id);
            return false;
        }
        let stream = event.stream.clone();
        let queue = self.streams.entry(stream.clone()).or_default();
        if queue.events.back().is_some_and(|last| last.id >= event.id) {
            return false; // read once more, after its stream or another was tried again
        }
        self.in_memory += 1;
        queue.events.push_back(event);
        if queue.events.len() == 1 {
            self.ready.push_back(stream);
        }
        true
    }

    /// The queue of a stream, if this event is in flight at its front.
    fn in_flight(&mut self, stream: &Arc<str>, id: i64) -> Option<&mut StreamQueue> {
        self.streams.get_mut(stream).filter(|queue| queue.in_flight && queue.events[0].id == id)
    }

    /// Takes the first event of a stream out of memory; the next one becomes ready.
    fn acknowledge(&mut self, stream: &Arc<str>, id: i64) -> Option<Pending> {
        let queue = self.in_flight(stream, id)?;
        queue.in_flight = false;
        let event = queue.events.pop_front();
        let was_refused = event.as_ref().is_some_and(|event| event.blocked.is_some());
        if queue.events.is_empty() {
            self.streams.remove(stream);
        } else {
            self.ready.push_back(stream.clone());
        }
        self.in_memory -= 1;
        if was_refused {
            self.health.goes_on(Loop::Refused);
        }
        event
    }

    fn send_again(&mut self, stream: &Arc<str>, id: i64) {
        if let Some(queue) = self.in_flight(stream, id) {
            queue.in_flight = false;
            self.ready.push_back(stream.clone());
        }
    }

    /// Forgets a stream that waits for an operator, or that another process relays from now on.
    fn drop_stream(&mut self, stream: &Arc<str>) {
        if let Some(queue) = self.streams.remove(stream) {
            self.in_memory -= queue.events.len();
        }
    }

    /// The broker does not take this event: its stream waits, the rest goes on.
    async fn block(&mut self, stream: &Arc<str>, id: i64, e: &Error) {
        let Some(queue) = self.in_flight(stream, id) else { return };
        let is_known = queue.events[0].blocked.is_some();
        self.drop_stream(stream);
        self.blocked.insert(stream.clone());
        self.blocked_from = self.blocked_from.min(id);
        let error = format!("the broker refuses event {id} of {stream}, and what follows waits: {e}");
        self.health.waits(Loop::Refused, Reason::Event, &error);
        if is_known {
            return;
        }
        self.counts.blocked.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%stream, outbox_id = id, error = %e, "the broker refuses an event; its stream waits");
        if let Err(e) = outbox::block(&self.store, id, e).await {
            self.health.failed(Loop::Refused, &e);
        }
    }
}

async fn wait_until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}
