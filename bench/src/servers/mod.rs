//! The steps on Apache Kafka and PostgreSQL, with everything on the same cores.
//!
//! Each figure stands beside what the raw client, or a throw-away model, reaches on such a machine.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidings::{Broker, RunningService, Service, Store, Topic};
use tidings_testkit::servers::{FreshDatabase, FreshTopics};

use crate::events::Happened;
use crate::machine::{self, Costs, Suspended};
use crate::steps::{AddMany, BATCH, PARTITIONS, bursts, median, numbered, per_second, publish, redrive};
use crate::{faults, instructions};

mod programs;

pub use programs::{SERVICES, shop, start};

/// Events that are made at once: a million would take a gigabyte.
const CHUNK: usize = 10_000;
const TABLES: &[&str] = &["CREATE TABLE total (id TEXT PRIMARY KEY, amount BIGINT NOT NULL)"];
/// A backlog, or an outage, that is worth the name.
const MANY: usize = 1_000_000;

/// The whole pipeline but the shop.
pub async fn steps(rounds: usize, events: usize, backlog: usize, only: &str) {
    println!("{:<44} {:>10} {:>10} {:>7}", "events/s", "tidings", "raw", "ratio");
    if CONSUME.contains(only) {
        consume_raw(rounds, 4 * events).await;
    }
    if "durable deduplicated consume".contains(only) {
        let rate = durable(rounds, events).await;
        tell("durable deduplicated consume, one write", rate, "goal 40,000; raw inbox batch 55,000-66,000");
    }
    if "redrive of dead letters".contains(only) {
        let rate = redriven(rounds, events).await;
        tell("redrive of dead letters, one write", rate, "goal 5,000");
    }
    if "faults".contains(only) {
        without_a_dependency(rounds).await;
    }
    if "consume with a backlog".contains(only) {
        for backlog in [0, MANY / 10, MANY] {
            let rate = consume_before(backlog, events).await;
            tell(
                &format!("consume with {backlog} more waiting"),
                rate,
                &format!("the first {events} events"),
            );
        }
    }
    if "relay a backlog".contains(only) {
        drain(backlog).await;
    }
    if "relay beside writers".contains(only) {
        beside_writers(events * 2).await;
    }
    if "outage".contains(only) {
        outage(MANY).await;
    }
    if "commit to acknowledgement".contains(only) {
        idle().await;
    }
}

fn tell(what: &str, rate: f64, limit: &str) {
    println!("{what:<44} {rate:>10.0}  ({limit})");
}

/// A topic that holds events, read by ours and by the raw loop in turn: once with the headers, which ours
/// always reads, and once without.
async fn consume_raw(rounds: usize, events: usize) {
    let topics = FreshTopics::new();
    let broker = filled(&topics, events).await;
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut cost: [f64; 3] = Default::default();
    for round in 0..rounds {
        for (way, name) in WAYS.into_iter().enumerate() {
            let group = format!("{}-{round}", name.replace(' ', "-"));
            let (rate, cpu) = match way {
                0 => consume(&broker, &group, events).await,
                _ => raw_loop(&topics.url(), &group, events, way == 1),
            };
            cost[way] += cpu / rounds as f64;
            rates[way].push(rate);
        }
    }
    for (way, whose) in [(1, "headers too"), (2, "no headers")] {
        let ratios = rates[0].iter().zip(&rates[way]).map(|(ours, raw)| ours / raw).collect();
        println!(
            "{:<44} {:>10.0} {:>10.0} {:>7.2}  (CPU an event {:.1} and {:.1} us)",
            format!("{CONSUME}; raw {whose}"),
            median(rates[0].clone()),
            median(rates[way].clone()),
            median(ratios),
            cost[0],
            cost[way],
        );
    }
}

/// Events a second and microseconds of CPU an event, from the first event on.
fn since(start: Option<(Costs, Instant)>, events: usize) -> (f64, f64) {
    let (before, start) = start.expect("there are events");
    (per_second(events, start.elapsed()), machine::cpu_us(&before, "bench", events))
}

