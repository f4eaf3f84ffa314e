//! The promises of every broker.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidings::broker::{Consumer, Outgoing, Record};
use tidings::{Broker, Headers, MESSAGE_BYTES_MAX, Message, Topic, partition_of};

use crate::{DEADLINE, eventually, within};

/// The topics of the suite and their partitions, for a broker that cannot make topics itself.
pub const TOPICS: [(&str, u32); 18] = [
    ("accepting", 2),
    ("again", 1),
    ("bytes", 1),
    ("crowded", 3),
    ("durable", 2),
    ("for_all", 3),
    ("given_up", 3),
    ("history", 2),
    ("in_order", 3),
    ("keyless", 4),
    ("looked_at", 1),
    ("lost", 2),
    ("made_twice", 3),
    ("much", 2),
    ("progress", 3),
    ("rewound", 1),
    ("shared", 4),
    ("where_keys_live", 5),
];

/// Makes a test of every promise of a broker; `without sharing`, of every one that it keeps to a consumer which
/// is alone in its group.
#[macro_export]
macro_rules! broker_conformance {
    (@ $fresh:expr, $($sharing:ident)*) => {
        $crate::each_promise! { broker, $fresh, $($sharing)*
            messages_of_a_key_stay_in_order
            a_key_lives_in_the_partition_that_kafka_gives_it
            messages_without_a_key_spread
            what_was_sent_is_read_back_byte_for_byte
            a_new_group_starts_from_the_beginning
            committed_offsets_survive_reopening
            what_was_sent_survives_reopening
            uncommitted_records_are_delivered_again
            two_groups_both_get_everything
            a_slow_consumer_gets_everything_in_order
            what_cannot_be_accepted_is_refused_alone
            making_topics_again_changes_nothing
            a_dropped_poll_loses_nothing
            concurrent_senders_get_a_place_each
            a_partition_can_be_read_outside_any_group
        }
    };
    ($fresh:expr, without sharing) => {
        $crate::broker_conformance! { @ $fresh, }
    };
    ($fresh:expr) => {
        $crate::broker_conformance! { @ $fresh,
            two_consumers_of_a_group_share_its_partitions
            a_member_that_lost_a_partition_does_not_move_its_offset_back
        }
    };
}

/// Messages of a key arrive in the order of their burst, and of successive bursts.
pub async fn messages_of_a_key_stay_in_order(url: &str) {
    let broker = open(url).await;
    make(&broker, "in_order").await;
    let mut expected: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for burst in 0..20 {
        let mut messages = Vec::new();
        for n in 0..25 {
            let key = format!("k{}", n % 7);
            let number = burst * 25 + n;
            messages.push(message(Some(&key), &number.to_string()));
            expected.entry(key).or_default().push(number);
        }
        send(&broker, "in_order", messages).await;
    }
    let mut consumer = join(&broker, "in_order_readers", "in_order").await;
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for record in collect(&mut consumer, 500, 17).await {
        let key = record.message.key_text().into_owned();
        found.entry(key).or_default().push(text(&record).parse().expect("a number was sent"));
    }
    assert_eq!(found, expected);
}

/// Every client library agrees where a key lives.
pub async fn a_key_lives_in_the_partition_that_kafka_gives_it(url: &str) {
    let broker = open(url).await;
    make(&broker, "where_keys_live").await;
    let keys: Vec<String> = (0..40).map(|n| format!("order-{n}")).collect();
    send(&broker, "where_keys_live", keys.iter().map(|k| message(Some(k), "x")).collect()).await;
    let mut consumer = join(&broker, "where_keys_live_readers", "where_keys_live").await;
    let records = collect(&mut consumer, 40, 100).await;
    for record in &records {
        let key = record.message.key.as_deref().unwrap_or_default();
        assert_eq!(record.partition, partition_of(key, 5), "partition of {}", record.message.key_text());
    }
    let used: BTreeSet<i32> = records.iter().map(|r| r.partition).collect();
    assert_eq!(used.len(), 5, "forty keys reach every one of five partitions");
}

/// Messages without a key do not all end up in one partition.
pub async fn messages_without_a_key_spread(url: &str) {
    let broker = open(url).await;
    make(&broker, "keyless").await;
    for n in 0..40 {
        send(&broker, "keyless", vec![message(None, &n.to_string())]).await;
    }
    let mut consumer = join(&broker, "keyless_readers", "keyless").await;
    let records = collect(&mut consumer, 40, 100).await;
    let used: BTreeSet<i32> = records.iter().map(|r| r.partition).collect();
    assert!(used.len() > 1, "all forty went to partition {used:?}");
}

