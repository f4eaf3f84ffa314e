//! The alerts of `deploy/` say what they should, and the runbook has a section for each of them and for each code of a
//! dead letter.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(at(path)).unwrap()
}

/// The sections of the runbook by their headings, without backticks.
fn sections() -> BTreeMap<String, String> {
    let page = read("docs/runbook.md");
    let sections = page.split("\n### ").skip(1).map(|section| {
        let (heading, text) = section.split_once('\n').unwrap();
        let text = text.split("\n## ").next().unwrap();
        (heading.replace('`', ""), text.to_owned())
    });
    sections.collect()
}

/// The values of a key in a file of YAML, a line each.
fn values(yaml: &str, key: &str) -> Vec<String> {
    let lines = yaml.lines().map(|line| line.trim_start().trim_start_matches("- "));
    let found = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    found.map(str::to_owned).collect()
}

/// Codes in the table of `docs/dead-letters.md`; those that wait stand below it.
fn codes() -> Vec<String> {
    let page = read("docs/dead-letters.md");
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let named = first_cells.flat_map(|cell| cell.split(", ").map(|code| code.replace('`', "")));
    named.collect()
}

#[test]
fn every_alert_and_every_code_has_a_section_that_says_what_to_do() {
    let sections = sections();
    let alerts = values(&read("deploy/alerts.yml"), "alert");
    let codes = codes();
    assert!(alerts.len() >= 15 && codes.len() >= 15, "{alerts:?} {codes:?}");
    for name in alerts.iter().chain(&codes) {
        let section = sections.get(name).unwrap_or_else(|| panic!("docs/runbook.md has no section {name}"));
        for part in ["- **Symptom**: ", "- **Ask**: ", "- **Do**: ", "- **Verify**: "] {
            assert_eq!(section.matches(part).count(), 1, "section {name}: {part}");
        }
        assert!(section.contains("`tidings "), "section {name} names no command");
    }
    let known: Vec<&String> = alerts.iter().chain(&codes).collect();
    for heading in sections.keys() {
        assert!(known.contains(&heading) || heading == "Any other code", "there is no {heading}");
    }
}

#[test]
fn every_alert_leads_to_its_section_and_has_a_test() {
    let (rules, tests) = (read("deploy/alerts.yml"), read("deploy/alerts_test.yml"));
    let alerts = values(&rules, "alert");
    for (alert, url) in alerts.iter().zip(values(&rules, "runbook_url")) {
        assert_eq!(url, format!("docs/runbook.md#{}", alert.to_lowercase()));
    }
    assert_eq!(values(&rules, "labels").len(), alerts.len(), "each has a severity");
    for alert in &alerts {
        let is_quiet = tests.contains(&format!("alertname: {alert}}}"));
        let is_said = tests.contains(&format!("alertname: {alert}\n        exp_alerts:"));
        assert!(
            is_quiet && is_said,
            "deploy/alerts_test.yml does not say when {alert} is quiet, and when not"
        );
    }
}

#[test]
fn alerts_are_said_when_they_should_be() {
    let promtool = match tidings_servers::promtool() {
        Ok(promtool) => promtool,
        Err(e) => return println!("SKIPPED promtool test rules: {e}"),
    };
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let mut command = Command::new(&promtool);
        let done = command.args(arguments).current_dir(at("deploy")).output().unwrap();
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success(), "promtool {arguments:?}: {said}");
    }
}
