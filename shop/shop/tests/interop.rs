//! Interoperation: a Python service and Kafka's own tools, which know nothing of us but the
//! contract, beside the three services on real Kafka and PostgreSQL.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod kafka_tools;
mod process;
mod programs;
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use bytes::Bytes;
use kafka_tools::{Printed, consume, describe_topic, keyed, lags, produce, tool};
use process::PATIENCE;
use programs::{Backends, Services, said, segment};
use python::{python, workspace};
use serde_json::{Value, json};
use tidings::broker::Outgoing;
use tidings::{Broker, Headers, Message, Topic, partition_of};
use tidings_servers::ProcessGuard;
use tidings_testkit::servers::{FreshDatabase, FreshTopics};

/// Orders that the Python service posts, and how many of them again.
const ORDERS: usize = 40;
const AGAIN: usize = 15;

/// A prime, so that a hash that differs in any bit shows.
const PARTITIONS: u32 = 17;

/// The groups that read orders.
const GROUPS: [&str; 3] = ["payments", "inventory", "orders"];

/// What every message of ours says about itself, and what it says if something caused it.
const HEADERS: [&str; 11] = [
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_subject",
    "ce_time",
    "ce_dataschema",
    "ce_streamseq",
    "ce_correlationid",
    "traceparent",
    "content-type",
];
const CAUSED: &str = "ce_causationid";

/// What a dead letter says besides what the message said.
const DEAD: [&str; 11] = [
    "dlq_original_topic",
    "dlq_original_partition",
    "dlq_original_offset",
    "dlq_original_timestamp",
    "dlq_consumer_group",
    "dlq_handler",
    "dlq_attempts",
    "dlq_first_failed_at",
    "dlq_last_failed_at",
    "dlq_error_code",
    "dlq_error_message",
];

#[tokio::test]
async fn a_python_service_places_orders_in_the_plain_shape_and_hears_of_every_payment() {
    let Some(peer) = Peer::new() else { return };
    let services = Services::start();
    let ids: Vec<String> = (0..ORDERS).map(|n| format!("python-{n}")).collect();
    let lines: Vec<String> = ids.iter().map(|id| order(id, 2)).collect();

    // Some come again at once, some when everything is over.
    peer.order(&services.backends, &[&lines[..], &lines[..AGAIN]].concat());
    services.settled(&ids).await;
    peer.order(&services.backends, &lines[ORDERS - AGAIN..]);
    until_duplicates(&services, 2 * AGAIN as u64).await;
    services.settled(&ids).await;

    let (mut watch, said) = peer.watch(&services.backends, &["payments"], 2 * ORDERS);
    assert_eq!(watch.stop().code(), Some(0), "it stops when told to");
    let mut heard: BTreeMap<&str, Vec<(&str, u64, &Value)>> = BTreeMap::new();
    for message in &said {
        assert_headers(message);
        let (event, id) = (&message["event"], text(&message["key"]));
        assert_eq!((text(&event["source"]), text(&event["subject"])), ("/payments", id), "{message}");
        let number = event["streamseq"].as_u64().unwrap();
        heard.entry(id).or_default().push((text(&event["type"]), number, &message["payload"]));
    }
    for id in &ids {
        let money = json!({"order_id": id, "payment_id": format!("pay_{id}"), "amount": {"amount": 2598, "currency": "EUR"}});
        let expected = [("payment.authorized.v1", 1, &money), ("payment.captured.v1", 2, &money)];
        assert_eq!(heard[&**id], expected);
    }
    // Nobody paid twice, and no piece was sold twice.
    let published = services.payment.status().await["outbox"]["published"].clone();
    assert_eq!(published, 2 * ORDERS, "payment stated nothing else");
    let tea = services.inventory.client().json("/stock/tea").await;
    assert_eq!((&tea["committed"], &tea["reserved"]), (&json!(2 * ORDERS), &json!(0)));
    let orders = services.order.client().json("/orders?limit=100").await;
    assert_eq!(orders["items"].as_array().unwrap().len(), ORDERS);
    services.stop();
}

