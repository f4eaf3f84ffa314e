//! Keys in parallel: handlers that take long run side by side, each key in order, and hold nobody up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidings::{Envelope, Handler, HandlerError, HandlerOptions, RunningService, Service, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::eventually;
use tidings_testkit::stage::{Stage, idle, stop};
use tidings_testkit::wire::Binary;
use tokio::sync::Semaphore;

use crate::reader::{TABLES, journal, journal_by_key, write_down};

/// Longer than a call of a handler that counts as quick.
const LONG: Duration = Duration::from_millis(60);

/// Waits at the gate before it writes its event down, but lets those of the key `warm` and of quick keys through.
#[derive(Clone)]
struct Waiting {
    gate: Arc<Semaphore>,
    is_quick: fn(&str) -> bool,
    /// Calls, those at the gate now, and the most of them.
    calls: Arc<AtomicUsize>,
    at_gate: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Waiting {
    fn but(is_quick: fn(&str) -> bool) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        Self { gate, is_quick, calls: Arc::default(), at_gate: Arc::default(), most: Arc::default() }
    }

    fn at_gate(&self) -> usize {
        self.at_gate.load(Ordering::SeqCst)
    }

    fn service(&self, lanes: usize, options: HandlerOptions) -> Service {
        Service::new("readers")
            .tables(TABLES)
            .takes_external::<NoteTaken>()
            .on(self.clone())
            .with(options)
            .lanes(lanes)
    }
}

/// A call that waits at the gate, also one that is dropped.
struct AtGate<'a>(&'a Waiting);

