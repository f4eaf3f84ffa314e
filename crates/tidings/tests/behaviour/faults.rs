//! A broker that fails or refuses: the embedded log, tripped.

use tidings::{Tx, params};
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
    assert_eq!(
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await,
        20 * 1995,
        "everything waits"
    );
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
    assert_eq!(
        number(&running, |s| s.outbox.rows.expect("it is known").blocked).await,
        0,
        "a failure is no refusal"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_refused_is_tried_again_at_the_next_start_unless_nobody_can_ever_take_it() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(running.store(), &keys(2), 1, 3).await;
    // As if the broker had refused the first one of each, for different reasons.
    for (stream, reason) in [("notes/k0", "too large for now"), ("notes/k1", "never: no such thing")] {
        let mark =
            "UPDATE outbox SET blocked = $1 WHERE id = (SELECT min(id) FROM event_log WHERE stream = $2)";
        let marked = running
            .store()
            .transaction(async move |tx: &mut Tx| Ok(tx.execute(mark, params![reason, stream]).await?));
        assert_eq!(marked.await.expect("it can be marked"), 1);
    }
    drop(away);
    stop(running).await;
    let running = stage.start(writers).await;
    eventually("one of them passes", async || stage.read(NOTES).await.len() >= 3).await;
    eventually("the other waits", async || {
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await == 3
    })
    .await;
    assert_whole(&stage.read(NOTES).await, 1, 3);
}
