//! A broker that fails or refuses: the embedded log, tripped.

use std::time::Duration;

use tidings::Service;
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::fault::Tripwire;
use tidings_testkit::stage::{idle, number, stop};

use crate::relay::{assert_whole, keys, publish, writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_costs_nothing_but_time() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    publish(running.store(), &keys(20), 1, 5).await;
    idle(&running).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(running.store(), &keys(20), 6, 2000).await;
    assert_eq!(number(&running, "/outbox/pending").await, 20 * 1995, "everything waits");
    drop(away);
    publish(running.store(), &keys(20), 2001, 2010).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 20, 2010);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_stays_in_order_when_sends_fail() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let unsteady = Tripwire::every_other_send_fails(stage.scratch().path());
    publish(running.store(), &keys(1), 1, 12).await;
    idle(&running).await;
    drop(unsteady);
    assert_whole(&stage.read(NOTES).await, 1, 12);
    assert_eq!(number(&running, "/outbox/blocked").await, 0, "a failure is no refusal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_makes_its_stream_wait_and_passes_once_its_topic_is_there() {
    let stage = crate::stage();
    // Nobody makes the topic of notes.
    let running = stage.start(|| Service::new("writers")).await;
    publish(running.store(), &keys(1), 1, 3).await;
    eventually("the first one is refused", async || number(&running, "/outbox/blocked").await == 1).await;
    // The others of its stream are not even tried, now or after the topic was made; other streams go on.
    stage.topics([NOTES]).await;
    publish(running.store(), &keys(1), 4, 4).await;
    publish(running.store(), &["other".to_owned()], 1, 4).await;
    eventually("the other stream arrives", async || stage.read(NOTES).await.len() == 4).await;
    assert_whole(&stage.read(NOTES).await, 1, 4);
    eventually("only the refused stream waits", async || number(&running, "/outbox/pending").await == 4)
        .await;
    // It is tried again by itself, in order.
    running.store().clock().advance(Duration::from_secs(60));
    eventually("it passes", async || number(&running, "/outbox/pending").await == 0).await;
    assert_whole(&stage.read(NOTES).await, 2, 4);
    assert_eq!(number(&running, "/outbox/blocked").await, 1, "it was refused once, as far as anybody is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_is_tried_again_at_the_next_start() {
    let stage = crate::stage();
    let running = stage.start(|| Service::new("writers")).await;
    publish(running.store(), &keys(1), 1, 3).await;
    eventually("the first one is refused", async || number(&running, "/outbox/blocked").await == 1).await;
    stop(running).await;
    let running = stage.start(writers).await;
    eventually("all arrive", async || stage.read(NOTES).await.len() == 3).await;
    assert_whole(&stage.read(NOTES).await, 1, 3);
    eventually("nothing waits", async || number(&running, "/outbox/pending").await == 0).await;
}