/// A header without a value, and one with an empty one.
fn nulls() -> Headers {
    let mut headers = Headers::from([("empty", "")]);
    headers.push_null("null");
    headers
}

/// Key, headers and value come back as they went in, whatever is in them.
pub async fn what_was_sent_is_read_back_byte_for_byte(url: &str) {
    let broker = open(url).await;
    make(&broker, "bytes").await;
    let anything: Vec<u8> = (0..=255).collect();
    let messages = vec![
        Message::default(),
        Message {
            key: Some(Bytes::new()),
            headers: Headers::from([("empty", "")]),
            value: Bytes::from_static(b"an empty key is a key"),
            ..Message::default()
        },
        Message {
            key: Some(Bytes::from(anything.clone())),
            headers: Headers::from([
                ("again", &b"1"[..]),
                ("other", &anything),
                ("again", b"2"),
                ("again", b"1"),
                ("Ünïcode", "grün".as_bytes()),
            ]),
            value: Bytes::from(anything.repeat(100)),
            ..Message::default()
        },
        Message { key: Some("gone".into()), headers: nulls(), is_tombstone: true, ..Message::default() },
        Message {
            key: None,
            headers: Headers::from([("nul", "a\0b")]),
            value: Bytes::from_static(b"\0"),
            ..Message::default()
        },
    ];
    send(&broker, "bytes", messages.clone()).await;
    let mut consumer = join(&broker, "bytes_readers", "bytes").await;
    let records = collect(&mut consumer, 5, 100).await;
    for (position, (record, sent)) in records.iter().zip(&messages).enumerate() {
        assert_eq!(&*record.message, sent);
        assert_eq!(record.offset, position as i64);
        assert_eq!((&*record.topic, record.partition), ("bytes", 0));
        assert!(record.timestamp_us > 0);
    }
}

/// Nothing that was sent before a group existed is lost on it.
pub async fn a_new_group_starts_from_the_beginning(url: &str) {
    let broker = open(url).await;
    make(&broker, "history").await;
    send(&broker, "history", numbered(0..10)).await;
    let mut first = join(&broker, "history_first", "history").await;
    let read = collect(&mut first, 10, 100).await;
    first.commit(&read);
    let mut second = join(&broker, "history_second", "history").await;
    send(&broker, "history", numbered(10..20)).await;
    let read = collect(&mut second, 20, 100).await;
    assert_eq!(numbers(&read), (0..20).collect());
}

/// A consumer that comes back goes on where its group had got to.
pub async fn committed_offsets_survive_reopening(url: &str) {
    let broker = open(url).await;
    make(&broker, "progress").await;
    send(&broker, "progress", numbered(0..90)).await;
    let mut consumer = join(&broker, "progress_readers", "progress").await;
    let mut handled = BTreeSet::new();
    while handled.len() < 45 {
        let records = poll(&mut consumer, 10).await;
        consumer.commit(&records);
        handled.extend(numbers(&records));
    }
    // Read, but not handled.
    poll(&mut consumer, 10).await;
    consumer.leave().await;
    broker.close().await.expect("the broker closes");
    drop(broker);

    let broker = open(url).await;
    let topics = ["progress".to_owned()];
    let positions = broker.positions("progress_readers", &topics).await.expect("a group has positions");
    let come: i64 = positions.iter().map(|p| p.offset).sum();
    assert_eq!(come, handled.len() as i64, "{positions:?}");
    let mut consumer = join(&broker, "progress_readers", "progress").await;
    let rest = collect(&mut consumer, 90 - handled.len(), 10).await;
    assert_eq!(numbers(&rest), (0..90).filter(|n| !handled.contains(n)).collect());
}

/// A broker that is opened again has what was sent, and goes on counting where it was.
pub async fn what_was_sent_survives_reopening(url: &str) {
    let broker = open(url).await;
    make(&broker, "durable").await;
    send(&broker, "durable", numbered(0..50)).await;
    drop(broker);
    let broker = open(url).await;
    send(&broker, "durable", numbered(50..100)).await;
    let mut consumer = join(&broker, "durable_readers", "durable").await;
    let records = collect(&mut consumer, 100, 7).await;
    assert_eq!(numbers(&records), (0..100).collect());
    for partition in 0..2 {
        let offsets = records.iter().filter(|r| r.partition == partition).map(|r| r.offset);
        assert!(offsets.clone().eq(0..offsets.count() as i64), "offsets have no holes and no repeats");
    }
}

