//! The program as its operator sets it up, starts, reads and stops it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use process::{Client, PATIENCE, Shop, command, eventually, refused, until_ready};
use serde_json::Value;

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":1}]}"#;
/// Orders whose log lines are more than a pipe and what waits for it can hold.
const ORDERS: usize = 700;

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing_and_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let mut child =
        command(directory.path()).args(["--log-format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let address = until_ready(&mut output, &Mutex::default());
    let mut client = Client::to(&address);
    let mut last = String::new();
    for _ in 0..ORDERS {
        last = client.place(TEA).await;
    }
    client.ended(&last).await;
    assert_eq!(client.get("/livez").await.status, 200);
    let dropped = eventually(async || {
        let metrics = client.get("/metrics").await.text().to_owned();
        let dropped = metrics.lines().find_map(|line| line.strip_prefix("log_lines_dropped_total "));
        let dropped: u64 = dropped.unwrap().parse().unwrap();
        if dropped > 0 { Ok(dropped) } else { Err(metrics) }
    })
    .await;
    println!("{dropped} lines were dropped");
    // Somebody reads again: what is missing is said where it is missing.
    let told = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        let mut dropped =
            lines.filter_map(|line| serde_json::from_str::<Value>(&line).unwrap()["dropped"].as_u64());
        dropped.next()
    });
    assert!(told.join().unwrap().is_some_and(|told| told > 0));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_shop_told_to_stop_says_so_and_serves_on_for_the_delay() {
    let directory = tempfile::tempdir().unwrap();
    let mut shop = Shop::start(directory.path(), &["--shutdown-delay", "2"]);
    let mut client = shop.client();
    let begun = Instant::now();
    shop.terminate();
    eventually(async || {
        let ready = client.get("/readyz").await;
        if ready.status == 503 && ready.text().contains("stopping") {
            Ok(())
        } else {
            Err(ready.text().to_owned())
        }
    })
    .await;
    client.place(TEA).await;
    assert_eq!(client.get("/livez").await.status, 200);
    let status = shop.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut shop = Shop::start(directory.path(), &["--shutdown-delay", "300"]);
    let mut client = shop.client();
    shop.terminate();
    eventually(async || match client.get("/readyz").await.status.as_u16() {
        503 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
    shop.terminate();
    assert_eq!(shop.wait(Duration::from_secs(5)).expect("it ends at once").code(), Some(0));
}

/// What a shop says that gives up over a setting.
fn told(settings: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = refused(directory.path(), settings);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

#[test]
fn settings_that_are_misspelt_or_out_of_range_are_refused_without_a_secret() {
    for (setting, value, expected) in [
        (
            "BROKERS",
            "kafka://a:9092",
            "TIDINGS_BROKERS is set, which is no setting: is TIDINGS_BROKER meant?",
        ),
        ("CATALOG", "x", "is TIDINGS_CATALOGUE meant?"),
        ("STORE", "mysql://u:p4ssword@h", r#""mysql://u@h" is not a store"#),
        ("BROKER", "amqp://u:p4ssword@h?x=p4ssword", r#""amqp://u@h" is not a broker"#),
        ("GATEWAY", "stripes:http://u:p4ssword@h", r#"there is no gateway "stripes:http://u@h""#),
        ("DEADLINE_SECONDS", "18446744073709551615", "it must be 1 to 2592000"),
        ("DEADLINE_SECONDS", "0", "it must be 1 to 2592000"),
        ("PARTITIONS", "0", "it must be 1 to 1000"),
        ("PARTITIONS", "4294967295", "it must be 1 to 1000"),
        ("SHUTDOWN_DELAY", "301", "it must be 0 to 300"),
        ("LOG", "inof", "which is no level"),
        ("STORE_FILE", "/no/such/file", "which TIDINGS_STORE_FILE names"),
    ] {
        let told = told(&[(setting, value)]);
        assert!(told.contains(expected) && !told.contains("p4ssword"), "{setting}={value}: {told}");
    }
}

#[test]
fn a_file_with_a_section_or_an_unknown_setting_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.toml");
    for (text, expected) in [
        ("[server]\nlisten = '127.0.0.1:0'", "has a section [server]"),
        ("brokers = 'kafka://a:9092'", "sets brokers, which is no setting: is broker meant?"),
        ("deadline_seconds = 0", "it must be 1 to 2592000"),
    ] {
        std::fs::write(&file, text).unwrap();
        let told = told(&[("CONFIG", file.to_str().unwrap())]);
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn what_kubernetes_sets_and_what_is_empty_is_no_setting() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = command(directory.path())
        .envs([
            ("TIDINGS_BROKER_PORT", "tcp://10.0.0.1:9092"),
            ("TIDINGS_BROKER_SERVICE_HOST", "10.0.0.1"),
            ("TIDINGS_BROKER_SERVICE_PORT_PLAINTEXT", "9092"),
            ("TIDINGS_BROKER_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("TIDINGS_STORE_PORT_5432_TCP", "tcp://10.0.0.2:5432"),
            ("TIDINGS_LOG", ""),
            ("TIDINGS_CONFIG", ""),
            ("TIDINGS_STORE_FILE", ""),
            ("TIDINGS_DEADLINE_SECONDS", ""),
            ("TOKIO_WORKER_THREADS", ""),
            ("TIDINGS_LOG_FORMAT", "json"),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let address = until_ready(&mut output, &Mutex::default());
    assert_eq!(Client::to(&address).get("/readyz").await.status, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn check_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let check = || {
        let output = command(&data).arg("check").stdout(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = check();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("store of order: ok; a start would migrate tidings from version 0 to "), "{told}");
    assert!(!data.exists());
    let shop = Shop::start(&data, &[]);
    assert_eq!(shop.client().get("/readyz").await.status, 200);
    let (code, told) = check();
    assert_eq!((code, told.contains("migrate")), (Some(0), false), "beside one that runs: {told}");
}
