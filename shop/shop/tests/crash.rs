//! The real program: killed, stopped, refused a start, short of space. Whatever happens to it, an order
//! that was accepted is there once, ends, and is paid for and delivered exactly if it is completed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod load;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use expect_test::{Expect, expect};
use load::{Clients, Load, Random, audit, seed, settled};
use process::{LOOK_EVERY, PATIENCE, Shop, command, eventually, refused};
use rusqlite::Connection;
use serde_json::{Value, json};

/// How long a clean stop may take.
const STOP_MAX: Duration = Duration::from_secs(25);
/// How often the shop is killed.
const KILLS: usize = 3;
/// Under load a line for each event would only be in the way.
const QUIET: [&str; 2] = ["--log", "warn,tidings::service=info"];

/// A disk on which the shop has room for everything the test does, write-ahead logs included …
const DISK_MIB: usize = 192;
/// … and what it has of it at first: enough to start and take some orders.
const ROOM_MIB: usize = 16;

/// Enough of two products, and one that will run out.
const PRODUCTS: [&str; 3] = ["tea", "coffee", "mug"];

fn pieces() -> BTreeMap<String, u64> {
    PRODUCTS
        .iter()
        .zip([1_000_000, 1_000_000, 300])
        .map(|(product, stock)| ((*product).to_owned(), stock))
        .collect()
}

/// Writes the catalogue; returns the flags that name it and keep the log short.
fn flags(directory: &Path) -> Vec<String> {
    let product = |(id, stock): (&String, &u64)| json!({"product_id": id, "name": id, "unit_price": {"amount": 1299, "currency": "EUR"}, "stock": stock});
    let products: Vec<Value> = pieces().iter().map(product).collect();
    let file = directory.join("catalogue.json");
    fs::write(&file, Value::from(products).to_string()).unwrap();
    let mut flags = QUIET.map(str::to_owned).to_vec();
    flags.extend(["--catalogue".to_owned(), file.display().to_string()]);
    flags
}

