//! The tests, and how many of them passed.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use tidings_servers::ProcessGuard;

use crate::Failed;
use crate::cargo::{KAFKA, announce, cargo};
use crate::servers::Servers;

/// The tests to run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scope {
    /// Everything, on the real servers too
    All,
    /// The tests that need nothing but this workspace
    Embedded,
}

/// Runs the tests, passes their output on and adds their counts up.
pub(crate) fn run(scope: Scope, args: &[OsString]) -> Result<(), Failed> {
    let (servers, features, remark) = match scope {
        Scope::All => (Servers::start()?, KAFKA, ""),
        Scope::Embedded => {
            (Servers::default(), &[][..], " (embedded only: nothing that needs Kafka or PostgreSQL was run)")
        }
    };
    let mut tests = cargo(["test", "--no-fail-fast"]);
    if !args.iter().any(names_packages) {
        tests.arg("--workspace");
    }
    tests.args(features).args(args).envs(servers.variables());
    announce(&tests);
    // Whoever ends us, ends the tests, and whatever they have started.
    let (mut child, mut guard) = ProcessGuard::spawn(tests.stdin(Stdio::null()).stdout(Stdio::piped()))
        .map_err(|e| {
            eprintln!("{e}");
            Failed
        })?;
    let output = child.stdout.take().expect("standard output is piped");
    let mut sum = Counts::default();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        sum.add(&line);
    }
    let status = child.wait();
    guard.release();
    servers.remove();
    if !status.is_ok_and(|status| status.success()) {
        // A test program that does not compile, or dies, counts nothing itself.
        sum.failed = sum.failed.max(1);
    }
    println!("{} passed, {} failed{remark}", sum.passed, sum.failed);
    if sum.failed == 0 { Ok(()) } else { Err(Failed) }
}

/// Tells whether an argument names the packages to test, so that not all of them are tested.
fn names_packages(arg: &OsString) -> bool {
    let arg = arg.to_string_lossy();
    arg.starts_with("-p") || arg.starts_with("--package")
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Adds a line like `test result: ok. 5 passed; 0 failed; 1 ignored; …`; any other counts nothing.
    fn add(&mut self, line: &str) {
        if !line.starts_with("test result: ") {
            return;
        }
        self.passed += number_before(line, " passed;");
        self.failed += number_before(line, " failed;");
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    let digits = before.rsplit(' ').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn results_of_all_test_programs_are_added_up() {
        let mut sum = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test tests::says_12_passed_and_7_failed ... ok",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            sum.add(line);
        }
        assert_eq!(sum, Counts { passed: 13, failed: 2 });
    }
}
