//! The cost of one failure to everybody else: a key whose event fails, a dependency that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tidings::broker::Outgoing;
use tidings::{
    Broker, Envelope, Event, Handler, HandlerError, Headers, Message, RunningService, Service, Topic, Tx,
    params,
};

use crate::events::Happened;

/// Keys of events, of which one may fail.
const KEYS: usize = 10_000;
/// Events a second, and of how many of them one is of the odd key.
const RATE: usize = 4_000;
const ODD_ONE_IN: usize = 100;
const BURST: usize = 20;
/// Events before those that count: a handler shows in its first calls how long it takes.
const WARM_UP: usize = 2 * RATE;
const ODD: &str = "odd";
/// Of so many events one needs the dependency.
const NEEDS_ONE_IN: usize = 10;

const TABLES: &[&str] = &["CREATE TABLE total (id TEXT PRIMARY KEY, amount BIGINT NOT NULL)"];
const ADD: &str = "INSERT INTO total (id, amount) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET amount = total.amount + excluded.amount";

/// An event whose handler needs something outside.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "bench.needing", version = 1, topic = "bench", key = id)]
struct Needing {
    /// Its key.
    #[garde(length(min = 1))]
    id: String,
}

/// Compares runs with a failure and without, in turn, and prints the medians of their ratios.
pub async fn compare(rounds: usize) {
    let (mut p99, mut throughput) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let with_first = round % 2 == 0;
        let mut late = [Duration::ZERO; 2];
        let mut took = [Duration::ZERO; 2];
        for fails in [with_first, !with_first] {
            let odd = if fails { OddKey::Fails } else { OddKey::IsLikeOthers };
            late[usize::from(fails)] = p99_of_others(odd, 1).await;
            took[usize::from(fails)] = dependency_embedded(fails).await;
        }
        println!(
            "p99 {:.1?} without, {:.1?} with a poison key; {:.2?} and {:.2?} a run with a dependency",
            late[0], late[1], took[0], took[1]
        );
        p99.push(late[1].as_secs_f64() / late[0].as_secs_f64());
        throughput.push(took[0].as_secs_f64() / took[1].as_secs_f64());
    }
    println!("one poison key of {KEYS}: p99 of the others {:.2} x", median(&mut p99));
    println!("one dead dependency: throughput of those that do not need it {:.2} x", median(&mut throughput));
}

fn median(ratios: &mut [f64]) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// The way of the one key that may differ from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OddKey {
    IsLikeOthers,
    /// Its handler fails for ever.
    Fails,
    /// Its handler takes a second.
    IsSlow,
}

/// Adds up, and notes how long each event took.
struct Timed {
    began: Instant,
    sent_us: Vec<AtomicU64>,
    took_us: Vec<AtomicU64>,
    odd: OddKey,
    handled: AtomicUsize,
}

impl Timed {
    fn of(events: usize, odd: OddKey) -> Arc<Self> {
        let counters = || (0..events).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (began, handled) = (Instant::now(), AtomicUsize::new(0));
        Arc::new(Self { began, sent_us: counters(), took_us: counters(), odd, handled })
    }
}

