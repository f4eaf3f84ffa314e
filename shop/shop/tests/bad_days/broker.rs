//! A broker that is away.

use std::time::Duration;

use crate::outside::seed;
use crate::town::{Pair, Town};

/// What an order may wait for its answer while the broker is away: as long as without it.
const USUAL: Duration = Duration::from_millis(500);
/// What a process may need, also with everything waiting in its outbox.
const MEMORY_MAX: u64 = 120 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_costs_customers_nothing_and_loses_nothing() {
    let mut pair = Pair::lent();
    let town = Town::on(&pair);
    let (programs, load) = town.open(seed());
    load.more(150).await;
    pair.kafka.kill().unwrap();
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
    pair.kafka.start_again().unwrap();
    load.more(150).await;
    let accepted = load.end().await;
    town.adds_up(&programs, &accepted).await;
}

/// It hangs: connections stay open and nothing answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_is_waited_for() {
    let mut pair = Pair::lent();
    let town = Town::on(&pair);
    let (programs, load) = town.open(seed());
    load.more(100).await;
    pair.kafka.pause().unwrap();
    load.more(500).await;
    assert_eq!(load.busy(), Vec::<String>::new(), "nobody was sent away");
    pair.kafka.resume().unwrap();
    load.more(100).await;
    let accepted = load.end().await;
    town.adds_up(&programs, &accepted).await;
}