#[tokio::test]
async fn what_nobody_understands_is_a_dead_letter_of_each_group_with_its_bytes_as_they_came() {
    let Some(peer) = Peer::new() else { return };
    let services = Services::start();
    let orders = services.backends.wire_name("orders");
    let broker = Broker::open(&services.backends.topics.url()).unwrap();

    // A line of text, a type that is known with a payload that breaks its rules, and bytes that are not text.
    produce(&orders, &[], "Dear shop, I would like some tea\n");
    peer.order(&services.backends, &[order("python-none", 0)]);
    let bytes = b"\x00\xff{\"event_id\":\n\t\x1c\xc3".as_slice();
    let headers = Headers::from([("x-stranger", "yes, really")]);
    let message = Message { key: Some("tea".into()), headers, value: bytes.into(), ..Message::default() };
    let sent = broker.send(vec![Outgoing::new("orders", message)]).await;
    sent.into_iter().for_each(|sent| sent.unwrap());

    // They are waited for by whoever reads them.
    let printed = consume(&format!("{}.*_dlq", services.backends.prefix()), 9);
    let (mut watch, said) = peer.watch(&services.backends, &GROUPS.map(|group| format!("{group}_dlq")), 9);
    assert_eq!(watch.stop().code(), Some(0));
    let found = consume(&orders, 3);
    for group in GROUPS {
        for original in &found {
            let dead = |letter: &&Printed| {
                letter.value == original.value && letter.header("dlq_consumer_group") == group
            };
            let letters: Vec<&Printed> = printed.iter().filter(dead).collect();
            let [letter] = letters[..] else { panic!("{group}: {original:?} became {letters:?}") };
            assert_dead_letter(letter, original);
            assert!(
                said.iter().any(|seen| is_same(seen, letter)),
                "Python has not seen {letter:?}: {said:#?}"
            );
        }
    }
    let mut codes: Vec<&str> = printed.iter().map(|letter| letter.header("dlq_error_code")).collect();
    codes.sort_unstable();
    assert_eq!(codes, [["envelope_undecodable"; 6].as_slice(), &["payload_invalid"; 3]].concat());
    assert!(found.iter().any(|original| original.value == bytes), "the bytes went through: {found:?}");
    services.stop();
}

#[tokio::test]
async fn kafkas_console_consumer_sees_the_headers_of_the_contract() {
    let services = Services::start();
    let mut client = services.order.client();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        [("x-request-id", "request-1"), ("traceparent", trace), ("content-type", "application/json")];
    let body = r#"{"items": [{"product_id": "tea", "quantity": 2}]}"#;
    let placed = client.ask(process::request(hyper::Method::POST, "/orders", &headers, body)).await.json();
    let id = text(&placed["id"]).to_owned();
    services.settled(std::slice::from_ref(&id)).await;

    let events = [("orders", 3), ("payments", 2), ("inventory", 2)]
        .map(|(topic, count)| consume(&services.backends.wire_name(topic), count));
    let types = events
        .each_ref()
        .map(|events| events.iter().map(|event| event.header("ce_type")).collect::<Vec<_>>());
    assert_eq!(types[0], ["order.created.v1", "order.confirmed.v1", "order.completed.v1"]);
    assert_eq!(types[1], ["payment.authorized.v1", "payment.captured.v1"]);
    assert_eq!(types[2], ["stock.reserved.v1", "stock.committed.v1"]);
    let ids: BTreeSet<&str> = events.iter().flatten().map(|event| event.header("ce_id")).collect();
    assert_eq!(ids.len(), 7, "no two events have one id");
    for (topic, events) in ["orders", "payments", "inventory"].iter().zip(&events) {
        for (n, event) in events.iter().enumerate() {
            let is_first = event.header("ce_type") == "order.created.v1";
            let mut names = HEADERS.to_vec();
            names.extend((!is_first).then_some(CAUSED));
            assert_same_names(event.headers.iter().map(|(name, _)| &**name), &names);
            assert_eq!(event.key_text(), id);
            let said = |name| event.header(name);
            assert_eq!((said("ce_subject"), said("ce_streamseq")), (&*id, &*(n + 1).to_string()));
            assert_eq!((said("ce_specversion"), said("content-type")), ("1.0", "application/json"));
            assert_eq!(said("ce_source"), format!("/{topic}"));
            assert_eq!(uuid_version(said("ce_id")), Some('7'), "{event:?}");
            assert_eq!(said("ce_correlationid"), "request-1");
            assert!(is_first || ids.contains(said(CAUSED)), "what caused {event:?} is here too");
            assert!(is_time(said("ce_time")), "{event:?}");
            let (name, version) = said("ce_type").rsplit_once(".v").unwrap();
            assert_eq!(said("ce_dataschema"), format!("urn:tidings:{name}:{version}"));
            assert_eq!(said("traceparent").split('-').nth(1), trace.split('-').nth(1));
            let payload: Value = serde_json::from_slice(&event.value).unwrap();
            assert_eq!(payload["order_id"], *id);
        }
    }
    let partitions: BTreeSet<i32> = events.iter().flatten().map(|event| event.partition).collect();
    assert_eq!(partitions, [partition_of(id.as_bytes(), 6)].into(), "a key is in the same place everywhere");
    services.stop();
}

