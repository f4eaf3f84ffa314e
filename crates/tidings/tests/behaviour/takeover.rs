//! What others may do while a process of the same service is slow, cut off or dead. Another process is
//! played by statements in its database.

use expect_test::expect;
use tidings::Store;
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::fault::Tripwire;
use tidings_testkit::stage::{Stage, idle, number, tally};
use tidings_testkit::wire::{Binary, seq};
use tokio_postgres::{Client, NoTls};

use crate::effects::{Bank, ask, paid, payer, under_way};
use crate::reader::{Script, readers};
use crate::relay::{assert_whole, keys, publish, writers};

/// A connection of one's own to the schema of a service.
async fn connect(stage: &Stage, service: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&stage.store_url(), NoTls).await.expect("it connects");
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path = {service}")).await.expect("the schema is there");
    client
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect("the statement can be run");
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.expect("the query can be run").get(0)
}

/// How many statements in this database wait for a lock.
async fn waiting(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    count(client, sql).await
}

/// Every lease is long over, by the database's clock. Whoever renews one begins with its instance too.
const EXPIRE: &str = "UPDATE instance SET expires_us = 0; UPDATE relay_lane SET expires_us = 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_its_lanes_deletes_nothing_of_them() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    publish(running.store(), &keys(10), 1, 1).await;
    idle(&running).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(running.store(), &keys(10), 2, 2).await;
    eventually("the relay has them", async || number(&running, |s| s.outbox.failed).await > 0).await;

    // Deletes wait from here on, as if this process were paused before them.
    let (mut pause, others) = (connect(&stage, "writers").await, connect(&stage, "writers").await);
    let pause = pause.transaction().await.expect("a transaction begins");
    pause.batch_execute("LOCK TABLE outbox IN SHARE MODE").await.expect("nobody holds it for long");
    drop(away);
    eventually("all are sent", async || stage.read(NOTES).await.len() == 20).await;
    eventually("a delete waits", async || waiting(&others).await > 0).await;
    let take_over = "UPDATE relay_lane SET owner = -1, epoch = nextval('lane_epoch'), expires_us =
                         (extract(epoch FROM clock_timestamp() + interval '1 hour') * 1000000)::int8";
    run(&others, take_over).await;
    pause.commit().await.expect("it goes on");
    eventually("the delete is over", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND state = 'active' AND query LIKE 'DELETE FROM outbox%'";
        count(&others, sql).await == 0
    })
    .await;
    assert_eq!(
        number(&running, |s| s.outbox.rows.expect("it is known").pending).await,
        10,
        "they are another's to delete"
    );

    // The other one has not done it, and is gone: they are sent again, and are recognisable.
    run(&others, EXPIRE).await;
    idle(&running).await;
    let records = stage.read(NOTES).await;
    assert_eq!(records.len(), 30);
    for key in keys(10) {
        let of_key = records.iter().filter(|r| r.message.key_text() == key);
        let of_key: Vec<_> = of_key.map(|r| (seq(&r.message), r.message.header("ce_id"))).collect();
        assert_eq!(of_key.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [Some(1), Some(2), Some(2)]);
        assert_eq!(of_key[1], of_key[2], "the same event");
    }
}