/// Reading is not handling: what was not committed is read again by the next member.
pub async fn uncommitted_records_are_delivered_again(url: &str) {
    let broker = open(url).await;
    make(&broker, "again").await;
    send(&broker, "again", numbered(0..10)).await;
    let mut consumer = join(&broker, "again_readers", "again").await;
    let records = collect(&mut consumer, 10, 10).await;
    consumer.commit(&records[..4]);
    drop(consumer);
    let mut consumer = join(&broker, "again_readers", "again").await;
    let records = collect(&mut consumer, 6, 10).await;
    assert_eq!(numbers(&records), (4..10).collect());
}

/// No partition is read by two members at the same time, and who leaves is replaced.
pub async fn two_consumers_of_a_group_share_its_partitions(url: &str) {
    const PARTITIONS: u32 = 4;
    let broker = open(url).await;
    make(&broker, "shared").await;
    let mut first = join(&broker, "shared_readers", "shared").await;
    round(&broker, PARTITIONS).await;
    let alone = collect(&mut first, 4, 10).await;
    first.commit(&alone);
    assert_eq!(partitions(&alone).len(), 4, "who is alone reads everything");

    let mut second = join(&broker, "shared_readers", "shared").await;
    // Members may take a while to agree; from then on nothing is read twice.
    eventually("both members read", async || {
        round(&broker, PARTITIONS).await;
        let (a, b) = read_both(&mut first, &mut second, PARTITIONS as usize).await;
        !a.is_empty() && !b.is_empty()
    })
    .await;
    for _ in 0..10 {
        round(&broker, PARTITIONS).await;
        let (a, b) = read_both(&mut first, &mut second, PARTITIONS as usize).await;
        assert_eq!(a.len() + b.len(), 4, "each record is read once");
        assert!(partitions(&a).is_disjoint(&partitions(&b)), "{a:?} and {b:?} share a partition");
    }

    drop(first);
    eventually("the one that stays reads everything", async || {
        round(&broker, PARTITIONS).await;
        let records = collect(&mut second, PARTITIONS as usize, 10).await;
        second.commit(&records);
        partitions(&records).len() == PARTITIONS as usize
    })
    .await;
}

/// Committing records of a partition that another consumer has by now changes nothing.
pub async fn a_member_that_lost_a_partition_does_not_move_its_offset_back(url: &str) {
    let broker = open(url).await;
    make(&broker, "lost").await;
    send(&broker, "lost", numbered(0..60)).await;
    let mut first = join(&broker, "lost_readers", "lost").await;
    let read = collect(&mut first, 60, 100).await;
    let mut second = join(&broker, "lost_readers", "lost").await;
    let (mut taken_over, mut enough) = (Vec::new(), usize::MAX);
    within("the second one takes a partition over", async {
        while taken_over.len() < enough {
            tokio::select! {
                polled = first.poll(100) => drop(polled.expect("the broker can be read")),
                polled = second.poll(100) => taken_over.extend(polled.expect("the broker can be read")),
            }
            let Some(one) = taken_over.first() else { continue };
            enough = read.iter().filter(|r| r.partition == one.partition).count();
        }
    })
    .await;
    not_moved_back(&broker, first, second, &read, &taken_over).await;
}

/// Committing records of a lost partition changes nothing before the consumer has noticed the loss, either. Only for
/// brokers that give a partition away without asking its owner.
pub async fn a_member_that_has_not_noticed_does_not_move_an_offset_back(url: &str) {
    let broker = open(url).await;
    make(&broker, "lost").await;
    send(&broker, "lost", numbered(0..60)).await;
    let mut first = join(&broker, "lost_readers", "lost").await;
    let read = collect(&mut first, 60, 100).await;
    let mut second = join(&broker, "lost_readers", "lost").await;
    let taken_over = poll(&mut second, 100).await;
    not_moved_back(&broker, first, second, &read, &taken_over).await;
}

