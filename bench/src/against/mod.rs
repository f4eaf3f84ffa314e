//! Two builds in turn, on the same machine in the same hour: ratios, their spread, and the goals that are missed.
//!
//! The load generator is that of this build for both, so that its cost is the same. Steps are measured by each build's
//! own `bench`; the raw client beside them is looked at only where the ratio to it has a goal.

mod goals;
mod scenarios;
mod table;

use std::process::ExitCode;

pub use goals::Goal;
pub use scenarios::{Scale, Scenario};
pub use table::{Row, Table};

use crate::programs::Build;

/// A comparison that has been asked for.
pub struct Comparison {
    /// The build before.
    pub before: Build,
    /// Runs of each scenario and build.
    pub rounds: usize,
    /// The size of a run.
    pub scale: Scale,
    /// On Apache Kafka and PostgreSQL.
    pub on_servers: bool,
    /// Only scenarios whose name contains this.
    pub only: String,
    /// The result as one JSON object instead of a table.
    pub json: bool,
}

/// Runs both builds in turn and prints the table; a goal that is missed is said, and no failure.
pub fn run(comparison: &Comparison) -> ExitCode {
    let scenarios: Vec<Scenario> = scenarios::all(comparison.on_servers)
        .into_iter()
        .filter(|scenario| scenario.name.contains(&comparison.only))
        .collect();
    let now = match Build::own() {
        Ok(build) if !scenarios.is_empty() => build,
        Ok(_) => return refuse(&format!("no scenario is called {}", comparison.only)),
        Err(e) => return refuse(&e.to_string()),
    };
    let programs = |scenario: &Scenario| {
        let missing = comparison.before.lacks(scenario.programs).map(|name| (name, &comparison.before));
        missing.or_else(|| now.lacks(scenario.programs).map(|name| (name, &now)))
    };
    if let Some((name, build)) = scenarios.iter().find_map(programs) {
        return refuse(&format!(
            "there is no {}: cargo xtask bench --against REV",
            build.program(name).display()
        ));
    }
    let mut table = Table::default();
    for round in 0..comparison.rounds {
        for scenario in &scenarios {
            // Whoever comes second finds warmer caches, or a fuller disk.
            let builds = [("before", &comparison.before), ("now", &now)];
            for turn in [round % 2, 1 - round % 2] {
                let (whose, build) = builds[turn];
                eprintln!("round {} of {}: {}, {whose}", round + 1, comparison.rounds, scenario.name);
                for (measure, value) in (scenario.run)(build, &comparison.scale) {
                    table.add(&measure, turn == 1, value);
                }
            }
        }
    }
    let goals = if comparison.on_servers { goals::ON_SERVERS } else { goals::EMBEDDED };
    let rows = table.rows(goals);
    if comparison.json {
        println!("{}", serde_json::json!({ "rounds": comparison.rounds, "measures": rows }));
    } else {
        print!("{}", table::text(&rows));
    }
    ExitCode::SUCCESS
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
