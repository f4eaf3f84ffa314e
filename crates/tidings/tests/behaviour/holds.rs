//! Events that are held back: by an operator, by a dependency that is away, by a flood of dead letters.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings::{Envelope, Event, Handler, HandlerError, HandlerOptions, OnDead, RetryPolicy, Tx};
use tidings_testkit::event::NOTES;
use tidings_testkit::stage::{drain_parked, idle, manual_retries};
use tidings_testkit::wire::Binary;
use tidings_testkit::{TestApp, eventually};

use crate::reader::{Script, Trouble, journal_by_key, readers, readers_with, write_down};

async fn app(script: &Script) -> TestApp {
    TestApp::start_on(crate::stage(), [readers(script)()]).await
}

async fn send(app: &TestApp, key: &str, numbers: impl IntoIterator<Item = u64>) {
    app.stage().send(NOTES, numbers.into_iter().map(|n| Binary::note(key, n).message())).await;
}

async fn journal(app: &TestApp) -> String {
    journal_by_key(app.service("readers")).await
}

async fn act(app: &TestApp, path: &str, scope: &str, name: Option<&str>) -> Value {
    let body =
        json!({"service": "readers", "scope": scope, "name": name, "reason": "a test", "actor": "ada"});
    let answer = app.post(path, &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body
}

async fn pause(app: &TestApp, scope: &str, name: Option<&str>) {
    act(app, "/admin/pauses", scope, name).await;
}

async fn resume(app: &TestApp, scope: &str, name: Option<&str>) {
    act(app, "/admin/pauses/resume", scope, name).await;
}

async fn waits(app: &TestApp, key: &str) -> Vec<String> {
    let why = app.get(&format!("/admin/why?key={key}")).await.body;
    let waits = why["waits"].as_array().expect("a list").iter();
    waits.map(|wait| wait["what"].as_str().expect("a word").to_owned()).collect()
}

#[tokio::test]
async fn a_key_that_is_paused_waits_in_order_and_the_others_go_on() {
    let app = app(&Script::default()).await;
    pause(&app, "key", Some("a")).await;
    send(&app, "a", [1, 2]).await;
    send(&app, "b", [1, 2]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "b 1 2");
    assert_eq!(waits(&app, "a").await, ["pause"]);
    assert_eq!(waits(&app, "b").await, [""; 0]);
    let pauses = app.get("/admin/pauses").await.body;
    assert_eq!((&pauses["items"][0]["name"], &pauses["items"][0]["actor"]), (&json!("a"), &json!("ada")));
    resume(&app, "key", Some("a")).await;
    drain_parked(app.service("readers")).await;
    send(&app, "a", [3]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1 2 3\nb 1 2");
    app.stop().await;
}

#[tokio::test]
async fn a_pause_survives_a_restart() {
    let stage = crate::stage();
    let script = Script::default();
    let running = stage.start(readers(&script)).await;
    let by = "INSERT INTO pause (scope, name, since_us, actor, reason) VALUES ('type', 'note.taken.v1', 1, 'ada', 'why')";
    let paused =
        running.store().transaction(async |tx: &mut tidings::Tx| Ok(tx.execute(by, &[]).await?)).await;
    paused.expect("a pause");
    tidings_testkit::stage::stop(running).await;
    let running = stage.start(readers(&script)).await;
    stage.send(NOTES, [Binary::note("a", 1).message()]).await;
    idle(&running).await;
    assert_eq!(journal_by_key(&running).await, "");
    tidings_testkit::stage::stop(running).await;
}

#[tokio::test]
async fn a_type_that_is_paused_waits_and_what_was_parked_before_is_not_tried() {
    let script = Script::default();
    let app = app(&script).await;
    script.breaks("a 1", Trouble::Transient);
    send(&app, "a", [1]).await;
    app.idle().await;
    pause(&app, "type", Some("note.taken.v1")).await;
    script.mend("a 1");
    let tries = script.tries("a 1");
    send(&app, "b", [1]).await;
    app.advance(tidings_testkit::stage::LONG);
    app.idle().await;
    assert_eq!((journal(&app).await.as_str(), script.tries("a 1")), ("", tries));
    let unknown = json!({"service": "readers", "scope": "type", "name": "tea.made.v1", "reason": "a test"});
    assert_eq!(app.post("/admin/pauses", &unknown).await.status, 400);
    resume(&app, "type", Some("note.taken.v1")).await;
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await, "a 1\nb 1");
    app.stop().await;
}

/// More keys than are released in one transaction.
#[tokio::test]
async fn all_that_a_pause_held_back_goes_on_however_much_it_is() {
    let app = app(&Script::default()).await;
    pause(&app, "type", Some("note.taken.v1")).await;
    let notes = (0..600).map(|n| Binary::note(&format!("k{n}"), 1).message());
    app.stage().send(NOTES, notes).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "");
    resume(&app, "type", Some("note.taken.v1")).await;
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await.lines().count(), 600);
    app.stop().await;
}

