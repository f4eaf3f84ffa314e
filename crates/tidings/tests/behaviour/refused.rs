//! A cluster that refuses a message, until its limit is mended.

use std::time::Duration;

use tidings::{TopicSpec, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::eventually;
use tidings_testkit::stage::{PARTITIONS, number, stop};

use crate::relay::{keys, publish, writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_makes_its_stream_wait_and_passes_once_the_limit_is_mended() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let limit = async |bytes: usize| {
        let spec = TopicSpec::new(NOTES).message_bytes_max(bytes);
        stage.broker().apply_plan(&[spec], PARTITIONS).await.expect("the limit can be set");
    };
    limit(2_000).await;
    let long = NoteTaken { text: "x".repeat(20_000), ..NoteTaken::new("k0", 1) };
    running.store().transaction(async move |tx: &mut Tx| tx.publish(long).await).await.expect("it commits");
    eventually("it is refused", async || {
        number(&running, |s| s.outbox.rows.expect("it is known").blocked).await == 1
    })
    .await;
    // What follows it in its stream is not even tried; other streams go on.
    publish(running.store(), &keys(1), 2, 3).await;
    publish(running.store(), &["other".to_owned()], 1, 3).await;
    eventually("the other stream arrives", async || stage.read(NOTES).await.len() == 3).await;
    eventually("the refused stream waits", async || {
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await == 3
    })
    .await;
    assert!(stage.read(NOTES).await.iter().all(|record| record.message.key_text() == "other"));
    // It is tried again by itself.
    limit(1_000_000).await;
    running.store().clock().advance(Duration::from_secs(60));
    eventually("it passes", async || {
        running.store().clock().advance(Duration::from_secs(60));
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await == 0
    })
    .await;
    let seqs: Vec<_> = stage
        .read(NOTES)
        .await
        .iter()
        .filter(|r| r.message.key_text() == "k0")
        .map(|r| tidings_testkit::wire::seq(&r.message))
        .collect();
    assert_eq!(seqs, [Some(1), Some(2), Some(3)]);
    assert_eq!(number(&running, |s| s.outbox.rows.expect("it is known").blocked).await, 0);
    stop(running).await;
}
