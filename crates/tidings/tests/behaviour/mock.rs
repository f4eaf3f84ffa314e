//! Faults that a real cluster cannot be made to show: librdkafka's own mock cluster, told which requests to
//! answer with which error.

use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
use tidings::{Message, RunningService};
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::stage::{PARTITIONS, Stage, idle, number};
use tidings_testkit::wire::Binary;

use crate::reader::{Script, batch_readers, journal_by_key};
use crate::relay::{assert_whole, keys, publish, writers};

const BROKERS: i32 = 3;
const PREFIX: &str = "mock.";
const DEAD_LETTERS: &str = "readers_dlq";

/// A stage on a cluster that does as it is told. Topics are made by it: it knows no requests for that.
struct Mocked {
    stage: Stage,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Mocked {
    fn new() -> Self {
        let cluster = MockCluster::new(BROKERS).expect("a mock cluster can be made");
        for topic in [NOTES, DEAD_LETTERS] {
            let made = cluster.create_topic(&on_wire(topic), PARTITIONS.cast_signed(), BROKERS);
            made.expect("a topic can be made");
        }
        let url = format!("kafka://{}?prefix={PREFIX}&heartbeat.interval.ms=20", cluster.bootstrap_servers());
        Self { stage: Stage::on_postgres_and(&url), cluster }
    }

    /// The next requests of a kind are answered with these errors.
    fn answers(&self, api: Api, answers: &[Answer]) {
        self.cluster.request_errors(api, answers);
    }

    /// Another broker leads the partitions of notes from now on.
    fn leader(&self, broker: i32) {
        for partition in 0..PARTITIONS.cast_signed() {
            let led = self.cluster.partition_leader(&on_wire(NOTES), partition, Some(broker));
            led.expect("a leader can be chosen");
        }
    }
}

fn on_wire(topic: &str) -> String {
    format!("{PREFIX}{topic}")
}

fn notes(key: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    numbers.into_iter().map(|n| Binary::note(key, n).message()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_request_that_may_succeed_later_is_tried_until_it_does() {
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    for answer in [
        Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Answer::RD_KAFKA_RESP_ERR__TRANSPORT,
    ] {
        mocked.answers(Api::Produce, &[answer; 4]);
    }
    publish(running.store(), &keys(20), 1, 5).await;
    idle(&running).await;
    assert_whole(&mocked.stage.read(NOTES).await, 20, 5);
    assert_eq!(number(&running, |s| s.outbox.rows.expect("it is known").blocked).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_the_broker_finds_invalid_waits_and_the_rest_flows() {
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    mocked.answers(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_INVALID_RECORD]);
    publish(running.store(), &["refused".to_owned()], 1, 1).await;
    eventually("it is refused", async || {
        number(&running, |s| s.outbox.rows.expect("it is known").blocked).await == 1
    })
    .await;
    publish(running.store(), &["refused".to_owned()], 2, 3).await;
    publish(running.store(), &keys(10), 1, 3).await;
    eventually("the rest arrives", async || mocked.stage.read(NOTES).await.len() == 30).await;
    assert_whole(&mocked.stage.read(NOTES).await, 10, 3);
    eventually("its key waits", async || {
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_refused_for_its_size_goes_in_parts() {
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    // Of one partition. Whatever goes by itself after it is taken.
    mocked.answers(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    publish(running.store(), &keys(60), 1, 1).await;
    idle(&running).await;
    assert_whole(&mocked.stage.read(NOTES).await, 60, 1);
    // Refused ones would be tried again, and pass, a while later.
    assert_eq!(number(&running, |s| s.outbox.refused).await, 0, "none is too large by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_has_broken_is_replaced_and_nothing_is_lost() {
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    publish(running.store(), &keys(20), 1, 3).await;
    idle(&running).await;
    // The broker has lost track of what this producer sent: it may never send again.
    mocked.answers(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    publish(running.store(), &keys(20), 4, 8).await;
    idle(&running).await;
    assert!(number(&running, |s| s.outbox.failed).await > 0, "the error was met");
    assert_eq!(number(&running, |s| s.outbox.rows.expect("it is known").blocked).await, 0);
    assert_whole(&mocked.stage.read(NOTES).await, 20, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_go_and_come_back_cost_nothing_but_time() {
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    publish(running.store(), &keys(20), 1, 2).await;
    idle(&running).await;
    mocked.cluster.broker_down(-1).expect("brokers can be ended");
    publish(running.store(), &keys(20), 3, 20).await;
    assert!(number(&running, |s| s.outbox.rows.expect("it is known").pending).await > 0, "everything waits");
    mocked.cluster.broker_up(-1).expect("brokers can be started");
    publish(running.store(), &keys(20), 21, 22).await;
    idle(&running).await;
    assert_whole(&mocked.stage.read(NOTES).await, 20, 22);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_move_to_another_broker_are_followed() {
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    for round in 0..6 {
        let first = round * 10 + 1;
        publish(running.store(), &keys(20), first, first + 9).await;
        mocked.leader(i32::try_from(round).expect("a few rounds") % BROKERS + 1);
    }
    idle(&running).await;
    assert_whole(&mocked.stage.read(NOTES).await, 20, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_broker_makes_a_stream_slow_but_not_the_others_behind_it() {
    const ROUND_TRIP: Duration = Duration::from_millis(200);
    let mocked = Mocked::new();
    let running = mocked.stage.start(writers).await;
    publish(running.store(), &keys(100), 1, 1).await;
    idle(&running).await;
    mocked.cluster.broker_round_trip_time(-1, ROUND_TRIP).expect("a delay can be set");
    let begun = Instant::now();
    publish(running.store(), &keys(100), 2, 6).await;
    eventually("everything is sent", async || {
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await == 0
    })
    .await;
    let took = begun.elapsed();
    assert!(took > 5 * ROUND_TRIP, "one of a stream at a time: {took:?}");
    assert!(took < 100 * ROUND_TRIP, "not one stream at a time: {took:?}");
    mocked.cluster.broker_round_trip_time(-1, Duration::ZERO).expect("a delay can be set");
    assert_whole(&mocked.stage.read(NOTES).await, 100, 6);
}

/// Long enough for a hundred heartbeats and a few commits, which meet whatever was to be met.
const ROUND: Duration = Duration::from_secs(2);

/// Sends for a while with each of these errors, and checks that each event is handled once.
async fn handled_once_through(api: Api, rounds: &[&[Answer]]) -> (Mocked, RunningService) {
    let mocked = Mocked::new();
    let script = Script::default();
    let running: RunningService = mocked.stage.start(batch_readers(&script)).await;
    let keys: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
    let mut sent = 0;
    for answers in rounds {
        mocked.answers(api, answers);
        let begun = Instant::now();
        while begun.elapsed() < ROUND {
            sent += 1;
            for key in &keys {
                mocked.stage.send(NOTES, notes(key, [sent])).await;
            }
            eventually("it is handled", async || {
                number(&running, |s| s.consumer.handled).await == sent * keys.len() as u64
            })
            .await;
        }
    }
    let numbers: Vec<String> = (1..=sent).map(|n| n.to_string()).collect();
    let expected: Vec<String> = keys.iter().map(|key| format!("{key} {}", numbers.join(" "))).collect();
    assert_eq!(journal_by_key(&running).await, expected.join("\n"));
    (mocked, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_takes_no_commits_for_a_while_costs_nothing() {
    let (mocked, running) = handled_once_through(
        Api::OffsetCommit,
        &[
            &[Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR],
            &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 2],
            &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS],
        ],
    )
    .await;
    // What was handled is committed in the end, and whoever comes next goes on there.
    mocked.answers(Api::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]);
    running.stop().await.expect("it stops");
    let next = mocked.stage.start(batch_readers(&Script::default())).await;
    mocked.stage.send(NOTES, notes("next", [1])).await;
    eventually("the next one reads on", async || number(&next, |s| s.consumer.handled).await == 1).await;
    assert_eq!(number(&next, |s| s.consumer.duplicate).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_coordinator_has_forgotten_joins_again_and_handles_everything_once() {
    handled_once_through(
        Api::Heartbeat,
        &[
            &[Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID],
            &[Answer::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION],
            &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS],
        ],
    )
    .await;
}
