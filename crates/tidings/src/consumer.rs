//! From the broker to the handlers: `decode → validate → inbox → handle → flush → commit → resolve`.
//!
//! Whatever is waiting is handled in one transaction. If that fails, it is rolled back and the same
//! events are handled one by one, each behind a savepoint, so that the culprit alone is parked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Consumer, Record};
use crate::envelope::{Delivery, Metadata};
use crate::error::{Error, HandlerError};
use crate::handler::{AnyHandler, Broken, EventList, caught};
use crate::message::{self, Message};
use crate::pace::Pace;
use crate::retry::{RetryPolicy, Verdict, dice};
use crate::store::inbox::{self, Arrival, Stretch};
use crate::store::parked::{self, Failure, Parked};
use crate::store::{Store, Tx};

/// Events in one transaction: several times what one commit of the intake lets in, so that a backlog
/// shrinks.
const BATCH_MAX: usize = 1024;
/// Events that are worth a transaction of their own at once.
const BATCH_FULL: usize = 256;
/// Parked events taken up at once.
const RETRY_BATCH_MAX: u32 = 64;
/// A handler that has not ended by then has failed.
const HANDLER_MAX: Duration = Duration::from_secs(30);
/// Pauses while the database or a dependency is away, the last one repeated.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// Parked events per consumer; beyond it nothing more is read: lag is the signal, not a full disk.
const PARKED_MAX: u64 = 100_000;

/// What a service listens to, as one consumer group.
#[derive(Default)]
pub(crate) struct Subscription {
    pub(crate) group: Arc<str>,
    pub(crate) topics: Vec<String>,
    /// Topics of which only events of other programs count.
    pub(crate) foreign_only: HashSet<String>,
    pub(crate) handlers: Vec<Arc<dyn AnyHandler>>,
    /// Event types and their aliases, to places in `handlers`.
    pub(crate) types: HashMap<&'static str, usize>,
    /// Older event types that are read as newer ones, to places in `handlers`.
    pub(crate) former: HashMap<&'static str, usize>,
    pub(crate) retry: RetryPolicy,
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

/// Delivered events, decoded, and grouped for their handlers.
struct Batch {
    items: Vec<Item>,
    lists: Vec<Grouped>,
}

struct Item {
    record: Record,
    metadata: Option<Arc<Metadata>>,
    task: Task,
}

/// What is to be done with a delivered event if it is its turn.
enum Task {
    /// Our own event on a topic that is read for others' events.
    Skip,
    /// Of a type that nobody here handles.
    Ignore,
    Handle {
        list: usize,
        place: usize,
    },
    Bury(Broken),
}

/// Events of one type and of different keys: what one call of a handler gets.
struct Grouped {
    handler: usize,
    wave: usize,
    events: Box<dyn EventList>,
    items: Vec<usize>,
}

/// Reads a subscription's topics and sees every event through.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) counts: Arc<Counts>,
}

