//! Kafka's own console tools, and what they print.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tidings_servers::{Kafka, ProcessGuard};

use crate::process::PATIENCE;
use crate::programs::{said, wait};

/// Between the parts of what the console consumer prints, where the usual tabs, commas and line feeds could be
/// parts of a message.
const FIELD: u8 = 0x1f;
const HEADER: u8 = 0x1e;
const RECORD: u8 = 0x1d;

/// A message as the console consumer prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Printed {
    pub partition: i32,
    /// `null` where there is none.
    pub key: Vec<u8>,
    pub headers: Vec<(String, String)>,
    pub value: Vec<u8>,
}

impl Printed {
    /// A header's value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub fn key_text(&self) -> &str {
        std::str::from_utf8(&self.key).expect("the key is text")
    }
}

/// Reads the first `count` messages of the topics that match a pattern.
#[track_caller]
pub fn consume(pattern: &str, count: usize) -> Vec<Printed> {
    let mut consumer = tool("org.apache.kafka.tools.consumer.ConsoleConsumer");
    consumer.args(["--include", pattern, "--from-beginning", "--max-messages", &count.to_string()]);
    consumer.args(["--timeout-ms", &(PATIENCE.as_millis() / 2).to_string()]);
    let separators = [("key", FIELD), ("headers", HEADER), ("line", RECORD)];
    for (what, separator) in separators {
        consumer.arg("--formatter-property").arg(format!("{what}.separator={}", char::from(separator)));
    }
    for part in ["partition", "headers", "key"] {
        consumer.arg("--formatter-property").arg(format!("print.{part}=true"));
    }
    let output = crate::programs::run(&mut consumer);
    let error = String::from_utf8_lossy(&output.stderr);
    let printed: Vec<Printed> = output.stdout.split(|byte| *byte == RECORD).filter_map(printed).collect();
    assert_eq!(printed.len(), count, "messages of {pattern}: {error}");
    printed
}

/// Posts lines as the console producer does: `key FIELD value`, or the value alone.
pub fn produce(topic: &str, properties: &[&str], lines: &str) {
    let mut producer = tool("org.apache.kafka.tools.ConsoleProducer");
    producer.args(["--topic", topic]).stdin(Stdio::piped()).stdout(Stdio::null());
    for property in properties {
        producer.args(["--reader-property", property]);
    }
    let (mut child, mut guard) = ProcessGuard::spawn(&mut producer).expect("there is a Java");
    let mut input = child.stdin.take().expect("its input is piped");
    input.write_all(lines.as_bytes()).expect("it reads its input");
    drop(input);
    assert!(wait(&mut child).success(), "the console producer failed");
    guard.release();
}

/// Properties with which the console producer takes a key before the value, and what stands between them.
pub fn keyed() -> ([String; 2], char) {
    let separator = char::from(FIELD);
    (["parse.key=true".to_owned(), format!("key.separator={separator}")], separator)
}

/// The settings that a topic has of its own, and how many partitions and copies.
pub fn describe_topic(topic: &str) -> BTreeMap<String, String> {
    let said = said(tool("org.apache.kafka.tools.TopicCommand").args(["--describe", "--topic", topic]));
    let line = said.lines().find(|line| line.contains("PartitionCount:")).expect("the topic exists");
    let mut found = BTreeMap::new();
    for part in line.split('\t') {
        let (name, value) = part.split_once(": ").expect("a part has a name");
        match name {
            "Configs" => found.extend(value.split(',').filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })),
            "Topic" | "TopicId" => {}
            _ => drop(found.insert(name.to_owned(), value.to_owned())),
        }
    }
    found
}

/// What is left to read for groups, by group, topic and partition. A partition that never had a message has no
/// lag either.
pub fn lags(groups: &[String]) -> BTreeMap<(String, String, i32), u64> {
    let mut command = tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand");
    command.arg("--describe");
    for group in groups {
        command.args(["--group", group]);
    }
    let said = said(&mut command);
    let mut lags = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [group, topic, partition, committed, end, lag, ..] = words[..] else { continue };
        let (Ok(partition), Ok(end)) = (partition.parse(), end.parse()) else { continue };
        let lag = if committed == "-" { end } else { lag.parse().expect("a lag is a number") };
        lags.insert((group.to_owned(), topic.to_owned(), partition), lag);
    }
    lags
}

/// One of Kafka's tools, told where the Kafka of the tests is.
pub fn tool(class: &str) -> Command {
    let mut tool = Kafka::tool(class).expect("Kafka is installed");
    tool.args(["--bootstrap-server", &tidings_servers::kafka()]);
    tool
}

/// `Partition:3 FIELD name:value HEADER name:value FIELD key FIELD value`.
fn printed(record: &[u8]) -> Option<Printed> {
    let mut parts = record.splitn(4, |byte| *byte == FIELD);
    let (partition, headers) = (parts.next()?, parts.next()?);
    let (key, value) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let partition = std::str::from_utf8(partition).ok()?.strip_prefix("Partition:")?.parse().ok()?;
    let headers = match headers {
        b"NO_HEADERS" => Vec::new(),
        headers => headers.split(|byte| *byte == HEADER).map(split).collect(),
    };
    Some(Printed { partition, key, headers, value })
}

fn split(header: &[u8]) -> (String, String) {
    let header = String::from_utf8_lossy(header);
    let (name, value) = header.split_once(':').expect("a header has a name");
    (name.to_owned(), value.to_owned())
}