/// Whoever publishes the first event of `slow` waits in his commit for the lock 42.
async fn hold_slow(setup: &Client) {
    run(
        setup,
        "CREATE FUNCTION writers.hold() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             IF (SELECT stream || '#' || seq FROM writers.event_log WHERE id = NEW.id) = 'notes/slow#1' THEN
                 PERFORM pg_advisory_xact_lock(42);
             END IF;
             RETURN NULL; END$$;
         CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON writers.outbox DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION writers.hold()",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_committed_late_is_sent_after_all() {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let (gate, setup) = (connect(&stage, "writers").await, connect(&stage, "writers").await);
    hold_slow(&setup).await;
    run(&gate, "SELECT pg_advisory_lock(42)").await;
    // Written by a process that does not relay it, numbered and given an id, and stuck in its commit …
    let elsewhere = Store::open(&stage.store_url(), "writers", &[]).await.expect("the store opens");
    let slow = elsewhere.clone();
    let committing = tokio::spawn(async move { publish(&slow, &["slow".to_owned()], 1, 1).await });
    eventually("the commit hangs", async || waiting(&setup).await > 0).await;
    // … while what came after it is found, sent and done with.
    publish(&elsewhere, &keys(20), 1, 5).await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 20, 5);
    run(&gate, "SELECT pg_advisory_unlock(42)").await;
    committing.await.expect("it is committed");
    eventually("it arrives", async || stage.read(NOTES).await.len() == 101).await;
    idle(&running).await;
    let sql =
        "SELECT count(*) FROM event_log WHERE id > (SELECT id FROM event_log WHERE stream = 'notes/slow')";
    assert_eq!(count(&setup, sql).await, 100, "its id was drawn first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_committed_late_in_front_of_a_backlog_is_not_overtaken() {
    const STREAMS: u64 = 1000;
    let stage = crate::stage();
    let elsewhere = Store::open(&stage.store_url(), "writers", &[]).await.expect("the store opens");
    let (gate, setup) = (connect(&stage, "writers").await, connect(&stage, "writers").await);
    hold_slow(&setup).await;
    run(&gate, "SELECT pg_advisory_lock(42)").await;
    let slow = elsewhere.clone();
    let committing = tokio::spawn(async move { publish(&slow, &["slow".to_owned()], 1, 1).await });
    eventually("the commit hangs", async || waiting(&setup).await > 0).await;
    // A backlog that does not fit into memory, and of which nothing leaves for now.
    publish(&elsewhere, &keys(STREAMS), 1, 9).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    let running = stage.start(writers).await;
    eventually("the relay has begun", async || number(&running, |s| s.outbox.failed).await > 0).await;
    // In front of all that the relay has read, and with a successor behind all that it has not read.
    run(&gate, "SELECT pg_advisory_unlock(42)").await;
    committing.await.expect("it is committed");
    publish(&elsewhere, &["slow".to_owned()], 2, 2).await;
    drop(away);
    idle(&running).await;
    let records = stage.read(NOTES).await;
    assert_eq!(records.len() as u64, 9 * STREAMS + 2);
    let of_slow = records.iter().filter(|record| record.message.key_text() == "slow");
    assert_eq!(of_slow.map(|record| seq(&record.message)).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_is_kept_for_as_long_as_something_of_it_is_under_way() {
    /// Some are in each lane.
    const STREAMS: u64 = 1000;
    let stage = crate::stage();
    let first = stage.start(writers).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(first.store(), &keys(STREAMS), 1, 1).await;
    eventually("the relay has them", async || number(&first, |s| s.outbox.failed).await > 0).await;
    let _second = stage.start(writers).await;
    let database = connect(&stage, "writers").await;
    let both = async || count(&database, "SELECT count(*) FROM instance WHERE relays").await == 2;
    eventually("there are two", both).await;
    // Whatever is to be given back is, right after a renewal: the next one comes later.
    for _ in 0..2 {
        let expires = "SELECT expires_us FROM instance ORDER BY id LIMIT 1";
        let before = count(&database, expires).await;
        eventually("the first one renews", async || count(&database, expires).await > before).await;
    }
    let lanes = "SELECT count(*) FROM relay_lane WHERE owner = (SELECT min(id) FROM instance)";
    assert_eq!(count(&database, lanes).await, 64, "each lane is busy");
    drop(away);
    eventually("each has its share", async || count(&database, lanes).await == 32).await;
    idle(&first).await;
    assert_whole(&stage.read(NOTES).await, STREAMS as usize, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_instance_has_not_sent_another_sends_when_its_leases_have_run_out() {
    let stage = crate::stage();
    let dead = stage.start(writers).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(dead.store(), &keys(30), 1, 10).await;
    eventually("the relay has tried", async || number(&dead, |s| s.outbox.failed).await > 0).await;
    // Dropped, not stopped: nothing is given back.
    drop(dead);
    drop(away);
    let running = stage.start(writers).await;
    let others = connect(&stage, "writers").await;
    let held = "SELECT count(DISTINCT owner) FROM relay_lane WHERE owner IS NOT NULL";
    assert_eq!(count(&others, held).await, 1, "the dead one's leases stand");
    publish(running.store(), &keys(30), 11, 12).await;
    assert_eq!(number(&running, |s| s.outbox.rows.expect("it is known").pending).await, 360);
    run(&others, "UPDATE relay_lane SET expires_us = 0").await;
    idle(&running).await;
    assert_whole(&stage.read(NOTES).await, 30, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_instance_had_begun_another_looks_up_first() {
    let stage = crate::stage();
    let (bank, dead) = under_way(&stage).await;
    let running = stage.start(payer(&bank)).await;
    drop(dead);
    let others = connect(&stage, "payer").await;
    run(&others, "UPDATE instance SET expires_us = 0 WHERE id = (SELECT owner FROM effect)").await;
    eventually("it is recorded", async || paid(&running).await == ["b1"]).await;
    idle(&running).await;
    expect![[r#"
        perform pay/b1
        look up pay/b1: done
        settle b1 found"#]]
    .assert_eq(&bank.calls());
    assert_eq!(bank.overpaid(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_outcome_of_an_instance_that_was_taken_for_dead_is_recorded_once() {
    let stage = crate::stage();
    let (bank, paused) = under_way(&stage).await;
    let running = stage.start(payer(&bank)).await;
    let others = connect(&stage, "payer").await;
    eventually("another records it", async || {
        // It is not really dead, and may have renewed its lease.
        run(&others, "UPDATE instance SET expires_us = 0 WHERE id = (SELECT owner FROM effect)").await;
        paid(&running).await == ["b1"]
    })
    .await;
    // It goes on, and does not know.
    bank.go_on();
    ask(paused.store(), "b2").await;
    eventually("the next one is recorded", async || paid(&running).await.len() > 1).await;
    idle(&paused).await;
    idle(&running).await;
    assert_eq!(paid(&running).await, ["b1", "b2"]);
    assert_eq!(bank.count("perform pay/b1"), 1, "{}", bank.calls());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_timers_are_taken_up_by_one_instance_each() {
    const COUNT: usize = 300;
    let stage = crate::stage();
    let bank = Bank::default();
    let (first, second) = (stage.start(payer(&bank)).await, stage.start(payer(&bank)).await);
    let hour = std::time::Duration::from_hours(1);
    first
        .store()
        .transaction(async move |tx: &mut tidings::Tx| {
            let due = tx.now() + hour;
            for n in 0..COUNT {
                tx.perform_at(crate::effects::pay(&format!("b{n}")), due).await?;
            }
            Ok(())
        })
        .await
        .expect("timers can be set");
    first.store().clock().advance(hour);
    second.store().clock().advance(hour);
    eventually("all are done", async || paid(&first).await.len() >= COUNT).await;
    idle(&first).await;
    idle(&second).await;
    assert_eq!(paid(&first).await.len(), COUNT);
    for n in 0..COUNT {
        assert_eq!(bank.count(&format!("perform pay/b{n}")), 1, "b{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_number_waits_for_who_is_just_parking_one_of_its_key() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    stage.send(NOTES, [Binary::note("a", 1).message()]).await;
    idle(&running).await;
    let (mut another, looking) = (connect(&stage, "readers").await, connect(&stage, "readers").await);
    let parking = another.transaction().await.expect("a transaction begins");
    let blocked = parking.execute("UPDATE inbox SET blocked = 1 WHERE stream = 'notes/a'", &[]).await;
    assert_eq!(blocked.expect("the statement can be run"), 1);
    stage.send(NOTES, [Binary::foreign("a", 100).message()]).await;
    eventually("it waits", async || {
        waiting(&looking).await > 0 || number(&running, |s| s.consumer.delivered).await > 1
    })
    .await;
    parking.commit().await.expect("it commits");
    idle(&running).await;
    expect!["delivered 2 handled 1 parked 1 | waiting 1 dead 0"].assert_eq(&tally(&running).await);
    assert_eq!(script.tries("a 100"), 0);
}