async fn not_moved_back(
    broker: &Broker,
    mut first: Consumer,
    mut second: Consumer,
    read: &[Record],
    taken_over: &[Record],
) {
    second.commit(taken_over);
    let old: Vec<Record> =
        read.iter().filter(|r| r.partition == taken_over[0].partition).take(3).cloned().collect();
    first.commit(&old);
    let positions =
        broker.positions("lost_readers", &["lost".to_owned()]).await.expect("a group has positions");
    let position = positions.iter().find(|p| p.partition == taken_over[0].partition);
    let position = position.expect("a partition has a position");
    assert_eq!(position.offset, position.end, "{positions:?}");
    second.leave().await;
    first.leave().await;
    let mut third = join(broker, "lost_readers", "lost").await;
    let rest = collect(&mut third, 60 - taken_over.len(), 100).await;
    assert!(rest.iter().all(|r| r.partition != taken_over[0].partition), "nothing comes again");
}

/// Groups do not take anything away from each other.
pub async fn two_groups_both_get_everything(url: &str) {
    let broker = open(url).await;
    make(&broker, "for_all").await;
    let mut first = join(&broker, "for_all_first", "for_all").await;
    let mut second = join(&broker, "for_all_second", "for_all").await;
    for burst in 0..10 {
        send(&broker, "for_all", numbered(burst * 10..burst * 10 + 10)).await;
        let read = collect(&mut first, 10, 4).await;
        first.commit(&read);
    }
    let read = collect(&mut second, 100, 9).await;
    assert_eq!(numbers(&read), (0..100).collect());
}

/// A consumer that falls far behind misses nothing, also while more is sent.
pub async fn a_slow_consumer_gets_everything_in_order(url: &str) {
    const BURSTS: u32 = 60;
    const BURST: u32 = 40;
    let broker = open(url).await;
    make(&broker, "much").await;
    let mut consumer = join(&broker, "much_readers", "much").await;
    // 60 × 40 × 2 KiB over two partitions: more than two mebibytes each.
    let padding = "x".repeat(2048);
    let burst = |number: u32| -> Vec<Message> {
        let numbers = number * BURST..(number + 1) * BURST;
        numbers.map(|n| message(Some(&format!("k{}", n % 10)), &format!("{n} {padding}"))).collect()
    };
    send(&broker, "much", burst(0)).await;
    let mut records = collect(&mut consumer, BURST as usize, 10).await;
    for number in 1..BURSTS - 10 {
        send(&broker, "much", burst(number)).await;
    }
    for number in BURSTS - 10..BURSTS {
        records.extend(collect(&mut consumer, 100, 30).await);
        send(&broker, "much", burst(number)).await;
    }
    let missing = (BURSTS * BURST) as usize - records.len();
    records.extend(collect(&mut consumer, missing, 333).await);
    let mut last: BTreeMap<Bytes, u32> = BTreeMap::new();
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    for record in &records {
        let number = text(record).split(' ').next().and_then(|n| n.parse().ok());
        let number: u32 = number.expect("a number was sent");
        let key = record.message.key.clone().unwrap_or_default();
        if let Some(before) = last.insert(key, number) {
            assert_eq!(number, before + 10, "the next of its key");
        }
        let offset = offsets.entry(record.partition).or_insert(0);
        assert_eq!(record.offset, *offset, "partition {} in order", record.partition);
        *offset += 1;
    }
    assert_eq!(records.len(), (BURSTS * BURST) as usize);
}

/// An unknown topic, a message that is too large: refused for good, and nothing else is.
pub async fn what_cannot_be_accepted_is_refused_alone(url: &str) {
    let broker = open(url).await;
    make(&broker, "accepting").await;
    let too_large = "x".repeat(4 * MESSAGE_BYTES_MAX);
    let burst = vec![
        outgoing("accepting", message(Some("a"), "0")),
        outgoing("no_such_topic", message(Some("a"), "1")),
        outgoing("accepting", message(Some("a"), &too_large)),
        outgoing("accepting", message(Some("a"), "3")),
        outgoing("accepting", message(Some("b"), &"y".repeat(MESSAGE_BYTES_MAX - 100))),
    ];
    let results = within("a burst is answered", broker.send(burst)).await;
    let outcomes: Vec<&str> = results
        .iter()
        .map(|result| match result {
            Ok(()) => "sent",
            Err(e) if e.is_refused() => "refused",
            Err(_) => "failed",
        })
        .collect();
    assert_eq!(outcomes, ["sent", "refused", "refused", "sent", "sent"]);
    let why = results[1].as_ref().expect_err("it was refused").to_string();
    assert!(why.contains("no_such_topic"), "{why:?} names the topic");
    let mut consumer = join(&broker, "accepting_readers", "accepting").await;
    let records = collect(&mut consumer, 3, 10).await;
    let of_a = records.iter().filter(|r| r.message.key_text() == "a");
    assert_eq!(of_a.map(text).collect::<Vec<_>>(), ["0", "3"]);
    let missing = broker.subscribe("accepting_readers", &["no_such_topic".to_owned()]).await;
    assert!(missing.is_err_and(|e| e.is_config()), "a missing topic cannot be read");
}