const CONSUME: &str = "consume, decode, tracked commit";
/// The readers of a topic: ours, which always reads the headers; the raw loop, with them and without.
const WAYS: [&str; 3] = ["ours", "raw with headers", "raw"];
/// For a run under valgrind: where the topic is.
const BROKER: &str = "TIDINGS_BENCH_BROKER";

/// Prints what an event costs who reads it, counted by valgrind.
pub async fn count(only: &str) {
    if !CONSUME.contains(only) {
        return;
    }
    let runs = [10_000, 60_000].map(|events| (events, FreshTopics::new()));
    for (events, topics) in &runs {
        filled(topics, *events).await;
    }
    println!();
    for way in WAYS {
        instructions::tell(way, [runs[0].0, runs[1].0], |events| {
            let (_, topics) = runs.iter().find(|run| run.0 == events)?;
            let arguments = ["--kafka", "--once", way, "--events", &events.to_string()];
            instructions::run(&arguments, &[(BROKER, &topics.url())])
        });
    }
}

/// Reads a topic once: what valgrind looks at.
pub async fn consume_once(way: &str, events: usize) {
    let url = std::env::var(BROKER).expect("the variable names the broker");
    let group = way.replace(' ', "-");
    if way == WAYS[0] {
        let broker = Broker::open(&url).expect("a broker opens");
        consume(&broker, &group, events).await;
    } else {
        raw_loop(&url, &group, events, way == WAYS[1]);
    }
}

async fn consume(broker: &Broker, group: &str, events: usize) -> (f64, f64) {
    let mut consumer = broker.subscribe(group, &["bench".to_owned()]).await.expect("the topic exists");
    let (mut count, mut start) = (0, None);
    while count < events {
        let records = consumer.poll(BATCH).await.expect("Kafka can be read");
        start.get_or_insert_with(|| (machine::costs(), Instant::now()));
        for record in &records {
            let event: Happened = serde_json::from_slice(&record.message.value).expect("it is an event");
            std::hint::black_box(event);
        }
        count += records.len();
        consumer.commit(&records);
    }
    let measured = since(start, events);
    consumer.leave().await;
    measured
}

/// Reads as a program without a framework does: poll, decode, remember the offset, commit each second; and, in a
/// program that recognises events it has seen before, find the event's id among its headers.
fn raw_loop(url: &str, group: &str, events: usize, headers: bool) -> (f64, f64) {
    let (servers, query) = url.trim_start_matches("kafka://").split_once('?').expect("a prefix");
    let topic = format!("{}bench", query.trim_start_matches("prefix="));
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", format!("{topic}-{group}"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "20")
        .set("queued.min.messages", "20000")
        .create()
        .expect("a client can be made");
    client.subscribe(&[&topic]).expect("the topic exists");
    let (mut count, mut start, mut committed) = (0, None, Instant::now());
    let mut offsets = vec![-1_i64; PARTITIONS as usize];
    while count < events {
        let Some(message) = client.poll(Duration::from_secs(1)) else { continue };
        let message = message.expect("Kafka can be read");
        start.get_or_insert_with(|| (machine::costs(), Instant::now()));
        let event: Happened =
            serde_json::from_slice(message.payload().unwrap_or_default()).expect("it is an event");
        std::hint::black_box(event);
        if headers {
            let own = message.headers().into_iter().flat_map(|headers| headers.iter());
            std::hint::black_box(own.filter(|header| header.key == "ce_id").count());
        }
        offsets[message.partition().unsigned_abs() as usize] = message.offset() + 1;
        count += 1;
        if committed.elapsed() >= Duration::from_secs(1) {
            committed = Instant::now();
            let mut list = TopicPartitionList::new();
            for (partition, offset) in offsets.iter().enumerate().filter(|(_, offset)| **offset >= 0) {
                let partition = i32::try_from(partition).unwrap_or_default();
                list.add_partition_offset(&topic, partition, Offset::Offset(*offset)).expect("an offset");
            }
            client.commit(&list, CommitMode::Async).expect("a commit can be asked for");
        }
    }
    since(start, events)
}