#[tokio::test]
async fn orders_from_kafkas_console_producer_settle_and_leave_no_group_behind() {
    let services = Services::start();
    let orders = services.backends.wire_name("orders");
    let (properties, separator) = keyed();
    let ids = ["console-keyed", "Ünïcode ☕", "console-keyless"].map(str::to_owned);
    let lines: String = ids[..2].iter().map(|id| format!("{id}{separator}{}\n", plain(id))).collect();
    produce(&orders, &properties.each_ref().map(|property| &**property), &lines);
    produce(&orders, &[], &format!("{}\n", plain(&ids[2])));
    services.settled(&ids).await;
    for id in &ids {
        let paid = services.payment.client().json(&format!("/payments/{}", segment(id))).await;
        assert_eq!(paid["status"], "captured", "{paid}");
    }
    let backends = services.stop();
    // By the group coordinator's books, not by ours.
    let groups = GROUPS.map(|group| backends.wire_name(group));
    let lags = lags(&groups);
    let read = [("payments", "orders"), ("inventory", "orders"), ("orders", "orders")];
    let read = read.iter().chain(&[("orders", "payments"), ("orders", "inventory")]);
    for (group, topic) in read {
        let of =
            |partition| lags.get(&(backends.wire_name(group), backends.wire_name(topic), partition)).copied();
        let lags: Vec<Option<u64>> = (0..6).map(of).filter(Option::is_some).collect();
        assert!(!lags.is_empty() && lags.iter().all(|lag| *lag == Some(0)), "{group} of {topic}: {lags:?}");
    }
}