/// Applying topics again is harmless; another partition count would move keys and is refused.
pub async fn making_topics_again_changes_nothing(url: &str) {
    let broker = open(url).await;
    make(&broker, "made_twice").await;
    send(&broker, "made_twice", numbered(0..6)).await;
    make(&broker, "made_twice").await;
    for partitions in [2, 4] {
        let topic = Topic { name: "made_twice".into(), partitions };
        let e = broker.apply_topics(&[topic]).await.expect_err("another count is refused");
        assert!(e.is_config(), "{e:?}");
        let text = e.to_string();
        assert!(
            text.contains("made_twice") && text.contains("has 3 partitions"),
            "{text:?} says what there is"
        );
        assert!(text.contains("keep --partitions 3"), "{text:?} says what to do");
    }
    let topics = broker.topics().await.expect("topics can be listed");
    let found = topics.iter().find(|t| t.name == "made_twice").expect("the topic is listed");
    assert_eq!(found.partitions, 3);
    let mut consumer = join(&broker, "made_twice_readers", "made_twice").await;
    assert_eq!(numbers(&collect(&mut consumer, 6, 10).await), (0..6).collect());
}

/// A poll that is given up at any point has taken nothing away.
pub async fn a_dropped_poll_loses_nothing(url: &str) {
    const COUNT: u32 = 600;
    let broker = open(url).await;
    make(&broker, "given_up").await;
    let mut consumer = join(&broker, "given_up_readers", "given_up").await;
    let sending = {
        let broker = broker.clone();
        tokio::spawn(async move {
            for burst in 0..COUNT / 20 {
                send(&broker, "given_up", numbered(burst * 20..burst * 20 + 20)).await;
            }
        })
    };
    let mut found = Vec::new();
    let mut patience = 0;
    within("everything is read", async {
        while found.len() < COUNT as usize {
            patience = (patience + 1) % 6;
            tokio::select! {
                biased;
                () = turns(patience) => {}
                polled = consumer.poll(13) => found.extend(polled.expect("the broker can be read")),
            }
        }
    })
    .await;
    sending.await.expect("the sender ends well");
    assert_eq!(numbers(&found), (0..COUNT).collect());
    assert_eq!(found.len(), COUNT as usize, "nothing is read twice");
}

/// Many may send at once: each message gets a place of its own, and each sender's stay in order.
pub async fn concurrent_senders_get_a_place_each(url: &str) {
    const SENDERS: u32 = 16;
    const MESSAGES: u32 = 30;
    let broker = open(url).await;
    make(&broker, "crowded").await;
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for n in 0..MESSAGES {
                    let one = message(Some(&format!("s{sender}")), &n.to_string());
                    send(&broker, "crowded", vec![one]).await;
                }
            })
        })
        .collect();
    for sender in senders {
        within("a sender ends", sender).await.expect("a sender ends well");
    }
    let mut consumer = join(&broker, "crowded_readers", "crowded").await;
    let records = collect(&mut consumer, (SENDERS * MESSAGES) as usize, 50).await;
    let positions: BTreeSet<_> = records.iter().map(|r| (r.partition, r.offset)).collect();
    assert_eq!(positions.len(), records.len());
    let mut next: BTreeMap<Bytes, u32> = BTreeMap::new();
    for record in &records {
        let expected = next.entry(record.message.key.clone().unwrap_or_default()).or_insert(0);
        assert_eq!(text(record), expected.to_string());
        *expected += 1;
    }
}

/// Operators may look without taking anything away.
pub async fn a_partition_can_be_read_outside_any_group(url: &str) {
    let broker = open(url).await;
    make(&broker, "looked_at").await;
    send(&broker, "looked_at", numbered(0..20)).await;
    let read = broker.read("looked_at", 0, 5, 10).await.expect("a partition can be read");
    assert_eq!(read.iter().map(|r| r.offset).collect::<Vec<_>>(), (5..15).collect::<Vec<_>>());
    let end = broker.read("looked_at", 0, 20, 10).await.expect("the end can be read");
    assert!(end.is_empty(), "there is nothing after the end");
    assert!(broker.read("looked_at", 1, 0, 10).await.is_err_and(|e| e.is_config()));
    let mut consumer = join(&broker, "looked_at_readers", "looked_at").await;
    assert_eq!(collect(&mut consumer, 20, 100).await.len(), 20);
}