/// From a full topic to the last event handled: inbox, handler, one write each, commit, offsets.
async fn durable(rounds: usize, events: usize) -> f64 {
    let mut rates = Vec::new();
    for _ in 0..rounds.min(3) {
        let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
        let broker = filled(&topics, events).await;
        let service = Service::new("reader").tables(TABLES).on_batch::<Happened, _>(AddMany);
        let start = Instant::now();
        let service = service.start(&database.url(), &broker).await.expect("a service starts");
        idle_at(&service).await;
        rates.push(per_second(events, start.elapsed()));
        service.stop().await.expect("a service stops");
    }
    median(rates)
}

/// From a table full of dead letters to the last one handled.
async fn redriven(rounds: usize, events: usize) -> f64 {
    let mut rates = Vec::new();
    for _ in 0..rounds.min(3) {
        let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
        let broker = filled(&topics, events).await;
        rates.push(per_second(events, redrive(&database.url(), &broker, events).await));
    }
    median(rates)
}

/// A dependency that is away, needed by some events of a backlog, and one that is there, in turn.
async fn without_a_dependency(rounds: usize) {
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut took = [Duration::ZERO; 2];
        for is_away in [round % 2 == 0, round % 2 == 1] {
            let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
            let broker = topic(&topics).await;
            took[usize::from(is_away)] = faults::dependency(is_away, &database.url(), &broker).await;
        }
        println!("{:.2?} and {:.2?} a run with a dependency", took[0], took[1]);
        ratios.push(took[0].as_secs_f64() / took[1].as_secs_f64());
    }
    println!("one dead dependency: throughput of those that do not need it {:.2} x", median(ratios));
}

/// Measures how fast the first events of a topic are consumed while others wait behind them.
async fn consume_before(backlog: usize, events: usize) -> f64 {
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let broker = filled(&topics, events + backlog).await;
    let service = Service::new("reader").tables(TABLES).on_batch::<Happened, _>(AddMany);
    let start = Instant::now();
    let service = service.start(&database.url(), &broker).await.expect("a service starts");
    let handled = async || {
        let positions = broker.positions("reader", &["bench".to_owned()]).await.expect("Kafka can be asked");
        positions.iter().map(|position| position.offset.unsigned_abs()).sum::<u64>()
    };
    let mut count = handled().await;
    while count < events as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        count = handled().await;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    service.stop().await.expect("a service stops");
    rate
}

/// From a full outbox to an empty one, and what each side spends on an event.
async fn drain(events: usize) {
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    {
        let store = Store::open(&database.url(), "bench", &[]).await.expect("a store opens");
        publish(&store, &numbered(0..events), BATCH).await;
    }
    let broker = topic(&topics).await;
    let before = machine::costs();
    let start = Instant::now();
    let service = writer(&database, &broker).await;
    idle_at(&service).await;
    let rate = per_second(events, start.elapsed());
    let cpu = |program| machine::cpu_us(&before, program, events);
    println!(
        "{:<44} {rate:>10.0}  (goal 80,000; a model 81,000; CPU an event: relay and Kafka's client {:.1} us, PostgreSQL {:.1}, Kafka {:.1})",
        format!("relay a backlog of {events}"),
        cpu("bench"),
        cpu("postgres"),
        cpu("kafka"),
    );
    service.stop().await.expect("a service stops");
}

/// Kafka stands still while events are written, and goes on.
async fn outage(events: usize) {
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let broker = topic(&topics).await;
    let service = writer(&database, &broker).await;
    publish(service.store(), &numbered(0..CHUNK), BATCH).await;
    idle_at(&service).await;
    let (before, mut most) = (machine::own_memory_mb(), 0);
    let away = Suspended::broker(&topics.url());
    let start = Instant::now();
    for from in (0..events).step_by(CHUNK) {
        publish(service.store(), &numbered(from..from + CHUNK), BATCH).await;
        most = most.max(machine::own_memory_mb());
    }
    let written = per_second(events, start.elapsed());
    drop(away);
    let start = Instant::now();
    idle_at(&service).await;
    let rate = per_second(events, start.elapsed());
    println!(
        "{:<44} {rate:>10.0}  (written at {written:.0} meanwhile; memory {before} MB before, at most {most} MB)",
        format!("recovery from an outage, {events} waiting")
    );
    service.stop().await.expect("a service stops");
}

