//! Instructions and allocations per event, counted by valgrind: the same whatever else the machine does.

use std::collections::HashMap;
use std::process::Command;

use crate::steps::Step;

/// Two runs differ by this many events; what they have in common (start, set-up) cancels out.
const FEW: usize = 2_000;
const MANY: usize = 12_000;

/// The cost of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Instructions of all threads.
    pub instructions: u64,
    /// Pieces of memory asked for, by whatever language.
    pub allocations: u64,
}

/// Prints what an event costs in each step, or why that is not known.
pub fn count(steps: &[Step], only: &str) {
    println!();
    for step in steps.iter().filter(|step| step.name.contains(only)) {
        // Making the events is part of it, on every line alike.
        let run = |events: usize| run(&["--once", step.name, "--events", &events.to_string()], &[]);
        tell(step.name, [FEW, MANY], run);
    }
}

/// Prints what each of the events costs by which two runs differ.
pub fn tell(what: &str, events: [usize; 2], run: impl Fn(usize) -> Option<Counts>) {
    let [Some(few), Some(many)] = events.map(run) else {
        return println!("{what}: instructions are not counted, valgrind cannot be run");
    };
    let each = |few: u64, many: u64| many.saturating_sub(few) / (events[1] - events[0]) as u64;
    println!(
        "{what:<44} {:>10} instructions, {} allocations an event",
        each(few.instructions, many.instructions),
        each(few.allocations, many.allocations)
    );
}

/// Runs this program under valgrind.
pub fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Counts> {
    let directory = tempfile::tempdir().ok()?;
    let profile = directory.path().join("profile");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe().ok()?)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .ok()?;
    status.success().then(|| read(&std::fs::read_to_string(profile).ok()?)).flatten()
}

/// Reads callgrind's profile: `fn=(1) name` begins what a function does, `cfn=(2) name` and `calls=N …` say
/// whom it calls; a name stands only where its number is first seen.
fn read(profile: &str) -> Option<Counts> {
    let mut allocators: HashMap<&str, bool> = HashMap::new();
    let (mut within, mut called, mut allocations, mut instructions) = (false, false, 0, None);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            within = named(function, &mut allocators);
        } else if let Some(function) = line.strip_prefix("cfn=") {
            called = named(function, &mut allocators);
        } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| called && !within) {
            allocations += calls.split(' ').next()?.parse::<u64>().ok()?;
        } else if let Some(total) = line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")) {
            instructions = total.split(' ').next()?.parse().ok();
        }
    }
    Some(Counts { instructions: instructions?, allocations })
}

/// Tells whether a function, written `(number)` or `(number) name`, gives out memory.
fn named<'p>(function: &'p str, known: &mut HashMap<&'p str, bool>) -> bool {
    const NAMES: [&str; 8] = [
        "malloc",
        "calloc",
        "realloc",
        "mi_malloc",
        "mi_calloc",
        "mi_zalloc",
        "mi_realloc",
        "mi_heap_malloc",
    ];
    let (number, name) = function.split_once(' ').unwrap_or((function, ""));
    if !name.is_empty() {
        let name = name.split('\'').next().unwrap_or_default();
        let name = name.trim_end_matches("_aligned");
        known.insert(number, NAMES.contains(&name));
    }
    known.get(number).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Counts, read};

    #[test]
    fn only_calls_from_outside_the_allocator_are_pieces_of_memory() {
        let profile = "\
            fn=(1) order::place\n10 5\ncfn=(2) mi_malloc\ncalls=3 0\n10 90\ncfn=(4) memcpy\ncalls=7 0\n10 20\n\
            fn=(2)\n20 60\ncfn=(3) mi_malloc_aligned\ncalls=2 0\n20 30\n\
            fn=(5) rd_kafka_new\n30 5\ncfn=(6) calloc'2\ncalls=4 0\n30 10\n\
            totals: 220\n";
        assert_eq!(read(profile), Some(Counts { instructions: 220, allocations: 7 }));
        assert_eq!(read("fn=(1) main\n"), None, "a profile that was not written to its end");
    }
}