/// Opens a broker, waiting for one that was just dropped to let go of its files.
async fn open(url: &str) -> Broker {
    let mut opened = None;
    eventually("the broker opens", async || {
        opened = Broker::open(url).ok();
        opened.is_some()
    })
    .await;
    opened.expect("it was opened")
}

async fn make(broker: &Broker, name: &'static str) {
    let (_, partitions) = TOPICS.into_iter().find(|(topic, _)| *topic == name).expect("it is in the table");
    let topic = Topic { name: name.into(), partitions };
    broker.apply_topics(&[topic]).await.expect("a topic can be made");
}

async fn join(broker: &Broker, group: &str, topic: &str) -> Consumer {
    broker.subscribe(group, &[topic.to_owned()]).await.expect("a group can be joined")
}

async fn send(broker: &Broker, topic: &'static str, messages: Vec<Message>) {
    let count = messages.len();
    let burst = messages.into_iter().map(|m| outgoing(topic, m)).collect();
    let results = within("a burst is answered", broker.send(burst)).await;
    assert_eq!(results.len(), count, "each message is answered");
    for result in results {
        result.expect("the message is sent");
    }
}

fn outgoing(topic: &'static str, message: Message) -> Outgoing {
    Outgoing::new(topic, message)
}

fn message(key: Option<&str>, value: &str) -> Message {
    Message {
        key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
        headers: Headers::default(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Message::default()
    }
}

/// Messages with these numbers, each its own key.
fn numbered(numbers: std::ops::Range<u32>) -> Vec<Message> {
    numbers.map(|n| message(Some(&format!("key-{n}")), &n.to_string())).collect()
}

fn numbers(records: &[Record]) -> BTreeSet<u32> {
    records.iter().map(|r| text(r).parse().expect("a number was sent")).collect()
}

fn text(record: &Record) -> &str {
    std::str::from_utf8(&record.message.value).expect("text was sent")
}

fn partitions(records: &[Record]) -> BTreeSet<i32> {
    records.iter().map(|r| r.partition).collect()
}

/// Sends one message to each partition of `shared`.
async fn round(broker: &Broker, partitions: u32) {
    let keys = (0..partitions.cast_signed()).map(|partition| {
        let mut keys = (0..).map(|n| format!("key-{n}"));
        keys.find(|key| partition_of(key.as_bytes(), partitions) == partition)
    });
    let messages = keys.map(|key| message(key.as_deref(), "0")).collect();
    send(broker, "shared", messages).await;
}

/// Lets two members read until they have `count` records between them, committing as they go.
async fn read_both(first: &mut Consumer, second: &mut Consumer, count: usize) -> (Vec<Record>, Vec<Record>) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    within("two members read everything", async {
        while a.len() + b.len() < count {
            tokio::select! {
                polled = first.poll(100) => {
                    let records = polled.expect("the broker can be read");
                    first.commit(&records);
                    a.extend(records);
                }
                polled = second.poll(100) => {
                    let records = polled.expect("the broker can be read");
                    second.commit(&records);
                    b.extend(records);
                }
            }
        }
    })
    .await;
    (a, b)
}

async fn poll(consumer: &mut Consumer, limit: usize) -> Vec<Record> {
    let polled = within("a poll finds something", consumer.poll(limit)).await;
    let records = polled.expect("the broker can be read");
    assert!((1..=limit).contains(&records.len()), "{} records of at most {limit}", records.len());
    records
}

/// Polls until there are `count` records; more are a failure.
async fn collect(consumer: &mut Consumer, count: usize, limit: usize) -> Vec<Record> {
    let mut records = Vec::with_capacity(count);
    let give_up = tokio::time::Instant::now() + DEADLINE;
    while records.len() < count {
        let polled = tokio::time::timeout_at(give_up, consumer.poll(limit.min(count - records.len()))).await;
        let Ok(polled) = polled else {
            panic!("{} of {count} records after {DEADLINE:?}", records.len());
        };
        records.extend(polled.expect("the broker can be read"));
    }
    records
}

async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}
