//! What only embedded stores do: their files can be copied, and what is claimed in them long ago is anybody's.

use expect_test::expect;
use tidings::{Message, Service, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::fault::Tripwire;
use tidings_testkit::stage::{Stage, idle, number, stop, tally};
use tidings_testkit::{eventually, within};

use crate::effects::{ask, paid, payer, under_way};
use crate::reader::{Script, journal_by_key, readers};
use crate::relay::{assert_whole, keys, publish, writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_has_not_taken_survives_a_stop_and_a_crash() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(running.store(), &keys(10), 1, 10).await;
    eventually("the relay has tried", async || number(&running, |s| s.outbox.failed).await > 0).await;
    stop(running).await;
    drop(away);
    let crashed = Stage::on(stage.scratch().after_a_crash());
    for stage in [stage, crashed] {
        let running = stage.start(writers).await;
        idle(&running).await;
        assert_whole(&stage.read(NOTES).await, 10, 10);
    }
}

#[tokio::test]
async fn what_was_under_way_at_a_crash_is_looked_up_before_anything_else() {
    let stage = crate::stage();
    let (bank, running) = under_way(&stage).await;
    let crashed = Stage::on(stage.scratch().after_a_crash());
    within("the service stops", running.stop()).await.expect("it stops");
    drop(running);
    // After the crash, and after the stop.
    for stage in [crashed, stage] {
        let before = bank.books().calls.len();
        let running = stage.start(payer(&bank)).await;
        eventually("it is recorded", async || paid(&running).await == ["b1"]).await;
        let calls = bank.books().calls.split_off(before);
        assert_eq!(calls, ["look up pay/b1: done", "settle b1 found"]);
    }
    assert_eq!(bank.overpaid(), 0);
}

/// A producer that crashed between acknowledgement and delete, a consumer that crashed between its
/// commit and its offset: everything comes again, nothing is done again.
#[tokio::test]
async fn what_is_sent_and_delivered_again_after_a_crash_is_handled_once() {
    let stage = crate::stage();
    let script = Script::default();
    let writers = || Service::new("writers").topic(NOTES);
    let running = stage.start(writers).await;
    let away = tidings_testkit::fault::Tripwire::broker_away(stage.scratch().path());
    running
        .store()
        .transaction(async |tx: &mut Tx| {
            for n in 1..=5 {
                tx.publish(NoteTaken::new("a", n)).await?;
                tx.publish(NoteTaken::new("b", n)).await?;
            }
            Ok(())
        })
        .await
        .expect("events can be published");
    let before = stage.scratch().after_a_crash();
    drop(away);
    let reading = stage.start(readers(&script)).await;
    idle(&running).await;
    idle(&reading).await;
    assert_eq!(number(&reading, |s| s.consumer.handled).await, 10);
    stop(running).await;

    // The producer comes back as it was before it learned that everything had arrived.
    for file in ["writers.db", "writers.db-wal"] {
        let (from, to) = (before.path().join(file), stage.scratch().path().join(file));
        tidings_testkit::eventually("the writers' files are free", async || {
            let lock = std::fs::File::open(stage.scratch().path().join("writers.lock"));
            lock.is_ok_and(|lock| lock.try_lock().is_ok())
        })
        .await;
        std::fs::copy(from, to).expect("a file can be put back");
    }
    let _ = std::fs::remove_file(stage.scratch().path().join("writers.db-shm"));
    let running = stage.start(writers).await;
    idle(&running).await;
    idle(&reading).await;
    assert_eq!(stage.read(NOTES).await.len(), 20, "everything was sent twice");
    expect![[r#"
        a 1 2 3 4 5
        b 1 2 3 4 5"#]]
    .assert_eq(&journal_by_key(&reading).await);
    expect!["delivered 20 handled 10 duplicate 10 | waiting 0 dead 0"].assert_eq(&tally(&reading).await);

    // A group whose offsets are lost reads everything again.
    let (records, before) = (stage.read(NOTES).await, stage.scratch().path().join("readers.db"));
    stop(reading).await;
    let elsewhere = crate::stage();
    std::fs::copy(before, elsewhere.scratch().path().join("readers.db")).expect("a file can be copied");
    elsewhere.topics([NOTES]).await;
    elsewhere.send(NOTES, records.iter().map(|r| Message::clone(&r.message))).await;
    let reading = elsewhere.start(readers(&script)).await;
    idle(&reading).await;
    expect!["delivered 20 duplicate 20 | waiting 0 dead 0"].assert_eq(&tally(&reading).await);
    assert_eq!(script.tries("a 1"), 1);
}

#[tokio::test]
async fn a_late_outcome_of_a_deed_that_was_taken_over_is_recorded_once() {
    let stage = crate::stage();
    let (bank, running) = under_way(&stage).await;
    // So long that somebody else takes it up, looks it up, records it.
    running.store().clock().advance(std::time::Duration::from_mins(10));
    eventually("it is recorded", async || paid(&running).await == ["b1"]).await;
    bank.go_on();
    ask(running.store(), "b2").await;
    eventually("the next one is recorded", async || paid(&running).await.contains(&"b2".to_owned())).await;
    idle(&running).await;
    stop(running).await;
    let running = stage.start(payer(&bank)).await;
    idle(&running).await;
    assert_eq!(paid(&running).await, ["b1", "b2"]);
    assert_eq!(bank.count("perform pay/b1"), 1, "{}", bank.calls());
}
