//! The real servers come up, go down as told, and keep what they have said is kept.
#![cfg(feature = "kafka")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidings_servers::{Kafka, Postgres};

/// Asks whether it would encrypt; it answers with one letter.
const POSTGRES_HELLO: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Asks which requests it knows (`ApiVersions` v0, number 1, from nobody).
const KAFKA_HELLO: &[u8] = &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];

#[test]
fn postgres_keeps_what_it_committed_through_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start(dir.path()).unwrap();
    let url = postgres.url();
    sql(&url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (41); INSERT INTO kept VALUES (42)")
        .unwrap();

    let mut waiting = psql(&url, "SELECT pg_sleep(1000)").spawn().unwrap();
    while sql(&url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'").unwrap() != "1" {}
    postgres.kill().unwrap();
    assert!(!waiting.wait().unwrap().success(), "its connection ends with the server");
    assert!(sql(&url, "SELECT 1").is_err(), "nothing answers after a crash");

    postgres.start_again().unwrap();
    assert_eq!(postgres.url(), url);
    assert_eq!(sql(&url, "SELECT sum(n) FROM kept").unwrap(), "83");

    postgres.stop().unwrap();
    assert!(sql(&url, "SELECT 1").is_err(), "nothing answers after a stop");
    postgres.start_again().unwrap();
    assert_eq!(sql(&url, "SELECT sum(n) FROM kept").unwrap(), "83");
}

#[test]
fn kafka_keeps_what_it_acknowledged_through_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut kafka = Kafka::start(dir.path()).unwrap();
    let bootstrap = kafka.bootstrap();
    let produce = ["org.apache.kafka.tools.ConsoleProducer", "--topic", "kept"];
    let consume = ["org.apache.kafka.tools.consumer.ConsoleConsumer", "--topic", "kept", "--from-beginning"];
    tool(&bootstrap, &["org.apache.kafka.tools.TopicCommand", "--create", "--topic", "kept"], "");
    tool(&bootstrap, &produce, "first\nsecond\n");

    kafka.kill().unwrap();
    assert!(!answers(&bootstrap, KAFKA_HELLO), "nothing answers after a crash");
    kafka.start_again().unwrap();
    assert_eq!(kafka.bootstrap(), bootstrap);
    let read = tool(&bootstrap, &[&consume[..], &["--max-messages", "2"]].concat(), "");
    assert_eq!(read, "first\nsecond\n");

    kafka.stop().unwrap();
    assert!(!answers(&bootstrap, KAFKA_HELLO), "nothing answers after a stop");
    kafka.start_again().unwrap();
    tool(&bootstrap, &produce, "third\n");
    let read = tool(&bootstrap, &[&consume[..], &["--max-messages", "3"]].concat(), "");
    assert_eq!(read, "first\nsecond\nthird\n");
}

#[test]
fn a_paused_part_answers_nothing_until_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start(&dir.path().join("postgres")).unwrap();
    let address = postgres.url().split(['@', '/']).nth(3).unwrap().to_owned();
    assert!(answers(&address, POSTGRES_HELLO));
    postgres.pause().unwrap();
    assert!(!answers(&address, POSTGRES_HELLO));
    postgres.resume().unwrap();
    assert!(answers(&address, POSTGRES_HELLO));

    let mut kafka = Kafka::start(&dir.path().join("kafka")).unwrap();
    assert!(answers(&kafka.bootstrap(), KAFKA_HELLO));
    kafka.pause().unwrap();
    assert!(!answers(&kafka.bootstrap(), KAFKA_HELLO));
    kafka.resume().unwrap();
    assert!(answers(&kafka.bootstrap(), KAFKA_HELLO));
}

#[test]
fn data_outlives_the_server_and_is_found_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = Postgres::start(dir.path()).unwrap();
    sql(&first.url(), "CREATE TABLE kept AS SELECT 42 AS n").unwrap();
    drop(first);
    let second = Postgres::start(dir.path()).unwrap();
    assert_eq!(sql(&second.url(), "SELECT n FROM kept").unwrap(), "42");

    // Killed from outside, and its number is not free: nobody has waited for it.
    let lock = std::fs::read_to_string(dir.path().join("data/postmaster.pid")).unwrap();
    let killed = Command::new("sh").args(["-c", "kill -s KILL $0", lock.lines().next().unwrap()]).status();
    assert!(killed.unwrap().success());
    let third = Postgres::start(dir.path()).unwrap();
    assert_eq!(sql(&third.url(), "SELECT n FROM kept").unwrap(), "42");

    let dir = tempfile::tempdir().unwrap();
    let first = Kafka::start(dir.path()).unwrap();
    tool(&first.bootstrap(), &["org.apache.kafka.tools.TopicCommand", "--create", "--topic", "kept"], "");
    drop(first);
    let second = Kafka::start(dir.path()).unwrap();
    assert_eq!(tool(&second.bootstrap(), &["org.apache.kafka.tools.TopicCommand", "--list"], ""), "kept\n");
}

#[test]
fn a_part_that_cannot_start_says_where_it_said_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start(dir.path()).unwrap();
    postgres.stop().unwrap();
    std::fs::write(dir.path().join("data/postgresql.conf"), "no_such_setting = 1").unwrap();
    let error = postgres.start_again().unwrap_err().to_string();
    assert!(error.starts_with("PostgreSQL ended before it was ready"), "{error}");
    let log = error.split(", see ").nth(1).unwrap();
    assert!(std::fs::read_to_string(log).unwrap().contains("no_such_setting"));
}

fn psql(url: &str, statement: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["--no-align", "--tuples-only", "--command", statement, url]);
    psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    psql
}

fn sql(url: &str, statement: &str) -> Result<String, String> {
    let output = psql(url, statement).output().expect("psql comes with PostgreSQL");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(output.status.to_string())
    }
}

/// What one of Kafka's own tools writes.
fn tool(bootstrap: &str, args: &[&str], input: &str) -> String {
    let mut tool = Kafka::tool(args[0]).expect("Kafka is installed");
    tool.args(&args[1..]).args(["--bootstrap-server", bootstrap]);
    let mut running =
        tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("java runs");
    let mut stdin = running.stdin.take().expect("its input is piped");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    let output = running.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether somebody answers within a moment.
fn answers(address: &str, hello: &[u8]) -> bool {
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    connection.set_read_timeout(Some(Duration::from_millis(700))).expect("it is not zero");
    connection.write_all(hello).is_ok() && connection.read(&mut [0; 4]).is_ok_and(|read| read > 0)
}
