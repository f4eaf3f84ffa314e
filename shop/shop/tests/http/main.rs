//! The outside contract over HTTP: every route, what it answers and how it refuses.
//!
//! Each test talks to a `shop` program of its own. What must not change unnoticed is golden:
//! `UPDATE_EXPECT=1 cargo test -p shop --test http` writes it anew.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../process/mod.rs"]
mod process;

mod idempotency;
mod orders;
mod payments;
mod problems;
mod products;
mod status;

use expect_test::Expect;
use process::{Client, Shop};
use serde_json::Value;
use tempfile::TempDir;

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":2}]}"#;

fn open() -> (TempDir, Shop, Client) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let client = shop.client();
    (directory, shop, client)
}

/// Compares JSON, with ids and times that differ from run to run left out.
#[track_caller]
fn golden(mut json: Value, expected: Expect) {
    redact(&mut json);
    expected.assert_eq(&format!("{json:#}\n"));
}

fn redact(json: &mut Value) {
    match json {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        Value::String(text) => *text = redacted(text),
        _ => {}
    }
}

/// `pay_0192…` as `pay_‹id›`, a time as `‹time›`.
fn redacted(text: &str) -> String {
    if text.ends_with('Z') && text.starts_with("20") {
        return "‹time›".to_owned();
    }
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    // With hyphens or without.
    for length in [36, 32] {
        if let Some(at) = text.len().checked_sub(length)
            && text.is_char_boundary(at)
            && text[at..].chars().all(is_id)
        {
            return format!("{}‹id›", &text[..at]);
        }
    }
    text.to_owned()
}

/// Compares what a problem says, in lines: status and type, what is wrong in words, what is wrong where.
#[track_caller]
fn refused(answer: &process::Answer, expected: Expect) {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16(), "{problem}");
    let mut lines = vec![
        format!("{} {}", problem["status"], problem["type"].as_str().unwrap()),
        problem["detail"].as_str().unwrap().to_owned(),
    ];
    for error in problem["errors"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  at {:?}: {} ({})",
            error["pointer"].as_str().unwrap(),
            error["detail"].as_str().unwrap(),
            error["rule"].as_str().unwrap(),
        ));
    }
    expected.assert_eq(&lines.join("\n"));
}
