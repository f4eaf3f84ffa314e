//! Commits of which nobody learns whether they were done.

use crate::cutter::Cutter;
use crate::deployment::Deployment;
use crate::load::seed;

/// One in so many commits is cut.
const ONE_IN: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_outcome_is_unknown_is_done_once() {
    let seed = seed();
    let mut deployment = Deployment::new().with_provider();
    deployment.make_topics();
    let database = deployment.backends.database.url();
    let cutter = Cutter::before(&database, seed).await;
    deployment.by_way_of(cutter.url(&database));
    let programs = deployment.start_all();
    let load = deployment.customers(programs.order(), seed);
    load.more(50).await;
    cutter.cuts_one_in(ONE_IN);
    load.until("every kind of cut was made often", || cutter.cuts().iter().all(|cuts| *cuts >= 15)).await;
    load.more(50).await;
    cutter.cuts_one_in(0);
    load.more(50).await;
    let accepted = load.end().await;
    deployment.adds_up(&programs, &accepted).await;
    println!("cut {:?}", cutter.cuts());
}
