//! The table of loops in `docs/loops.md` is the code's.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// `HandOver` as `hand_over`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// The variants of an enum of `health.rs`.
fn variants(name: &str) -> Vec<String> {
    let source = read("src/health.rs");
    let body = source.split(&format!("enum {name} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    let is_variant = |line: &&str| line.trim_start().starts_with(char::is_uppercase);
    body.lines().filter(is_variant).map(|line| line.trim().trim_end_matches(',').to_owned()).collect()
}

/// The first columns of the rows of the tables on the page.
fn rows() -> BTreeSet<String> {
    let page = read("../../docs/loops.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

#[test]
fn every_loop_and_every_reason_has_a_row_and_every_row_is_one() {
    let mut named: BTreeSet<String> = BTreeSet::from(["ended".to_owned()]);
    for name in ["Loop", "Reason"] {
        named.extend(variants(name).iter().map(|variant| snake(variant)));
    }
    assert_eq!(rows(), named);
}

#[test]
fn every_loop_says_when_it_waits_and_when_it_goes_on() {
    let mut sources = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "health.rs" {
                sources += &fs::read_to_string(path).unwrap_or_default();
            }
        }
    }
    let sources: String = sources.split_whitespace().collect();
    for variant in variants("Loop") {
        let says = |call: &str| sources.contains(&format!("{call}(Loop::{variant}"));
        assert!(says("waits") || says("failed"), "{variant} never says that it waits");
        assert!(says("goes_on"), "{variant} never says that it goes on");
    }
}
