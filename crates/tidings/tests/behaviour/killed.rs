//! Redrives in a process that dies: at every call of a handler, and again at every call after that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tidings::{Envelope, Handler, HandlerError, Service, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::stage::{Stage, drain_parked};
use tidings_testkit::wire::Binary;
use tidings_testkit::{Scratch, TestApp, eventually};
use tokio::sync::Semaphore;

use crate::reader::{TABLES, journal_by_key, write_down};

const KEYS: [&str; 3] = ["a", "b", "c"];
/// Events of a key, of which the first is a dead letter.
const EVENTS: u64 = 3;

/// A handler that stops within its transaction at a given call.
#[derive(Clone)]
struct Stops(Arc<StopsState>);

struct StopsState {
    is_broken: AtomicBool,
    calls: AtomicUsize,
    stops_at: AtomicUsize,
    goes_on: Semaphore,
}

impl Stops {
    fn at(call: usize) -> Self {
        Self(Arc::new(StopsState {
            is_broken: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            stops_at: AtomicUsize::new(call),
            goes_on: Semaphore::new(0),
        }))
    }

    fn has_stopped(&self) -> bool {
        self.0.calls.load(Ordering::SeqCst) >= self.0.stops_at.load(Ordering::SeqCst)
    }

    fn service(&self) -> Service {
        Service::new("readers").tables(TABLES).takes_external::<NoteTaken>().on(self.clone())
    }
}

impl Handler<NoteTaken> for Stops {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        if self.0.is_broken.load(Ordering::SeqCst) && event.payload().n == 1 {
            return Err(HandlerError::fatal("illegible", event.key()));
        }
        write_down(tx, &format!("{} {}", event.key(), event.payload().n)).await?;
        if !self.0.is_broken.load(Ordering::SeqCst) {
            self.0.calls.fetch_add(1, Ordering::SeqCst);
            if self.has_stopped() {
                let _ = self.0.goes_on.acquire().await;
            }
        }
        Ok(())
    }
}

/// A directory in which the first event of each key is a dead letter, and the others wait.
async fn dead() -> Scratch {
    let stops = Stops::at(usize::MAX);
    stops.0.is_broken.store(true, Ordering::SeqCst);
    let app = TestApp::start_on(Stage::new(), [stops.service()]).await;
    for n in 1..=EVENTS {
        app.stage().send(NOTES, KEYS.map(|key| Binary::note(key, n).message())).await;
    }
    app.idle().await;
    let status = app.service("readers").status().await.expect("a status");
    assert_eq!(status.parked.map(|rows| rows.dead), Some(3));
    let left = app.stage().scratch().after_a_crash();
    app.stop().await;
    left
}

async fn redrive(app: &TestApp, limit: u32) {
    let body = json!({"filter": {}, "reason": "mended", "limit": limit});
    let answer = app.post("/admin/dead-letters/redrive", &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

/// Brings dead letters back and dies at a call of the handler; `None` if there is no such call.
async fn dies(left: Scratch, call: usize, limit: u32) -> Result<Scratch, Scratch> {
    let stops = Stops::at(call);
    let app = TestApp::start_on(Stage::on(left), [stops.service()]).await;
    redrive(&app, limit).await;
    let waiting =
        async || app.service("readers").status().await.expect("a status").parked.expect("rows").waiting;
    let due = async || {
        let waiting = app.get("/admin/dead-letters?state=waiting").await.body;
        waiting["items"].as_array().expect("a list").iter().any(|item| item["due_at"].is_string())
    };
    eventually("it stops, or nothing is left to do", async || {
        stops.has_stopped() || waiting().await == 0 || (limit == 1 && !due().await)
    })
    .await;
    let has_stopped = stops.has_stopped();
    let left = app.stage().scratch().after_a_crash();
    stops.0.goes_on.close();
    app.stop().await;
    if has_stopped { Ok(left) } else { Err(left) }
}

/// Brings back what is still dead, and requires that each event was handled once, in its order.
async fn ends_well(left: Scratch, story: &str) {
    let app = TestApp::start_on(Stage::on(left), [Stops::at(usize::MAX).service()]).await;
    redrive(&app, 1000).await;
    drain_parked(app.service("readers")).await;
    app.stage().send(NOTES, KEYS.map(|key| Binary::note(key, EVENTS + 1).message())).await;
    app.idle().await;
    let journal = journal_by_key(app.service("readers")).await;
    assert_eq!(journal, "a 1 2 3 4\nb 1 2 3 4\nc 1 2 3 4", "{story}");
    app.stop().await;
}

#[tokio::test]
async fn a_redrive_killed_at_every_step_loses_doubles_and_overtakes_nothing() {
    let mut steps = 0;
    for limit in [1000, 1] {
        for first in 1.. {
            let Ok(left) = dies(dead().await, first, limit).await else { break };
            steps += 1;
            // And once more, on the way back.
            for second in [1, 2, 5] {
                let again = match dies(left.after_a_crash(), second, 1000).await {
                    Ok(left) | Err(left) => left,
                };
                ends_well(again, &format!("killed at calls {first} and {second}, {limit} at a time")).await;
            }
            ends_well(left, &format!("killed at call {first}, {limit} at a time")).await;
        }
    }
    assert!(steps >= 9, "each event was a step: {steps}");
}
