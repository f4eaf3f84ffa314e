//! Programs that are told to stop, whatever else is going on.

use std::time::{Duration, Instant};

use crate::deployment::{Deployment, OwnServers, Programs};
use crate::load::seed;
use crate::process::eventually;

/// How long a stop may take, whatever is away.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long what the stopped instance was about may wait for another one.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(1);

/// What happens to a server, and how that is undone.
type Blow = fn(&mut OwnServers) -> tidings_servers::Result<()>;

async fn stops_in_time(what: &str, blows: &[Blow], undo: &[Blow]) {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    let (programs, load) = deployment.open(seed());
    load.more(50).await;
    for blow in blows {
        blow(&mut servers).unwrap();
    }
    // Some of what is under way hangs by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop(what, programs);
    for undo in undo {
        undo(&mut servers).unwrap();
    }
    let programs = deployment.start_all();
    load.goes_on_at(&programs.order().address);
    load.more(50).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
}

/// Tells all to stop; each must end with 0, in time.
fn stop(what: &str, programs: Programs) {
    let begun = Instant::now();
    for program in &programs.0 {
        program.terminate();
    }
    for program in programs.0 {
        program.ended();
    }
    let took = begun.elapsed();
    println!("{what}: stopped after {took:?}");
    assert!(took < STOP_MAX, "{what}: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_broker_hangs() {
    stops_in_time("Kafka hangs", &[|servers| servers.kafka.pause()], &[|servers| servers.kafka.resume()])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_broker_is_dead() {
    stops_in_time(
        "Kafka is dead",
        &[|servers| servers.kafka.kill()],
        &[|servers| servers.kafka.start_again()],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_database_hangs() {
    stops_in_time(
        "PostgreSQL hangs",
        &[|servers| servers.postgres.pause()],
        &[|servers| servers.postgres.resume()],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_database_is_dead() {
    stops_in_time(
        "PostgreSQL is dead",
        &[|servers| servers.postgres.kill()],
        &[|servers| servers.postgres.start_again()],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_both_hang() {
    let blows: [Blow; 2] = [|servers| servers.kafka.pause(), |servers| servers.postgres.pause()];
    stops_in_time(
        "both hang",
        &blows,
        &[|servers| servers.kafka.resume(), |servers| servers.postgres.resume()],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_both_are_dead() {
    let blows: [Blow; 2] = [|servers| servers.kafka.kill(), |servers| servers.postgres.kill()];
    let undo: [Blow; 2] = [|servers| servers.kafka.start_again(), |servers| servers.postgres.start_again()];
    stops_in_time("both are dead", &blows, &undo).await;
}

/// Of two instances one stops in good order: the other one goes on with its partitions and its lanes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_gives_back_at_its_stop_another_one_takes_at_once() {
    let deployment = Deployment::new();
    deployment.make_topics();
    let (programs, leaving) = (deployment.start_all(), deployment.start_all());
    for both in [&programs, &leaving] {
        for program in &both.0 {
            eventually(async || match program.client().get("/metrics").await.text().contains(" 32") {
                true => Ok(()),
                false => Err("the lanes are not shared".to_owned()),
            })
            .await;
        }
    }
    let mut client = programs.order().client();
    stop("one of two", leaving);
    let stopped = Instant::now();
    for _ in 0..30 {
        client.place(r#"{"items":[{"product_id":"tea","quantity":1}]}"#).await;
    }
    let last = client.place(r#"{"items":[{"product_id":"tea","quantity":1}]}"#).await;
    client.ended(&last).await;
    programs.order().idle().await;
    let took = stopped.elapsed();
    println!("everything was handled {took:?} after the stop");
    assert!(took < TAKEN_OVER_MAX * 3, "31 orders settle within {took:?}");
}
