//! `shopctl load` against shops that misbehave.

mod shop;

use std::process::{Command, Output};

use serde_json::Value;
use shop::{Fate, Shop};

const ORDERS: usize = 200;

fn shopctl(url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shopctl"));
    command.env_remove("TIDINGS_URL").args(["--url", url]).args(args).output().expect("it starts")
}

fn load(shop: &Shop, more: &[&str]) -> Output {
    let orders = ORDERS.to_string();
    let args = ["load", "--json", "--orders", &orders, "--concurrency", "8"];
    shopctl(&shop.url, &[&args, more].concat())
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[track_caller]
fn assert_each_order_counted_once(shop: &Shop, output: &Output) {
    let report = report(output);
    assert!(output.status.success(), "{report}");
    assert_eq!((ORDERS, ORDERS), (shop.orders(), shop.keys()), "{report}");
    for name in ["orders", "accepted", "settled"] {
        assert_eq!(report[name], ORDERS, "{name}: {report}");
    }
    for name in ["missing", "unsettled"] {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    let ended =
        report["outcomes"]["completed"].as_u64().zip(report["outcomes"]["cancelled"]["declined"].as_u64());
    assert_eq!(Some(ORDERS as u64), ended.map(|(completed, declined)| completed + declined), "{report}");
}

#[test]
fn broken_connections_and_busy_answers_are_retried_and_each_order_counts_once() {
    let shop = Shop::open(|post| match post {
        5 => Fate::Refused(503),
        9 => Fate::Refused(409),
        13 => Fate::Refused(429),
        _ if post % 7 == 3 => Fate::LostAnswer,
        _ if post % 11 == 4 => Fate::LostQuestion,
        _ => Fate::Accepted,
    });
    let output = load(&shop, &["--mix"]);
    assert_each_order_counted_once(&shop, &output);
    let report = report(&output);
    assert_eq!(report["retries"], shop.posts() - ORDERS, "{report}");
    for status in ["http_503", "http_409", "http_429"] {
        assert_eq!(report["errors"][status], 1, "{report}");
    }
}

#[test]
fn a_shop_killed_in_the_middle_and_started_again_costs_no_order() {
    let shop = Shop::open(|post| if post % 60 == 30 { Fate::Killed } else { Fate::Accepted });
    let output = load(&shop, &["--mix"]);
    assert_each_order_counted_once(&shop, &output);
    assert!(report(&output)["errors"]["no_answer"].as_u64() >= Some(3));
}

#[test]
fn a_schedule_is_kept() {
    let shop = Shop::open(|_| Fate::Accepted);
    let output = load(&shop, &["--mix", "--rate", "500"]);
    assert_each_order_counted_once(&shop, &output);
    // The last of 200 orders is due 398 ms after the start and cannot be accepted before.
    let seconds = report(&output)["accept_seconds"].as_f64();
    assert!(seconds >= Some(0.398), "{seconds:?}");
}

#[test]
fn an_order_the_shop_forgets_is_missing_and_fails_the_run() {
    let shop = Shop::open(|post| if post == 50 { Fate::Forgotten } else { Fate::Accepted });
    let output = load(&shop, &[]);
    assert_eq!(Some(1), output.status.code());
    let report = report(&output);
    assert_eq!(report["missing"], 1, "{report}");
    assert_eq!(report["settled"], ORDERS - 1, "{report}");
}

#[test]
fn an_order_that_never_ends_is_given_up_and_fails_the_run() {
    let shop = Shop::open(|post| if post == 50 { Fate::Stuck } else { Fate::Accepted });
    let output = load(&shop, &["--timeout", "1"]);
    assert_eq!(Some(1), output.status.code());
    let report = report(&output);
    assert_eq!(report["unsettled"], 1, "{report}");
    assert_eq!(report["settled"], ORDERS - 1, "{report}");
}

#[test]
fn a_refusal_for_good_stops_the_run_with_the_shops_words() {
    let shop = Shop::open(|post| if post == 20 { Fate::Refused(422) } else { Fate::Accepted });
    let output = load(&shop, &[]);
    assert_eq!(Some(1), output.status.code());
    assert_eq!(
        "shopctl: POST /orders was refused with 422 Unprocessable Entity: not today\n",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(shop.posts() < ORDERS);
}

#[test]
fn a_shop_that_stays_busy_is_given_up() {
    let shop = Shop::open(|_| Fate::Refused(503));
    let output = load(&shop, &["--timeout", "1"]);
    assert_eq!(Some(1), output.status.code());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("shopctl: gave up after 1 s without progress, 0 of 200 orders accepted"),
        "{said}"
    );
}

#[test]
fn the_report_is_also_a_page() {
    let shop = Shop::open(|_| Fate::Accepted);
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("report.html");
    let output = load(&shop, &["--html", page.to_str().expect("plain")]);
    assert!(output.status.success());
    let page = std::fs::read_to_string(page).expect("it was written");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"));
}

#[test]
fn nothing_listening_is_one_line_that_says_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", free.local_addr().expect("it is bound"));
    drop(free);
    for command in [&["load"][..], &["orders", "list"]] {
        let output = shopctl(&url, command);
        assert_eq!(Some(1), output.status.code());
        let expected =
            format!("shopctl: nothing listens at {url}: start the service or say with --url where it is\n");
        assert_eq!(expected, String::from_utf8_lossy(&output.stderr));
    }
}
