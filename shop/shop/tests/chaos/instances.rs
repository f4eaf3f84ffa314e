//! Processes that are killed, paused, added and replaced.

use crate::deployment::{Deployment, Programs, SERVICES};
use crate::load::{Random, seed};
use crate::process::eventually;
use crate::programs::Program;

/// A member of a group that says nothing is missed after six seconds, the least that Kafka allows.
const MISSED_SOON: &str = "&session.timeout.ms=6000&heartbeat.interval.ms=1000";
/// How many lanes a relay that is alone has.
const LANES: u64 = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_killed_at_any_moment_keep_every_promise() {
    let seed = seed();
    let mut random = Random(seed);
    let deployment = Deployment::with(MISSED_SOON).with_provider();
    let (mut programs, load) = deployment.open(seed);
    for (index, name) in SERVICES.into_iter().enumerate() {
        load.more(150).await;
        // Any moment: in the middle of a commit, of a delivery, of a charge.
        tokio::time::sleep(random.milliseconds(0, 500)).await;
        // Dead before its successor starts.
        programs.0[index].kill();
        programs.0[index] = deployment.start(name);
        load.goes_on_at(&programs.order().address);
    }
    load.more(150).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
}

/// Paused for longer than its lease on lanes and its session in the group: others take over, and it wakes up
/// in the middle of what it was doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_paused_past_its_lease_does_no_harm_when_it_goes_on() {
    let deployment = Deployment::with(MISSED_SOON).with_provider();
    deployment.make_topics();
    let (programs, paused) = (deployment.start_all(), deployment.start_all());
    let load = deployment.customers(programs.order(), seed());
    load.more(100).await;
    for both in [&programs, &paused] {
        for program in &both.0 {
            eventually(async || match lanes(program).await {
                32 => Ok(()),
                lanes => Err(format!("the lanes are not shared: {lanes}")),
            })
            .await;
        }
    }
    for program in &paused.0 {
        program.pause();
    }
    for program in &programs.0 {
        eventually(async || match lanes(program).await {
            LANES => Ok(()),
            lanes => Err(format!("it has {lanes} lanes")),
        })
        .await;
    }
    // Everything goes on without them: whatever was accepted meanwhile ends, but for what they had begun.
    load.more(100).await;
    for program in &paused.0 {
        program.resume();
    }
    load.more(100).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
    drop(paused);
}

/// How many lanes a program relays.
async fn lanes(program: &Program) -> u64 {
    let metrics = program.client().get("/metrics").await.text();
    let line = metrics.lines().find(|line| line.starts_with("relay_lanes{"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_join_and_leave_while_there_is_work_lose_and_repeat_nothing() {
    let deployment = Deployment::new().with_provider();
    let (programs, load) = deployment.open(seed());
    load.more(100).await;
    for _ in 0..2 {
        let guests = deployment.start_all();
        load.more(150).await;
        stop(guests);
        load.more(100).await;
    }
    let accepted = load.end().await;
    let streams = deployment.adds_up(&programs, &accepted).await;
    assert_eq!(streams.duplicates, 0, "who leaves in good order has sent what it sent once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_and_repeats_nothing() {
    let deployment = Deployment::new().with_provider();
    deployment.make_topics();
    let mut both = [deployment.start_all(), deployment.start_all()];
    let load = deployment.customers(both[0].order(), seed());
    load.more(100).await;
    for (index, name) in SERVICES.into_iter().enumerate() {
        for which in 0..both.len() {
            // Customers are sent to the one that stays, as a load balancer does.
            load.goes_on_at(&both[1 - which].order().address);
            both[which].0[index].terminate();
            let successor = deployment.start(name);
            std::mem::replace(&mut both[which].0[index], successor).ended();
            load.more(60).await;
        }
    }
    let accepted = load.end().await;
    let [first, second] = both;
    let streams = deployment.adds_up(&first, &accepted).await;
    assert_eq!(streams.duplicates, 0, "who leaves in good order has sent what it sent once");
    stop(second);
}

/// Asks all to stop, and requires that they do so in good order.
fn stop(programs: Programs) {
    for program in &programs.0 {
        program.terminate();
    }
    for program in programs.0 {
        program.ended();
    }
}
