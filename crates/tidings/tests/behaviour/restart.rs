//! What a stop and a crash leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use expect_test::expect;
use tidings::{Envelope, Handler, HandlerError, Message, Service, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::eventually;
use tidings_testkit::stage::{advance_clock_until, idle, number, stop, tally};
use tidings_testkit::wire::Binary;

use crate::reader::{Script, TABLES, Trouble, journal, journal_by_key, readers, write_down};

fn notes(key: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    numbers.into_iter().map(|n| Binary::note(key, n).message()).collect()
}

#[tokio::test]
async fn what_waits_and_where_the_group_is_survive_a_stop() {
    let stage = crate::stage();
    let script = Script::default();
    script.breaks("a 2", Trouble::Transient);
    script.breaks("dead 1", Trouble::Fatal);
    let running = stage.start(readers(&script)).await;
    stage.send(NOTES, notes("a", [1, 2, 3])).await;
    stage.send(NOTES, notes("b", [1, 3])).await;
    stage.send(NOTES, notes("dead", [1, 2])).await;
    idle(&running).await;
    expect!["delivered 7 handled 2 parked 4 dead 1 | waiting 4 dead 1"].assert_eq(&tally(&running).await);
    stop(running).await;

    let running = stage.start(readers(&script)).await;
    stage.send(NOTES, notes("a", [4])).await;
    stage.send(NOTES, notes("b", [2])).await;
    advance_clock_until(&running, "the gap closes", async || {
        number(&running, |s| s.consumer.recovered).await == 1
    })
    .await;
    expect!["delivered 2 handled 1 parked 1 recovered 1 | waiting 4 dead 1"]
        .assert_eq(&tally(&running).await);
    script.mend("a 2");
    advance_clock_until(&running, "only the dead one's key waits", async || {
        number(&running, |s| s.parked.expect("it is known").waiting).await == 1
    })
    .await;
    expect![[r#"
        a 1 2 3 4
        b 1 2 3"#]]
    .assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn a_stop_in_the_middle_of_much_work_loses_nothing_and_repeats_nothing() {
    let stage = crate::stage();
    let script = Script::default();
    let mut running = stage.start(readers(&script)).await;
    let mut handled = 0;
    for round in 0..6 {
        for key in 0..10 {
            let first = round * 40 + 1;
            stage.send(NOTES, notes(&format!("k{key}"), first..first + 40)).await;
        }
        // In the middle of it, not at the end.
        handled += {
            running.stop().await.expect("it stops");
            let status = running.status().await.expect("it can be asked");
            assert_eq!(status.consumer.duplicate, 0, "{status:?}");
            status.consumer.handled
        };
        drop(running);
        running = stage.start(readers(&script)).await;
    }
    idle(&running).await;
    assert_eq!(handled + number(&running, |s| s.consumer.handled).await, 2400);
    assert_eq!(number(&running, |s| s.consumer.duplicate).await, 0);
    let expected: Vec<String> = (1..=240).map(|n: u64| n.to_string()).collect();
    for line in journal_by_key(&running).await.lines() {
        assert_eq!(line.split_once(' ').map(|(_, n)| n), Some(&*expected.join(" ")));
    }
    assert_eq!(journal(&running).await.len(), 2400);
}

/// Counts its calls; the first one never ends.
#[derive(Clone, Default)]
struct HangsOnce(Arc<AtomicU32>);

impl Handler<NoteTaken> for HangsOnce {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
        write_down(tx, &format!("{} {}", event.key(), event.payload().n)).await
    }
}

#[tokio::test]
async fn events_whose_handler_a_stop_cuts_off_come_again() {
    let stage = crate::stage();
    let handler = HangsOnce::default();
    let service = || Service::new("readers").tables(TABLES).on::<NoteTaken, _>(handler.clone());
    let running = stage.start(service).await;
    stage.send(NOTES, notes("a", [1, 2])).await;
    eventually("the handler hangs", async || handler.0.load(Ordering::SeqCst) == 1).await;
    stop(running).await;
    let running = stage.start(service).await;
    idle(&running).await;
    assert_eq!(journal(&running).await, ["a 1", "a 2"]);
}

#[tokio::test]
async fn an_event_that_is_due_by_a_clock_that_was_ahead_is_tried_at_the_next_start() {
    let stage = crate::stage();
    let script = Script::default();
    script.breaks("a 1", Trouble::Transient);
    let running = stage.start(readers(&script)).await;
    stage.send(NOTES, notes("a", [1])).await;
    idle(&running).await;
    // As if the clock had been two days ahead; no pause is longer than one.
    let shift = "UPDATE parked SET due_us = due_us + 172800000000";
    running
        .store()
        .transaction(async |tx: &mut Tx| Ok(tx.execute(shift, &[]).await?))
        .await
        .expect("a shift");
    script.mend("a 1");
    stop(running).await;
    let running = stage.start(readers(&script)).await;
    eventually("it is handled", async || number(&running, |s| s.consumer.recovered).await == 1).await;
}
