//! Allocations per event: steadier than seconds.

use std::alloc::System;
use std::time::Duration;

use bench::steps;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const EVENTS: usize = 20_000;
const BATCH: usize = 500;

#[tokio::main]
async fn main() {
    // Each figure includes making the events and their JSON: the difference to the first line is ours.
    count("make events", async { drop(std::hint::black_box(steps::bursts(0..EVENTS))) }).await;
    count("publish", async {
        let _: Duration = steps::enqueue(EVENTS, BATCH).await;
    })
    .await;
    count("append to the log", async {
        let _: Duration = steps::append(EVENTS).await;
    })
    .await;
    count("append, then consume in batches", async {
        let _: Duration = Box::pin(steps::consume(EVENTS, true)).await;
    })
    .await;
}

async fn count(name: &str, work: impl Future<Output = ()>) {
    let region = Region::new(ALLOCATOR);
    work.await;
    let change = region.change();
    println!(
        "{name:<34} {:>8.1} allocations {:>8.0} bytes an event",
        change.allocations as f64 / EVENTS as f64,
        change.bytes_allocated as f64 / EVENTS as f64
    );
}
