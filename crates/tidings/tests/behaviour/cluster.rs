//! What only a cluster can do: transactions of others, settings that it does not take.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidings::{Broker, TopicSpec};
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::parts::FreshTopics;
use tidings_testkit::stage::{Stage, number};
use tidings_testkit::wire::note;

use crate::reader::{Script, batch_readers};

const LONG: Duration = Duration::from_secs(20);

/// The marker of a transaction takes an offset, and nobody can read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_has_read_all_of_a_foreign_transaction_does_not_lag() {
    let topics = FreshTopics::new();
    let url = topics.url();
    let stage = Stage::on_postgres_and(&url);
    let running = stage.start(batch_readers(&Script::default())).await;
    let (servers, prefix) =
        url.trim_start_matches("kafka://").split_once("?prefix=").expect("topics have a prefix");
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
    eventually("both are handled", async || number(&running, "/consumer/handled").await == 2).await;
    eventually("nothing is left", async || number(&running, "/consumer/lag").await == 0).await;
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
