//! A broker, topics and running services of one test alone.

use std::time::Duration;

use tidings::broker::{Outgoing, Record};
use tidings::status::Status;
use tidings::{Broker, Error, Message, RetryPolicy, RunningService, Service, Topic};

use crate::fault::Tripwire;
use crate::servers::{FreshDatabase, FreshTopics};
use crate::{DEADLINE, Scratch, eventually};

/// Partitions of topics on a stage: more than one, so that keys spread.
pub const PARTITIONS: u32 = 3;

/// Longer than any test, so that what waits for it does so until the clock is put forward; but short of
/// what a store forgets after.
pub const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// A policy of `attempts_max` attempts: the next one never comes by itself, only by [`advance_clock_until`].
#[must_use]
pub fn manual_retries(attempts_max: u32) -> RetryPolicy {
    RetryPolicy::attempts(attempts_max).delays(LONG, LONG)
}

/// The broker and the stores that the services of a test run on.
///
/// ```
/// use tidings::Service;
/// use tidings_testkit::stage::{Stage, idle, stop};
///
/// # #[tokio::main] async fn main() {
/// let stage = Stage::new(); // or on_postgres_and_kafka()
/// let running = stage.start(|| Service::new("shipping")).await;
/// idle(&running).await;
/// stop(running).await;
/// # }
/// ```
pub struct Stage {
    broker: Broker,
    scratch: Scratch,
    database: Option<FreshDatabase>,
}

impl Stage {
    /// An empty one: stores and broker share a directory, as in one process.
    #[must_use]
    pub fn new() -> Self {
        Self::on(Scratch::new())
    }

    /// On what is in a directory.
    ///
    /// # Panics
    /// When the broker there cannot be opened.
    #[must_use]
    pub fn on(scratch: Scratch) -> Self {
        Self { broker: open(&scratch.url()), scratch, database: None }
    }

    /// Stores in PostgreSQL; the broker is the embedded log, which [`fault`](crate::fault) can make fail.
    ///
    /// # Panics
    /// When there is no PostgreSQL.
    #[must_use]
    pub fn on_postgres() -> Self {
        Self { database: Some(FreshDatabase::new()), ..Self::new() }
    }

    /// Stores in PostgreSQL, and the broker at a URL.
    ///
    /// # Panics
    /// When there is no PostgreSQL, or the broker cannot be opened.
    #[must_use]
    pub fn on_postgres_and(broker_url: &str) -> Self {
        Self { broker: open(broker_url), scratch: Scratch::new(), database: Some(FreshDatabase::new()) }
    }

    /// Stores in PostgreSQL, and Kafka as the broker.
    ///
    /// # Panics
    /// When there is no PostgreSQL or no Kafka, or `tidings` was built without it.
    #[must_use]
    pub fn on_postgres_and_kafka() -> Self {
        Self::on_postgres_and(&FreshTopics::new().url())
    }

    /// The directory of what is embedded.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The URL of the stores.
    #[must_use]
    pub fn store_url(&self) -> String {
        self.database.as_ref().map_or_else(|| self.scratch.url(), FreshDatabase::url)
    }

    /// Makes every insert into a table of a service fail for as long as what is returned lives.
    #[must_use]
    pub fn refusing(&self, service: &str, table: &str) -> Tripwire {
        match &self.database {
            None => Tripwire::lay(&self.scratch.path().join(format!("{service}.db")), table, "1"),
            Some(database) => Tripwire::lay_in_postgres(&database.url(), service, table),
        }
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Makes topics, each with [`PARTITIONS`] partitions.
    ///
    /// # Panics
    /// When that is not possible.
    pub async fn topics(&self, names: impl IntoIterator<Item = impl Into<String>>) {
        for name in names {
            let name = name.into();
            let known = self
                .broker
                .topics()
                .await
                .expect("topics can be listed")
                .iter()
                .any(|topic| topic.name == name);
            if !known {
                let topic = Topic { name: name.into(), partitions: PARTITIONS };
                self.broker.apply_topics(&[topic]).await.expect("a topic can be made");
            }
        }
    }

    /// Makes the service's topics and starts it. If it ran before, waits until its files are free.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&self, service: impl Fn() -> Service) -> RunningService {
        self.topics(service().topic_names()).await;
        let mut started: Option<Result<RunningService, Error>> = None;
        eventually("the service starts", async || {
            let attempt = service().start(&self.store_url(), &self.broker).await;
            let in_use = attempt.as_ref().is_err_and(|e| e.to_string().contains("in use"));
            started = Some(attempt);
            !in_use
        })
        .await;
        started.expect("it was tried").expect("the service starts")
    }