impl Engine {
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let topics = &self.subscription.topics;
        let mut consumer = loop {
            match self.broker.subscribe(&self.subscription.group, topics).await {
                Err(e) if e.is_unavailable() && !stop.is_cancelled() => {
                    tracing::warn!(error = %e, "the broker cannot be read; trying again");
                    pause(2, &stop).await;
                }
                Err(_) if stop.is_cancelled() => return Ok(()),
                subscribed => break subscribed?,
            }
        };
        let clock = self.store.clock().clone();
        let mut next_due = self.next_due().await;
        let mut pace = Pace::of(&self.store);
        while !stop.is_cancelled() {
            if pace.is_pausing() {
                tokio::select! {
                    () = pace.pause() => {}
                    () = consumer.filled(BATCH_FULL) => {}
                    () = stop.cancelled() => {}
                }
            }
            let wait = next_due.map(|due| until(due, clock.now()));
            tokio::select! {
                polled = consumer.poll(BATCH_MAX) => match polled {
                    Ok(records) => {
                        let began = Instant::now();
                        if self.handle(records, &mut consumer, &stop).await {
                            next_due = self.next_due().await;
                        }
                        pace.ended(began);
                    }
                    Err(e) if e.is_config() => return Err(e),
                    Err(e) => {
                        tracing::warn!(error = %e, "the broker cannot be read; trying again");
                        pause(2, &stop).await;
                    }
                },
                () = clock.pass(wait.unwrap_or_default()), if wait.is_some() => {
                    if let Err(e) = self.retry_due().await {
                        tracing::warn!(error = %e, "parked events wait longer");
                        pause(1, &stop).await;
                    }
                    next_due = self.next_due().await;
                }
                () = stop.cancelled() => {}
            }
        }
        consumer.leave().await;
        Ok(())
    }

    /// Sees a delivery through, however long the database or a dependency stays away. Says whether
    /// anything was parked or what was parked has become due.
    async fn handle(&self, records: Vec<Record>, consumer: &mut Consumer, stop: &CancellationToken) -> bool {
        let batch = self.decode(records, 1);
        let awaited = self.counts.awaited.load(Ordering::Relaxed);
        let mut failures = 0;
        while !stop.is_cancelled() {
            match self.attempt(&batch).await {
                Ok(resolutions) => {
                    self.count(&batch, &resolutions);
                    let records: Vec<Record> = batch.items.into_iter().map(|i| i.record).collect();
                    consumer.commit(&records);
                    let parked = resolutions.contains(&Resolution::Parked);
                    if parked {
                        self.wait_for_room(stop).await;
                    }
                    return parked || awaited != self.counts.awaited.load(Ordering::Relaxed);
                }
                Err(e) => {
                    if failures == 0 {
                        tracing::warn!(consumer = &*self.subscription.group, error = %e, "paused: {e}; nothing is charged or lost");
                    }
                    pause(failures, stop).await;
                    failures += 1;
                }
            }
        }
        false
    }

    /// All in one transaction; if a handler fails, one by one in another. An error means that nothing
    /// was done and that it is nobody's fault.
    async fn attempt(&self, batch: &Batch) -> Result<Vec<Resolution>, HandlerError> {
        let clean = batch.items.iter().all(|i| !matches!(i.task, Task::Bury(_)));
        if clean {
            match self.together(batch).await {
                Err(HandlerError::Transient(_) | HandlerError::Fatal { .. }) => {}
                decided => return decided,
            }
        }
        self.one_by_one(batch).await
    }

    async fn together(&self, batch: &Batch) -> Result<Vec<Resolution>, HandlerError> {
        let mut tx = self.store.begin().await?;
        let resolutions = self.arrive_together(&mut tx, batch).await?;
        for group in &batch.lists {
            for range in runs(&group.items, &resolutions) {
                self.call(&*group.events, range, &mut tx).await?;
            }
        }
        tx.commit().await?;
        Ok(resolutions)
    }

    async fn one_by_one(&self, batch: &Batch) -> Result<Vec<Resolution>, HandlerError> {
        let mut tx = self.store.begin().await?;
        let mut resolutions = Vec::with_capacity(batch.items.len());
        for item in &batch.items {
            let savepoint = tx.savepoint().await?;
            let tried = self.one(&mut tx, batch, item).await;
            if let Some(trouble) = tx.trouble() {
                return Err(trouble.clone().into());
            }
            match tried {
                Ok(resolution) => {
                    tx.release(savepoint).await?;
                    resolutions.push(resolution);
                }
                Err(HandlerError::Dependency(what)) => return Err(HandlerError::Dependency(what)),
                Err(e) => {
                    tx.roll_back(savepoint).await?;
                    resolutions.push(self.fail(&mut tx, item, &e).await?);
                }
            }
        }
        tx.commit().await?;
        Ok(resolutions)
    }

    async fn one(&self, tx: &mut Tx, batch: &Batch, item: &Item) -> Result<Resolution, HandlerError> {
        let resolution = self.arrive(tx, item).await?;
        if resolution == Resolution::Handled {
            self.call_one(tx, batch, item).await?;
        }
        tx.flush().await?;
        Ok(resolution)
    }

    /// What is to become of each event. Streams in which all is as it should be take one statement.
    async fn arrive_together(&self, tx: &mut Tx, batch: &Batch) -> Result<Vec<Resolution>, HandlerError> {
        let mut stretches: Vec<Stretch<'_>> = Vec::with_capacity(batch.items.len());
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(batch.items.len());
        // What does not follow its predecessor in the batch has to be looked at.
        let mut torn: HashSet<usize> = HashSet::new();
        for metadata in batch.items.iter().filter_map(|item| item.metadata.as_deref()) {
            let Some(seq) = metadata.seq else { continue };
            let place = *places.entry(&metadata.stream).or_insert(stretches.len());
            match stretches.get_mut(place) {
                None => stretches.push(Stretch { stream: &metadata.stream, first: seq, last: seq }),
                Some(stretch) if stretch.last + 1 == seq => stretch.last = seq,
                Some(_) => drop(torn.insert(place)),
            }
        }
        let moved = inbox::advance(tx, &self.subscription.group, &stretches, &torn).await?;
        let mut resolutions = Vec::with_capacity(batch.items.len());
        for item in &batch.items {
            let place = item.metadata.as_ref().and_then(|m| m.seq.and(places.get(&*m.stream)));
            let resolution = match (place, &item.task) {
                (Some(&place), Task::Ignore) if moved[place] => Resolution::Ignored,
                (Some(&place), _) if moved[place] => Resolution::Handled,
                _ => self.arrive(tx, item).await?,
            };
            resolutions.push(resolution);
        }
        Ok(resolutions)
    }

    /// What is to become of an event whose turn it is (`Handled`, `Ignored`) or is not.
    async fn arrive(&self, tx: &mut Tx, item: &Item) -> Result<Resolution, HandlerError> {
        let group = &self.subscription.group;
        let Some(metadata) = &item.metadata else {
            return Ok(match item.task {
                Task::Skip => Resolution::Ignored,
                _ => Resolution::Handled,
            });
        };
        if matches!(item.task, Task::Ignore) && metadata.seq.is_none() {
            return Ok(Resolution::Ignored);
        }
        let arrival = inbox::arrive(tx, group, metadata).await?;
        match arrival {
            Arrival::Fresh | Arrival::Awaited => {
                if arrival == Arrival::Awaited {
                    self.counts.awaited.fetch_add(1, Ordering::Relaxed);
                    parked::release_next(tx, group, &metadata.stream).await?;
                }
                Ok(match item.task {
                    Task::Ignore => Resolution::Ignored,
                    _ => Resolution::Handled,
                })
            }
            Arrival::Duplicate => Ok(Resolution::Duplicate),
            Arrival::Behind => {
                self.park(tx, item, metadata, "behind", "an earlier event of its key is parked").await
            }
            Arrival::Gap { expected } => {
                self.counts.gaps.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    consumer = &**group,
                    stream = metadata.stream,
                    seq = metadata.seq,
                    expected,
                    "events are missing: the stream waits for them"
                );
                let message = format!("event {expected} of its stream has not arrived");
                self.park(tx, item, metadata, "gap", &message).await
            }
        }
    }

    async fn park(
        &self,
        tx: &mut Tx,
        item: &Item,
        metadata: &Metadata,
        code: &str,
        message: &str,
    ) -> Result<Resolution, HandlerError> {
        let failure = Failure { code, message, attempts: 0, due: None };
        parked::park(tx, &self.subscription.group, &item.record, metadata, &failure).await?;
        Ok(Resolution::Parked)
    }

    /// An event failed for the first time: park it, or give it up.
    async fn fail(&self, tx: &mut Tx, item: &Item, e: &HandlerError) -> Result<Resolution, Error> {
        let group = &self.subscription.group;
        let message = e.to_string();
        let (code, due) = match self.subscription.retry.decide(1, e, dice()) {
            Verdict::Retry(delay) => ("transient".to_owned(), Some(tx.now() + delay)),
            Verdict::Dead(code) => (code, None),
        };
        if let Some(metadata) = &item.metadata
            && metadata.seq.is_none()
        {
            // Seen, from now on: parked is not forgotten.
            inbox::arrive(tx, group, metadata).await?;
        }
        let failure = Failure { code: &code, message: &message, attempts: 1, due };
        let resolution = match &item.metadata {
            Some(metadata) if due.is_some() => {
                parked::park(tx, group, &item.record, metadata, &failure).await?;
                Resolution::Parked
            }
            metadata => {
                let is_new = parked::bury(tx, group, &item.record, metadata.as_deref(), &failure).await?;
                if is_new { Resolution::Dead } else { Resolution::Duplicate }
            }
        };
        let record = &item.record;
        tracing::warn!(
            consumer = &**group, topic = &*record.topic, partition = record.partition, offset = record.offset,
            key = %record.message.key_text(), event.id = item.metadata.as_ref().map(|m| &*m.id),
            attempt = 1, resolution = ?resolution, error = message, "an event failed"
        );
        Ok(resolution)
    }

    /// Does what is to be done with an event whose turn it is.
    async fn call_one(&self, tx: &mut Tx, batch: &Batch, item: &Item) -> Result<(), HandlerError> {
        match &item.task {
            Task::Handle { list, place } => {
                self.call(&*batch.lists[*list].events, *place..*place + 1, tx).await
            }
            Task::Bury(broken) => Err(HandlerError::fatal(broken.code, &broken.message)),
            Task::Skip | Task::Ignore => Ok(()),
        }
    }

    async fn call(
        &self,
        events: &dyn EventList,
        range: std::ops::Range<usize>,
        tx: &mut Tx,
    ) -> Result<(), HandlerError> {
        let handling = caught(events.handle(range, tx));
        let handled = tokio::time::timeout(HANDLER_MAX, handling).await;
        handled.unwrap_or_else(|_| {
            Err(HandlerError::Transient(format!("the handler did not end within {HANDLER_MAX:?}")))
        })
    }

    /// Gives every parked event whose turn has come another try, each in a transaction of its own.
    async fn retry_due(&self) -> Result<(), HandlerError> {
        let group = &self.subscription.group;
        for parked in parked::due(&self.store, group, RETRY_BATCH_MAX).await? {
            self.retry(&parked).await?;
        }
        Ok(())
    }

    async fn retry(&self, parked: &Parked) -> Result<(), HandlerError> {
        let attempts = parked.attempts + 1;
        let batch = self.decode(vec![parked.record.clone()], attempts);
        let item = &batch.items[0];
        let mut tx = self.store.begin().await?;
        if !parked::claim(&mut tx, &self.subscription.group, parked).await? {
            return Ok(());
        }
        let savepoint = tx.savepoint().await?;
        let tried = self.again(&mut tx, &batch, parked).await;
        if let Some(trouble) = tx.trouble() {
            return Err(trouble.clone().into());
        }
        let recovered = tried.is_ok();
        let outcome = match tried {
            Ok(()) => {
                tx.release(savepoint).await?;
                &self.counts.recovered
            }
            Err(HandlerError::Dependency(what)) => return Err(HandlerError::Dependency(what)),
            Err(e) => {
                tx.roll_back(savepoint).await?;
                self.fail_again(&mut tx, parked, attempts, &e).await?
            }
        };
        tx.commit().await?;
        outcome.fetch_add(1, Ordering::Relaxed);
        if recovered {
            item.log("handled");
        }
        Ok(())
    }

    async fn again(&self, tx: &mut Tx, batch: &Batch, parked: &Parked) -> Result<(), HandlerError> {
        let group = &self.subscription.group;
        if let (Some(stream), Some(seq)) = (&parked.stream, parked.seq)
            && !inbox::move_to(tx, group, stream, seq).await?
        {
            let behind = format!("it is not the turn of event {seq} of {stream}");
            return Err(HandlerError::Transient(behind));
        }
        self.call_one(tx, batch, &batch.items[0]).await?;
        tx.flush().await?;
        parked::resolve(tx, group, parked).await?;
        Ok(())
    }

    async fn fail_again(
        &self,
        tx: &mut Tx,
        parked: &Parked,
        attempts: u32,
        e: &HandlerError,
    ) -> Result<&AtomicU64, Error> {
        let group = &self.subscription.group;
        let message = e.to_string();
        let verdict = self.subscription.retry.decide(attempts, e, dice());
        tracing::warn!(
            consumer = &**group, stream = parked.stream, seq = parked.seq, attempt = attempts,
            error = message, verdict = ?verdict, "a parked event failed again"
        );
        let failure = |code, due| Failure { code, message: &message, attempts, due };
        match verdict {
            Verdict::Retry(delay) => {
                let due = Some(tx.now() + delay);
                parked::postpone(tx, parked, &failure("transient", due)).await?;
                Ok(&self.counts.failed_again)
            }
            Verdict::Dead(code) => {
                parked::give_up(tx, group, parked, &failure(&code, None)).await?;
                Ok(&self.counts.given_up)
            }
        }
    }

    fn decode(&self, mut records: Vec<Record>, attempt: u32) -> Batch {
        // Everybody who handles batches locks what belongs to keys in the same order.
        records.sort_by(|a, b| a.message.key.cmp(&b.message.key));
        let mut batch = Batch { items: Vec::with_capacity(records.len()), lists: Vec::new() };
        let mut seen: HashMap<String, usize> = HashMap::with_capacity(records.len());
        for record in records {
            let (metadata, task) = self.decode_one(&record, attempt, &mut batch, &mut seen);
            batch.items.push(Item { record, metadata, task });
        }
        // Earlier events of a key before later ones; otherwise a whole type at a time.
        let mut order: Vec<usize> = (0..batch.lists.len()).collect();
        order.sort_by_key(|&i| batch.lists[i].wave);
        if !order.is_sorted() {
            sort_lists(&mut batch, &order);
        }
        batch
    }

    fn decode_one(
        &self,
        record: &Record,
        attempt: u32,
        batch: &mut Batch,
        seen: &mut HashMap<String, usize>,
    ) -> (Option<Arc<Metadata>>, Task) {
        let message = &record.message;
        if self.subscription.foreign_only.contains(&*record.topic) && is_own(record) {
            return (None, Task::Skip);
        }
        let incoming = match message::read(&record.topic, message) {
            Ok(incoming) => incoming,
            Err(message) => {
                let code = "envelope_undecodable";
                return (None, Task::Bury(Broken { code, message }));
            }
        };
        let mut metadata = incoming.metadata;
        metadata.delivery = Delivery {
            consumer: self.subscription.group.clone(),
            topic: record.topic.clone(),
            partition: record.partition,
            offset: record.offset,
            attempt,
            ..Delivery::default()
        };
        let Some(handler) = self.subscription.handler_of(&incoming.event_type, message) else {
            return (Some(metadata.into()), Task::Ignore);
        };
        let delivery = &mut metadata.delivery;
        (delivery.event_type, delivery.key_name) = self.subscription.handlers[handler].names();
        let mut metadata = Arc::new(metadata);
        let wave = match metadata.key.is_empty() {
            // Its key stands in its payload and may be anybody's: it goes after everything so far.
            true => batch.lists.iter().map(|list| list.wave + 1).max().unwrap_or(0),
            false => seen.get(&metadata.key).copied().unwrap_or(0),
        };
        let list = batch.list(handler, wave, &self.subscription.handlers);
        let group = &mut batch.lists[list];
        match group.events.push(&mut metadata, &incoming.event_type, incoming.payload.bytes()) {
            Ok(()) => {
                seen.insert(metadata.key.clone(), wave + 1);
                group.items.push(batch.items.len());
                let place = group.events.len() - 1;
                (Some(metadata), Task::Handle { list, place })
            }
            Err(broken) => (Some(metadata), Task::Bury(broken)),
        }
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

    async fn wait_for_room(&self, stop: &CancellationToken) {
        let mut told = false;
        while !stop.is_cancelled() {
            match parked::counts(&self.store, &self.subscription.group).await {
                Ok((waiting, _)) if waiting >= PARKED_MAX => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(
                            consumer = &*self.subscription.group,
                            waiting,
                            "too many events are parked; reading stops until there are fewer"
                        );
                    }
                    if self.retry_due().await.is_err() {
                        pause(1, stop).await;
                    }
                    pause(1, stop).await;
                }
                _ => return,
            }
        }
    }
}