#[test]
fn topics_are_as_declared_and_drift_is_mended_without_deleting_anything() {
    let backends = Backends { database: FreshDatabase::new(), topics: FreshTopics::new() };
    let ours = ["inventory", "orders", "orders_dlq", "payments"];
    let topics = |what: &str| said(backends.command("order").args(["topics", what]));
    let made = ours.map(|topic| format!("{topic}: make it, with 6 partitions\n"));
    assert_eq!(topics("plan"), made.concat());
    let done: String = made.iter().map(|line| format!("done: {line}")).collect();
    assert_eq!(topics("apply"), format!("{done}4 topics are as they should be\n"));

    let declared = |days: u64, bytes: u64| {
        let (retention, bytes) = ((days * 24 * 3600 * 1000).to_string(), bytes.to_string());
        let settings = [
            ("PartitionCount", "6"),
            // The cluster has one broker; with more there would be three copies, two of them in sync.
            ("ReplicationFactor", "1"),
            ("min.insync.replicas", "1"),
            ("cleanup.policy", "delete"),
            ("retention.ms", &*retention),
            ("max.message.bytes", &*bytes),
        ];
        settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>()
    };
    let event = declared(7, 1024 * 1024);
    for topic in ["orders", "payments", "inventory"] {
        assert_eq!(describe_topic(&backends.wire_name(topic)), event, "{topic}");
    }
    let dead = backends.wire_name("orders_dlq");
    assert_eq!(describe_topic(&dead), declared(30, 1536 * 1024), "dead letters are kept for longer");

    // Somebody changes a setting of ours and one of their own, and has a topic and a message here.
    let (orders, theirs) = (backends.wire_name("orders"), backends.wire_name("theirs"));
    let config = |changes: &[&str]| {
        let mut command = tool("org.apache.kafka.tools.ConfigCommand");
        command.args(["--alter", "--entity-type", "topics", "--entity-name", &orders]);
        said(command.args(changes));
    };
    config(&["--add-config", "retention.ms=1000000,segment.bytes=10485760"]);
    config(&["--delete-config", "max.message.bytes"]);
    said(tool("org.apache.kafka.tools.TopicCommand").args([
        "--create",
        "--partitions",
        "2",
        "--topic",
        &theirs,
    ]));
    produce(&orders, &[], "a message\n");
    let drift = "orders: set retention.ms to 604800000 (it is 1000000)\n\
                 orders: set max.message.bytes to 1048576 (it is 1048588)\n";
    assert_eq!(topics("plan"), drift);
    let done: String = drift.lines().map(|line| format!("done: {line}\n")).collect();
    assert_eq!(topics("apply"), format!("{done}4 topics are as they should be\n"));
    let mut mended = event;
    mended.insert("segment.bytes".to_owned(), "10485760".to_owned());
    assert_eq!(describe_topic(&orders), mended, "what is not ours to set is left as it was");
    assert_eq!(describe_topic(&theirs)["PartitionCount"], "2");
    assert_eq!(consume(&orders, 1)[0].value, b"a message", "and what was written is there");

    // More partitions would move keys: that is not mended, and nothing else is done either.
    let mut grow = tool("org.apache.kafka.tools.TopicCommand");
    said(grow.args(["--alter", "--partitions", "9", "--topic", &backends.wire_name("payments")]));
    config(&["--add-config", "retention.ms=1000000"]);
    let refusal = "payments: has 9 partitions, not 6: changing that would move keys; keep --partitions 9\n";
    assert!(topics("plan").contains(refusal), "{}", topics("plan"));
    let refused = programs::run(backends.command("order").args(["topics", "apply"]));
    assert_eq!((refused.status.code(), &*String::from_utf8(refused.stderr).unwrap()), (Some(1), refusal));
    assert_eq!(describe_topic(&orders)["retention.ms"], "1000000");
}

#[tokio::test]
async fn a_key_has_the_same_partition_for_java_python_and_us() {
    let topics = FreshTopics::new();
    let broker = Broker::open(&topics.url()).unwrap();
    broker.apply_topics(&[Topic { name: "keys".into(), partitions: PARTITIONS }]).await.unwrap();
    let backends = Backends { database: FreshDatabase::new(), topics };
    let (keys, topic) = (keys(), backends.wire_name("keys"));
    let mut expected = Vec::new();
    let mut told = |who: &str| {
        expected.extend(keys.iter().map(|key| {
            (who.as_bytes().to_owned(), key.as_bytes().to_owned(), partition_of(key.as_bytes(), PARTITIONS))
        }));
    };

    let outgoing = |key: &String| {
        let message = Message {
            key: Some(key.clone().into()),
            value: Bytes::from_static(b"ours"),
            ..Message::default()
        };
        Outgoing::new("keys", message)
    };
    let sent = broker.send(keys.iter().map(outgoing).collect()).await;
    sent.into_iter().for_each(|sent| sent.unwrap());
    told("ours");
    let (properties, separator) = keyed();
    let lines: String = keys.iter().map(|key| format!("{key}{separator}java\n")).collect();
    produce(&topic, &properties.each_ref().map(|property| &**property), &lines);
    told("java");
    if let Some(mut python) = python(&workspace("examples/python-peer/requirements.txt")) {
        let lines = serde_json::to_string(&keys).unwrap();
        fed(python.args(["-c", SEND_KEYS, &tidings_servers::kafka(), &topic]), &lines);
        told("python");
    }

    let printed = consume(&topic, expected.len());
    let mut found: Vec<_> = printed.into_iter().map(|seen| (seen.value, seen.key, seen.partition)).collect();
    found.sort_unstable();
    expected.sort_unstable();
    for (found, expected) in found.iter().zip(&expected) {
        let words = |(who, key, partition): &(Vec<u8>, Vec<u8>, i32)| {
            format!("{}: {:?} is in {partition}", String::from_utf8_lossy(who), String::from_utf8_lossy(key))
        };
        assert_eq!(words(found), words(expected));
    }
    let used: BTreeSet<i32> = expected.iter().map(|(_, _, partition)| *partition).collect();
    assert_eq!(used.len(), PARTITIONS as usize, "the keys are spread over all partitions");
}

