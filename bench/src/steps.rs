//! The steps of the pipeline, each against the raw client doing the same.

use std::future::Future;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contracts::OrderCreated;
use garde::Validate as _;
use tempfile::TempDir;
use tidings::axum::body::{Body, to_bytes};
use tidings::axum::http::Request;
use tidings::broker::Outgoing;
use tidings::{
    BatchHandler, Broker, Envelope, Event as _, Handler, HandlerError, HandlerOptions, Headers, Message,
    OnDead, Service, Store, Topic, Tx, params,
};
use tower::ServiceExt as _;

use crate::events::{Happened, order_created};
use crate::raw;

/// Events in one transaction or burst, on both sides.
pub(crate) const BATCH: usize = 500;
/// Keys that the events of a round are spread over.
pub(crate) const KEYS: usize = 20_000;
pub(crate) const PARTITIONS: u32 = 6;

type Timed<'a> = Pin<Box<dyn Future<Output = Duration> + 'a>>;

/// One comparison: how long each side takes for a number of events.
pub struct Step {
    /// The name of the measured step.
    pub name: &'static str,
    tidings: fn(usize) -> Timed<'static>,
    raw: fn(usize) -> Duration,
    /// Slow steps take a fraction of the events.
    fraction: usize,
}

/// All comparisons, in the order of the pipeline.
pub fn all() -> Vec<Step> {
    vec![
        Step {
            name: "decode and validate 512 bytes",
            tidings: |n| Box::pin(async move { decode(n, true) }),
            raw: |n| decode(n, false),
            fraction: 1,
        },
        Step {
            name: "enqueue, 500 a transaction",
            tidings: |n| Box::pin(enqueue(n, BATCH)),
            raw: |n| raw_enqueue(n, BATCH),
            fraction: 1,
        },
        Step {
            name: "enqueue, 1 a transaction",
            tidings: |n| Box::pin(enqueue(n, 1)),
            raw: |n| raw_enqueue(n, 1),
            fraction: 25,
        },
        Step {
            name: "relay a backlog",
            tidings: |n| Box::pin(relay(n)),
            raw: |n| raw_enqueue(n, BATCH),
            fraction: 1,
        },
        Step {
            name: "log append, bursts of 500",
            tidings: |n| Box::pin(append(n)),
            raw: |n| raw_enqueue(n, BATCH),
            fraction: 1,
        },
        Step {
            name: "log read and decode",
            tidings: |n| Box::pin(read(n)),
            raw: |n| raw_read(n, false),
            fraction: 1,
        },
        Step {
            name: "consume, deduplicated, 1 write",
            tidings: |n| Box::pin(consume(n, false)),
            raw: |n| raw_read(n, true),
            fraction: 1,
        },
        Step {
            name: "… in batches",
            tidings: |n| Box::pin(consume(n, true)),
            raw: |n| raw_read(n, true),
            fraction: 1,
        },
        Step {
            name: "redrive of dead letters",
            tidings: |n| Box::pin(redrive_embedded(n)),
            raw: |n| raw_read(n, true),
            fraction: 1,
        },
    ]
}

impl Step {
    /// Runs our side once.
    pub async fn once(&self, events: usize) {
        (self.tidings)(events).await;
    }

    /// Runs both sides in turn and prints the medians.
    pub async fn compare(&self, rounds: usize, events: usize) {
        let events = (events / self.fraction).max(1);
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let tidings = per_second(events, (self.tidings)(events).await);
            let raw = per_second(events, (self.raw)(events));
            ours.push(tidings);
            theirs.push(raw);
            ratios.push(tidings / raw);
        }
        let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios));
        println!("{:<34} {ours:>12.0} {theirs:>12.0} {ratio:>7.2}  events/s", self.name);
    }
}

