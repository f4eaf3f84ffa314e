//! What comes from outside, in whatever form: it stops nobody, and nothing of it is lost.

use std::collections::BTreeMap;

use expect_test::expect;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings::{Broker, Envelope, Event, HandlerError, Headers, Message, RunningService, Service, Tx};
use tidings_testkit::Scratch;
use tidings_testkit::event::NOTES;
use tidings_testkit::eventually;
use tidings_testkit::stage::{drain_parked, idle, number, stop, tally};
use tidings_testkit::wire::{Binary, note, plain, raw, structured};

use crate::reader::{Script, Trouble, journal_by_key, readers};

/// A message in binary mode with one header replaced.
fn with(name: &str, value: &[u8]) -> Message {
    let mut message = Binary::foreign("bad", 1).message();
    message.headers.retain(|known, _| known != name);
    message.headers.push(name, value);
    message
}

fn keyed(key: &[u8], message: Message) -> Message {
    Message { key: Some(bytes::Bytes::copy_from_slice(key)), ..message }
}

/// Messages that can never be handled, each with its code.
fn broken() -> Vec<(&'static str, Message)> {
    const ENVELOPE: &str = "envelope_undecodable";
    const PAYLOAD: &str = "payload_undecodable";
    let long = "k".repeat(9_000);
    let plain_note = |id: &str| plain(Some("bad"), id, "note_taken", &note("bad", 1));
    let numbered = |seq: &str| {
        let mut message = with("ce_source", b"/notes");
        message.headers.push("ce_streamseq", seq.as_bytes());
        message
    };
    let event = |id: &str| {
        let event = json!({
            "specversion": "1.0", "id": id, "type": "note.taken.v1", "source": "/elsewhere",
            "subject": "bad", "data": note("bad", 1),
        });
        structured(Some("bad"), &event)
    };
    vec![
        (ENVELOPE, keyed(&7_i64.to_be_bytes(), plain_note("long-key"))), // as a LongSerializer writes it
        (ENVELOPE, keyed(b"\0\0\0\0\x07bad", raw(None, "framed"))),
        (ENVELOPE, keyed(b"\xff\xfe", plain_note("no text"))),
        (ENVELOPE, keyed(long.as_bytes(), plain_note("long"))),
        (ENVELOPE, plain_note("a\0b")),
        (ENVELOPE, plain_note(&long)),
        (ENVELOPE, event("a\0b")),
        (ENVELOPE, event(&long)),
        (ENVELOPE, with("ce_id", b"a\0b")),
        (ENVELOPE, with("ce_id", b"\xff")),
        (ENVELOPE, with("ce_id", long.as_bytes())),
        (ENVELOPE, with("ce_id", b"")),
        (ENVELOPE, with("ce_source", b"/else\0where")),
        (ENVELOPE, with("ce_source", long.as_bytes())),
        (ENVELOPE, with("ce_subject", b"a\0b")),
        (ENVELOPE, with("ce_subject", long.as_bytes())),
        (ENVELOPE, with("ce_type", b"note.taken.v1\0")),
        (ENVELOPE, with("ce_type", long.as_bytes())),
        (ENVELOPE, with("ce_specversion", b"0.3")),
        (ENVELOPE, numbered("9223372036854775808")),
        (ENVELOPE, numbered("9223372036854775807")),
        (ENVELOPE, numbered("18446744073709551616")),
        (ENVELOPE, numbered("0")),
        (ENVELOPE, numbered("-1")),
        (ENVELOPE, numbered("1.5")),
        (ENVELOPE, numbered("\0")),
        (ENVELOPE, raw(Some("bad"), "[]")),
        (ENVELOPE, raw(Some("bad"), r#"["e", "note_taken", null, null, {"key": "bad", "n": 1}]"#)),
        (ENVELOPE, raw(None, "")),
        (
            PAYLOAD,
            Binary::foreign("bad", 2).with_value(r#"{"key": "bad", "n": 1, "text": "a\u0000b"}"#).message(),
        ),
        (PAYLOAD, Binary::foreign("bad", 3).with_value(r#"["bad", 1, "text"]"#).message()),
        (
            PAYLOAD,
            Binary::foreign("bad", 4).with_value(r#"{"key": "bad", "n": 9223372036854775808}"#).message(),
        ),
        (PAYLOAD, Binary::foreign("bad", 5).with_value(r#"{"key": "bad", "n": 1.5}"#).message()),
        ("payload_invalid", Binary::foreign("bad", 6).with_value(r#"{"key": "bad", "n": 0}"#).message()),
        ("wrong_source", Binary { source: "/elsewhere".into(), ..Binary::note("bad", 7) }.message()),
        ("wrong_source", Binary { source: "/notes".into(), ..Binary::foreign("bad", 8) }.message()),
    ]
}

async fn dead(running: &RunningService) -> BTreeMap<String, usize> {
    let rows = running.store().query("SELECT error_code FROM parked WHERE state = 'dead'", &[]).await;
    let mut codes = BTreeMap::new();
    for row in rows.expect("dead letters can be read") {
        *codes.entry(row.get(0).expect("a code")).or_default() += 1;
    }
    codes
}

#[tokio::test]
async fn nothing_that_comes_from_outside_stops_a_consumer() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    let broken = broken();
    let mut sent = vec![Binary::note("good", 1).message()];
    for (n, (code, message)) in (2..).zip(broken.clone()) {
        *expected.entry(code.to_owned()).or_default() += 1;
        sent.extend([message, Binary::note("good", n).message()]);
    }
    stage.send(NOTES, sent).await;
    idle(&running).await;
    assert_eq!(dead(&running).await, expected);
    let count = broken.len() as u64;
    assert_eq!(number(&running, |s| s.consumer.handled).await, count + 1, "everybody else went on");
    assert_eq!(number(&running, |s| s.consumer.delivered).await, 2 * count + 1);
    let copies = stage.read("readers_dlq").await;
    for (code, message) in &broken {
        let is_copy = |copy: &Message| copy.key == message.key && copy.value == message.value;
        let found = copies.iter().filter(|copy| is_copy(&copy.message));
        assert!(found.count() >= 1, "no copy of {code}: {message:?}");
    }
    // Each alone as well: nothing but it in its batch, and again: it is known.
    for (_, message) in broken.into_iter().take(12) {
        stage.send(NOTES, [message]).await;
        idle(&running).await;
    }
    stop(running).await;
}

#[tokio::test]
async fn an_optional_attribute_that_cannot_be_read_costs_only_itself() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let optional: [(&str, &[u8]); 7] = [
        ("traceparent", b"\xff"),
        ("traceparent", b"00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        ("ce_traceparent", b"nonsense"),
        ("ce_correlationid", b"a\0b"),
        ("ce_causationid", &[b'c'; 9_000]),
        ("ce_time", b"yesterday"),
        ("tracestate", b"\xff"),
    ];
    let messages = (1..).zip(optional).map(|(n, (name, value))| {
        let mut message = Binary::note("a", n).message();
        message.headers.push(name, value);
        message
    });
    stage.send(NOTES, messages).await;
    // A trace on plain and structured messages stands in the header.
    let mut traced = plain(Some("b"), "p-1", "note_taken", &note("b", 1));
    traced.headers.push("traceparent", trace.as_bytes());
    stage.send(NOTES, [traced]).await;
    let event = json!({
        "event_id": "p-2", "event_type": "note_taken", "timestamp": 1_767_323_045, "correlation_id": 7,
        "payload": note("b", 2),
    });
    stage.send(NOTES, [raw(Some("b"), event.to_string())]).await;
    idle(&running).await;
    expect![[r#"
        a 1 2 3 4 5 6 7
        b 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
    assert_eq!(dead(&running).await, BTreeMap::new());
}

#[tokio::test]
async fn the_content_type_decides_which_form_a_message_has() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let event = |n: u64, data: (&str, serde_json::Value)| {
        let mut event = json!({
            "specversion": "1.0", "id": format!("s-{n}"), "type": "note.taken.v1", "source": "/elsewhere",
            "subject": "a",
        });
        event[data.0] = data.1;
        structured(Some("a"), &event)
    };
    // Attributes beside it in the headers are a copy, of whatever quality.
    let mut beside = event(1, ("data", note("a", 1)));
    beside.headers.push("ce_id", b"other");
    beside.headers.push("ce_specversion", b"0.3");
    let base64 = "eyJrZXkiOiAiYSIsICJuIjogMn0=";
    let mut capitals = event(3, ("data", note("a", 3)));
    capitals.headers = Headers::from([("Content-Type", "Application/CloudEvents+JSON; Charset=UTF-8")]);
    let both = event(4, ("data_base64", json!("not base64!")));
    let batch = Message {
        headers: Headers::from([("content-type", "application/cloudevents-batch+json")]),
        ..event(5, ("data", note("a", 5)))
    };
    let messages = [beside, event(2, ("data_base64", json!(base64))), capitals, both, batch];
    stage.send(NOTES, messages).await;
    idle(&running).await;
    expect!["a 1 2 3"].assert_eq(&journal_by_key(&running).await);
    assert_eq!(dead(&running).await, BTreeMap::from([("envelope_undecodable".to_owned(), 2)]));
}

#[tokio::test]
async fn an_event_with_the_number_of_another_one_is_kept_and_alarms() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let forged = Binary { id: "forged".into(), ..Binary::note("a", 1) };
    stage.send(NOTES, [forged.message()]).await;
    idle(&running).await;
    stage.send(NOTES, [1, 2].map(|n| Binary::note("a", n).message())).await;
    idle(&running).await;
    expect!["delivered 3 handled 2 dead 1 | waiting 0 dead 1"].assert_eq(&tally(&running).await);
    assert_eq!(dead(&running).await, BTreeMap::from([("number_taken".to_owned(), 1)]));
    assert_eq!(number(&running, |s| s.consumer.differing).await, 1);
    // The same event again is a duplicate, of either.
    stage.send(NOTES, [Binary::note("a", 2).message()]).await;
    idle(&running).await;
    assert_eq!(number(&running, |s| s.consumer.differing).await, 1);
    assert_eq!(number(&running, |s| s.consumer.duplicate).await, 1);
}

#[tokio::test]
async fn a_duplicate_with_other_bytes_is_told() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let other = Binary::foreign("a", 1).with_value(note("a", 9).to_string());
    let messages = [Binary::foreign("a", 1), Binary::foreign("a", 1), other].map(|m| m.message());
    stage.send(NOTES, messages).await;
    idle(&running).await;
    expect!["delivered 3 handled 1 duplicate 2 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
    assert_eq!(number(&running, |s| s.consumer.differing).await, 1);
}

/// Another type, on another topic.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "bell.rung", version = 1, topic = "bells", key = key, alias = "bell_rung")]
struct BellRung {
    #[garde(length(min = 1))]
    key: String,
}

async fn nothing(_: &Envelope<BellRung>, _: &mut Tx) -> Result<(), HandlerError> {
    Ok(())
}

#[tokio::test]
async fn programs_that_number_their_events_alike_on_two_topics_are_two() {
    let stage = crate::stage();
    let service = |script: &Script| {
        let readers = readers(script);
        move || readers().takes_external::<BellRung>().on(nothing)
    };
    let running = stage.start(service(&Script::default())).await;
    stage.send(NOTES, [plain(Some("a"), "1", "note_taken", &note("a", 1))]).await;
    stage.send("bells", [plain(Some("a"), "1", "bell_rung", &json!({"key": "a"}))]).await;
    // A type counts from its own topic only.
    stage.send("bells", [plain(Some("a"), "2", "note_taken", &note("a", 2))]).await;
    stage.send(NOTES, [Binary { event_type: "bell.rung.v1".into(), ..Binary::note("a", 1) }.message()]).await;
    idle(&running).await;
    expect!["delivered 4 handled 2 dead 2 | waiting 0 dead 2"].assert_eq(&tally(&running).await);
    assert_eq!(dead(&running).await, BTreeMap::from([("wrong_topic".to_owned(), 2)]));
}

#[tokio::test]
async fn events_from_outside_are_welcome_only_where_a_handler_says_so() {
    let stage = crate::stage();
    let running = stage.start(|| Service::new("ringers").on(nothing)).await;
    let rung = Binary { event_type: "bell.rung.v1".into(), ..Binary::foreign("a", 1) };
    stage.send("bells", [plain(Some("a"), "1", "bell_rung", &json!({"key": "a"})), rung.message()]).await;
    let own = Binary { source: "/bells".into(), event_type: "bell.rung.v1".into(), ..Binary::note("a", 1) };
    stage.send("bells", [own.message()]).await;
    idle(&running).await;
    expect!["delivered 3 handled 1 dead 2 | waiting 0 dead 2"].assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_position_is_an_identity_only_within_one_life_of_a_topic() {
    let stage = crate::stage();
    let script = Script::default();
    script.breaks("waits 1", Trouble::Transient);
    // Two logs, one after the other, under the same database.
    for life in ["first", "second"] {
        let log = Scratch::new();
        let broker = Broker::open(&log.url()).expect("the log opens");
        let service = || readers(&script)();
        let topics: Vec<_> =
            service().topic_names().map(|name| tidings::Topic { name: name.into(), partitions: 1 }).collect();
        broker.apply_topics(&topics).await.expect("topics can be made");
        let messages = [
            raw(None, format!("broken in the {life}")),
            Binary { id: format!("{life} waits"), ..Binary::foreign("waits", 1) }.message(),
        ];
        let burst = messages.map(|message| tidings::broker::Outgoing::new(NOTES, message));
        broker.send(burst.to_vec()).await.into_iter().for_each(|sent| sent.expect("it is taken"));
        let mut running = None;
        eventually("the service starts", async || {
            running = service().start(&stage.store_url(), &broker).await.ok();
            running.is_some()
        })
        .await;
        let running = running.expect("it has started");
        idle(&running).await;
        expect!["delivered 2 parked 1 dead 1"]
            .assert_eq(tally(&running).await.split(" | ").next().unwrap_or_default());
        stop(running).await;
    }
}

#[tokio::test]
async fn events_that_nobody_handles_are_not_kept_for_a_gap() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let burnt = |n| Binary::note("a", n).of_type("note.burnt.v1").message();
    let taken = |n| Binary::note("a", n).message();
    stage.send(NOTES, [taken(1), burnt(3), burnt(4), taken(5), burnt(6), burnt(7), taken(8)]).await;
    idle(&running).await;
    expect!["delivered 7 handled 1 ignored 4 parked 2 | waiting 2 dead 0"].assert_eq(&tally(&running).await);
    // They may come again.
    stage.send(NOTES, [burnt(4), burnt(3)]).await;
    stage.send(NOTES, [taken(2)]).await;
    drain_parked(&running).await;
    expect!["a 1 2 5 8"].assert_eq(&journal_by_key(&running).await);
    stage.send(NOTES, [burnt(9), taken(10)]).await;
    idle(&running).await;
    expect!["a 1 2 5 8 10"].assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn an_event_nobody_handles_behind_a_failed_one_is_passed_over_in_its_turn() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 1", Trouble::Transient);
    let burnt = |n| Binary::note("a", n).of_type("note.burnt.v1").message();
    stage
        .send(NOTES, [Binary::note("a", 1).message(), burnt(2), burnt(3), Binary::note("a", 4).message()])
        .await;
    idle(&running).await;
    expect!["delivered 4 ignored 2 parked 2 | waiting 2 dead 0"].assert_eq(&tally(&running).await);
    script.mend("a 1");
    drain_parked(&running).await;
    expect!["a 1 4"].assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn an_event_that_cannot_be_kept_whole_is_buried_by_its_position() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    // Only one dead letter with a stream can be kept from here on.
    let sql = "CREATE UNIQUE INDEX narrow ON parked (consumer) WHERE stream IS NOT NULL";
    running.store().transaction(async |tx: &mut Tx| Ok(tx.execute(sql, &[]).await?)).await.expect("an index");
    let invalid = |n: u64| Binary::foreign("bad", n).with_value(r#"{"key": "bad", "n": 0}"#).message();
    stage.send(NOTES, [invalid(1), invalid(2), invalid(3), Binary::note("good", 1).message()]).await;
    idle(&running).await;
    expect!["delivered 4 handled 1 dead 3 | waiting 0 dead 3"].assert_eq(&tally(&running).await);
    let codes = BTreeMap::from([("payload_invalid".to_owned(), 1), ("unstorable".to_owned(), 2)]);
    assert_eq!(dead(&running).await, codes);
    assert_eq!(stage.read("readers_dlq").await.len(), 3, "the copies have it all");
}

#[tokio::test]
async fn a_message_without_a_value_is_copied_without_one() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let mut tombstone = Message { key: Some("a".into()), is_tombstone: true, ..Message::default() };
    tombstone.headers.push_null("null");
    stage.send(NOTES, [tombstone]).await;
    idle(&running).await;
    let copy = stage.read("readers_dlq").await.remove(0).message;
    assert!(copy.is_tombstone, "{copy:?}");
    let mut original = Headers::default();
    original.push_null("null");
    let mut kept = copy.headers.clone();
    kept.retain(|name, _| !name.starts_with("dlq_"));
    assert_eq!(kept, original);
}

#[tokio::test]
async fn a_dead_letter_that_is_brought_back_and_dies_again_tells_of_this_death_once() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    stage.send(NOTES, [raw(Some("a"), "not JSON")]).await;
    idle(&running).await;
    let copy = stage.read("readers_dlq").await.remove(0).message;
    stage.send(NOTES, [(*copy).clone()]).await;
    idle(&running).await;
    let copies = stage.read("readers_dlq").await;
    assert_eq!(copies.len(), 2);
    for copy in copies {
        let offsets = copy.message.headers.iter().filter(|(name, _)| *name == "dlq_original_offset");
        assert_eq!(offsets.count(), 1, "{:?}", copy.message.headers);
    }
}
