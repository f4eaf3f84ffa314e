//! Instructions per event, counted by valgrind: the same whatever else the machine does.

use std::process::Command;

use crate::steps::Step;

/// Two runs differ by this many events; what they have in common (start, set-up) cancels out.
const FEW: usize = 2_000;
const MANY: usize = 12_000;

/// Prints what an event costs in each step, or why that is not known.
pub fn count(steps: &[Step], only: &str) {
    println!();
    for step in steps.iter().filter(|step| step.name.contains(only)) {
        match (collected(step.name, FEW), collected(step.name, MANY)) {
            (Some(few), Some(many)) => {
                let each = many.saturating_sub(few) / (MANY - FEW) as u64;
                println!("{:<34} {each:>12} instructions an event", step.name);
            }
            _ => return println!("instructions are not counted: valgrind cannot be run"),
        }
    }
}

/// Runs one step of this program under valgrind; making the events is part of it, on every line alike.
fn collected(step: &str, events: usize) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--once", step, "--events", &events.to_string()])
        .output()
        .ok()?;
    let report = String::from_utf8_lossy(&output.stderr);
    let line = report.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}
