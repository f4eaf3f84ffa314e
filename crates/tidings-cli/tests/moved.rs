//! `tidings load` and `tidings orders`, which others call: as they were before they became `shopctl`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../../shop/ctl/tests/shop/mod.rs"]
#[allow(dead_code, reason = "the shop is made for the tests of shopctl, which ask it more")]
mod shop;

use std::process::{Command, Output};

use expect_test::{Expect, expect};
use serde_json::Value;
use shop::{Fate, Shop};

fn tidings(url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.env_remove("TIDINGS_URL").args(["--url", url]).args(args).output().expect("it starts")
}

#[track_caller]
fn says(output: &Output, code: i32, stderr: Expect) {
    stderr.assert_eq(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code));
}

#[test]
fn tidings_load_takes_the_flags_it_took_and_gives_programs_the_same_report() {
    let shop = Shop::open(|_| Fate::Accepted);
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let html = ["--json", "--html", page.to_str().unwrap()];
    for pace in [["--concurrency", "8"], ["--rate", "500"]] {
        let output = tidings(&shop.url, &[&["load", "--orders", "60"], &pace[..], &html].concat());
        says(&output, 0, expect![""]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
        expect![[r#"
            accept_seconds accepted accepted_per_minute connections duration_seconds errors missing orders outcomes payment_method post_ms rate_per_second retries seed settle_ms settled settled_per_minute started_at unsettled url"#]]
        .assert_eq(&names.join(" "));
        assert_eq!((&report["accepted"], &report["settled"]), (&60.into(), &60.into()), "{report}");
        assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!doctype html>"));
    }
}

#[test]
fn tidings_load_still_fails_when_an_order_is_missing() {
    let shop = Shop::open(|post| if post == 5 { Fate::Forgotten } else { Fate::Accepted });
    let args = ["load", "--json", "--orders", "10", "--concurrency", "2", "--seed", "7", "--timeout", "30"];
    let missing = "tidings: of 10 accepted orders 1 are missing and 0 have not settled: see `shopctl orders list --status processing` and `tidings status`\n";
    let output = tidings(&shop.url, &args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), missing);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn people_are_told_where_a_command_went_and_programs_are_not() {
    let shop = Shop::open(|_| Fate::Accepted);
    let output = tidings(&shop.url, &["load", "--orders", "10"]);
    says(
        &output,
        0,
        expect![[r#"
        tidings load is shopctl load now
    "#]],
    );
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("10 orders over 10 connections to "));
    let output = tidings(&shop.url, &["orders", "list"]);
    says(
        &output,
        0,
        expect![[r#"
        tidings orders is shopctl orders now
    "#]],
    );
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ID "));
    let output = tidings(&shop.url, &["orders", "list", "--limit", "5", "--json"]);
    says(&output, 0, expect![""]);
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(10), "{page}");
}

#[test]
fn the_help_lists_what_serves_any_service() {
    let help = tidings("http://127.0.0.1:1", &["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let named = commands.unwrap().lines().filter_map(|line| line.split_whitespace().next());
    assert_eq!(
        named.collect::<Vec<_>>(),
        [
            "status",
            "why",
            "events",
            "lag",
            "topics",
            "tail",
            "dlq",
            "outbox",
            "gaps",
            "effects",
            "pause",
            "resume",
            "pauses",
            "seek",
            "replay",
            "audit",
            "schema",
            "completions",
            "man",
            "help"
        ]
    );
}

#[test]
fn nothing_listening_is_one_line_that_says_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let output = tidings(&url, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    let expected =
        format!("tidings: nothing listens at {url}: start the service or say with --url where it is\n");
    assert_eq!(expected, String::from_utf8_lossy(&output.stderr));
}