/// A second type of event, on a topic of its own.
#[derive(Clone, Debug, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "memo.written", version = 1, topic = "memos", key = key)]
#[garde(allow_unvalidated)]
struct MemoWritten {
    key: String,
    n: u64,
}

struct MemoReader(Script);

impl Handler<MemoWritten> for MemoReader {
    async fn handle(&self, event: &Envelope<MemoWritten>, tx: &mut Tx) -> Result<(), HandlerError> {
        let line = format!("{} {}", event.key(), event.payload().n);
        write_down(tx, &line).await?;
        self.0.act(&line)
    }
}

async fn app_of_two_topics(script: &Script) -> TestApp {
    let readers = readers(script)().takes_external::<MemoWritten>().on(MemoReader(script.clone()));
    TestApp::start_on(crate::stage(), [readers]).await
}

async fn send_memos(app: &TestApp, key: &str, numbers: impl IntoIterator<Item = u64>) {
    let memo = |n| Binary { source: "/memos".into(), ..Binary::note(key, n) }.of_type("memo.written.v1");
    app.stage().send("memos", numbers.into_iter().map(|n| memo(n).message())).await;
}

async fn lag(app: &TestApp, topic: &str) -> i64 {
    let lag = app.get("/admin/lag").await.body;
    let items = lag["items"].as_array().expect("a list").iter().filter(|item| item["topic"] == topic);
    items.filter_map(|item| item["lag"].as_i64()).sum()
}

#[tokio::test]
async fn a_topic_that_is_paused_is_not_read_and_the_others_are() {
    let script = Script::default();
    let app = app_of_two_topics(&script).await;
    script.breaks("m0 1", Trouble::Transient);
    send_memos(&app, "m0", [1]).await;
    app.idle().await;
    pause(&app, "topic", Some("memos")).await;
    script.mend("m0 1");
    let tries = script.tries("m0 1");
    send_memos(&app, "m", [1, 2]).await;
    send(&app, "a", [1, 2]).await;
    eventually("the others are read", async || journal(&app).await == "a 1 2").await;
    app.advance(tidings_testkit::stage::LONG);
    send(&app, "a", [3]).await;
    eventually("the others go on", async || journal(&app).await == "a 1 2 3").await;
    assert_eq!((lag(&app, "memos").await, script.tries("m0 1")), (2, tries), "neither read nor tried again");
    assert_eq!(waits(&app, "m").await, ["pause"]);
    assert_eq!(app.get("/readyz").await.status, 200);
    let paused = app.get("/statusz").await.body["readers"]["paused"].clone();
    assert_eq!((&paused[0]["scope"], &paused[0]["name"]), (&json!("topic"), &json!("memos")));

    resume(&app, "topic", Some("memos")).await;
    drain_parked(app.service("readers")).await;
    send_memos(&app, "m", [3]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1 2 3\nm 1 2 3\nm0 1");
    app.stop().await;
}

#[tokio::test]
async fn a_service_whose_topics_are_all_paused_waits_and_says_so() {
    let app = app_of_two_topics(&Script::default()).await;
    let unread = json!({"service": "readers", "scope": "topic", "name": "orders", "reason": "a test"});
    let refused = app.post("/admin/pauses", &unread).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["detail"], "readers does not read topic orders; it reads notes, memos");
    pause(&app, "topic", Some("memos")).await;
    pause(&app, "topic", Some("notes")).await;
    eventually("it says that it is paused", async || {
        let waiting = app.get("/statusz").await.body["readers"]["waiting"].clone();
        waiting[0]["reason"] == "paused"
            && waiting[0]["error"].as_str().is_some_and(|error| error.contains("ada paused topic"))
    })
    .await;
    let replay = json!({"service": "readers", "topic": "notes", "from": "beginning", "reason": "a test"});
    assert_eq!(app.post("/admin/replay", &replay).await.status, 409);
    resume(&app, "topic", Some("notes")).await;
    send(&app, "a", [1]).await;
    eventually("one of them is read", async || journal(&app).await == "a 1").await;
    app.stop().await;
}

