//! The chores: `cargo xtask lint`, `contracts`, `test`, `mutants`, `ci`, `bench`, `servers`.

mod bench;
mod cargo;
mod contracts;
mod examples;
mod mutants;
mod servers;
mod test;
mod trial;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cargo::{cargo, run};
use crate::test::Scope;

/// The chores
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Formatting, words, mutants that can be made, clippy and documentation, each without a warning; no change of an
    /// event that breaks anybody
    Lint,
    /// The shop's events, judged against every released revision
    Contracts {
        /// Write what has changed as new revisions, and every document anew
        #[arg(long)]
        record: bool,
    },
    /// Every test of the workspace; the last line says how many passed and failed
    ///
    /// Starts Apache Kafka and PostgreSQL, and installs what they lack, unless TIDINGS_TEST_KAFKA
    /// (host:port) and TIDINGS_TEST_POSTGRES (URL) name others.
    Test {
        /// Only what needs neither Kafka nor PostgreSQL
        #[arg(long)]
        embedded: bool,
        /// Passed on to `cargo test`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Mutation testing: each mechanism of docs/proof.toml switched off in turn; fails if no test notices
    ///
    /// Changes the sources while its tests run, so leave them alone meanwhile. Starts Apache Kafka and PostgreSQL as
    /// `test` does, where a mutant needs them.
    Mutants {
        #[command(flatten)]
        choice: mutants::Choice,
        /// Try none; write the table of docs/proof.md anew
        #[arg(long, conflicts_with_all = ["only", "share"])]
        record: bool,
    },
    /// The words of the code: doc comments that begin with a noun or a verb, names that mean one thing, examples
    Words,
    /// Lint, then test
    Ci,
    /// Kafka and PostgreSQL to work with, until Ctrl-C; writes the lines that name them to tests
    #[command(alias = "parts")] // its former name
    Servers {
        /// The directory of their data; without it, they are fresh
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// The benchmark, with its own arguments; starts Kafka and PostgreSQL where `--kafka` is among them
    ///
    /// `--against REV` builds another revision as well and runs both in turn.
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
        Chore::Words => words::check(),
        Chore::Contracts { record: false } => contracts::check(),
        Chore::Contracts { record: true } => contracts::record(),
        Chore::Test { embedded: true, args } => test::run(Scope::Embedded, &args),
        Chore::Test { embedded: false, args } => test::run(Scope::All, &args),
        Chore::Mutants { record: true, .. } => mutants::record(),
        Chore::Mutants { choice, .. } => mutants::run(&choice),
        Chore::Ci => lint().and_then(|()| test::run(Scope::All, &[])),
        Chore::Servers { data } => servers::lend(data),
        Chore::Bench { args } => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed) => ExitCode::FAILURE,
    }
}

/// The failure of a chore, which has said why by then.
struct Failed;

/// The sets of features to look at: none, and those that are built on demand.
const FEATURES: [&[&str]; 2] = [&[], cargo::KAFKA];

fn lint() -> Result<(), Failed> {
    run(cargo(["fmt", "--all", "--check"]))?;
    words::check()?;
    mutants::check()?;
    for features in FEATURES {
        let mut clippy = cargo(["clippy", "--workspace", "--all-targets"]);
        // A test may be long: it is a story.
        clippy.args(features).args(["--", "-D", "warnings", "-A", "clippy::too_many_lines"]);
        run(clippy)?;
    }
    let mut functions = cargo(["clippy", "--workspace"]);
    functions.args(cargo::KAFKA).args(["--", "-D", "warnings"]);
    run(functions)?;
    for features in FEATURES {
        // Libraries only: the page of the program `tidings` would replace that of the library.
        let mut doc = cargo(["doc", "--no-deps", "--workspace", "--lib"]);
        doc.args(features).env("RUSTDOCFLAGS", "-D warnings");
        run(doc)?;
    }
    contracts::check()
}
