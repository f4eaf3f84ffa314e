//! What only a cluster can do: transactions of others, settings that it does not take, groups and topics that are
//! not whose they seem.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidings::status::{Loop, Reason, Stopped};
use tidings::{Broker, TopicSpec};
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::servers::FreshTopics;
use tidings_testkit::stage::{Stage, number};
use tidings_testkit::wire::{Binary, note};

use crate::reader::{Script, batch_readers};

const LONG: Duration = Duration::from_secs(20);

/// The marker of a transaction takes an offset, and nobody can read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_has_read_all_of_a_foreign_transaction_does_not_lag() {
    let topics = FreshTopics::new();
    let url = topics.url();
    let stage = Stage::on_postgres_and(&url);
    let running = stage.start(batch_readers(&Script::default())).await;
    let (servers, prefix) = split(&url);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("transactional.id", format!("{prefix}foreign"))
        .create()
        .expect("a producer can be made");
    let topic = format!("{prefix}{NOTES}");
    tokio::task::spawn_blocking(move || {
        producer.init_transactions(LONG).expect("transactions can be begun");
        for (key, ends) in [("a", true), ("b", false), ("c", true)] {
            producer.begin_transaction().expect("a transaction can be begun");
            let event = serde_json::json!({
                "event_id": format!("{key}-1"), "event_type": "note_taken",
                "timestamp": "2026-01-02T03:04:05Z", "payload": note(key, 1),
            });
            let event = event.to_string();
            producer.send(BaseRecord::to(&topic).key(key).payload(&event)).expect("it can be sent");
            if ends {
                producer.commit_transaction(LONG).expect("it can be committed");
            } else {
                producer.flush(LONG).expect("it is sent");
                producer.abort_transaction(LONG).expect("it can be aborted");
            }
        }
    })
    .await
    .expect("nothing panics");
    eventually("both are handled", async || number(&running, |s| s.consumer.handled).await == 2).await;
    eventually("nothing is left", async || {
        number(&running, |s| s.consumer.lag.expect("it is known")).await == 0
    })
    .await;
}

#[tokio::test]
async fn a_setting_that_the_cluster_does_not_take_is_told() {
    let broker = Broker::open(&FreshTopics::new().url()).expect("it opens");
    let spec = || TopicSpec::new("teas");
    broker.apply_plan(&[spec()], 1).await.expect("it can be made");
    let endless = spec().retention(Duration::MAX);
    let told = broker.apply_plan(&[endless], 1).await.expect_err("it is refused").to_string();
    assert!(told.contains("topic teas: retention.ms was to be set to"), "{told}");
    assert!(told.contains("grant AlterConfigs"), "{told}");
    let plan = broker.plan_topics(&[spec()], 1).await.expect("it can be compared");
    assert_eq!(plan, [], "nothing else was changed");
}

#[tokio::test]
async fn a_compacted_topic_stays_so_if_it_is_declared() {
    let broker = Broker::open(&FreshTopics::new().url()).expect("it opens");
    let compacted = || TopicSpec::new("prices").compacted();
    broker.apply_plan(&[compacted()], 1).await.expect("it can be made");
    assert_eq!(broker.plan_topics(&[compacted()], 1).await.expect("it can be compared"), []);
    let plan = broker.plan_topics(&[TopicSpec::new("prices")], 1).await.expect("it can be compared");
    assert_eq!(plan[0].to_string(), "prices: set cleanup.policy to delete (it is compact)");
}

/// Eight keys, one note of each.
fn notes(n: u64) -> impl Iterator<Item = tidings::Message> {
    (0..8).map(move |key| Binary::note(&format!("k{key}"), n).message())
}

/// Each of two stores would handle a part of the events, and commit for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_belongs_to_one_store() {
    let topics = FreshTopics::new();
    let (ours, theirs) = (Stage::on_postgres_and(&topics.url()), Stage::on_postgres_and(&topics.url()));
    let running = ours.start(batch_readers(&Script::default())).await;
    ours.send(NOTES, notes(1)).await;
    eventually("all are handled", async || number(&running, |s| s.consumer.handled).await == 8).await;
    let stray = theirs.start(batch_readers(&Script::default())).await;
    // What is handled is committed within a second; the stray is refused with the first partition it gets.
    eventually("the stray is refused", async || stray.stopped_by().is_some()).await;
    let why = stray.stopped_by().expect("it is refused").to_string();
    assert!(why.contains("belongs to another store"), "{why}");
    ours.send(NOTES, notes(2)).await;
    eventually("all are handled", async || number(&running, |s| s.consumer.handled).await == 16).await;
    assert_eq!(number(&stray, |s| s.consumer.delivered).await, 0);
}

/// The broker lets nobody in with a session that short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_lets_nobody_in_is_told() {
    let stage = Stage::on_postgres_and(&format!("{}&session.timeout.ms=1000", FreshTopics::new().url()));
    let running = stage.start(batch_readers(&Script::default())).await;
    eventually("it is told", async || {
        let status = running.status().await.expect("the store can be used");
        let is_it = |stopped: &Stopped| stopped.of == Loop::Subscribe && stopped.reason == Some(Reason::Ours);
        status.waiting.first().is_some_and(is_it)
    })
    .await;
    let status = running.status().await.expect("the store can be used");
    let told = &status.waiting[0].error;
    assert!(told.contains("has not let us into the group"), "{told}");
}

/// Its offsets go with it, and its reader would begin anew without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_anew_while_nobody_read_it_is_noticed() {
    let topics = FreshTopics::new();
    let stage = Stage::on_postgres_and(&topics.url());
    let running = stage.start(batch_readers(&Script::default())).await;
    stage.send(NOTES, notes(1)).await;
    let handled = async |running: &tidings::RunningService| {
        let sql = "SELECT handled_us FROM topic WHERE name = 'notes'";
        let rows = running.store().query(sql, &[]).await.expect("the store can be asked");
        rows[0].get::<Option<i64>>(0).expect("a number or none")
    };
    eventually("it is remembered that it was read", async || handled(&running).await.is_some()).await;
    running.stop().await.expect("it stops");

    let (servers, prefix) = split(&topics.url());
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().expect("a client can be made");
    let topic = format!("{prefix}{NOTES}");
    admin.delete_topics(&[&topic], &AdminOptions::new()).await.expect("it can be deleted");
    eventually("it is gone", async || {
        let found = stage.broker().topics().await.expect("topics can be listed");
        found.iter().all(|found| found.name != NOTES)
    })
    .await;
    let running = stage.start(batch_readers(&Script::default())).await;
    assert_eq!(handled(&running).await, None, "it is told, and once");
    stage.send(NOTES, notes(2)).await;
    eventually("it is read", async || number(&running, |s| s.consumer.delivered).await == 8).await;
}

/// Servers and prefix of a broker URL.
fn split(url: &str) -> (String, String) {
    let url = url.trim_start_matches("kafka://");
    let (servers, prefix) = url.split_once("?prefix=").expect("topics have a prefix");
    (servers.to_owned(), prefix.to_owned())
}