#[tokio::test]
async fn a_service_that_is_paused_reads_nothing_and_stays_ready() {
    let app = app(&Script::default()).await;
    pause(&app, "service", None).await;
    send(&app, "a", [1, 2]).await;
    eventually("it says that it is paused", async || {
        let waiting = app.get("/statusz").await.body["readers"]["waiting"].clone();
        waiting[0]["reason"] == "paused"
    })
    .await;
    assert_eq!((journal(&app).await, app.get("/readyz").await.status.as_u16()), (String::new(), 200));
    let lag = app.get("/admin/lag").await.body;
    let lags = lag["items"].as_array().expect("a list").iter().filter_map(|item| item["lag"].as_i64());
    assert_eq!(lags.sum::<i64>(), 2);
    resume(&app, "service", None).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1 2");
    app.stop().await;
}

#[tokio::test]
async fn events_that_need_what_is_away_wait_and_one_asks_for_all() {
    let script = Script::default();
    let app = app(&script).await;
    let keys: Vec<String> = (0..30).map(|n| format!("k{n:02}")).collect();
    for key in &keys {
        script.breaks(&format!("{key} 1"), Trouble::Dependency);
        send(&app, key, [1, 2]).await;
    }
    eventually("the dependency is away", async || {
        let status = app.get("/statusz").await.body;
        status["readers"]["dependencies"][0]["name"] == "the printer"
    })
    .await;
    send(&app, "later", [1]).await;
    app.idle().await;
    assert_eq!(script.tries("later 1"), 0, "it waits without being tried");
    let tries = || keys.iter().map(|key| script.tries(&format!("{key} 1"))).sum::<usize>();
    let before = tries();
    eventually("it is asked for", async || tries() > before).await;
    keys.iter().for_each(|key| script.mend(&format!("{key} 1")));
    eventually("all are handled", async || journal(&app).await.lines().count() == 31).await;
    drain_parked(app.service("readers")).await;
    assert!(journal(&app).await.lines().all(|line| line.ends_with(" 1 2") || line == "later 1"));
    let status = app.service("readers").status().await.expect("a status");
    assert_eq!((status.dependencies.len(), status.consumer.dead + status.consumer.given_up), (0, 0));
    app.stop().await;
}

#[tokio::test]
async fn a_release_that_fails_on_everything_pauses_and_leaves_few_dead_letters() {
    let script = Script::default();
    let service = || readers_with(&script, manual_retries(1))().dead_letters_in_a_row_max(10);
    let stage = crate::stage();
    stage.topics([NOTES]).await;
    for n in 0..60 {
        let key = format!("k{n:02}");
        script.breaks(&format!("{key} 1"), Trouble::Transient);
        stage.send(NOTES, [Binary::note(&key, 1).message()]).await;
    }
    let app = TestApp::start_on(stage, [service()]).await;
    eventually("it is paused", async || {
        app.get("/admin/pauses").await.body["items"][0]["actor"] == "tidings"
    })
    .await;
    let status = app.service("readers").status().await.expect("a status");
    assert_eq!(status.parked.expect("rows").dead, 10);
    (0..60).for_each(|n| script.mend(&format!("k{n:02} 1")));
    resume(&app, "service", None).await;
    app.idle().await;
    assert_eq!(journal(&app).await.lines().count(), 50);
    let all = json!({"filter": {}, "reason": "mended"});
    assert_eq!(app.post("/admin/dead-letters/redrive", &all).await.body["redriven"], 10);
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await.lines().count(), 60);
    app.stop().await;
}

