//! From commit to broker.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tidings::broker::Record;
use tidings::{HandlerError, Service, Store, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::stage::{idle, number};
use tidings_testkit::{eventually, wire};

/// More events than fit into the memory between commit and relay.
const TOO_MANY: u64 = 20_000;

pub fn writers() -> Service {
    Service::new("writers").topic(NOTES)
}

/// Publishes notes `first..=last` of each key, several in a transaction.
pub async fn publish(store: &Store, keys: &[String], first: u64, last: u64) {
    for numbers in (first..=last).collect::<Vec<_>>().chunks(50) {
        let numbers = numbers.to_vec();
        let keys = keys.to_vec();
        let published = store
            .transaction(async move |tx: &mut Tx| {
                for n in numbers {
                    for key in &keys {
                        tx.publish(NoteTaken::new(key.clone(), n)).await?;
                    }
                }
                Ok(())
            })
            .await;
        published.expect("events can be published");
    }
}

pub fn keys(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("k{n}")).collect()
}

/// Checks that each of `streams` streams is 1, 2, … `each` in the topic, every event once.
pub fn assert_whole(records: &[Record], streams: usize, each: u64) {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    let mut ids = HashSet::new();
    for record in records {
        let key = record.message.key_text().into_owned();
        let expected = next.entry(key.clone()).or_insert(1);
        assert_eq!(wire::seq(&record.message), Some(*expected), "the next of {key}");
        let note: NoteTaken = serde_json::from_slice(&record.message.value).expect("a note was sent");
        assert_eq!((&note.key, note.n), (&key, *expected), "number and content belong together");
        assert!(ids.insert(record.message.header("ce_id").map(ToOwned::to_owned)), "an id twice");
        *expected += 1;
    }
    assert_eq!(next.len(), streams, "streams in the topic");
    assert!(next.values().all(|n| *n == each + 1), "a stream ends early: {next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_published_arrives_once_and_in_order() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let publishing = (0..8_u64).map(|task| {
        let store = running.store().clone();
        tokio::spawn(async move {
            let keys: Vec<String> = (0..6).map(|n| format!("t{task}k{n}")).collect();
            for n in 1..=100 {
                publish(&store, &keys, n, n).await;
            }
        })
    });
    for task in publishing.collect::<Vec<_>>() {
        task.await.expect("events can be published");
    }
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 48, 100);
    assert_eq!(number(&running, |s| s.outbox.published).await, 4800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_before_the_relay_ran_arrives_in_order() {
    let stage = crate::stage();
    let store = Store::open(&stage.store_url(), "writers", &[]).await.expect("the store opens");
    publish(&store, &keys(200), 1, TOO_MANY / 200).await;
    drop(store);
    let running = stage.start(writers).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 200, TOO_MANY / 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_between_commit_and_relay_comes_from_the_table() {
    let stage = crate::stage();
    let running = stage
        .start(|| {
            writers().on_start(|store| async move {
                publish(&store, &keys(200), 1, TOO_MANY / 200).await;
                Ok(())
            })
        })
        .await;
    // New ones come while the old ones are still being read.
    publish(running.store(), &keys(200), TOO_MANY / 200 + 1, TOO_MANY / 200 + 20).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 200, TOO_MANY / 200 + 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_committed_is_never_sent() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let failed: Result<(), HandlerError> = running
        .store()
        .transaction(async |tx: &mut Tx| {
            tx.publish(NoteTaken::new("k0", 1)).await?;
            Err(HandlerError::Transient("as planned".into()))
        })
        .await;
    failed.expect_err("it fails");
    publish(running.store(), &keys(1), 1, 1).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 1, 1);
}

#[tokio::test]
async fn a_number_taken_by_a_commit_that_failed_is_given_again() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    publish(running.store(), &keys(2), 1, 2).await;
    let full = stage.refusing("writers", "outbox");
    for n in 3..6 {
        let failed = running.store().transaction(async move |tx: &mut Tx| {
            tx.publish(NoteTaken::new("k0", n)).await?;
            tx.publish(NoteTaken::new("k1", n)).await
        });
        failed.await.expect_err("it cannot be written down");
    }
    drop(full);
    publish(running.store(), &keys(2), 3, 5).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 2, 5);
}

#[tokio::test]
async fn a_stream_goes_on_counting_when_its_old_events_are_forgotten() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    publish(running.store(), &keys(3), 1, 5).await;
    idle(&running).await;
    let remembered = async || running.store().published("notes/k0").await.expect("the log can be read").len();
    assert_eq!(remembered().await, 5);
    running.store().clock().advance(Duration::from_hours(24 * 365));
    eventually("old events are forgotten", async || {
        // A clock that is a year ahead of the newest event is not believed for a day.
        running.store().clock().advance(Duration::from_hours(25));
        remembered().await < 5
    })
    .await;
    assert_eq!(remembered().await, 1, "the last one holds the stream's number");
    publish(running.store(), &keys(3), 6, 7).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 3, 7);
}

#[tokio::test]
async fn a_published_event_has_the_headers_of_the_contract() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    publish(running.store(), &keys(1), 1, 2).await;
    idle(&running).await;
    let records = stage.read(NOTES).await;
    let message = &records[1].message;
    let id = message.header("ce_id").expect("an event has an id");
    let headers: Vec<String> = message
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value);
            match name {
                "ce_time" => "ce_time TIME".to_owned(),
                "traceparent" => format!("traceparent, {} characters", value.len()),
                name => format!("{name} {}", value.replace(id, "ID")),
            }
        })
        .collect();
    expect_test::expect![[r#"
        ce_specversion 1.0
        ce_id ID
        ce_type note.taken.v1
        ce_source /notes
        ce_subject k0
        ce_time TIME
        ce_dataschema urn:tidings:note.taken:1
        ce_correlationid ID
        traceparent, 55 characters
        content-type application/json
        ce_streamseq 2"#]]
    .assert_eq(&headers.join("\n"));
    assert_eq!(id.as_bytes()[14], b'7', "{id} is a UUIDv7");
    let time = message.header("ce_time").and_then(|t| t.parse::<jiff::Timestamp>().ok());
    assert!(time.is_some(), "ce_time is a time");
}
