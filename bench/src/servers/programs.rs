//! The three services as programs, under `shopctl load`, and what everything on the machine costs.

use std::process::{Command, ExitCode};

use tidings_testkit::servers::{FreshDatabase, FreshTopics};

use crate::machine::{self, Costs};
use crate::programs::{Build, Running, orders};

/// The programs of the shop on servers; the first one takes orders.
pub const SERVICES: [&str; 3] = ["order", "payment", "inventory"];

/// Loads the shop: as fast as it goes, at a steady rate, and idle.
pub fn shop(count: usize, concurrency: usize) -> ExitCode {
    let Ok(build) = Build::own() else { return ExitCode::FAILURE };
    if build.lacks(&SERVICES).or(build.lacks(&["shopctl"])).is_some() {
        eprintln!("build the programs first: cargo build --release --features kafka --workspace --bins");
        return ExitCode::FAILURE;
    }
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let running = start(&build, &database, &topics);
    let mut code = ExitCode::SUCCESS;
    let full = format!("--orders {count} --concurrency {concurrency}");
    for arguments in
        ["--orders 5000", &full, "--orders 10000 --rate 500", "--orders 300 --rate 10 --concurrency 1"]
    {
        println!("\nshopctl load {arguments}");
        let before = machine::costs();
        let mut load = Command::new(build.program("shopctl"));
        load.args(["--url", &running[0].url, "load"]).args(arguments.split(' '));
        if !load.status().is_ok_and(|status| status.success()) {
            code = ExitCode::FAILURE;
        }
        tell(&before, &machine::costs(), orders(arguments));
    }
    code
}

/// Starts the three services of a build.
pub fn start(build: &Build, database: &FreshDatabase, topics: &FreshTopics) -> Vec<Running> {
    let (store, broker) = (database.url(), topics.url());
    let arguments =
        ["--store", &store, "--broker", &broker, "--apply-topics", "--log", "info,tidings::path=off"];
    SERVICES.iter().map(|service| build.start(service, arguments)).collect()
}

fn tell(before: &Costs, after: &Costs, orders: f64) {
    let spent = machine::spent_ms(before, after, orders);
    for (name, ms) in &spent {
        let peak = after.get(name).map_or(0, |(_, peak)| *peak);
        println!("{name:>12}: {ms:.3} ms of CPU an order, {peak} MB at most");
    }
    println!("{:>12}: {:.3} ms", "together", spent.values().sum::<f64>());
}
