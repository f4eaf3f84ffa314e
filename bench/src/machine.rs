//! The machine's numbers about the processes that take part.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The programs whose cost is counted; the last one is this.
const PROGRAMS: [&str; 7] = ["shop", "order", "payment", "inventory", "postgres", "java", "bench"];

/// CPU seconds, and the peak of the largest process's memory in MB, by program.
pub type Costs = BTreeMap<String, (f64, u64)>;

/// Returns what every program that takes part has cost so far.
pub fn costs() -> Costs {
    let mut all = Costs::new();
    for id in process_ids() {
        let process = Path::new("/proc").join(id);
        let Some((name, seconds)) = stat(&process) else { continue };
        if PROGRAMS.contains(&name.as_str()) {
            let name = if name == "java" { "kafka".to_owned() } else { name };
            let sum = all.entry(name).or_default();
            *sum = (sum.0 + seconds, sum.1.max(memory_mb(&process, "VmHWM:")));
        }
    }
    all
}

/// Milliseconds of CPU that each program but this one has spent on each of `orders` orders.
pub fn spent_ms(before: &Costs, after: &Costs, orders: f64) -> BTreeMap<String, f64> {
    let others = after.iter().filter(|(name, _)| *name != "bench");
    let spent = |(name, (seconds, _)): (&String, &(f64, u64))| {
        let since = seconds - before.get(name).map_or(0.0, |(seconds, _)| *seconds);
        (name.clone(), 1000.0 * since / orders)
    };
    others.map(spent).collect()
}

/// Microseconds of CPU that a program has spent on each of `events` events since `before`.
pub fn cpu_us(before: &Costs, program: &str, events: usize) -> f64 {
    let seconds = |costs: &Costs| costs.get(program).map_or(0.0, |(seconds, _)| *seconds);
    (seconds(&costs()) - seconds(before)) * 1e6 / events as f64
}

/// Memory in MB that this process has now.
pub fn own_memory_mb() -> u64 {
    memory_mb(Path::new("/proc/self"), "VmRSS:")
}

/// Kafka as a process of this machine that stands still until this is dropped.
pub struct Suspended(String);

impl Suspended {
    /// Suspends the broker of this URL.
    pub fn broker(url: &str) -> Self {
        let address = url.trim_start_matches("kafka://").split(['?', ',']).next().unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        let of_port = process_ids().find(|id| {
            let command = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let properties = command.split('\0').find(|word| word.ends_with("server.properties"));
            properties.is_some_and(|path| {
                fs::read_to_string(path).is_ok_and(|settings| settings.contains(&format!(":{port}")))
            })
        });
        let suspended = Self(of_port.expect("Kafka runs on this machine"));
        suspended.signal("-STOP");
        suspended
    }

    fn signal(&self, signal: &str) {
        Command::new("kill").args([signal, &self.0]).status().expect("kill can be run");
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// The ids of all processes; `/proc/self` would be one of them again.
fn process_ids() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|c| c.is_ascii_digit()))
}

fn stat(process: &Path) -> Option<(String, f64)> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // A server process of PostgreSQL that has ended goes on the bill of the one that started it.
    let ended = if name == "postgres" { ticks(13) + ticks(14) } else { 0.0 };
    Some((name, (ticks(11) + ticks(12) + ended) / 100.0))
}

fn memory_mb(process: &Path, line: &str) -> u64 {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let found = status.lines().find_map(|l| l.strip_prefix(line));
    found.and_then(|kb| kb.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
