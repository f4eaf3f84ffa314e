//! The chores: `cargo xtask lint`, `test`, `ci`, `bench`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

/// The chores
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Formatting, clippy and documentation, each without a warning
    Lint,
    /// Every test of the workspace; the last line says how many passed and failed
    Test,
    /// Lint, then test
    Ci,
    /// The benchmark, with its own arguments
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let done = match Chore::parse() {
        Chore::Lint => lint(),
        Chore::Test => test(),
        Chore::Ci => lint().and_then(|()| test()),
        Chore::Bench { args } => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed) => ExitCode::FAILURE,
    }
}

/// What failed has said why by then.
struct Failed;

fn lint() -> Result<(), Failed> {
    run(cargo(["fmt", "--all", "--check"]))?;
    run(cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // Libraries only: the page of the program `tidings` would replace that of the library.
    let mut doc = cargo(["doc", "--no-deps", "--workspace", "--lib"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run(doc)
}

/// Runs the tests, passes their output on and adds their counts up.
fn test() -> Result<(), Failed> {
    let mut tests = cargo(["test", "--workspace", "--no-fail-fast"]);
    announce(&tests);
    let mut child = tests.stdout(Stdio::piped()).spawn().map_err(|e| cannot_run(&tests, &e))?;
    let output = child.stdout.take().expect("standard output is piped");
    let mut sum = Counts::default();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        sum.add(&line);
    }
    let status = child.wait().map_err(|e| cannot_run(&tests, &e))?;
    if !status.success() {
        // A test program that does not compile, or dies, counts nothing itself.
        sum.failed = sum.failed.max(1);
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 { Ok(()) } else { Err(Failed) }
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

fn bench(args: &[OsString]) -> Result<(), Failed> {
    if !root().join("bench").is_dir() {
        eprintln!("there is no benchmark in this workspace: bench/ is absent");
        return Err(Failed);
    }
    // It starts the real programs, from beside itself.
    run(cargo(["build", "--release", "--package", "shop", "--package", "tidings-cli"]))?;
    let mut bench = cargo(["run", "--release", "--package", "bench", "--"]);
    bench.args(args);
    run(bench)
}

fn run(mut command: Command) -> Result<(), Failed> {
    announce(&command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failed),
        Err(e) => Err(cannot_run(&command, &e)),
    }
}

fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    cargo
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace")
}

fn announce(command: &Command) {
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    println!("$ cargo {}", args.join(" "));
    // Before the output of the command itself, which is not ours.
    let _ = io::stdout().flush();
}

fn cannot_run(command: &Command, e: &io::Error) -> Failed {
    eprintln!("cannot run {}: {e}", command.get_program().display());
    Failed
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
