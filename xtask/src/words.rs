//! The words of the code, counted: doc comments that begin with a wh-word, type names that mean two things.
//!
//! A doc comment counts once, by its first word. A type name (struct, enum, trait, alias) means two things if it is
//! defined in more than one file of a crate; names that say nothing by themselves ([`GENERIC`]) are left out. Tests
//! do not count. Examples are counted by [`examples`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::root;
use crate::{Failed, examples};

/// Doc comments that may begin with a wh-word, and type names that may mean two things, in percent.
const WH_MAX: f64 = 3.0;
const AMBIGUOUS_MAX: f64 = 4.0;
/// First words of clauses that stand where a noun or a verb should.
const WH: [&str; 13] = [
    "what", "whatever", "who", "whoever", "whom", "whose", "whether", "how", "why", "where", "wherever",
    "when", "which",
];
/// Names that take their meaning from their module.
const GENERIC: [&str; 6] = ["Args", "Error", "Future", "Inner", "Item", "Output"];

/// Counts, and fails where there are too many.
pub fn check() -> Result<(), Failed> {
    let crates: Vec<Vec<(PathBuf, String)>> = sources();
    let mut verdicts = Vec::new();
    let (mut wh, mut docs) = (Vec::new(), 0);
    for (path, code) in crates.iter().flatten() {
        let (found, all) = docs_of(code);
        docs += all;
        wh.extend(found.into_iter().map(|(line, text)| format!("{}:{line}: {text}", path.display())));
    }
    verdicts.push(verdict("doc comments begin with a wh-word", &wh, docs, WH_MAX));
    let (mut ambiguous, mut types) = (Vec::new(), 0);
    for files in &crates {
        let mut found_in: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
        for (path, code) in files {
            for name in types_of(code) {
                let known = found_in.entry(name).or_default();
                if known.last() != Some(&&**path) {
                    known.push(path);
                }
            }
        }
        types += found_in.len();
        for (name, found_in) in found_in.into_iter().filter(|(_, found_in)| found_in.len() > 1) {
            let found_in: Vec<String> = found_in.iter().map(|path| path.display().to_string()).collect();
            ambiguous.push(format!("{name}: {}", found_in.join(", ")));
        }
    }
    verdicts.push(verdict("type names mean two things", &ambiguous, types, AMBIGUOUS_MAX));
    verdicts.push(examples::check(crates.iter().flatten()));
    if verdicts.into_iter().all(|is_fine| is_fine) { Ok(()) } else { Err(Failed) }
}

/// Says how many there are, and lists them if they are too many.
fn verdict(what: &str, found: &[String], all: usize, percent_max: f64) -> bool {
    let percent = 100.0 * found.len() as f64 / all.max(1) as f64;
    let is_fine = percent <= percent_max;
    if !is_fine {
        found.iter().for_each(|line| eprintln!("{line}"));
    }
    eprintln!("{} of {all} {what}: {percent:.1} % of at most {percent_max} %", found.len());
    is_fine
}

/// The sources of each crate, by their paths in the workspace.
fn sources() -> Vec<Vec<(PathBuf, String)>> {
    let listed = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let mut crates: Vec<PathBuf> =
        ["crates", "shop", "examples"].into_iter().flat_map(|folder| listed(root().join(folder))).collect();
    crates.extend([root().join("bench"), root().join("xtask")]);
    let read = |folder: PathBuf| {
        let (mut files, mut open) = (Vec::new(), vec![folder.join("src")]);
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(listed(path));
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("server_tests.rs") {
                let code = fs::read_to_string(&path).unwrap_or_default();
                let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                files.push((path.strip_prefix(root()).unwrap_or(&path).to_owned(), code));
            }
        }
        files
    };
    crates.into_iter().map(read).collect()
}

/// The first lines of doc comments that begin with a wh-word, with their numbers, and how many comments there are.
fn docs_of(code: &str) -> (Vec<(usize, &str)>, usize) {
    let mark = |line: &str| ["///", "//!"].into_iter().find(|mark| line.trim_start().starts_with(mark));
    let (mut found, mut all, mut before) = (Vec::new(), 0, None);
    for (number, line) in (1..).zip(code.lines()) {
        let mark = mark(line);
        if let Some(mark) = mark.filter(|mark| before != Some(*mark)) {
            all += 1;
            let text = line.trim_start().trim_start_matches(mark).trim();
            let first = text.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default().to_lowercase();
            if WH.contains(&&*first) {
                found.push((number, text));
            }
        }
        before = mark;
    }
    (found, all)
}

/// The names of the types that code defines.
fn types_of(code: &str) -> Vec<&str> {
    let defined = |line: &'_ str| -> Option<usize> {
        let line = line.trim_start();
        let line = match line.strip_prefix("pub") {
            Some(rest) => {
                rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, r)| r)
            }
            None => line,
        };
        ["struct ", "enum ", "trait ", "type "]
            .into_iter()
            .find_map(|kind| line.trim_start().strip_prefix(kind))
            .map(str::len)
    };
    code.lines()
        .filter(|line| !line.starts_with("        ")) // an associated type of an impl, or in a function
        .filter_map(|line| {
            let rest = &line[line.len() - defined(line)?..];
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
            let is_associated = line.trim_start().starts_with("type ") && line.starts_with(' ');
            (!name.is_empty() && !is_associated && !GENERIC.contains(&name)).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{docs_of, types_of};

    #[test]
    fn a_doc_comment_counts_once_by_its_first_word() {
        let code =
            "//! What it is.\n//! How it works.\n\n/// Returns it.\nfn a() {}\n/// whether it is\nfn b() {}";
        let (found, all) = docs_of(code);
        assert_eq!((found, all), (vec![(1, "What it is."), (6, "whether it is")], 3));
    }

    #[test]
    fn types_are_found_by_their_definitions() {
        let code = "pub(crate) struct A<T>;\nenum B {}\nimpl X for A {\n    type Item = u8;\n}\npub type C = u8;\nstruct Error;";
        assert_eq!(types_of(code), ["A", "B", "C"]);
    }
}