impl<'a> AtGate<'a> {
    fn of(waiting: &'a Waiting) -> Self {
        let now = waiting.at_gate.fetch_add(1, Ordering::SeqCst) + 1;
        waiting.most.fetch_max(now, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for AtGate<'_> {
    fn drop(&mut self) {
        self.0.at_gate.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler<NoteTaken> for Waiting {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match event.key() {
            "warm" => tokio::time::sleep(LONG).await,
            key if (self.is_quick)(key) => {}
            _ => {
                let _at_gate = AtGate::of(self);
                self.gate.acquire().await.expect("the gate stays").forget();
            }
        }
        write_down(tx, &format!("{} {}", event.key(), event.payload().n)).await
    }
}

/// Starts the service, and has its handler taken for a slow one.
async fn start_slow(
    stage: &Stage,
    handler: &Waiting,
    lanes: usize,
    options: HandlerOptions,
) -> RunningService {
    let running = stage.start(|| handler.service(lanes, options)).await;
    stage.send(NOTES, [Binary::note("warm", 1).message()]).await;
    eventually("the handler was called", async || journal(&running).await == ["warm 1"]).await;
    running
}

fn notes(keys: &[&str], numbers: std::ops::RangeInclusive<u64>) -> Vec<tidings::Message> {
    numbers.flat_map(|n| keys.iter().map(move |key| Binary::note(key, n).message())).collect()
}

#[tokio::test]
async fn calls_that_take_long_run_side_by_side_and_each_key_in_order() {
    let stage = crate::stage();
    let handler = Waiting::but(|_| false);
    let running = start_slow(&stage, &handler, 4, HandlerOptions::new()).await;
    stage.send(NOTES, notes(&["a", "b", "c", "d", "e", "f"], 1..=3)).await;
    eventually("as many as there are lanes", async || handler.at_gate() == 4).await;
    eventually("the status says so", async || {
        let lanes = running.status().await.expect("a status").consumer.lanes.expect("more than one");
        (lanes.all, lanes.busy) == (4, 4)
    })
    .await;
    handler.gate.add_permits(18);
    let expected = "a 1 2 3\nb 1 2 3\nc 1 2 3\nd 1 2 3\ne 1 2 3\nf 1 2 3\nwarm 1";
    eventually("all are handled in order", async || journal_by_key(&running).await == expected).await;
    assert_eq!(handler.most.load(Ordering::SeqCst), 4, "and never more");
    idle(&running).await;
    stop(running).await;
}

#[tokio::test]
async fn of_a_handler_that_nobody_knows_yet_only_a_few_events_share_a_transaction() {
    let stage = crate::stage();
    let handler = Waiting::but(|_| false);
    let running = stage.start(|| handler.service(4, HandlerOptions::new())).await;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
    stage.send(NOTES, keys.iter().map(|key| Binary::note(key, 1).message())).await;
    eventually("the first is called", async || handler.at_gate() == 1).await;
    // Longer than others are held up by a transaction that takes much longer than usual.
    tokio::time::sleep(2 * LONG).await;
    handler.gate.add_permits(16);
    eventually("the others go side by side", async || handler.at_gate() == 4).await;
    handler.gate.add_permits(24);
    eventually("all are handled", async || journal(&running).await.len() == 40).await;
    stop(running).await;
}

#[tokio::test]
async fn a_handler_has_no_more_calls_at_once_than_it_can_stand() {
    let stage = crate::stage();
    let handler = Waiting::but(|_| false);
    let options = HandlerOptions::new().concurrency(2);
    let running = start_slow(&stage, &handler, 8, options).await;
    stage.send(NOTES, notes(&["a", "b", "c", "d", "e"], 1..=1)).await;
    eventually("two are called", async || handler.at_gate() == 2).await;
    handler.gate.add_permits(5);
    eventually("all are handled", async || journal(&running).await.len() == 6).await;
    assert_eq!(handler.most.load(Ordering::SeqCst), 2);
    stop(running).await;
}

#[tokio::test]
async fn a_slow_key_holds_up_no_other_and_is_handled_once_although_the_service_stops() {
    let stage = crate::stage();
    let handler = Waiting::but(|key| key != "slow");
    let running = stage.start(|| handler.service(8, HandlerOptions::new())).await;
    // It is known to be slow from its first call on.
    stage.send(NOTES, [Binary::note("slow", 1).message()]).await;
    eventually("it is called", async || handler.at_gate() == 1).await;
    tokio::time::sleep(LONG).await;
    handler.gate.add_permits(1);
    eventually("it is handled", async || journal(&running).await == ["slow 1"]).await;
    stage.send(NOTES, [Binary::note("slow", 2).message(), Binary::note("slow", 3).message()]).await;
    eventually("it is called again", async || handler.at_gate() == 1).await;
    stage.send(NOTES, notes(&["a", "b", "c"], 1..=200)).await;
    eventually("others go on", async || journal(&running).await.len() == 601).await;
    stop(running).await;
    let handler = Waiting::but(|_| true);
    let running = stage.start(|| handler.service(8, HandlerOptions::new())).await;
    idle(&running).await;
    let numbers: Vec<String> = (1..=200).map(|n| n.to_string()).collect();
    let others = ["a", "b", "c"].map(|key| format!("{key} {}", numbers.join(" "))).join("\n");
    assert_eq!(journal_by_key(&running).await, format!("{others}\nslow 1 2 3"));
    stop(running).await;
}

#[tokio::test]
async fn a_copy_is_not_handled_again_by_a_handler_that_takes_long() {
    let stage = crate::stage();
    let handler = Waiting::but(|_| false);
    let running = start_slow(&stage, &handler, 4, HandlerOptions::new()).await;
    handler.gate.add_permits(10);
    stage.send(NOTES, [notes(&["a"], 1..=2), notes(&["a", "warm"], 1..=2)].concat()).await;
    idle(&running).await;
    assert_eq!(journal_by_key(&running).await, "a 1 2\nwarm 1 2");
    assert_eq!(handler.calls.load(Ordering::SeqCst), 4, "once for each event");
    stop(running).await;
}

/// Computes until others have gone on.
struct Computing(Arc<AtomicUsize>);

impl Handler<NoteTaken> for Computing {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        let (began, before) = (Instant::now(), self.0.load(Ordering::SeqCst));
        while self.0.load(Ordering::SeqCst) == before {
            if began.elapsed() > Duration::from_secs(9) {
                return Err(HandlerError::fatal("alone", "nothing else went on"));
            }
            std::hint::spin_loop();
        }
        write_down(tx, &format!("{} {}", event.key(), event.payload().n)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_handler_that_computes_on_a_thread_of_its_own_holds_nothing_up() {
    let stage = crate::stage();
    let ticks = Arc::new(AtomicUsize::new(0));
    let running = stage
        .start(|| {
            let service = Service::new("readers").tables(TABLES).takes_external::<NoteTaken>();
            service.on(Computing(ticks.clone())).with(HandlerOptions::new().cpu_bound())
        })
        .await;
    stage.send(NOTES, [Binary::note("a", 1).message()]).await;
    let ticking = tokio::spawn({
        let ticks = ticks.clone();
        async move {
            loop {
                ticks.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    eventually("it is handled", async || journal(&running).await == ["a 1"]).await;
    ticking.abort();
    stop(running).await;
}
