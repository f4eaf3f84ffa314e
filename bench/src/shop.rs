//! The whole shop: its real binary under `shopctl load`, and what it costs.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::programs::{Build, Running, orders};
use crate::{machine, steps};

/// Runs the load on a fresh data directory and prints its report, CPU per order and memory.
pub fn run(count: usize, concurrency: usize) -> ExitCode {
    let Ok(build) = Build::own() else { return ExitCode::FAILURE };
    if build.lacks(&["shop", "shopctl"]).is_some() {
        eprintln!("build the programs first: cargo build --release --workspace");
        return ExitCode::FAILURE;
    }
    let directory = steps::directory();
    println!();
    let full = format!("--orders {count} --concurrency {concurrency}");
    for arguments in [full.as_str(), "--orders 10000 --rate 500", "--orders 200 --rate 10 --concurrency 1"] {
        if !measure(&build, directory.path(), arguments) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(build: &Build, directory: &Path, arguments: &str) -> bool {
    // One for each load, so that the next one finds an idle shop.
    let shop = start(build, directory);
    let mut load = Command::new(build.program("shopctl"));
    let load = load.args(["--url", &shop.url, "load"]).args(arguments.split(' ')).status();
    let (cpu_seconds, resident_mb) = machine::costs().get("shop").copied().unwrap_or_default();
    println!(
        "shop: {:.3} ms of CPU an order, {resident_mb} MB resident at most\n",
        1000.0 * cpu_seconds / orders(arguments)
    );
    load.is_ok_and(|status| status.success())
}

/// Starts the embedded shop on its data directory.
pub fn start(build: &Build, directory: &Path) -> Running {
    let data = format!("sqlite:{}", directory.display());
    build.start("shop", ["--store", &data, "--broker", &data])
}
