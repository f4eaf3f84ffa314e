//! The scenarios of a comparison: each runs the programs of one build and returns what it has measured.

use std::process::{Command, Stdio};

use crate::machine;
use crate::programs::{Build, Report, load, orders, warm_up};
use crate::{shop, steps};

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Events of a step.
    pub events: usize,
    /// Orders at full speed.
    pub orders: usize,
}

/// A measure, with its unit, and its value.
pub type Sample = (String, f64);

/// One scenario.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// The programs that a build needs for it.
    pub programs: &'static [&'static str],
    /// Runs it once.
    pub run: fn(&Build, &Scale) -> Vec<Sample>,
}

/// The steps that are compared, by the names that `bench` gives them.
const STEPS: &[&str] = &["enqueue", "relay a backlog", "log", "consume", "in batches", "lanes"];
#[cfg(feature = "kafka")]
const STEPS_ON_SERVERS: &[&str] =
    &["consume, decode", "durable deduplicated", "relay a backlog", "relay beside", "commit to ack"];

/// Returns the scenarios of one pair of store and broker.
pub fn all(on_servers: bool) -> Vec<Scenario> {
    #[cfg(feature = "kafka")]
    if on_servers {
        return vec![
            Scenario { name: "shop", programs: &crate::servers::SERVICES, run: servers },
            Scenario {
                name: "steps",
                programs: &["bench"],
                run: |build, scale| measure_steps(build, scale, STEPS_ON_SERVERS, &["--kafka"]),
            },
        ];
    }
    let _ = on_servers;
    vec![
        Scenario { name: "shop", programs: &["shop"], run: embedded },
        Scenario {
            name: "steps",
            programs: &["bench"],
            run: |build, scale| measure_steps(build, scale, STEPS, &[]),
        },
    ]
}

/// The loads that follow the one at full speed.
const STEADY: [(&str, &str); 2] = [
    ("500 orders/s", "--orders 10000 --rate 500"),
    ("10 orders/s", "--orders 200 --rate 10 --concurrency 1"),
];

fn embedded(build: &Build, scale: &Scale) -> Vec<Sample> {
    let directory = steps::directory();
    let shop = shop::start(build, directory.path());
    warm_up(&shop.url);
    let full = format!("--orders {} --concurrency 128", scale.orders);
    let mut samples = under_load("128 connections", &full, &shop.url);
    for (name, arguments) in STEADY {
        samples.extend(under_load(name, arguments, &shop.url));
    }
    samples
}

#[cfg(feature = "kafka")]
fn servers(build: &Build, scale: &Scale) -> Vec<Sample> {
    use tidings_testkit::servers::{FreshDatabase, FreshTopics};
    let (database, topics) = (FreshDatabase::new(), FreshTopics::new());
    let running = crate::servers::start(build, &database, &topics);
    let url = &running[0].url;
    warm_up(url);
    let mut samples = Vec::new();
    for (connections, orders) in [(256, scale.orders / 2), (64, scale.orders / 4)] {
        let full = format!("--orders {orders} --concurrency {connections}");
        samples.extend(under_load(&format!("{connections} connections"), &full, url));
    }
    for (name, arguments) in STEADY {
        samples.extend(under_load(name, arguments, url));
    }
    samples
}

/// Loads a shop and returns its rates, its latencies, and the cost of each program that takes part.
fn under_load(name: &str, arguments: &str, url: &str) -> Vec<Sample> {
    let before = machine::costs();
    let Some(report) = load(url, arguments) else { return Vec::new() };
    let after = machine::costs();
    let mut samples = told(&report, arguments.contains("--rate"));
    let spent = machine::spent_ms(&before, &after, orders(arguments));
    samples.push(("CPU an order, ms".to_owned(), spent.values().sum()));
    for (program, ms) in spent.iter().filter(|_| spent.len() > 1) {
        samples.push((format!("CPU an order, {program}, ms"), *ms));
    }
    let memory = after
        .iter()
        .filter(|(name, _)| spent.contains_key(*name) && !["postgres", "kafka"].contains(&name.as_str()));
    samples.extend(memory.map(|(program, (_, mb))| (format!("memory of {program}, MB"), *mb as f64)));
    samples.into_iter().map(|(measure, value)| (format!("{name}: {measure}"), value)).collect()
}

fn told(report: &Report, is_steady: bool) -> Vec<Sample> {
    let rate = [
        ("settled a minute", report.settled_per_minute),
        ("last answer to last settled, s", report.duration_seconds - report.accept_seconds),
    ];
    let latency = [
        ("POST p50, ms", report.post_ms.p50),
        ("POST p99, ms", report.post_ms.p99),
        ("POST to settled p50, ms", report.settle_ms.p50),
        ("POST to settled p99, ms", report.settle_ms.p99),
    ];
    let rate = rate.into_iter().filter(|_| !is_steady);
    rate.chain(latency).map(|(measure, value)| (measure.to_owned(), value)).collect()
}

/// Has each step measured by the build's own `bench`.
fn measure_steps(build: &Build, scale: &Scale, steps: &[&str], more: &[&str]) -> Vec<Sample> {
    let events = scale.events.to_string();
    let run = |step: &&str| {
        let mut bench = Command::new(build.program("bench"));
        bench.args(["--rounds", "1", "--orders", "0", "--events", &events, "--only", step]).args(more);
        let output = bench.stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    steps.iter().filter_map(run).flat_map(|output| read(&output)).collect()
}

/// Reads the lines of `bench`: a name, two spaces or more, our figure. Where the raw client stands beside it on
/// servers, the ratio to it is what has a goal.
fn read(output: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let (name, rest) = line.split_once("  ")?;
        let mut numbers = rest.split_whitespace().map_while(|word| word.parse::<f64>().ok());
        let ours = numbers.next()?;
        let value = if name.contains("; raw") { numbers.nth(1)? } else { ours };
        (!name.is_empty()).then(|| (name.to_owned(), value))
    };
    output.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_bench_are_read_and_its_head_is_not() {
        let output = "events/s                                        tidings        raw   ratio\n\
                      consume, decode, tracked commit; raw no headers     611000     700000    0.87  (CPU an event 2.3 and 1.6 us)\n\
                      durable deduplicated consume, one write           66000  (goal 40,000; raw inbox batch 55,000-66,000)\n\
                      idle: commit to a consumer                   p50 1.8 ms, p99 7.3 ms  (goal: acknowledged within 10 ms)\n\
                      enqueue, 500 a transaction                 102000       114000    0.90  events/s\n";
        let samples = read(output);
        let expected = [
            ("consume, decode, tracked commit; raw no headers", 0.87),
            ("durable deduplicated consume, one write", 66_000.0),
            ("enqueue, 500 a transaction", 102_000.0),
        ];
        assert_eq!(samples, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