#[tokio::test]
async fn too_large_a_share_of_dead_letters_pauses_though_others_are_handled() {
    let script = Script::default();
    // In one lane: beside it others are handled meanwhile.
    let service = || readers_with(&script, manual_retries(1))().dead_letters_percent_max(25).lanes(1);
    let stage = crate::stage();
    stage.topics([NOTES]).await;
    // Two of three are dead, and never many in a row.
    let keys: Vec<String> = (0..1800).map(|n| format!("k{n:04}")).collect();
    keys.iter().filter(|key| !key.ends_with(['0', '3', '6'])).for_each(|key| {
        script.breaks(&format!("{key} 1"), Trouble::Fatal);
    });
    stage.send(NOTES, keys.iter().map(|key| Binary::note(key, 1).message())).await;
    let app = TestApp::start_on(stage, [service()]).await;
    eventually("it is paused", async || {
        app.get("/admin/pauses").await.body["items"][0]["actor"] == "tidings"
    })
    .await;
    let status = async || app.service("readers").status().await.expect("a status").consumer;
    // Counted when the batch has ended.
    eventually("it ends", async || status().await.handled + status().await.dead >= 1000).await;
    let (ended, dead) = (status().await.handled + status().await.dead, status().await.dead);
    assert_eq!(ended, 1000, "at the first event of which that can be said");
    assert!(dead > 250, "{dead}");
    app.stop().await;
}

#[tokio::test]
async fn a_failure_that_is_over_at_once_is_tried_at_once() {
    let script = Script::default();
    let retry = manual_retries(u32::MAX).tries_at_once(4);
    let app = TestApp::start_on(crate::stage(), [readers_with(&script, retry)()]).await;
    script.breaks("a 1", Trouble::Transient);
    script.breaks("b 1", Trouble::Fatal);
    send(&app, "a", [1]).await;
    send(&app, "b", [1]).await;
    app.idle().await;
    let (a, b) = (script.tries("a 1"), script.tries("b 1"));
    // Together at first, then alone; the one of which no try can be of use is not tried again.
    assert!((4..=6).contains(&a) && (1..=2).contains(&b), "{a} {b}");
    let parked = app.get("/admin/dead-letters?state=waiting").await.body;
    assert_eq!(parked["items"][0]["attempts"], 1, "they are one attempt");
    app.stop().await;
}

#[tokio::test]
async fn a_storm_of_failing_retries_is_kept_within_its_budget() {
    let script = Script::default();
    let at_once = std::time::Duration::ZERO;
    let retry = RetryPolicy::attempts(u32::MAX).delays(at_once, at_once);
    let app = TestApp::start_on(crate::stage(), [readers_with(&script, retry)()]).await;
    let keys: Vec<String> = (0..400).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| script.breaks(&format!("{key} 1"), Trouble::Transient));
    app.stage().send(NOTES, keys.iter().map(|key| Binary::note(key, 1).message())).await;
    let status = async || app.service("readers").status().await.expect("a status");
    eventually("the budget is spent", async || status().await.consumer.retries_left == 0).await;
    let (spent, before) = (std::time::Instant::now(), status().await.consumer.failed_again);
    eventually("some are tried all the same", async || {
        let status = status().await;
        let waits = status.waiting.iter().any(|waiting| waiting.error.contains("budget"));
        waits && status.consumer.failed_again >= before + 3
    })
    .await;
    let tried = status().await.consumer.failed_again - before;
    assert!(tried <= spent.elapsed().as_secs() + 2, "{tried} in {:?}", spent.elapsed());
    keys.iter().for_each(|key| script.mend(&format!("{key} 1")));
    eventually("all are handled", async || journal(&app).await.lines().count() == 400).await;
    assert!(status().await.consumer.retries_left > 0);
    app.stop().await;
}

