//! Several instances of a service: they share its database, its lanes and its group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidings::status::Status;
use tidings::{Envelope, Handler, HandlerError, Message, RunningService, Service, Tx, params};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::eventually;
use tidings_testkit::stage::{LONG, idle, number, tally};
use tidings_testkit::wire::Binary;
use tokio::sync::Barrier;

use crate::reader::{Script, Trouble, batch_readers, journal, journal_by_key, readers};
use crate::relay::writers;

pub fn notes(key: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    numbers.into_iter().map(|n| Binary::note(key, n).message()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_two_instances_write_to_is_numbered_in_commit_order() {
    let stage = crate::stage();
    let (first, second) = (stage.start(writers).await, stage.start(writers).await);
    let publishing = [&first, &second].into_iter().flat_map(|running| {
        (0..4).map(|_| {
            let store = running.store().clone();
            tokio::spawn(async move {
                for n in 1..=25 {
                    let note = |key: &str| tidings_testkit::event::NoteTaken::new(key, n);
                    let (hot, warm) = (note("hot"), note("warm"));
                    let published = store.transaction(async move |tx: &mut Tx| {
                        tx.publish(hot).await?;
                        tx.publish(warm).await
                    });
                    published.await.expect("it can be published");
                }
            })
        })
    });
    for task in publishing.collect::<Vec<_>>() {
        task.await.expect("events can be published");
    }
    idle(&first).await;
    idle(&second).await;
    for key in ["hot", "warm"] {
        let records = stage.read(NOTES).await;
        let seqs = records.iter().filter(|r| r.message.key_text() == key);
        let seqs: Vec<_> = seqs.map(|r| tidings_testkit::wire::seq(&r.message)).collect();
        assert_eq!(seqs, (1..=200).map(Some).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_events_are_taken_up_by_one_instance_each() {
    const KEYS: u64 = 40;
    let stage = crate::stage();
    let script = Script::default();
    let service = readers(&script);
    let first = stage.start(&service).await;
    let keys: BTreeSet<String> = (0..KEYS).map(|n| format!("k{n}")).collect();
    for key in &keys {
        script.breaks(&format!("{key} 1"), Trouble::Transient);
        // Without a number, which would tell the second attempt from the first.
        stage.send(NOTES, [Binary::foreign(key, 1).message()]).await;
    }
    eventually("all are parked", async || {
        number(&first, |s| s.parked.expect("it is known").waiting).await == KEYS
    })
    .await;
    let second = stage.start(&service).await;
    let tries: Vec<usize> = keys.iter().map(|key| script.tries(&format!("{key} 1"))).collect();
    keys.iter().for_each(|key| script.mend(&format!("{key} 1")));
    first.store().clock().advance(LONG);
    second.store().clock().advance(LONG);
    // Whoever began to wait just when the clock moved looks at it again.
    let nudge = |running: &RunningService| running.store().clock().advance(Duration::ZERO);
    eventually("nothing waits", async || {
        nudge(&first);
        nudge(&second);
        number(&first, |s| s.parked.expect("it is known").waiting).await == 0
    })
    .await;
    for (key, before) in keys.iter().zip(tries) {
        assert_eq!(script.tries(&format!("{key} 1")), before + 1, "{key} is taken up once");
    }
    let mut found = journal(&first).await;
    found.sort();
    assert_eq!(found, keys.iter().map(|key| format!("{key} 1")).collect::<Vec<_>>());
    tally(&first).await;
    tally(&second).await;
}

/// Both read all of it, as if each partition had two owners: a rebalance of which one knows nothing yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_instances_are_given_at_once_is_handled_once() {
    const KEYS: u64 = 30;
    const EACH: u64 = 20;
    let (stage, elsewhere) = (crate::stage(), tidings_testkit::stage::Stage::new());
    let script = Script::default();
    let service = || -> Service { batch_readers(&script)() };
    for stage in [&stage, &elsewhere] {
        stage.topics(service().topic_names()).await;
        for key in 0..KEYS {
            stage.send(NOTES, notes(&format!("k{key}"), 1..=EACH)).await;
            stage.send(NOTES, [Binary::foreign(&format!("f{key}"), 1).message()]).await;
        }
    }
    let url = stage.store_url();
    let (first, second) =
        tokio::join!(service().start(&url, stage.broker()), service().start(&url, elsewhere.broker()));
    let (first, second) = (first.expect("it starts"), second.expect("it starts"));
    idle(&first).await;
    idle(&second).await;
    let numbers: Vec<String> = (1..=EACH).map(|n| n.to_string()).collect();
    for line in journal_by_key(&first).await.lines() {
        let expected = if line.starts_with('k') { numbers.join(" ") } else { "1".to_owned() };
        assert_eq!(line.split_once(' ').map(|(_, n)| n), Some(&*expected), "{line}");
    }
    assert_eq!(journal(&first).await.len() as u64, KEYS * (EACH + 1));
    let count = async |read: fn(Status) -> u64| number(&first, read).await + number(&second, read).await;
    assert_eq!(count(|s| s.consumer.handled).await, KEYS * (EACH + 1));
    assert_eq!(count(|s| s.consumer.duplicate).await, KEYS * (EACH + 1));
}

/// Locks two rows, in its own order; the first time, in step with the other one.
struct Crosswise {
    rows: [&'static str; 2],
    step: Arc<Barrier>,
    has_met: AtomicBool,
}

impl Crosswise {
    fn service(rows: [&'static str; 2], step: &Arc<Barrier>) -> Service {
        const TABLES: &[&str] = &["CREATE TABLE shelf (id TEXT PRIMARY KEY, n BIGINT NOT NULL);
            INSERT INTO shelf (id, n) VALUES ('left', 0), ('right', 0)"];
        let handler = Self { rows, step: step.clone(), has_met: AtomicBool::new(false) };
        Service::new("shelves").group(rows[0]).tables(TABLES).on::<NoteTaken, _>(handler)
    }
}

impl Handler<NoteTaken> for Crosswise {
    async fn handle(&self, _: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        for (n, row) in self.rows.into_iter().enumerate() {
            tx.execute("UPDATE shelf SET n = n + 1 WHERE id = $1", params![row]).await?;
            if n == 0 && !self.has_met.swap(true, Ordering::SeqCst) {
                self.step.wait().await;
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_batches_that_lock_crosswise_cost_a_moment_and_no_event_an_attempt() {
    let stage = crate::stage();
    let step = Arc::new(Barrier::new(2));
    let service = |rows| {
        let step = step.clone();
        move || Crosswise::service(rows, &step)
    };
    let left = stage.start(service(["left", "right"])).await;
    let right = stage.start(service(["right", "left"])).await;
    stage.send(NOTES, notes("a", 1..=3)).await;
    idle(&left).await;
    idle(&right).await;
    for running in [&left, &right] {
        assert_eq!(tally(running).await, "delivered 3 handled 3 | waiting 0 dead 0");
    }
    let conflicts =
        number(&left, |s| s.consumer.conflicts).await + number(&right, |s| s.consumer.conflicts).await;
    assert!(conflicts >= 1, "they met");
    let shelf = left.store().query("SELECT n FROM shelf ORDER BY id", &[]).await.expect("a shelf");
    let shelf: Vec<u64> = shelf.iter().map(|row| row.get(0).expect("a count")).collect();
    assert_eq!(shelf, [6, 6], "everything was done once");
}

/// Counts how many of its calls are under way at once, and takes its time.
#[derive(Clone, Default)]
struct Counted(Arc<Inside>);

#[derive(Default)]
struct Inside {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Handler<NoteTaken> for Counted {
    async fn handle(&self, _: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        let Inside { now, most } = &*self.0;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let worked = tx.query("SELECT 1 FROM pg_sleep(0.01)", &[]).await;
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(worked.map(|_| ())?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_handlers_never_meet() {
    let stage = crate::stage();
    let inside = Counted::default();
    let service = || Service::new("counters").exclusive().on::<NoteTaken, _>(inside.clone());
    let (first, second) = (stage.start(service).await, stage.start(service).await);
    let handled = async |running: &RunningService| number(running, |s| s.consumer.handled).await;
    let sent = AtomicUsize::new(0);
    // Until each has a share of the partitions, and then some more.
    eventually("both handle events", async || {
        let n = sent.fetch_add(1, Ordering::SeqCst);
        stage.send(NOTES, notes(&format!("k{n}"), [1])).await;
        handled(&first).await > 20 && handled(&second).await > 20
    })
    .await;
    idle(&first).await;
    idle(&second).await;
    assert_eq!(inside.0.most.load(Ordering::SeqCst), 1, "no two were inside at once");
}

/// Never ends for the key `hangs`.
struct Hangs;

impl Handler<NoteTaken> for Hangs {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        tx.query("SELECT 1", &[]).await?;
        if event.key() == "hangs" {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_is_blamed_before_the_server_ends_its_transaction() {
    let stage = crate::stage();
    let service =
        || Service::new("hangers").on::<NoteTaken, _>(Hangs).retry(tidings_testkit::stage::manual_retries(9));
    let running = stage.start(service).await;
    stage.send(NOTES, ["a", "hangs", "b"].map(|key| Binary::note(key, 1).message())).await;
    eventually("it is parked, and the others are handled", async || {
        number(&running, |s| s.parked.expect("it is known").waiting).await == 1
            && number(&running, |s| s.consumer.handled).await == 2
    })
    .await;
    let rows = running.store().query("SELECT error_message FROM parked", &[]).await.expect("it can be read");
    let message: String = rows[0].get(0).expect("a message");
    assert!(message.contains("did not end within"), "{message}");
}