/// Sends a message for every key of a list, with whatever partitioner aiokafka uses if not told.
const SEND_KEYS: &str = r#"
import asyncio, json, sys
from aiokafka import AIOKafkaProducer

async def main(kafka, topic):
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for key in json.load(sys.stdin):
            await producer.send(topic, b"python", key.encode())

asyncio.run(main(*sys.argv[1:]))
"#;

/// Empty, of every length around the four bytes that are hashed at a time, long, and in many scripts.
fn keys() -> Vec<String> {
    let mut keys: Vec<String> =
        ["", " ", "0", "null", "21", "foobar", "é", "注文", "☕", "👩‍🚀", "z\u{0301}", "\u{feff}x"]
            .map(str::to_owned)
            .into();
    keys.extend((1..=32).map(|length| "k".repeat(length)));
    keys.extend((1..=16).map(|length| "ß".repeat(length)));
    keys.extend([100, 1000, 10_000].map(|length| "long".repeat(length)));
    keys.extend((0..120).map(|n| format!("order-{n}")));
    keys.extend((0..120).map(|n| format!("01a1fffb-ae{n:02x}-76b4-8922-a215c03295{:02x}", 7 * n % 256)));
    keys.extend((0..60).map(|n| char::from_u32(0x1F300 + n).unwrap().to_string()));
    keys
}

/// The service of `examples/python-peer`.
struct Peer;

/// The service while it watches topics.
struct Watch {
    child: Child,
    guard: ProcessGuard,
}

impl Peer {
    /// `None` where there is no Python.
    fn new() -> Option<Self> {
        python(&workspace("examples/python-peer/requirements.txt")).map(|_| Self)
    }

    fn command(&self, backends: &Backends) -> Command {
        let home = workspace("examples/python-peer");
        let mut command = python(&home.join("requirements.txt")).expect("there was one before");
        command.arg(home.join("peer.py"));
        command.args(["--kafka", &tidings_servers::kafka(), "--prefix", &backends.prefix()]);
        command
    }

    /// Posts orders, and requires that it says where each is.
    #[track_caller]
    fn order(&self, backends: &Backends, lines: &[String]) {
        let said = fed(self.command(backends).arg("order"), &lines.join("\n"));
        assert_eq!(said.lines().count(), lines.len(), "{said}");
        for (line, said) in lines.iter().zip(said.lines()) {
            let (order, said): (Value, Value) = (json_of(line), json_of(said));
            let id = text(&order["order_id"]);
            assert_eq!(said["posted"], id);
            assert_eq!(said["partition"], partition_of(id.as_bytes(), 6), "where our own events of it are");
        }
    }

    /// Watches topics until it has said so much.
    fn watch(&self, backends: &Backends, topics: &[impl AsRef<str>], count: usize) -> (Watch, Vec<Value>) {
        let mut command = self.command(backends);
        command.arg("watch").args(topics.iter().map(AsRef::as_ref)).stdout(Stdio::piped());
        let (mut child, guard) = ProcessGuard::spawn(&mut command).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|said| line.send(said)));
        (Watch { child, guard }, take(&lines, count))
    }
}

impl Watch {
    fn stop(&mut self) -> ExitStatus {
        programs::terminate(&self.child);
        let status = programs::wait(&mut self.child);
        self.guard.release();
        status
    }
}

