//! `shopctl reconcile`: whether the books agree is its exit code.

#![allow(dead_code, reason = "`load` uses the rest of the shop")]

mod shop;

use std::process::Command;

use serde_json::Value;
use shop::{Fate, Shop};

fn reconcile(shop: &Shop, since: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shopctl"));
    let args = [&["--url", &shop.url, "reconcile", "--since", since], more].concat();
    let output = command.env_remove("TIDINGS_URL").args(args).output().expect("it starts");
    let [said, failed] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    (output.status.code(), said, failed)
}

#[test]
fn books_that_agree_that_differ_and_that_cannot_be_read_have_a_code_each() {
    let shop = Shop::open(|_| Fate::Accepted);
    let (code, said, _) = reconcile(&shop, "2021-01-01T00:00:00Z", &[]);
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
    assert!(said.starts_with("the books agree: 1 payments at the provider, 1 here"), "{said}");
    let (code, said, _) = reconcile(&shop, "2022-01-01T00:00:00Z", &[]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("1 difference: ") && said.contains("o-1    pi_1     missing here"), "{said}");
    let (code, said, _) = reconcile(&shop, "2022-01-01T00:00:00Z", &["--json"]);
    let found: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (code, &found["items"][0]["todo"], &found["seen_here"]),
        (Some(1), &"refund pi_1".into(), &1.into())
    );
    let (code, said, failed) = reconcile(&shop, "2020-01-01T00:00:00Z", &[]);
    assert_eq!((code, &*said), (Some(2), ""));
    assert!(failed.contains("the gateway keeps no book"), "{failed}");
    let (code, _, failed) = reconcile(&shop, "yesterday", &[]);
    assert_eq!(code, Some(2));
    assert!(failed.contains("how long ago"), "{failed}");
}