impl Subscription {
    /// Who handles an event of this type. An older type is read as the newer one, unless its fact is stated
    /// as that one too.
    fn handler_of(&self, event_type: &str, message: &Message) -> Option<usize> {
        if let Some(&handler) = self.types.get(event_type) {
            return Some(handler);
        }
        let handler = *self.former.get(event_type)?;
        let newer = message.header(message::SUPERSEDED_BY);
        let reads = |newer| self.types.get(newer).or_else(|| self.former.get(newer));
        let is_stated_anew = newer.is_some_and(|newer| reads(newer) == Some(&handler));
        (!is_stated_anew).then_some(handler)
    }
}

impl Item {
    fn log(&self, resolution: &'static str) {
        if let Some(metadata) = &self.metadata {
            metadata.log(resolution);
        }
    }
}

impl Batch {
    fn list(&mut self, handler: usize, wave: usize, handlers: &[Arc<dyn AnyHandler>]) -> usize {
        let found = self.lists.iter().position(|l| l.handler == handler && l.wave == wave);
        found.unwrap_or_else(|| {
            self.lists.push(Grouped { handler, wave, events: handlers[handler].list(), items: Vec::new() });
            self.lists.len() - 1
        })
    }
}

fn sort_lists(batch: &mut Batch, order: &[usize]) {
    let mut lists: Vec<Option<Grouped>> = std::mem::take(&mut batch.lists).into_iter().map(Some).collect();
    batch.lists = order.iter().filter_map(|&i| lists[i].take()).collect();
    for item in &mut batch.items {
        if let Task::Handle { list, .. } = &mut item.task {
            *list = order.iter().position(|i| i == list).expect("an order names every list");
        }
    }
}

/// Stretches of a list whose events are to be handled: duplicates and parked ones are left out.
fn runs(items: &[usize], resolutions: &[Resolution]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (place, &item) in items.iter().enumerate() {
        if resolutions[item] != Resolution::Handled {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

/// Stated by the service whose topic this is, with its number.
fn is_own(record: &Record) -> bool {
    let source = record.message.header("ce_source").unwrap_or_default();
    source.strip_prefix('/') == Some(&record.topic) && record.message.header("ce_streamseq").is_some()
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}

async fn pause(failures: usize, stop: &CancellationToken) {
    let pause = PAUSES[failures.min(PAUSES.len() - 1)];
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stop.cancelled() => {}
    }
}
