//! The shop's promises to others: the gate, and the documents that go with it.

use std::path::PathBuf;
use std::process::Command;

use tidings_schema::{Baseline, Contract, gate};

use crate::Failed;
use crate::cargo::{announce, cargo, root, run};

/// Fails if a change of an event breaks a reader.
pub(crate) fn check() -> Result<(), Failed> {
    judged().map(|_| ())
}

/// Records what has changed as new revisions, if it breaks no reader, and writes every document again.
pub(crate) fn record() -> Result<(), Failed> {
    let (baseline, contract) = judged()?;
    let recorded = baseline.record(&directory(), &contract).map_err(report)?;
    recorded.iter().for_each(|file| println!("recorded {file}"));
    let mut golden = cargo(["test", "--package", "shop", "--test", "documents"]);
    golden.env("UPDATE_EXPECT", "1");
    run(golden)
}

fn judged() -> Result<(Baseline, Contract), Failed> {
    let contract = said_by(cargo(["run", "--quiet", "--package", "shop", "--", "schemas"]))?;
    let baseline = Baseline::read(&directory()).map_err(report)?;
    let report = gate(&baseline, &contract);
    println!("{report}");
    if report.is_compatible() { Ok((baseline, contract)) } else { Err(Failed) }
}

/// Runs a program and reads the schemas that it says it has.
fn said_by(mut program: Command) -> Result<Contract, Failed> {
    announce(&program);
    let output = program.stderr(std::process::Stdio::inherit()).output().map_err(report)?;
    if !output.status.success() {
        return Err(Failed);
    }
    serde_json::from_slice(&output.stdout).map_err(report)
}

fn directory() -> PathBuf {
    root().join("shop/contracts/schemas")
}

fn report(e: impl std::fmt::Display) -> Failed {
    eprintln!("{e}");
    Failed
}
