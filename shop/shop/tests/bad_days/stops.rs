//! Programs that are told to stop, whatever else is going on.

use std::time::{Duration, Instant};

use crate::outside::seed;
use crate::process::eventually;
use crate::town::{Pair, Programs, Town};

/// How long a stop may take, whatever is away.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long what the stopped instance was about may wait for another one.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(1);

/// What happens to a server, and how that is undone.
type Blow = fn(&mut Pair) -> tidings_parts::Result<()>;

async fn stops_in_time(what: &str, blows: &[Blow], undo: &[Blow]) {
    let mut pair = Pair::lent();
    let town = Town::on(&pair);
    let (programs, load) = town.open(seed());
    load.more(50).await;
    for blow in blows {
        blow(&mut pair).unwrap();
    }
    // Some of what is under way hangs by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop(what, programs);
    for undo in undo {
        undo(&mut pair).unwrap();
    }
    let programs = town.start_all();
    load.goes_on_at(&programs.order().address);
    load.more(50).await;
    let accepted = load.end().await;
    town.adds_up(&programs, &accepted).await;
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
    stops_in_time("Kafka hangs", &[|pair| pair.kafka.pause()], &[|pair| pair.kafka.resume()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_broker_is_dead() {
    stops_in_time("Kafka is dead", &[|pair| pair.kafka.kill()], &[|pair| pair.kafka.start_again()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_database_hangs() {
    stops_in_time("PostgreSQL hangs", &[|pair| pair.postgres.pause()], &[|pair| pair.postgres.resume()])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_the_database_is_dead() {
    stops_in_time(
        "PostgreSQL is dead",
        &[|pair| pair.postgres.kill()],
        &[|pair| pair.postgres.start_again()],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_both_hang() {
    let blows: [Blow; 2] = [|pair| pair.kafka.pause(), |pair| pair.postgres.pause()];
    stops_in_time("both hang", &blows, &[|pair| pair.kafka.resume(), |pair| pair.postgres.resume()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_stop_in_time_while_both_are_dead() {
    let blows: [Blow; 2] = [|pair| pair.kafka.kill(), |pair| pair.postgres.kill()];
    let undo: [Blow; 2] = [|pair| pair.kafka.start_again(), |pair| pair.postgres.start_again()];
    stops_in_time("both are dead", &blows, &undo).await;
}

/// Of two instances one stops in good order: the other one goes on with its partitions and its lanes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_gives_back_at_its_stop_another_one_takes_at_once() {
    let town = Town::new();
    town.make_topics();
    let (programs, leaving) = (town.start_all(), town.start_all());
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
