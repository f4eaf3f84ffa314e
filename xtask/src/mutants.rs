//! Mutation testing of the mechanisms that keep the promises: each is switched off in the sources, and the tests that
//! protect it have to fail.
//!
//! `docs/proof.toml` says how each is switched off and which tests fail then; the table of `docs/proof.md` is made of
//! it. A mutant that survives is a defect of the tests.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::Failed;
use crate::cargo::root;
use crate::servers::Servers;
use crate::trial::{Bench, Patch, Suite, Verdict};

const MUTANTS: &str = "docs/proof.toml";
const PAGE: &str = "docs/proof.md";
/// The head of the table in [`PAGE`].
const TABLE: &str = "| Mechanism | Switched off by | Tests that fail |\n|---|---|---|\n";

/// The mutants to try.
#[derive(clap::Args)]
pub(crate) struct Choice {
    /// Only those whose mechanism, or the way it is switched off, has this text
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only this share of them, chosen at random
    #[arg(long, value_name = "0…1")]
    share: Option<f64>,
    /// The seed of the choice; without it, another one each time
    #[arg(long, requires = "share")]
    seed: Option<u64>,
}

/// A mechanism, and how it is switched off.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    mechanism: String,
    by: String,
    /// Arguments of `cargo test`.
    run: String,
    /// Tests that fail then, each of them, by a part of their path.
    fails: Vec<String>,
    /// They need Kafka or PostgreSQL.
    #[serde(default)]
    servers: bool,
    edits: Vec<Edit>,
}

/// A change of one place of the sources.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: PathBuf,
    /// Stands exactly once in the file.
    old: String,
    new: String,
}

/// Tries mutants; fails if one survives or cannot be made, or if the tests fail without any.
pub(crate) fn run(choice: &Choice) -> Result<(), Failed> {
    let mutants = read()?;
    let chosen = choice.of(mutants.iter().collect());
    if chosen.is_empty() {
        return Err(said(format!("{MUTANTS} has no such mutant")));
    }
    let patches = chosen.iter().map(|mutant| mutant.patch()).collect::<Result<Vec<_>, _>>()?;
    for patch in &patches {
        patch.refuse_changed_files()?;
    }
    let servers =
        if chosen.iter().any(|mutant| mutant.servers) { Servers::start()? } else { Servers::default() };
    let bench = Bench::new(servers.variables())?;
    for suite in suites(&chosen) {
        bench.passes(&suite)?;
    }
    let mut survived = 0;
    for (mutant, patch) in chosen.iter().zip(&patches) {
        let verdict = bench.judge(patch, &mutant.suite())?;
        survived += usize::from(verdict != Verdict::Caught);
        println!("{verdict}: {mutant}");
    }
    servers.remove();
    println!("{} caught, {survived} not", chosen.len() - survived);
    if survived == 0 { Ok(()) } else { Err(Failed) }
}

/// Fails if a mutant cannot be made any more, or if the page does not have the table of all.
pub(crate) fn check() -> Result<(), Failed> {
    let mutants = read()?;
    let made = mutants.iter().map(Mutant::patch).filter(Result::is_ok).count();
    let page = read_file(PAGE)?;
    let is_told = with_table(&page, &mutants).is_some_and(|told| told == page);
    if !is_told {
        eprintln!("{PAGE} does not have the table of {MUTANTS}: cargo xtask mutants --record");
    }
    if made == mutants.len() && is_told { Ok(()) } else { Err(Failed) }
}

/// Writes the table of the page anew.
pub(crate) fn record() -> Result<(), Failed> {
    let page = with_table(&read_file(PAGE)?, &read()?)
        .ok_or_else(|| said(format!("{PAGE} has no table that begins with\n{TABLE}")))?;
    fs::write(root().join(PAGE), page).map_err(said)
}

fn read() -> Result<Vec<Mutant>, Failed> {
    #[derive(Deserialize)]
    struct All {
        mutant: Vec<Mutant>,
    }
    let all: All = toml::from_str(&read_file(MUTANTS)?).map_err(|e| said(format!("{MUTANTS}: {e}")))?;
    Ok(all.mutant)
}

/// The page with the table of these.
fn with_table(page: &str, mutants: &[Mutant]) -> Option<String> {
    let (before, rest) = page.split_once(TABLE)?;
    let (_, after) = rest.split_once("\n\n")?;
    let rows: Vec<String> = mutants.iter().map(Mutant::row).collect();
    Some(format!("{before}{TABLE}{}\n\n{after}", rows.join("\n")))
}

/// The tests of all mutants, those of one command together.
fn suites<'a>(mutants: &[&'a Mutant]) -> Vec<Suite<'a>> {
    let mut suites: Vec<Suite<'_>> = Vec::new();
    for suite in mutants.iter().map(|mutant| mutant.suite()) {
        let is_same =
            |known: &&mut Suite<'_>| (known.run, known.needs_servers) == (suite.run, suite.needs_servers);
        match suites.iter_mut().find(is_same) {
            Some(known) => known.names.extend(suite.names),
            None => suites.push(suite),
        }
    }
    suites
}

impl Choice {
    fn of<'a>(&self, mut mutants: Vec<&'a Mutant>) -> Vec<&'a Mutant> {
        if !self.only.is_empty() {
            mutants.retain(|mutant| self.only.iter().any(|text| mutant.to_string().contains(text)));
        }
        if let Some(share) = self.share {
            let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let seed = self.seed.unwrap_or_else(clock);
            // By digests, so that a row that is added changes nothing among the others.
            mutants.sort_by_cached_key(|mutant| Sha256::digest(format!("{seed} {mutant}")));
            mutants.truncate((mutants.len() as f64 * share).ceil() as usize);
            println!("--share {share} --seed {seed}: {} mutants", mutants.len());
        }
        mutants
    }
}

impl Mutant {
    /// The change of the sources; fails where its text is not there exactly once.
    fn patch(&self) -> Result<Patch, Failed> {
        let mut patch = Patch::default();
        for Edit { file, old, new } in &self.edits {
            patch.replace(file, old, new).map_err(|e| said(format!("{self}: {}: {e}", file.display())))?;
        }
        Ok(patch)
    }

    fn suite(&self) -> Suite<'_> {
        let names = self.fails.iter().map(String::as_str).collect();
        Suite { run: &self.run, needs_servers: self.servers, names }
    }

    fn row(&self) -> String {
        let names = self.fails.iter().map(|path| path.rsplit("::").next().unwrap_or(path));
        let mut names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        names.dedup(); // one of each store
        format!("| {} | {} | {} |", self.mechanism, self.by, names.join(", "))
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.mechanism, self.by)
    }
}

fn read_file(file: &str) -> Result<String, Failed> {
    fs::read_to_string(root().join(file)).map_err(|e| said(format!("cannot read {file}: {e}")))
}

fn said(e: impl fmt::Display) -> Failed {
    eprintln!("{e}");
    Failed
}
