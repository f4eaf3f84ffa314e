//! Measures the library against the raw client of the same store, and the whole shop, in one run.
//!
//! Rounds of the two sides alternate, and what is printed is the median of their ratios: machines are
//! shared and noisy, and seconds of different runs cannot be compared.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::against::{self, Comparison, Scale};
use bench::programs::Build;
use bench::{faults, instructions, lanes, shop, steps};
use clap::Parser;

/// The allocator of the shop's programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A round is repeated so often, unless the command line says otherwise.
const ROUNDS: usize = 5;

#[derive(Parser)]
#[command(about = "Ratios to the raw client of the same store, and the whole shop", version)]
struct Arguments {
    /// Rounds of each comparison; the median is printed.
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// Events in a round.
    #[arg(long, default_value_t = 50_000)]
    events: usize,
    /// Orders of the whole shop; 0 leaves it out.
    #[arg(long, default_value_t = 100_000)]
    orders: usize,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 128)]
    concurrency: usize,
    /// Count instructions and allocations with valgrind as well (minutes).
    #[arg(long)]
    instructions: bool,
    /// Run one step once and print nothing: what valgrind looks at.
    #[arg(long, hide = true)]
    once: Option<String>,
    /// Measure on Apache Kafka and PostgreSQL instead, which the environment names.
    #[arg(long)]
    kafka: bool,
    /// With --kafka: events that wait before the relay starts, in a measurement of its own.
    #[arg(long, default_value_t = 200_000)]
    backlog: usize,
    /// Only measurements whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Run the programs of another build, in this directory, in turn with those of this build: ratios, their spread,
    /// and the goals that are missed. `cargo xtask bench --against REV` builds a revision for it.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// With --against: one JSON object instead of a table.
    #[arg(long, requires = "against")]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = arguments.once.as_deref().filter(|_| !arguments.kafka) {
        return once(name, arguments.events).await;
    }
    if let Some(directory) = &arguments.against {
        return compare(&arguments, directory.clone());
    }
    if arguments.kafka {
        return servers(&arguments).await;
    }
    println!("{:<34} {:>12} {:>12} {:>7}  unit", "", "tidings", "raw", "ratio");
    for step in steps::all() {
        if step.name.contains(&arguments.only) {
            step.compare(arguments.rounds, arguments.events).await;
        }
    }
    if lanes::NAME.contains(&arguments.only) {
        lanes::compare(arguments.rounds, arguments.events).await;
    }
    if "faults".contains(&arguments.only) {
        faults::compare(arguments.rounds).await;
    }
    if arguments.instructions {
        instructions::count(&steps::all(), &arguments.only);
    }
    if arguments.orders > 0 && "shop".contains(&arguments.only) {
        return shop::run(arguments.orders, arguments.concurrency);
    }
    ExitCode::SUCCESS
}

fn compare(arguments: &Arguments, directory: PathBuf) -> ExitCode {
    if arguments.kafka && cfg!(not(feature = "kafka")) {
        return without_kafka();
    }
    against::run(&Comparison {
        before: Build::at(directory),
        rounds: arguments.rounds,
        scale: Scale { events: arguments.events, orders: arguments.orders },
        on_servers: arguments.kafka,
        only: arguments.only.clone(),
        json: arguments.json,
    })
}

fn without_kafka() -> ExitCode {
    eprintln!("this benchmark was built without Kafka: cargo xtask bench --kafka");
    ExitCode::FAILURE
}

#[cfg(feature = "kafka")]
async fn servers(arguments: &Arguments) -> ExitCode {
    use bench::servers;
    let Arguments { rounds, events, backlog, orders, concurrency, only, .. } = arguments;
    if let Some(way) = &arguments.once {
        servers::consume_once(way, *events).await;
        return ExitCode::SUCCESS;
    }
    servers::steps(*rounds, *events, *backlog, only).await;
    if arguments.instructions {
        servers::count(only).await;
    }
    if *orders > 0 && "shop".contains(only.as_str()) {
        return servers::shop(*orders, *concurrency);
    }
    ExitCode::SUCCESS
}

#[cfg(not(feature = "kafka"))]
async fn servers(_: &Arguments) -> ExitCode {
    without_kafka()
}

async fn once(name: &str, events: usize) -> ExitCode {
    match steps::all().iter().find(|step| step.name == name) {
        Some(step) => {
            step.once(events).await;
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}