fn start(directory: &Path, flags: &[String]) -> Shop {
    Shop::start(directory, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_shop_killed_at_any_moment_keeps_every_promise() {
    let seed = seed();
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let flags = flags(directory.path());
    let mut shop = start(directory.path(), &flags);
    let load = Load::start(&shop.address, seed, &PRODUCTS);
    for _ in 0..KILLS {
        load.more(100).await;
        // Any moment: in the middle of a commit, of a delivery, of a charge.
        tokio::time::sleep(random.milliseconds(0, 1000)).await;
        shop.kill();
        shop = start(directory.path(), &flags);
        load.goes_on_at(&shop.address);
    }
    load.more(100).await;
    let accepted = load.end().await;
    let mut clients = Clients::of_one(&shop.address);
    settled(&mut clients).await;
    audit(&mut clients, &accepted, &pieces()).await;
}

#[tokio::test]
async fn a_shop_told_to_stop_under_load_finishes_in_time_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let flags = flags(directory.path());
    let mut shop = start(directory.path(), &flags);
    let load = Load::start(&shop.address, seed(), &PRODUCTS);
    load.more(200).await;
    shop.terminate();
    let status = shop.wait(STOP_MAX).expect("it ends in time");
    assert_eq!(status.code(), Some(0), "{:?}", shop.log());
    let shop = start(directory.path(), &flags);
    load.goes_on_at(&shop.address);
    load.more(100).await;
    let accepted = load.end().await;
    let mut clients = Clients::of_one(&shop.address);
    settled(&mut clients).await;
    audit(&mut clients, &accepted, &pieces()).await;
}

#[tokio::test]
async fn one_search_in_the_log_tells_an_orders_path_through_all_services() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut client = shop.client();
    let id = client.place(r#"{"items":[{"product_id":"tea","quantity":1}]}"#).await;
    client.place(r#"{"items":[{"product_id":"tea","quantity":1}]}"#).await;
    client.ended(&id).await;
    let path = eventually(async || {
        let mut path = BTreeSet::new();
        for line in shop.log().iter().filter(|line| line.contains(&id)) {
            let line: Value = serde_json::from_str(line).unwrap();
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(word("order_id"), id, "{line}");
            path.insert(format!("{} {} {}", word("consumer"), word("message"), word("event.type")));
        }
        if path.len() >= 8 { Ok(path) } else { Err(format!("the log has only {path:?}")) }
    })
    .await;
    expect![[r#"
        inventory handled order.confirmed.v1
        inventory handled order.created.v1
        orders handled payment.authorized.v1
        orders handled payment.captured.v1
        orders handled stock.committed.v1
        orders handled stock.reserved.v1
        payments handled order.confirmed.v1
        payments handled order.created.v1"#]]
    .assert_eq(&path.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Runs a shop that must give up with one line on standard error.
#[track_caller]
fn gives_up(directory: &Path, settings: &[(&str, &str)], expected: Expect) {
    let output = refused(directory, settings);
    assert!(!output.status.success());
    let mut said = String::from_utf8(output.stderr).unwrap();
    said = said.replace(&*directory.to_string_lossy(), "‹directory›");
    for (_, value) in settings.iter().filter(|(name, _)| *name == "LISTEN") {
        said = said.replace(value, "‹address›");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    expected.assert_eq(said.trim_end());
}

#[test]
fn a_second_process_on_the_same_data_gives_up() {
    let directory = tempfile::tempdir().unwrap();
    let _shop = Shop::start(directory.path(), &[]);
    gives_up(
        directory.path(),
        &[],
        expect![
            "data directory ‹directory› is in use by another process; stop that one or choose another directory"
        ],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    gives_up(
        directory.path(),
        &[("LISTEN", &address)],
        expect![
            "cannot listen on ‹address›: Address already in use (os error 98); choose another with --listen HOST:PORT"
        ],
    );
}

#[test]
fn an_address_beyond_this_machine_needs_somebody_who_names_operators() {
    let directory = tempfile::tempdir().unwrap();
    gives_up(
        directory.path(),
        &[("LISTEN", "0.0.0.0:0")],
        expect![
            "‹address› can be reached from other machines, and whoever reaches it may act as an operator: listen on 127.0.0.1, put a proxy before it that names who asks (--caller-header), or say --insecure-admin"
        ],
    );
    let _shop = Shop::start(directory.path(), &["--listen", "0.0.0.0:0", "--insecure-admin"]);
}

#[test]
fn a_directory_that_cannot_be_written_to_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    gives_up(
        &file.join("data"),
        &[],
        expect![
            "cannot create data directory ‹directory›: Not a directory (os error 20); choose a writable one"
        ],
    );
}

#[test]
fn check_says_what_running_would_refuse_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let check = |data: &Path| {
        let output = command(data).arg("check").stdout(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap().replace(&*data.to_string_lossy(), "‹directory›");
        format!("{:?} {}", output.status.code(), said.lines().next().unwrap())
    };
    for data in [file.clone(), file.join("data"), file.join("a/b")] {
        let said = check(&data);
        assert!(
            said.starts_with("Some(2) store of order: cannot ") && said.contains("Not a directory"),
            "{said}"
        );
    }
    assert!(check(&directory.path().join("a/b")).starts_with("Some(0) store of order: ok"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is made");
    let Some(disk) = Disk::mount(DISK_MIB) else { return };
    disk.protect();
    for data in [disk.0.clone(), disk.0.join("data")] {
        let said = check(&data);
        assert!(said.starts_with("Some(2) store of order: cannot ") && said.contains("Read-only"), "{said}");
    }
}

#[test]
fn data_of_a_newer_release_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let stop = || {
        let mut shop = Shop::start(directory.path(), &[]);
        shop.terminate();
        assert!(shop.wait(STOP_MAX).unwrap().success());
    };
    let grow_older = |database: &str, component: &str, by: i64| {
        let connection = Connection::open(directory.path().join(database)).unwrap();
        let update = "UPDATE migration SET version = version + ?1 WHERE component = ?2";
        assert_eq!(connection.execute(update, (by, component)).unwrap(), 1);
    };
    stop();
    grow_older("order.db", "order", 7);
    gives_up(
        directory.path(),
        &[],
        expect![
            "the data of order has version 10, this program knows 3: it was written by a newer release; run that release, or choose another data directory"
        ],
    );
    grow_older("order.db", "order", -7);
    grow_older("payment.db", "tidings", 7);
    gives_up(
        directory.path(),
        &[],
        expect![
            "the data of tidings has version 14, this program knows 7: it was written by a newer release; run that release, or choose another data directory"
        ],
    );
    grow_older("payment.db", "tidings", -7);
    grow_older("log.db", "log", 7);
    gives_up(
        directory.path(),
        &[],
        expect![
            "the data of log has version 8, this program knows 1: it was written by a newer release; run that release, or choose another data directory"
        ],
    );
    grow_older("log.db", "log", -7);
    stop();
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let directory = tempfile::tempdir().unwrap();
    gives_up(
        directory.path(),
        &[("STORE", "mysql://db")],
        expect![[
            r#""mysql://db" is not a store this program knows; use --store sqlite:DIRECTORY or --store postgres://USER@HOST/DATABASE"#
        ]],
    );
    gives_up(
        directory.path(),
        &[("BROKER", "data")],
        expect![[
            r#""data" is not a broker this program knows; use --broker sqlite:DIRECTORY or --broker kafka://HOST:PORT"#
        ]],
    );
    gives_up(
        directory.path(),
        &[("LISTEN", "nowhere")],
        expect!["cannot listen on ‹address›: invalid socket address; choose another with --listen HOST:PORT"],
    );
    gives_up(
        directory.path(),
        &[("PARTITIONS", "six")],
        expect![[r#"TIDINGS_PARTITIONS is "six": a whole number is wanted"#]],
    );
    gives_up(
        directory.path(),
        &[("CATALOGUE", "/no/such/file")],
        expect!["cannot read catalogue /no/such/file: No such file or directory (os error 2)"],
    );
    gives_up(directory.path(), &[("CONFIG", "/no/such/file")], expect!["there is no file /no/such/file"]);
}

#[tokio::test]
async fn a_full_disk_refuses_orders_and_takes_them_again_once_there_is_room() {
    let Some(disk) = Disk::mount(DISK_MIB) else {
        return;
    };
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; (DISK_MIB - ROOM_MIB) * 1024 * 1024]).unwrap();
    let data = disk.0.join("data");
    fs::create_dir(&data).unwrap();
    let flags = flags(&data);
    let shop = start(&data, &flags);
    let load = Load::start(&shop.address, seed(), &PRODUCTS);
    load.more(1).await;
    load.until("the disk is full", || !load.busy().is_empty()).await;
    let problem: Value = serde_json::from_str(&load.busy()[0]).unwrap();
    expect![[r#"
        {
          "detail": "the database cannot be used at the moment; nothing was done, try again",
          "status": 503,
          "title": "Unavailable",
          "type": "/problems/unavailable"
        }
    "#]]
    .assert_eq(&format!("{problem:#}\n"));
    let mut client = shop.client();
    assert_eq!(client.get("/livez").await.status, 200);
    let accepted = client.json("/orders?limit=1000").await["items"].as_array().unwrap().len();
    assert!(accepted > 0, "what was accepted can be read");
    fs::remove_file(&ballast).unwrap();
    load.more(100).await;
    let accepted = load.end().await;
    let mut clients = Clients::of_one(&shop.address);
    settled(&mut clients).await;
    audit(&mut clients, &accepted, &pieces()).await;
}

/// A small disk of its own; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one, or says why that cannot be.
    fn mount(size_mib: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap().keep();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"]).arg(&directory);
        let why = match mount.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Some(Self(directory)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(e) => e.to_string(),
        };
        fs::remove_dir(&directory).unwrap();
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: a small disk cannot be mounted: {why}");
        None
    }
}

impl Disk {
    /// Lets nobody write to it any more.
    fn protect(&self) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", "remount,ro"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Until the shop's last file is closed it is busy.
        for _ in 0..PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
            if Command::new("umount").arg(&self.0).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
                let _ = fs::remove_dir(&self.0);
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