/// Writers as fast as they can, first alone, then with the relay beside them: it must not fall behind, and
/// what it costs is the difference.
async fn beside_writers(events: usize) {
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let broker = topic(&topics).await;
    let alone = FreshDatabase::new();
    let store = Store::open(&alone.url(), "bench", &[]).await.expect("a store opens");
    let before = machine::costs();
    publish(&store, &numbered(0..events), BATCH).await;
    let cpu = |before, program| machine::cpu_us(before, program, events);
    let writer_alone = (cpu(&before, "bench"), cpu(&before, "postgres"));
    let service = writer(&database, &broker).await;
    let before = machine::costs();
    let start = Instant::now();
    publish(service.store(), &numbered(0..events), BATCH).await;
    let written = start.elapsed();
    idle_at(&service).await;
    let relayed = start.elapsed();
    let (own, postgres) = (cpu(&before, "bench") - writer_alone.0, cpu(&before, "postgres") - writer_alone.1);
    service.stop().await.expect("a service stops");
    let (write, relay) = (per_second(events, written), per_second(events, relayed));
    let lag = relayed.saturating_sub(written).as_millis();
    println!(
        "{:<44} {relay:>10.0}  (written at {write:.0}; the last one {lag} ms after its commit; a model 45,000)",
        "relay beside writers, 500 a transaction"
    );
    println!(
        "{:<44} {:>10.1}  (relay and Kafka's client {own:.1}, PostgreSQL {postgres:.1}; goal 12)",
        "its CPU an event beyond the writer's, us",
        own + postgres,
    );
}

/// One event at a time, nothing else going on: from its commit to its row gone, which is after the
/// acknowledgement.
async fn idle() {
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let broker = topic(&topics).await;
    let service = writer(&database, &broker).await;
    idle_at(&service).await;
    let mut took = Vec::new();
    let mut reader = broker.subscribe("idle", &["bench".to_owned()]).await.expect("the topic exists");
    for n in 0..500 {
        let start = Instant::now();
        publish(service.store(), &[Happened::number(n, 500)], 1).await;
        let committed = start.elapsed();
        let records = reader.poll(1).await.expect("Kafka can be read");
        took.push((start.elapsed() - committed).as_secs_f64() * 1000.0);
        reader.commit(&records);
        if n < 20 {
            took.clear(); // until the group has formed and plans are made
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    took.sort_by(f64::total_cmp);
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{:<44} p50 {p50:.1} ms, p99 {p99:.1} ms  (goal: acknowledged within 10 ms)",
        "idle: commit to a consumer"
    );
    service.stop().await.expect("a service stops");
}

async fn writer(database: &FreshDatabase, broker: &Broker) -> RunningService {
    let service = Service::new("bench").topic("bench");
    service.start(&database.url(), broker).await.expect("a service starts")
}

async fn idle_at(service: &RunningService) {
    while !service.is_idle().await.expect("a running service can be asked") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn topic(topics: &FreshTopics) -> Broker {
    let broker = Broker::open(&topics.url()).expect("a broker opens");
    let wanted = ["bench", "reader_dlq"].map(|name| Topic { name: name.into(), partitions: PARTITIONS });
    broker.apply_topics(&wanted).await.expect("topics can be made");
    broker
}

async fn filled(topics: &FreshTopics, events: usize) -> Broker {
    let broker = topic(topics).await;
    for from in (0..events).step_by(CHUNK) {
        for burst in bursts(from..events.min(from + CHUNK)) {
            for sent in broker.send(burst).await {
                sent.expect("a message is taken");
            }
        }
    }
    broker
}