impl Handler<Happened> for Arc<Timed> {
    async fn handle(&self, event: &Envelope<Happened>, tx: &mut Tx) -> Result<(), HandlerError> {
        let n: usize = event.id().parse().expect("ids are numbers");
        match self.odd {
            OddKey::Fails if event.key() == ODD => {
                return Err(HandlerError::Transient("poison".to_owned()));
            }
            OddKey::IsSlow if event.key() == ODD => tokio::time::sleep(Duration::from_secs(1)).await,
            _ => {}
        }
        tx.execute(ADD, params![event.key(), event.payload().amount]).await?;
        let now = self.began.elapsed().as_micros() as u64;
        let took = now - self.sent_us[n].load(Ordering::Relaxed);
        // A batch that failed was rolled back, and is handled again.
        if self.took_us[n].swap(took, Ordering::Relaxed) == 0 && event.key() != ODD {
            self.handled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The 99th percentile of the time from sending to handling, of all keys but the odd one, at a steady rate.
pub(crate) async fn p99_of_others(odd: OddKey, lanes: usize) -> Duration {
    let events = WARM_UP + 5 * RATE;
    let timed = Timed::of(events, odd);
    let service = Service::new("reader").tables(TABLES).on::<Happened, _>(timed.clone()).lanes(lanes);
    let stage = Stage::start(service).await;
    let start = tokio::time::Instant::now();
    for first in (0..events).step_by(BURST) {
        tokio::time::sleep_until(start + Duration::from_secs_f64(first as f64 / RATE as f64)).await;
        let burst = (first..first + BURST).map(|n| {
            let is_odd = n % ODD_ONE_IN == 0;
            let key = if is_odd { ODD.to_owned() } else { format!("{:05}", n % KEYS) };
            let seq = if is_odd { 1 + n / ODD_ONE_IN } else { 1 + n / KEYS };
            let event = Happened { id: key.clone(), ..Happened::number(n, KEYS) };
            timed.sent_us[n].store(timed.began.elapsed().as_micros() as u64, Ordering::Relaxed);
            outgoing("bench.happened.v1", &key, seq, n, &event)
        });
        stage.send(burst.collect()).await;
    }
    let others = events - events / ODD_ONE_IN;
    while timed.handled.load(Ordering::Relaxed) < others {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let numbers = (WARM_UP..events).filter(|n| n % ODD_ONE_IN != 0);
    let mut took: Vec<u64> = numbers.map(|n| timed.took_us[n].load(Ordering::Relaxed)).collect();
    took.sort_unstable();
    stage.stop().await;
    Duration::from_micros(took[took.len() * 99 / 100])
}

/// Needs a printer, which may be away.
struct Prints(bool);

impl Handler<Needing> for Prints {
    async fn handle(&self, event: &Envelope<Needing>, tx: &mut Tx) -> Result<(), HandlerError> {
        if self.0 {
            return Err(HandlerError::Dependency("the printer"));
        }
        tx.execute(ADD, params![event.key(), 1]).await?;
        Ok(())
    }
}

async fn dependency_embedded(is_away: bool) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite:{}", directory.path().display());
    dependency(is_away, &url, &broker(&directory).await).await
}

/// The time for all events that need nothing, of a topic in which one in ten needs what may be away.
pub async fn dependency(is_away: bool, store: &str, broker: &Broker) -> Duration {
    let events = 100_000;
    let timed = Timed::of(events, OddKey::IsLikeOthers);
    for first in (0..events).step_by(500) {
        let burst = (first..first + 500).map(|n| match n % NEEDS_ONE_IN {
            0 => {
                let id = format!("needs-{n}");
                outgoing("bench.needing.v1", &id, 1, n, &Needing { id: id.clone() })
            }
            _ => {
                let key = format!("{n:06}");
                let event = Happened { id: key.clone(), ..Happened::number(n, KEYS) };
                outgoing("bench.happened.v1", &key, 1, n, &event)
            }
        });
        broker.send(burst.collect()).await.into_iter().for_each(|sent| sent.expect("it is taken"));
    }
    let service = Service::new("reader").tables(TABLES);
    let service = service.on::<Happened, _>(timed.clone()).on::<Needing, _>(Prints(is_away));
    let start = Instant::now();
    let running = service.start(store, broker).await.expect("it starts");
    while timed.handled.load(Ordering::Relaxed) < events - events / NEEDS_ONE_IN {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = start.elapsed();
    running.stop().await.expect("it stops");
    took
}

/// A service that runs, and the broker it reads from.
struct Stage {
    broker: Broker,
    running: RunningService,
    _directory: TempDir,
}

impl Stage {
    async fn start(service: Service) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let broker = broker(&directory).await;
        let url = format!("sqlite:{}", directory.path().display());
        let running = service.start(&url, &broker).await.expect("it starts");
        Self { broker, running, _directory: directory }
    }

    async fn send(&self, burst: Vec<Outgoing>) {
        self.broker.send(burst).await.into_iter().for_each(|sent| sent.expect("it is taken"));
    }

    async fn stop(self) {
        self.running.stop().await.expect("it stops");
    }
}

async fn broker(directory: &TempDir) -> Broker {
    let broker = Broker::open(&format!("sqlite:{}", directory.path().display())).expect("it opens");
    let topics = ["bench", "reader_dlq"].map(|name| Topic { name: name.into(), partitions: 6 });
    broker.apply_topics(&topics).await.expect("topics can be made");
    broker
}

fn outgoing(event_type: &str, key: &str, seq: usize, n: usize, event: &impl Serialize) -> Outgoing {
    let message = Message {
        key: Some(key.to_owned().into()),
        headers: Headers::from([
            ("ce_specversion", "1.0"),
            ("ce_id", &n.to_string()),
            ("ce_type", event_type),
            ("ce_source", "/bench"),
            ("ce_subject", key),
            ("ce_streamseq", &seq.to_string()),
            ("content-type", "application/json"),
        ]),
        value: serde_json::to_vec(event).expect("an event is JSON").into(),
        ..Message::default()
    };
    Outgoing::new("bench", message)
}
