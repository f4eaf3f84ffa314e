//! Events that are given up: a row that is the truth, and a copy for other tools.

use expect_test::expect;
use serde_json::json;
use tidings::broker::Record;
use tidings::{Message, RunningService, params};
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::stage::{
    Stage, advance_clock_until, drain_parked, idle, manual_retries, number, stop, tally,
};
use tidings_testkit::wire::{Binary, note, plain, raw, structured};

use crate::reader::{Script, Trouble, journal_by_key, readers, readers_with};

const DLQ: &str = "readers_dlq";

/// The dead letters in the store: `offset code attempts`, in the order they died.
async fn dead(running: &RunningService) -> String {
    let sql = "SELECT error_code, attempts, error_message FROM parked WHERE state = 'dead' ORDER BY id";
    let rows = running.store().query(sql, &[]).await.expect("dead letters can be read");
    let lines = rows.iter().map(|row| {
        let (code, attempts): (String, u32) = (row.get(0).expect("text"), row.get(1).expect("a number"));
        let message: String = row.get(2).expect("text");
        format!("{code} {attempts}× {message}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The copies, in the order of the originals.
async fn copies(stage: &Stage) -> Vec<Record> {
    let mut records = stage.read(DLQ).await;
    let place = |r: &Record| -> (String, i64) {
        let header = |name| r.message.header(name).unwrap_or_default().to_owned();
        (header("dlq_original_partition"), header("dlq_original_offset").parse().unwrap_or(-1))
    };
    records.sort_by_key(place);
    records
}

/// Key, value and the first headers are the original's; what is added says `dlq_…`.
fn assert_intact(copy: &Message, original: &Message) {
    assert_eq!(copy.key, original.key);
    assert_eq!(copy.value, original.value);
    let count = original.headers.len();
    assert!(copy.headers.iter().take(count).eq(&original.headers), "{:?}", copy.headers);
    assert!(copy.headers.iter().skip(count).all(|(name, _)| name.starts_with("dlq_")), "{:?}", copy.headers);
}

fn told(copy: &Message) -> String {
    let added = copy.headers.iter().filter(|(name, _)| name.starts_with("dlq_"));
    let lines = added.map(|(name, value)| {
        let value = String::from_utf8_lossy(value);
        let time = value.parse::<jiff::Timestamp>().is_ok();
        format!("{name} {}", if time { "TIME" } else { &value })
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn an_event_whose_attempts_are_exhausted_is_a_dead_letter_and_its_key_waits() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers_with(&script, manual_retries(3))).await;
    script.breaks("a 2", Trouble::Transient);
    let messages: Vec<Message> = (1..=3).map(|n| Binary::note("a", n).message()).collect();
    stage.send(NOTES, messages.clone()).await;
    stage.send(NOTES, [Binary::note("b", 1).message()]).await;
    advance_clock_until(&running, "it is dead", async || {
        number(&running, |s| s.consumer.given_up).await == 1
    })
    .await;
    idle(&running).await;
    assert_eq!(script.tries("a 2"), 4, "together with the others, and then three attempts of its own");
    expect!["attempts_exhausted 3× a 2 fails"].assert_eq(&dead(&running).await);
    expect![[r#"
        a 1
        b 1"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 4 handled 2 parked 2 given_up 1 | waiting 1 dead 1"].assert_eq(&tally(&running).await);

    let copies = copies(&stage).await;
    assert_eq!(copies.len(), 1);
    assert_intact(&copies[0].message, &messages[1]);
    let partition = tidings::partition_of(b"a", 3);
    assert_eq!(copies[0].partition, partition, "where its key lives");
    let told = told(&copies[0].message).replace(&format!("partition {partition}"), "partition PARTITION");
    expect![[r#"
        dlq_original_topic notes
        dlq_original_partition PARTITION
        dlq_original_offset 1
        dlq_original_timestamp TIME
        dlq_consumer_group readers
        dlq_handler note.taken.v1
        dlq_attempts 3
        dlq_first_failed_at TIME
        dlq_last_failed_at TIME
        dlq_error_code attempts_exhausted
        dlq_error_message a 2 fails"#]]
    .assert_eq(&told);
    let time = |name| copies[0].message.header(name).and_then(|t| t.parse::<jiff::Timestamp>().ok());
    assert!(time("dlq_first_failed_at") < time("dlq_last_failed_at"));

    // It stays dead, and comes back neither by itself nor when the broker delivers it again.
    stage.send(NOTES, [messages[1].clone()]).await;
    advance_clock_until(&running, "idle", async || true).await;
    assert_eq!(script.tries("a 2"), 4);
    expect!["delivered 5 handled 2 duplicate 1 parked 2 given_up 1 | waiting 1 dead 1"]
        .assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_fatal_error_is_a_dead_letter_at_once() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 1", Trouble::Fatal);
    stage.send(NOTES, [1, 2].map(|n| Binary::note("a", n).message())).await;
    stage.send(NOTES, [Binary::note("b", 1).message()]).await;
    idle(&running).await;
    expect!["illegible 1× illegible: a 1"].assert_eq(&dead(&running).await);
    expect!["b 1"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 3 handled 1 parked 1 dead 1 | waiting 1 dead 1"].assert_eq(&tally(&running).await);
    assert_eq!(copies(&stage).await.len(), 1);
}

#[tokio::test]
async fn a_dead_event_without_number_does_not_hold_its_key_up() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers_with(&script, manual_retries(2))).await;
    script.breaks("a 1", Trouble::Fatal);
    script.breaks("b 1", Trouble::Transient);
    stage.send(NOTES, [1, 2].map(|n| Binary::foreign("a", n).message())).await;
    stage.send(NOTES, [1, 2].map(|n| Binary::foreign("b", n).message())).await;
    advance_clock_until(&running, "both are dead", async || {
        number(&running, |s| s.parked.expect("it is known").dead).await == 2
    })
    .await;
    drain_parked(&running).await;
    expect![[r#"
        a 2
        b 2"#]]
    .assert_eq(&journal_by_key(&running).await);
    assert_eq!(copies(&stage).await.len(), 2);
    // Redelivered, they are known.
    stage.send(NOTES, [Binary::foreign("a", 1).message(), Binary::foreign("b", 1).message()]).await;
    idle(&running).await;
    expect!["delivered 6 handled 1 duplicate 2 parked 2 dead 1 recovered 1 given_up 1 | waiting 0 dead 2"]
        .assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_with_its_bytes_intact_and_the_rest_flows() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let without = |name: &str| {
        let mut message = Binary::note("broken", 1).message();
        message.headers.retain(|found, _| found != name);
        message
    };
    let with = |name: &'static str, value: &'static [u8]| {
        let mut message = without(name);
        message.headers.push(name, value);
        message
    };
    let cloud_event = json!({"specversion": "1.0", "id": "s-1", "type": "note.taken.v1", "source": "/x"});
    let poison = [
        raw(Some("poison"), vec![0xff, 0xfe, 0, 1]),
        raw(Some("poison"), ""),
        raw(None, "not JSON"),
        raw(Some("poison"), r#"{"some": "JSON"}"#),
        Binary::note("wrong", 1).with_value(r#"{"key": "wrong"}"#).message(),
        Binary::note("invalid", 1).with_value(note("invalid", 0).to_string()).message(),
        plain(Some("plain"), "p-1", "note_taken", &json!({"key": "", "n": 1})),
        without("ce_id"),
        without("ce_type"),
        without("ce_source"),
        without("ce_subject"),
        with("ce_specversion", b"0.3"),
        with("ce_streamseq", b"0"),
        with("ce_streamseq", b"one"),
        with("ce_id", b"\xff"),
        structured(Some("poison"), &cloud_event),
    ];
    for (n, message) in (1..).zip(&poison) {
        stage.send(NOTES, [message.clone(), Binary::note("good", n).message()]).await;
    }
    idle(&running).await;
    let good: Vec<String> = (1..=poison.len()).map(|n| n.to_string()).collect();
    assert_eq!(journal_by_key(&running).await, format!("good {}", good.join(" ")));
    expect!["delivered 32 handled 16 dead 16 | waiting 0 dead 16"].assert_eq(&tally(&running).await);
    let mut codes: Vec<String> =
        dead(&running).await.lines().map(|l| l.split(": ").next().unwrap_or(l).to_owned()).collect();
    codes.sort();
    codes.dedup();
    expect![[r#"
        envelope_undecodable 1× envelope_undecodable
        payload_invalid 1× payload_invalid
        payload_undecodable 1× payload_undecodable"#]]
    .assert_eq(&codes.join("\n"));

    // A copy of each, whole.
    let copies = copies(&stage).await;
    assert_eq!(copies.len(), poison.len());
    for original in &poison {
        let same = |r: &&Record| {
            r.message.value == original.value
                && r.message.key == original.key
                && r.message.headers.iter().take(original.headers.len()).eq(&original.headers)
        };
        let copy = copies.iter().find(same).unwrap_or_else(|| panic!("there is no copy of {original:?}"));
        assert_intact(&copy.message, original);
        assert_eq!(copy.message.header("dlq_original_topic"), Some(NOTES));
        assert_eq!(copy.message.header("dlq_attempts"), Some("1"));
        if original == &poison[6] {
            // Its type stands in no header, but the one who would have handled it is known.
            assert_eq!(copy.message.header("dlq_handler"), Some("note.taken.v1"));
        }
    }
    // And the row is the whole message too: after a restart it is still there.
    stop(running).await;
    let running = stage.start(readers(&Script::default())).await;
    idle(&running).await;
    assert_eq!(number(&running, |s| s.parked.expect("it is known").dead).await, poison.len() as u64);
    assert_eq!(stage.read(DLQ).await.len(), poison.len(), "no second copy");
}

#[tokio::test]
async fn dead_letters_of_one_batch_all_have_a_copy() {
    let stage = crate::stage();
    stage.topics([NOTES]).await;
    let script = Script::default();
    script.breaks("a 3", Trouble::Fatal);
    script.breaks("b 1", Trouble::Fatal);
    script.breaks("c 1", Trouble::Transient);
    let poison = raw(Some("a"), "not JSON");
    let before = [1, 2, 3].map(|n| Binary::note("a", n).message());
    stage.send(NOTES, before).await;
    stage.send(NOTES, vec![poison; 4]).await;
    stage.send(NOTES, ["b", "c", "d"].map(|key| Binary::note(key, 1).message())).await;
    // All of it is there before anybody reads.
    let running = stage.start(readers(&script)).await;
    idle(&running).await;
    expect!["delivered 10 handled 3 parked 1 dead 6 | waiting 1 dead 6"].assert_eq(&tally(&running).await);
    assert_eq!(copies(&stage).await.len(), 6, "a copy of each");
}

#[tokio::test]
async fn an_invalid_event_with_a_number_makes_its_key_wait() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    stage
        .send(
            NOTES,
            [
                Binary::note("a", 1).message(),
                Binary::note("a", 2).with_value("{}").message(),
                Binary::note("a", 3).message(),
            ],
        )
        .await;
    idle(&running).await;
    expect!["a 1"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 3 handled 1 parked 1 dead 1 | waiting 1 dead 1"].assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_very_long_error_message_is_shortened() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let long = format!("{{\"key\": \"{}\", \"n\": \"ü\"}}", "ü".repeat(4000));
    let message = Binary::note("a", 1).of_type("note.taken.v1").with_value(long.clone());
    stage.send(NOTES, [message.message()]).await;
    stage.send(NOTES, [raw(Some("b"), format!("{{\"{}\": 1}}", "ü".repeat(3000)))]).await;
    idle(&running).await;
    for copy in copies(&stage).await {
        let told = copy.message.header("dlq_error_message").expect("it is text");
        assert!(told.len() <= 2048, "{} bytes", told.len());
    }
    assert_eq!(number(&running, |s| s.parked.expect("it is known").dead).await, 2);
}

#[tokio::test]
async fn a_parked_event_that_cannot_be_read_any_more_is_dead_and_others_go_on() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    for key in ["a", "b"] {
        script.breaks(&format!("{key} 1"), Trouble::Transient);
    }
    stage.send(NOTES, ["a", "b"].map(|key| Binary::note(key, 1).message())).await;
    let parked = async || number(&running, |s| s.consumer.parked).await;
    eventually("both are parked", async || parked().await == 2).await;
    let damage = async move |tx: &mut tidings::Tx| {
        let bytes: &[u8] = &[0xff];
        tx.execute("UPDATE parked SET message = $1 WHERE stream = $2", params![bytes, "notes/a"]).await?;
        Ok(())
    };
    running.store().transaction(damage).await.expect("a row can be damaged");
    for key in ["a", "b"] {
        script.mend(&format!("{key} 1"));
    }
    advance_clock_until(&running, "the other one is handled", async || {
        number(&running, |s| s.consumer.recovered).await == 1
    })
    .await;
    expect!["b 1"].assert_eq(&journal_by_key(&running).await);
    expect!["corrupt_data 1× a stored message cannot be decoded"].assert_eq(&dead(&running).await);
    stop(running).await;
}
