//! From broker to handlers: order, duplicates, gaps, failures.

use expect_test::expect;
use serde_json::json;
use tidings::{Envelope, Handler, HandlerError, Message, Service, Tx};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::eventually;
use tidings_testkit::stage::{
    LONG, advance_clock_until, drain_parked, idle, manual_retries, number, stop, tally,
};
use tidings_testkit::wire::{Binary, note, plain, raw, structured};

use crate::reader::{Script, Trouble, batch_readers, journal, journal_by_key, readers};

fn own(key: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    numbers.into_iter().map(|n| Binary::note(key, n).message()).collect()
}

fn foreign(key: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    numbers.into_iter().map(|n| Binary::foreign(key, n).message()).collect()
}

#[tokio::test]
async fn an_event_that_comes_again_is_counted_and_not_handled_again() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    stage.send(NOTES, own("a", [1, 2, 2, 1, 3])).await;
    idle(&running).await;
    // Also when everything comes again, much later.
    stage.send(NOTES, own("a", [1, 2, 3, 4])).await;
    idle(&running).await;
    expect!["a 1 2 3 4"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 9 handled 4 duplicate 5 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
    assert_eq!(script.tries("a 1"), 1);
}

#[tokio::test]
async fn a_gap_parks_the_stream_and_the_missing_event_releases_it_in_order() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    stage.send(NOTES, own("a", [1, 3, 4])).await;
    stage.send(NOTES, own("b", [1, 2])).await;
    stage.send(NOTES, own("late", [2])).await;
    idle(&running).await;
    expect![[r#"
        a 1
        b 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 6 handled 3 parked 3 | waiting 3 dead 0"].assert_eq(&tally(&running).await);

    // What waits may come again, and is not parked twice.
    stage.send(NOTES, own("a", [3])).await;
    stage.send(NOTES, own("a", [6, 2, 5])).await;
    stage.send(NOTES, own("late", [1])).await;
    drain_parked(&running).await;
    expect![[r#"
        a 1 2 3 4 5 6
        b 1 2
        late 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 11 handled 5 duplicate 1 parked 5 recovered 5 | waiting 0 dead 0"]
        .assert_eq(&tally(&running).await);
    // And the stream flows again.
    stage.send(NOTES, own("a", [7, 8])).await;
    idle(&running).await;
    assert_eq!(number(&running, |s| s.consumer.handled).await, 7);
}

#[tokio::test]
async fn a_missing_event_that_comes_alone_releases_its_stream() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    stage.send(NOTES, own("a", [2])).await;
    idle(&running).await;
    stage.send(NOTES, own("a", [1])).await;
    drain_parked(&running).await;
    expect!["a 1 2"].assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn an_alarm_is_raised_once_for_a_gap() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    stage.send(NOTES, own("a", [1, 3])).await;
    idle(&running).await;
    stage.send(NOTES, own("a", [4, 5])).await;
    idle(&running).await;
    let rows = running.store().query("SELECT error_code FROM parked ORDER BY seq", &[]).await;
    let codes: Vec<String> =
        rows.expect("parked events can be read").iter().map(|r| r.get(0).expect("a code")).collect();
    assert_eq!(codes, ["gap", "behind", "behind"]);
}

#[tokio::test]
async fn a_failing_event_blocks_its_key_and_the_other_keys_flow() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 2", Trouble::Transient);
    script.breaks("first 1", Trouble::Transient);
    stage.send(NOTES, own("a", [1, 2, 3])).await;
    stage.send(NOTES, own("first", [1, 2])).await;
    stage.send(NOTES, own("b", [1, 2, 3])).await;
    idle(&running).await;
    stage.send(NOTES, own("a", [4])).await;
    stage.send(NOTES, own("b", [4])).await;
    idle(&running).await;
    expect![[r#"
        a 1
        b 1 2 3 4"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 10 handled 5 parked 5 | waiting 5 dead 0"].assert_eq(&tally(&running).await);
    assert_eq!(script.tries("a 3") + script.tries("a 4") + script.tries("first 2"), 0, "they wait");
    let rows = running.store().query("SELECT DISTINCT error_code FROM parked ORDER BY 1", &[]).await;
    let codes: Vec<String> =
        rows.expect("parked events can be read").iter().map(|r| r.get(0).expect("a code")).collect();
    assert_eq!(codes, ["behind", "transient"], "nothing is missing: no gap");

    // It fails again …
    let tries = script.tries("a 2");
    advance_clock_until(&running, "it is tried again", async || script.tries("a 2") > tries + 2).await;
    assert_eq!(script.tries("a 3"), 0, "its successors still wait");
    // … until it does not.
    script.mend("a 2");
    script.mend("first 1");
    drain_parked(&running).await;
    stage.send(NOTES, own("a", [5])).await;
    idle(&running).await;
    expect![[r#"
        a 1 2 3 4 5
        b 1 2 3 4
        first 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 11 handled 6 parked 5 recovered 5 | waiting 0 dead 0"]
        .assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_failing_event_without_number_blocks_its_key_too() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 1", Trouble::Transient);
    stage.send(NOTES, foreign("a", [1, 2])).await;
    stage.send(NOTES, foreign("b", [1, 2])).await;
    idle(&running).await;
    stage.send(NOTES, foreign("a", [1, 2, 3])).await;
    idle(&running).await;
    expect!["b 1 2"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 7 handled 2 duplicate 2 parked 3 | waiting 3 dead 0"]
        .assert_eq(&tally(&running).await);
    script.mend("a 1");
    drain_parked(&running).await;
    stage.send(NOTES, foreign("a", [4, 3])).await;
    idle(&running).await;
    expect![[r#"
        a 1 2 3 4
        b 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn a_numbered_event_waits_behind_a_failing_one_of_its_key_that_has_no_number() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 100", Trouble::Transient);
    stage.send(NOTES, foreign("a", [100])).await;
    stage.send(NOTES, own("a", [1, 2])).await;
    idle(&running).await;
    expect![""].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 3 parked 3 | waiting 3 dead 0"].assert_eq(&tally(&running).await);
    script.mend("a 100");
    drain_parked(&running).await;
    expect!["a 100 1 2"].assert_eq(&journal_by_key(&running).await);
    stage.send(NOTES, own("a", [3])).await;
    stage.send(NOTES, foreign("a", [101])).await;
    idle(&running).await;
    expect!["a 100 1 2 3 101"].assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn an_event_without_number_waits_behind_a_failing_numbered_one_of_its_key() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 2", Trouble::Transient);
    stage.send(NOTES, own("a", [1, 2])).await;
    stage.send(NOTES, foreign("a", [100])).await;
    stage.send(NOTES, own("a", [3])).await;
    idle(&running).await;
    expect!["a 1"].assert_eq(&journal_by_key(&running).await);
    script.mend("a 2");
    drain_parked(&running).await;
    expect!["a 1 2 100 3"].assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn a_failed_attempt_leaves_nothing_behind() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    // Every reader writes into its journal before it fails.
    script.breaks("a 1", Trouble::Transient);
    script.breaks("b 1", Trouble::Panic);
    stage.send(NOTES, own("a", [1])).await;
    stage.send(NOTES, own("b", [1])).await;
    stage.send(NOTES, own("c", [1])).await;
    idle(&running).await;
    assert_eq!(journal(&running).await, ["c 1"]);
    advance_clock_until(&running, "both are tried again", async || {
        script.tries("a 1") > 3 && script.tries("b 1") > 3
    })
    .await;
    assert_eq!(journal(&running).await, ["c 1"]);
    script.mend("a 1");
    script.mend("b 1");
    drain_parked(&running).await;
    expect![[r#"
        a 1
        b 1
        c 1"#]]
    .assert_eq(&journal_by_key(&running).await);
}

/// Publishes an echo and asks for nothing else; fails after it.
struct Echo(Script);

impl Handler<NoteTaken> for Echo {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        let note = event.payload();
        let echo = NoteTaken::new(format!("echo-{}", note.key), note.n);
        if note.key.starts_with("echo") {
            return Ok(());
        }
        tx.publish(echo).await?;
        self.0.act(&format!("{} {}", note.key, note.n))
    }
}

#[tokio::test]
async fn what_a_failing_handler_published_is_never_sent() {
    let stage = crate::stage();
    let script = Script::default();
    let echoes = script.clone();
    let running = stage
        .start(move || {
            Service::new("echoes")
                .publishes::<NoteTaken>()
                .on(Echo(echoes.clone()))
                .retry(manual_retries(u32::MAX))
        })
        .await;
    script.breaks("a 1", Trouble::Transient);
    stage.send(NOTES, own("a", [1])).await;
    stage.send(NOTES, own("b", [1])).await;
    idle(&running).await;
    let sent = |records: &[tidings::broker::Record]| -> Vec<String> {
        let keys = records.iter().map(|r| r.message.key_text().into_owned());
        let mut echoes: Vec<String> = keys.filter(|key| key.starts_with("echo")).collect();
        echoes.sort();
        echoes
    };
    assert_eq!(sent(&stage.read(NOTES).await), ["echo-b"]);
    advance_clock_until(&running, "it is tried again", async || script.tries("a 1") > 3).await;
    assert_eq!(sent(&stage.read(NOTES).await), ["echo-b"]);
    script.mend("a 1");
    drain_parked(&running).await;
    let records = stage.read(NOTES).await;
    assert_eq!(sent(&records), ["echo-a", "echo-b"]);
    // An event names what led to it.
    let echo = records.iter().find(|r| r.message.key_text() == "echo-a").expect("it was sent");
    assert_eq!(echo.message.header("ce_causationid"), Some("a-1"));
    assert_eq!(echo.message.header("ce_correlationid"), Some("a-1"));
}

#[tokio::test]
async fn a_type_nobody_knows_is_ignored_and_counted() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let unknown = |n| Binary::note("a", n).of_type("note.burnt.v1").with_value("not even JSON").message();
    stage.send(NOTES, [Binary::note("a", 1).message(), unknown(2), unknown(3)]).await;
    stage.send(NOTES, [Binary::note("a", 4).message()]).await;
    stage.send(NOTES, [Binary::foreign("b", 1).of_type("note.burnt.v1").message()]).await;
    idle(&running).await;
    expect!["a 1 4"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 5 handled 2 ignored 3 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn other_forms_of_events_are_understood() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let event = |id: &str, n: u64, seq: Option<&str>| {
        let mut event = json!({
            "specversion": "1.0", "id": id, "type": "note.taken.v1", "source": "/notes",
            "subject": "structured", "time": "2026-01-02T03:04:05Z", "data": note("structured", n),
        });
        match seq {
            Some(seq) => event["streamseq"] = serde_json::from_str(seq).expect("a number or a string"),
            None => event["source"] = "/elsewhere".into(),
        }
        event
    };
    stage
        .send(
            NOTES,
            [
                structured(Some("structured"), &event("s-1", 1, Some("1"))),
                structured(Some("structured"), &event("s-2", 2, Some("\"2\""))),
                structured(Some("structured"), &event("s-2", 2, Some("2"))),
                structured(Some("structured"), &event("s-3", 3, None)),
                structured(Some("structured"), &event("s-3", 3, None)),
                plain(Some("plain"), "p-1", "note_taken", &note("plain", 1)),
                plain(Some("plain"), "p-1", "note_taken", &note("plain", 1)),
                plain(Some("plain"), "p-2", "note.taken.v1", &note("plain", 2)),
                plain(Some("plain"), "p-3", "note_burnt", &note("plain", 3)),
                plain(None, "p-4", "note_taken", &note("keyless", 1)),
                plain(None, "p-4", "note_taken", &note("keyless", 1)),
            ],
        )
        .await;
    idle(&running).await;
    expect![[r#"
        keyless 1
        plain 1 2
        structured 1 2 3"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 11 handled 6 duplicate 4 ignored 1 | waiting 0 dead 0"]
        .assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn events_without_number_are_recognised_by_source_and_id() {
    let stage = crate::stage();
    let running = stage.start(readers(&Script::default())).await;
    let from = |source: &str, id: &str, n| Binary {
        source: source.into(),
        id: id.into(),
        ..Binary::foreign("a", n)
    };
    let first = from("/one", "x", 1).message();
    stage.send(NOTES, [first.clone(), first.clone()]).await;
    stage.send(NOTES, [from("/two", "x", 2).message(), from("/one", "y", 3).message(), first]).await;
    idle(&running).await;
    expect!["a 1 2 3"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 5 handled 3 duplicate 2 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_panicking_handler_fails_its_event_and_nothing_else() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 1", Trouble::Panic);
    stage.send(NOTES, own("a", [1, 2])).await;
    stage.send(NOTES, own("b", [1, 2])).await;
    idle(&running).await;
    expect!["b 1 2"].assert_eq(&journal_by_key(&running).await);
    let rows = running.store().query("SELECT error_message FROM parked ORDER BY seq", &[]).await;
    let why: String = rows.expect("parked events can be read")[0].get(0).expect("a message");
    expect!["panicked: a 1 makes the handler panic"].assert_eq(&why);
    script.mend("a 1");
    drain_parked(&running).await;
    expect![[r#"
        a 1 2
        b 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
}

#[tokio::test]
async fn a_dependency_that_is_away_holds_back_who_needs_it_and_charges_nothing() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    script.breaks("a 1", Trouble::Dependency);
    stage.send(NOTES, own("a", [1, 2])).await;
    stage.send(NOTES, own("c", [1, 2])).await;
    eventually("it was tried several times", async || script.tries("a 1") > 3).await;
    eventually("others go on", async || journal(&running).await == ["c 1", "c 2"]).await;
    let attempts = running.store().query("SELECT max(attempts) FROM parked", &[]).await;
    assert_eq!(attempts.expect("a table")[0].get::<u32>(0).ok(), Some(0), "no attempt is charged");
    script.mend("a 1");
    drain_parked(&running).await;
    expect![[r#"
        a 1 2
        c 1 2"#]]
    .assert_eq(&journal_by_key(&running).await);
    expect!["delivered 4 handled 2 parked 2 recovered 2 | waiting 0 dead 0"]
        .assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_dependency_that_is_away_charges_nothing_to_its_neighbours_either() {
    let stage = crate::stage();
    let script = Script::default();
    stage.topics([NOTES]).await;
    // What cannot be read, and what fails, makes the batch go one by one.
    script.breaks("a 1", Trouble::Dependency);
    script.breaks("c 1", Trouble::Transient);
    // All of one partition, so that they come together.
    stage.send(NOTES, [raw(Some("h"), "not JSON")]).await;
    stage.send(NOTES, own("c", [1, 2])).await;
    stage.send(NOTES, own("a", [1, 2])).await;
    let running = stage.start(readers(&script)).await;
    eventually("it was tried several times", async || script.tries("a 1") > 3).await;
    expect!["delivered 5 parked 4 dead 1 | waiting 4 dead 1"].assert_eq(&tally(&running).await);
    let attempts =
        running.store().query("SELECT attempts FROM parked WHERE error_code = 'transient'", &[]).await;
    assert_eq!(attempts.expect("a table")[0].get::<u32>(0).ok(), Some(1), "charged once, by itself");
    script.mend("a 1");
    eventually("it is handled", async || journal_by_key(&running).await == "a 1 2").await;
    assert_eq!(stage.read("readers_dlq").await.len(), 1);
}

#[tokio::test]
async fn a_dependency_that_is_away_charges_a_parked_event_nothing() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(crate::reader::readers_with(&script, manual_retries(3))).await;
    script.breaks("a 1", Trouble::Transient);
    stage.send(NOTES, own("a", [1])).await;
    idle(&running).await;
    script.breaks("a 1", Trouble::Dependency);
    let tries = script.tries("a 1");
    running.store().clock().advance(LONG);
    eventually("it is tried often", async || script.tries("a 1") > tries + 4).await;
    let rows = running.store().query("SELECT attempts, state FROM parked", &[]).await;
    let rows = rows.expect("parked events can be read");
    assert_eq!((rows[0].get(0).ok(), rows[0].get(1).ok()), (Some(1_u32), Some("waiting".to_owned())));
    script.mend("a 1");
    drain_parked(&running).await;
    expect!["delivered 1 parked 1 recovered 1 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
}

#[tokio::test]
async fn a_failing_batch_costs_only_the_culprit() {
    let stage = crate::stage();
    let script = Script::default();
    stage.topics([NOTES]).await;
    for key in 0..30 {
        stage.send(NOTES, own(&format!("k{key}"), [1, 2])).await;
    }
    script.breaks("k17 1", Trouble::Transient);
    script.breaks("k23 2", Trouble::Panic);
    let running = stage.start(batch_readers(&script)).await;
    idle(&running).await;
    expect!["delivered 60 handled 57 parked 3 | waiting 3 dead 0"].assert_eq(&tally(&running).await);
    assert_eq!(journal(&running).await.len(), 57);
    script.mend("k17 1");
    script.mend("k23 2");
    drain_parked(&running).await;
    let expected: Vec<String> = (0..30).map(|key| format!("k{key} 1 2")).collect();
    let mut found: Vec<String> = journal_by_key(&running).await.lines().map(ToOwned::to_owned).collect();
    found.sort_by_key(|line| line.split(' ').next().and_then(|key| key[1..].parse::<u32>().ok()));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn events_of_one_call_have_different_keys() {
    let stage = crate::stage();
    let script = Script::default();
    stage.topics([NOTES]).await;
    stage.send(NOTES, own("a", 1..=20)).await;
    stage.send(NOTES, foreign("a", 21..=40)).await;
    stage.send(NOTES, own("b", 1..=20)).await;
    // Also when only the payload says what the key is.
    let keyless = (41..=60).map(|n| plain(None, &format!("p-{n}"), "note_taken", &note("a", n)));
    stage.send(NOTES, keyless).await;
    let running = stage.start(batch_readers(&script)).await;
    idle(&running).await;
    expect!["delivered 80 handled 80 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
    assert_eq!(script.mixed_batches(), 0);
}

#[tokio::test]
async fn an_own_event_on_a_topic_read_for_others_is_ignored() {
    let stage = crate::stage();
    let script = Script::default();
    let running = {
        let script = script.clone();
        let adopting = move || {
            Service::new("readers")
                .tables(crate::reader::TABLES)
                .on_external_batch(crate::reader::BatchReader(script.clone()))
                .retry(manual_retries(u32::MAX))
        };
        stage.start(adopting).await
    };
    stage.send(NOTES, own("a", [1, 2])).await;
    stage.send(NOTES, foreign("a", [3])).await;
    idle(&running).await;
    expect!["a 3"].assert_eq(&journal_by_key(&running).await);
    expect!["delivered 3 handled 1 ignored 2 | waiting 0 dead 0"].assert_eq(&tally(&running).await);
}

/// Everything at once: duplicates, missing and late events, failures of every kind, restarts; seeded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_duplicates_gaps_and_failures_every_event_is_handled_once_and_in_order() {
    const KEYS: u64 = 40;
    const EACH: u64 = 15;
    for seed in 1..=4_u64 {
        let mut state = seed;
        let mut dice = move |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let stage = crate::stage();
        let script = Script::default();
        let service = batch_readers(&script);
        let mut running = stage.start(&service).await;
        let mut late = Vec::new();
        for n in 1..=EACH {
            let mut burst = Vec::new();
            for key in 0..KEYS {
                let name = format!("k{key}");
                let message = Binary::note(&name, n).message();
                match dice(20) {
                    0 => late.push(message),
                    1 => burst.extend([message.clone(), message]),
                    2 => {
                        script.breaks(&format!("{name} {n}"), Trouble::Transient);
                        burst.push(message);
                    }
                    3 => {
                        script.breaks(&format!("{name} {n}"), Trouble::Panic);
                        burst.push(message);
                    }
                    4 if n > 1 => burst.extend([message, Binary::note(&name, 1 + dice(n)).message()]),
                    _ => burst.push(message),
                }
            }
            stage.send(NOTES, burst).await;
            if dice(5) == 0 {
                tally(&running).await;
                stop(running).await;
                running = stage.start(&service).await;
            }
        }
        stage.send(NOTES, late).await;
        for key in 0..KEYS {
            (1..=EACH).for_each(|n| script.mend(&format!("k{key} {n}")));
        }
        drain_parked(&running).await;
        tally(&running).await;
        let numbers: Vec<String> = (1..=EACH).map(|n| n.to_string()).collect();
        for line in journal_by_key(&running).await.lines() {
            let (key, found) = line.split_once(' ').expect("KEY N…");
            assert_eq!(found, numbers.join(" "), "{key}, seed {seed}");
        }
        assert_eq!(journal(&running).await.len() as u64, KEYS * EACH, "seed {seed}");
    }
}
