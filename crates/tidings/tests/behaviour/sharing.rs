//! Several instances of a service hand lanes and partitions over to each other in good order. (The embedded
//! log takes partitions away at once, since it has one process.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidings::RunningService;
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::stage::{idle, number, stop};

use crate::instances::notes;
use crate::reader::{Script, batch_readers, journal_by_key};
use crate::relay::{assert_whole, publish, writers};

/// Writers at the same time, and how long each pauses: a few thousand events a second are always on their
/// way when a lane changes hands.
const TASKS: u64 = 6;
const PAUSE: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_published_arrives_once_and_in_order_while_instances_come_and_go() {
    let stage = crate::stage();
    let (first, second) = (stage.start(writers).await, stage.start(writers).await);
    let is_enough = Arc::new(AtomicBool::new(false));
    let publishing = (0..TASKS).map(|task| {
        // Each stream's writer need not be the instance that relays it.
        let store = if task % 2 == 0 { first.store() } else { second.store() }.clone();
        let is_enough = is_enough.clone();
        tokio::spawn(async move {
            let keys: Vec<String> = (0..5).map(|n| format!("t{task}k{n}")).collect();
            let mut n = 0;
            while !is_enough.load(Ordering::Relaxed) {
                n += 1;
                publish(&store, &keys, n, n).await;
                tokio::time::sleep(PAUSE).await;
            }
            n
        })
    });
    let publishing: Vec<_> = publishing.collect();
    let relays = async |running: &RunningService, more: u64| {
        let enough = number(running, |s| s.outbox.published).await + more;
        eventually("it relays", async || number(running, |s| s.outbox.published).await > enough).await;
    };
    let third = stage.start(writers).await;
    relays(&third, 200).await;
    // A clean stop in the middle of it gives every lane to those that stay.
    stop(third).await;
    relays(&first, 200).await;
    is_enough.store(true, Ordering::Relaxed);
    let mut ends = Vec::new();
    for task in publishing {
        ends.push(task.await.expect("events can be published"));
    }
    stop(second).await;
    idle(&first).await;
    let records = stage.read(NOTES).await;
    for (task, end) in ends.iter().enumerate() {
        let of_task = format!("t{task}k");
        let of_task = records.iter().filter(|r| r.message.key_text().starts_with(&of_task));
        assert_whole(&of_task.cloned().collect::<Vec<_>>(), 5, *end);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_a_group_handle_everything_once_and_in_order_while_they_come_and_go() {
    const KEYS: u64 = 12;
    const ROUNDS: u64 = 6;
    const EACH: u64 = 20;
    let stage = crate::stage();
    let script = Script::default();
    let service = batch_readers(&script);
    let stays = stage.start(&service).await;
    let mut duplicates = 0;
    for round in 0..ROUNDS {
        let guest = stage.start(&service).await;
        for key in 0..KEYS {
            let first = round * EACH + 1;
            stage.send(NOTES, notes(&format!("k{key}"), first..first + EACH)).await;
        }
        if round % 2 == 0 {
            eventually("the guest has handled some", async || {
                number(&guest, |s| s.consumer.delivered).await > 0
                    || stays.is_idle().await.is_ok_and(|idle| idle)
            })
            .await;
        }
        guest.stop().await.expect("it stops");
        duplicates += number(&guest, |s| s.consumer.duplicate).await;
    }
    idle(&stays).await;
    let expected: Vec<String> = (1..=ROUNDS * EACH).map(|n| n.to_string()).collect();
    let journal = journal_by_key(&stays).await;
    assert_eq!(journal.lines().count() as u64, KEYS);
    for line in journal.lines() {
        assert_eq!(line.split_once(' ').map(|(_, n)| n), Some(&*expected.join(" ")));
    }
    duplicates += number(&stays, |s| s.consumer.duplicate).await;
    assert_eq!(duplicates, 0, "who leaves finishes what it has begun, so nothing is delivered twice");
}