    /// Sends messages, in order.
    ///
    /// # Panics
    /// When the broker does not take one.
    pub async fn send(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        let burst = messages.into_iter().map(|message| Outgoing::new(topic.to_owned(), message));
        for sent in self.broker.send(burst.collect()).await {
            sent.expect("the broker takes the message");
        }
    }

    /// Everything in a topic, partition by partition.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn read(&self, topic: &str) -> Vec<Record> {
        let topics = self.broker.topics().await.expect("topics can be listed");
        let found = topics.iter().find(|t| t.name == topic).expect("the topic exists");
        let mut records = Vec::new();
        for partition in 0..found.partitions.cast_signed() {
            let mut offset = 0;
            loop {
                let read = self.broker.read(topic, partition, offset, 1000).await;
                let read = read.expect("the topic can be read");
                let Some(last) = read.last() else { break };
                offset = last.offset + 1;
                records.extend(read);
            }
        }
        records
    }
}

fn open(url: &str) -> Broker {
    Broker::open(url).expect("the broker opens")
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until nothing is left to do.
///
/// # Panics
/// When that takes too long.
pub async fn idle(running: &RunningService) {
    eventually("the service is idle", async || is_idle(running).await).await;
}

/// Puts the clock forward whenever nothing is left to do, so that every retry and timer comes due, until
/// the condition holds. While something is under way the clock stands still.
///
/// # Panics
/// When that takes too long.
pub async fn advance_clock_until(
    running: &RunningService,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let clock = running.store().clock();
    eventually(what, async || {
        if !is_idle(running).await {
            // A task that began to wait just when the clock moved looks at it again.
            clock.advance(Duration::ZERO);
            return false;
        }
        if condition().await {
            return true;
        }
        clock.advance(LONG);
        false
    })
    .await;
}

/// Lets time pass until no event waits any more, and until those that did are counted.
///
/// # Panics
/// When that takes too long.
pub async fn drain_parked(running: &RunningService) {
    advance_clock_until(running, "no event waits", async || {
        let Status { consumer, parked, .. } = status(running).await;
        parked.is_some_and(|parked| parked.waiting == 0)
            && consumer.parked <= consumer.recovered + consumer.given_up
    })
    .await;
}

async fn is_idle(running: &RunningService) -> bool {
    running.is_idle().await.expect("the store and the broker can be used")
}

/// A number of [`RunningService::status`]: `number(&running, |s| s.consumer.handled)`.
///
/// # Panics
/// When the store cannot be used.
pub async fn number(running: &RunningService, read: impl FnOnce(Status) -> u64) -> u64 {
    read(status(running).await)
}

/// Everything delivered by what became of it, in one line: only what is not zero.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::{event::{NOTES, NoteTaken}, stage::{Stage, idle, tally}, wire::Binary};
/// # async fn count(_: &Envelope<NoteTaken>, _: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
/// # #[tokio::main] async fn main() {
/// let stage = Stage::new();
/// let running = stage.start(|| Service::new("pages").on(count)).await;
/// stage.send(NOTES, [Binary::note("k", 1).message(), Binary::note("k", 1).message()]).await;
/// idle(&running).await;
/// assert_eq!(tally(&running).await, "delivered 2 handled 1 duplicate 1 | waiting 0 dead 0");
/// # }
/// ```
///
/// # Panics
/// When delivered ≠ handled + duplicate + ignored + parked + dead.
pub async fn tally(running: &RunningService) -> String {
    let Status { consumer, parked, .. } = status(running).await;
    let ways = [
        ("handled", consumer.handled),
        ("duplicate", consumer.duplicate),
        ("ignored", consumer.ignored),
        ("parked", consumer.parked),
        ("dead", consumer.dead),
    ];
    let sum: u64 = ways.iter().map(|(_, count)| count).sum();
    assert_eq!(consumer.delivered, sum, "something delivered has vanished: {consumer:?}");
    let later = [("recovered", consumer.recovered), ("given_up", consumer.given_up)];
    let all = [("delivered", consumer.delivered)].into_iter().chain(ways).chain(later);
    let some: Vec<String> =
        all.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    let parked = parked.expect("the store can be used");
    format!("{} | waiting {} dead {}", some.join(" "), parked.waiting, parked.dead)
}

async fn status(running: &RunningService) -> Status {
    running.status().await.expect("the store and the broker can be used")
}

/// Stops a service for good.
///
/// # Panics
/// When it cannot write down where it is, or takes too long.
pub async fn stop(running: impl std::borrow::Borrow<RunningService>) {
    let stopped = tokio::time::timeout(DEADLINE, running.borrow().stop()).await;
    stopped.expect("the service stops in time").expect("the service stops");
}