#[tokio::test]
async fn a_handler_that_skips_dead_letters_goes_on_and_they_come_back_out_of_turn() {
    let script = Script::default();
    let options = HandlerOptions::new().retry(RetryPolicy::attempts(1)).on_dead(OnDead::Skip);
    let app = TestApp::start_on(crate::stage(), [readers(&script)().with(options)]).await;
    script.breaks("a 1", Trouble::Transient);
    script.breaks("a 3", Trouble::Fatal);
    send(&app, "a", 1..=4).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 2 4");
    let letters = app.get("/admin/dead-letters").await.body;
    assert_eq!((&letters["items"][0]["blocks"], &letters["items"][1]["seq"]), (&json!(false), &json!(3)));
    script.mend("a 1");
    script.mend("a 3");
    app.post("/admin/dead-letters/redrive", &json!({"filter": {}, "reason": "mended"})).await;
    drain_parked(app.service("readers")).await;
    send(&app, "a", [5]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 2 4 1 3 5");
    app.stop().await;
}

#[tokio::test]
async fn a_gap_is_seen_filled_or_skipped() {
    let app = app(&Script::default()).await;
    send(&app, "a", [1, 4, 5]).await;
    send(&app, "b", [3]).await;
    app.idle().await;
    let gaps = app.get("/admin/gaps").await.body;
    let told = |n: usize| gaps["items"][n].clone();
    let gap = told(0);
    assert_eq!(
        (&gap["stream"], &gap["expected"], &gap["last_missing"], &gap["waiting"]),
        (&json!("notes/a"), &json!(2), &json!(3), &json!(2))
    );
    assert_eq!((waits(&app, "a").await, told(1)["expected"].clone()), (vec!["gap".to_owned()], json!(1)));

    // The publisher's event log has what is missing.
    let event = |n: u64| {
        let message = Binary::note("a", n).message();
        let headers: Vec<(String, String)> = message
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        json!({"topic": "notes", "key": "a", "seq": n, "recorded_at": "2026-01-01T00:00:00Z", "headers": headers,
               "payload_base64": base64(&message.value)})
    };
    let fill =
        |n: u64| json!({"service": "readers", "stream": "notes/a", "events": [event(n)], "reason": "lost"});
    assert_eq!(app.post("/admin/gaps/fill", &fill(7)).await.status, 422, "it is not missing");
    assert_eq!(app.post("/admin/gaps/fill", &fill(2)).await.body["filled"], 1);
    assert_eq!(app.post("/admin/gaps/fill", &fill(3)).await.body["filled"], 1);
    drain_parked_but_gaps(&app).await;
    assert_eq!(journal(&app).await, "a 1 2 3 4 5");

    let skip = json!({"service": "readers", "stream": "notes/b", "reason": "they are lost", "actor": "ada"});
    assert_eq!(app.post("/admin/gaps/skip", &skip).await.body["skipped"], json!([1, 2]));
    assert_eq!(app.post("/admin/gaps/skip", &skip).await.status, 404, "once");
    drain_parked(app.service("readers")).await;
    send(&app, "b", [4]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1 2 3 4 5\nb 3 4");
    app.stop().await;
}

async fn drain_parked_but_gaps(app: &TestApp) {
    eventually("the gap is closed", async || waits(app, "a").await.is_empty()).await;
}

/// Base64 without a library: what an operator's client sends.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_there = digit <= chunk.len();
            let index = (word >> (18 - 6 * digit)) & 63;
            text.push(if is_there { DIGITS[index as usize] as char } else { '=' });
        }
    }
    text
}
