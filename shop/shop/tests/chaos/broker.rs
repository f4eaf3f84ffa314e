//! A broker that is away.

use std::time::Duration;

use crate::deployment::{Deployment, OwnServers};
use crate::load::seed;
use crate::process::eventually;
use crate::programs::Program;

/// What an order may wait for its answer while the broker is away: as long as without it.
const USUAL: Duration = Duration::from_millis(500);
/// What a process may need, also with everything waiting in its outbox.
const MEMORY_MAX: u64 = 120 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_costs_customers_nothing_and_loses_nothing() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    let (programs, load) = deployment.open(seed());
    load.more(150).await;
    servers.kafka.kill().unwrap();
    let before = load.accepted();
    load.more(700).await;
    let mut waits = load.waits().split_off(before);
    waits.sort_unstable();
    let (median, most) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    println!("while the broker was away: median {median:?}, p99 {most:?}, longest {:?}", waits.last());
    assert!(most < USUAL, "of 100 orders 99 were answered within {most:?}");
    assert_eq!(load.busy(), Vec::<String>::new(), "nobody was sent away");
    for program in &programs.0 {
        let memory = program.memory();
        assert!(memory < MEMORY_MAX, "{} MiB", memory / 1024 / 1024);
    }
    servers.kafka.start_again().unwrap();
    load.more(150).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
}

/// It hangs: connections stay open and nothing answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_is_waited_for() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    let (programs, load) = deployment.open(seed());
    load.more(100).await;
    servers.kafka.pause().unwrap();
    load.more(500).await;
    assert_eq!(load.busy(), Vec::<String>::new(), "nobody was sent away");
    servers.kafka.resume().unwrap();
    load.more(100).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
}

/// Fifteen seconds without a broker are two lines of each process, and not hundreds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_said_once_and_once_that_it_is_back() {
    let mut servers = OwnServers::lock();
    let deployment = Deployment::on(&servers);
    deployment.make_topics();
    let order = Program::start("order", deployment.command("order").env("TIDINGS_LOG", "info"));
    servers.kafka.kill().unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    order.client().place(r#"{"items":[{"product_id":"tea","quantity":1}]}"#).await;
    let loud = order.lines(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    let gone = loud.iter().filter(|line| line.contains("Kafka's broker cannot be reached")).count();
    assert_eq!(gone, 1, "{loud:#?}");
    assert!(loud.len() < 8, "{loud:#?}");
    servers.kafka.start_again().unwrap();
    let back = eventually(async || {
        let back = order.lines(|line| line.contains("Kafka's broker answers again"));
        if back.is_empty() { Err("it is not back".to_owned()) } else { Ok(back) }
    })
    .await;
    assert!(back.len() == 1 && back[0].contains("reports="), "{back:?}");
    order.terminate();
    order.ended();
}