pub(crate) fn per_second(events: usize, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A fresh directory beside the program, not in /tmp, which may be memory: durable means a disk.
pub fn directory() -> TempDir {
    let program = std::env::current_exe().expect("a running program has a path");
    let beside = program.parent().expect("a program lies in a directory");
    TempDir::new_in(beside).expect("the build directory can be written")
}

fn url(directory: &Path) -> String {
    format!("sqlite:{}", directory.display())
}

pub(crate) fn numbered(numbers: Range<usize>) -> Vec<Happened> {
    numbers.map(|n| Happened::number(n, KEYS)).collect()
}

/// An order's event read as handlers get it, or by the JSON parser alone.
fn decode(events: usize, is_validated: bool) -> Duration {
    let json = order_created();
    let began = Instant::now();
    for _ in 0..events {
        let event = match is_validated {
            true => OrderCreated::read(OrderCreated::TYPE, black_box(&json)),
            false => serde_json::from_slice(black_box(&json)),
        };
        let event = event.expect("it was made for this");
        if is_validated {
            event.validate().expect("it keeps to its rules");
        }
        black_box(event);
    }
    began.elapsed()
}

/// Publishes events, a fixed number in each transaction.
pub async fn enqueue(events: usize, batch: usize) -> Duration {
    let directory = directory();
    let store = Store::open(&url(directory.path()), "bench", &[]).await.expect("a fresh store opens");
    let events = numbered(0..events);
    let start = Instant::now();
    publish(&store, &events, batch).await;
    start.elapsed()
}

pub(crate) async fn publish(store: &Store, events: &[Happened], batch: usize) {
    for chunk in events.chunks(batch) {
        let chunk = chunk.to_vec();
        store
            .transaction(async move |tx: &mut Tx| {
                for event in chunk {
                    tx.publish(event).await?;
                }
                Ok(())
            })
            .await
            .expect("events can be published");
    }
}

fn raw_enqueue(events: usize, batch: usize) -> Duration {
    let directory = directory();
    let connection = raw::open(directory.path());
    let events = numbered(0..events);
    let start = Instant::now();
    raw::write(&connection, &events, batch);
    start.elapsed()
}

/// From a full outbox to an empty one, everything on the topic.
async fn relay(events: usize) -> Duration {
    let directory = directory();
    let url = url(directory.path());
    {
        let store = Store::open(&url, "bench", &[]).await.expect("a fresh store opens");
        publish(&store, &numbered(0..events), BATCH).await;
    }
    let broker = topic(&url).await;
    let start = Instant::now();
    let service = started(Service::new("bench").topic("bench"), &url, &broker).await;
    idle(&service).await;
    let took = start.elapsed();
    service.stop().await.expect("a service stops");
    took
}

/// Appends events to the log.
pub async fn append(events: usize) -> Duration {
    let directory = directory();
    let broker = topic(&url(directory.path())).await;
    let bursts = bursts(0..events);
    let start = Instant::now();
    for burst in bursts {
        for sent in broker.send(burst).await {
            sent.expect("a message is taken");
        }
    }
    start.elapsed()
}

async fn read(events: usize) -> Duration {
    let directory = directory();
    let broker = filled(&url(directory.path()), events).await;
    let mut consumer = broker.subscribe("bench", &["bench".to_owned()]).await.expect("the topic exists");
    let start = Instant::now();
    let mut count = 0;
    while count < events {
        let records = consumer.poll(BATCH).await.expect("the log can be read");
        for record in &records {
            let event: Happened = serde_json::from_slice(&record.message.value).expect("it is an event");
            std::hint::black_box(event);
        }
        count += records.len();
        consumer.commit(&records);
    }
    start.elapsed()
}

fn raw_read(events: usize, apply: bool) -> Duration {
    let directory = directory();
    let connection = raw::open(directory.path());
    raw::write(&connection, &numbered(0..events), BATCH);
    let start = Instant::now();
    raw::read(&connection, events, BATCH, apply);
    start.elapsed()
}

const TABLES: &[&str] = &["CREATE TABLE total (id TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID"];
const ADD: &str = "INSERT INTO total (id, amount) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET amount = total.amount + excluded.amount";

pub(crate) async fn add(event: &Envelope<Happened>, tx: &mut Tx) -> Result<(), HandlerError> {
    let event = event.payload();
    tx.execute(ADD, params![&event.id, event.amount]).await?;
    Ok(())
}

/// Adds up amounts, a batch at a time.
pub(crate) struct AddMany;

impl BatchHandler<Happened> for AddMany {
    async fn handle(&self, events: &[Envelope<Happened>], tx: &mut Tx) -> Result<(), HandlerError> {
        let rows = events.iter().map(Envelope::payload).map(|e| [(&e.id).into(), e.amount.into()]);
        tx.execute_many(ADD, rows).await?;
        Ok(())
    }
}

/// From a full topic to the last event handled: inbox, handler, commit and offsets.
pub async fn consume(events: usize, batches: bool) -> Duration {
    let service = Service::new("reader");
    consumed(if batches { service.on_batch::<Happened, _>(AddMany) } else { service.on(add) }, events).await
}

/// The time in which a service handles a topic full of events.
pub(crate) async fn consumed(service: Service, events: usize) -> Duration {
    let directory = directory();
    let url = url(directory.path());
    let broker = filled(&url, events).await;
    let start = Instant::now();
    let service = started(service.tables(TABLES), &url, &broker).await;
    idle(&service).await;
    let took = start.elapsed();
    service.stop().await.expect("a service stops");
    took
}

/// Fails until it is mended.
struct Mended(Arc<AtomicBool>);

impl Handler<Happened> for Mended {
    async fn handle(&self, event: &Envelope<Happened>, tx: &mut Tx) -> Result<(), HandlerError> {
        match self.0.load(Ordering::Relaxed) {
            true => add(event, tx).await,
            false => Err(HandlerError::fatal("not_mended", "a release that fails on everything")),
        }
    }
}

async fn redrive_embedded(events: usize) -> Duration {
    let directory = directory();
    let url = url(directory.path());
    let broker = filled(&url, events).await;
    redrive(&url, &broker, events).await
}

/// From a table full of dead letters to the last one handled: the operator's route, a thousand at a time.
pub async fn redrive(url: &str, broker: &Broker, events: usize) -> Duration {
    let is_mended = Arc::new(AtomicBool::new(false));
    let options = HandlerOptions::new().on_dead(OnDead::Skip);
    let tables = &["CREATE TABLE total (id TEXT PRIMARY KEY, amount BIGINT NOT NULL)"];
    let service = Service::new("reader").tables(tables).on(Mended(is_mended.clone())).with(options);
    let service =
        started(service.dead_letters_in_a_row_max(u64::MAX).dead_letters_percent_max(100), url, broker).await;
    idle(&service).await;
    is_mended.store(true, Ordering::Relaxed);
    let services = Arc::new(vec![service]);
    let routes = tidings::operator_routes(services.clone());
    let start = Instant::now();
    loop {
        let body = Body::from(r#"{"filter": {}, "reason": "mended"}"#);
        let request = Request::post("/admin/dead-letters/redrive").header("content-type", "application/json");
        let answer = routes.clone().oneshot(request.body(body).expect("a request")).await;
        let answer = answer.unwrap_or_else(|never| match never {});
        let answer = to_bytes(answer.into_body(), 1 << 20).await.expect("an answer");
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        if answer["left"] == 0 {
            break;
        }
    }
    idle(&services[0]).await;
    let took = start.elapsed();
    let recovered = services[0].status().await.expect("a status").consumer.recovered;
    assert_eq!(recovered, events as u64, "each was handled once");
    services[0].stop().await.expect("a service stops");
    took
}

async fn topic(url: &str) -> Broker {
    let broker = Broker::open(url).expect("a fresh broker opens");
    let topics = ["bench", "reader_dlq"].map(|name| Topic { name: name.into(), partitions: PARTITIONS });
    broker.apply_topics(&topics).await.expect("topics can be made");
    broker
}

/// A topic that holds numbered events, as a service would have published them.
async fn filled(url: &str, events: usize) -> Broker {
    let broker = topic(url).await;
    for burst in bursts(0..events) {
        for sent in broker.send(burst).await {
            sent.expect("a message is taken");
        }
    }
    broker
}

/// Events as messages, in bursts.
pub fn bursts(numbers: Range<usize>) -> Vec<Vec<Outgoing>> {
    let events = numbered(numbers.clone());
    let messages: Vec<Outgoing> =
        numbers.zip(&events).map(|(n, event)| Outgoing::new("bench", message(event, n))).collect();
    messages.chunks(BATCH).map(<[Outgoing]>::to_vec).collect()
}

fn message(event: &Happened, n: usize) -> Message {
    Message {
        key: Some(event.id.clone().into()),
        headers: Headers::from([
            ("ce_specversion", "1.0"),
            ("ce_id", &format!("{n:08}")),
            ("ce_type", "bench.happened.v1"),
            ("ce_source", "/bench"),
            ("ce_subject", &event.id),
            ("ce_streamseq", &(1 + n / KEYS).to_string()),
            ("content-type", "application/json"),
        ]),
        value: serde_json::to_vec(event).expect("an event is JSON").into(),
        ..Message::default()
    }
}

async fn started(service: Service, url: &str, broker: &Broker) -> tidings::RunningService {
    service.start(url, broker).await.expect("a service starts")
}

async fn idle(service: &tidings::RunningService) {
    while !service.is_idle().await.expect("a running service can be asked") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