fn take(lines: &Receiver<String>, count: usize) -> Vec<Value> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => taken.push(json_of(&line)),
            Err(e) => panic!("it has said {} of {count} things: {e}; {taken:?}", taken.len()),
        }
    }
    taken
}

/// What a command says when it is fed this, and must succeed.
#[track_caller]
fn fed(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeding = thread::spawn(move || pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// An order of teas as the Python service is given it.
fn order(id: &str, quantity: i64) -> String {
    let items = [json!({"product_id": "tea", "qty": quantity})];
    json!({"order_id": id, "items": items, "total": {"amount": 1299 * quantity, "currency": "EUR"}})
        .to_string()
}

/// An order in the plain shape, by hand.
fn plain(id: &str) -> String {
    let timestamp = "2026-01-02T03:04:05Z";
    let payload = json_of(&order(id, 1));
    json!({"event_id": id, "event_type": "order_created", "timestamp": timestamp, "payload": payload})
        .to_string()
}

/// Waits until every group has recognised so many duplicates.
async fn until_duplicates(services: &Services, count: u64) {
    for program in services.all() {
        process::eventually(async || match program.status().await["consumer"]["duplicate"].as_u64() {
            Some(found) if found == count => Ok(()),
            found => Err(format!("{found:?} duplicates instead of {count}")),
        })
        .await;
    }
}

/// What Python has seen of an event of ours.
fn assert_headers(message: &Value) {
    let headers = message["headers"].as_object().unwrap();
    let names = [HEADERS.as_slice(), &[CAUSED]].concat();
    assert_same_names(headers.keys().map(String::as_str), &names);
    assert_eq!(message["broken"], Value::Null, "{message}");
}

/// Everything as it came, and what has happened to it.
fn assert_dead_letter(letter: &Printed, original: &Printed) {
    assert_eq!(letter.key, original.key);
    let (before, after) = letter.headers.split_at(original.headers.len());
    assert_eq!(before, original.headers, "headers are kept");
    assert_same_names(after.iter().map(|(name, _)| &**name), &DEAD);
    assert_eq!(letter.header("dlq_original_topic"), "orders");
    assert_eq!(letter.header("dlq_original_partition"), original.partition.to_string());
    assert_eq!(letter.header("dlq_attempts"), "1");
    for name in ["dlq_original_timestamp", "dlq_first_failed_at", "dlq_last_failed_at"] {
        assert!(is_time(letter.header(name)), "{name} of {letter:?}");
    }
    let known = letter.header("dlq_error_code") == "payload_invalid";
    assert_eq!(letter.header("dlq_handler"), if known { "order.created.v1" } else { "none" });
    assert!(!letter.header("dlq_error_message").is_empty());
}

/// Whether Python has seen what the console consumer has.
fn is_same(seen: &Value, letter: &Printed) -> bool {
    let headers: BTreeMap<&str, &str> = letter.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
    let key = seen["key"].as_str().unwrap_or("null");
    seen["hex"] == hex(&letter.value) && key == letter.key_text() && seen["headers"] == json!(headers)
}

fn assert_same_names<'a>(found: impl Iterator<Item = &'a str>, expected: &[&str]) {
    let found: Vec<&str> = found.collect();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!((set(&found), found.len()), (set(expected), expected.len()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `2026-01-02T03:04:05Z`, with any fraction of the second.
fn is_time(text: &str) -> bool {
    let Some((second, fraction)) = text.strip_suffix('Z').and_then(|text| text.split_at_checked(19)) else {
        return false;
    };
    let form: String = second.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let digits = fraction.strip_prefix('.').unwrap_or("0");
    form == "0000-00-00T00:00:00" && digits.chars().all(|c| c.is_ascii_digit())
}

/// The version of a UUID, if it is one.
fn uuid_version(id: &str) -> Option<char> {
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    id.chars().nth(14).filter(|_| lengths == [8, 4, 4, 4, 12])
}

#[track_caller]
fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("it is no text: {value}"))
}
