//! Dead letters that an operator brings back, discards, edits.

use serde_json::{Value, json};
use tidings_testkit::event::NOTES;
use tidings_testkit::stage::{drain_parked, manual_retries};
use tidings_testkit::wire::{Binary, raw};
use tidings_testkit::{TestApp, eventually};

use crate::reader::{Script, Trouble, journal_by_key, readers_with};

/// A service whose events fail twice at most.
async fn app(script: &Script) -> TestApp {
    TestApp::start_on(crate::stage(), [readers_with(script, manual_retries(2))()]).await
}

async fn send(app: &TestApp, key: &str, numbers: impl IntoIterator<Item = u64>) {
    app.stage().send(NOTES, numbers.into_iter().map(|n| Binary::note(key, n).message())).await;
}

async fn dead(app: &TestApp, filter: &str) -> Vec<Value> {
    let answer = app.get(&format!("/admin/dead-letters?{filter}")).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body["items"].as_array().expect("a list").clone()
}

async fn redrive(app: &TestApp, body: Value) -> Value {
    let answer = app.post("/admin/dead-letters/redrive", &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body
}

fn all() -> Value {
    json!({"filter": {}, "reason": "mended", "actor": "ada"})
}

async fn journal(app: &TestApp) -> String {
    journal_by_key(app.service("readers")).await
}

#[tokio::test]
async fn a_dead_letter_is_brought_back_in_the_order_of_its_key() {
    let script = Script::default();
    let app = app(&script).await;
    script.breaks("a 2", Trouble::Fatal);
    send(&app, "a", [1, 2, 3]).await;
    send(&app, "b", [1]).await;
    app.idle().await;
    let letters = dead(&app, "").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let of = |name: &str| letter[name].clone();
    assert_eq!((of("code"), of("key"), of("seq")), (json!("illegible"), json!("a"), json!(2)));
    assert_eq!((of("blocks"), of("behind"), of("attempts")), (json!(true), json!(1), json!(1)));
    let whole = app.get(&format!("/admin/dead-letters/{}", of("id").as_str().expect("an id"))).await.body;
    assert_eq!((&whole["payload"]["n"], &whole["headers"]["ce_streamseq"]), (&json!(2), &json!("2")));

    // Nothing is done for a question, nor without a reason.
    let asked = redrive(&app, json!({"filter": {}, "dry_run": true})).await;
    assert_eq!(
        (&asked["matched"], &asked["redriven"], &asked["groups"][0]["count"]),
        (&json!(1), &json!(0), &json!(1))
    );
    let unexplained = app.post("/admin/dead-letters/redrive", &json!({"filter": {}})).await;
    assert_eq!((unexplained.status.as_u16(), &unexplained.body["type"]), (400, &json!("/problems/reason")));
    let misspelt = json!({"filter": {"kode": "illegible"}, "reason": "mended"});
    assert_eq!(app.post("/admin/dead-letters/redrive", &misspelt).await.status, 422);

    // Brought back too early it is dead again, and nothing has overtaken it.
    assert_eq!(redrive(&app, all()).await["redriven"], 1);
    eventually("it is dead again", async || dead(&app, "redriven=true").await.len() == 1).await;
    assert_eq!(journal(&app).await, "a 1\nb 1");
    script.mend("a 2");
    assert_eq!(redrive(&app, all()).await["redriven"], 1);
    assert_eq!(redrive(&app, all()).await["redriven"], 0, "what was done is not done again");
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await, "a 1 2 3\nb 1");
    assert_eq!(dead(&app, "").await, Vec::<Value>::new());

    let audit = app.get("/admin/audit?action=dead_letter.redrive").await.body;
    let acts: Vec<&str> =
        audit["items"].as_array().expect("a list").iter().filter_map(|act| act["actor"].as_str()).collect();
    assert_eq!(acts, ["ada", "ada"]);
    app.stop().await;
}

#[tokio::test]
async fn many_dead_letters_of_many_keys_come_back_in_order_while_one_fails_still() {
    let script = Script::default();
    let app = app(&script).await;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
    for key in &keys {
        script.breaks(&format!("{key} 1"), Trouble::Fatal);
        send(&app, key, 1..=3).await;
    }
    app.idle().await;
    let summary = app.get("/admin/dead-letters/summary").await.body;
    assert_eq!((&summary["total"], &summary["groups"][0]["count"]), (&json!(40), &json!(40)));
    keys.iter().filter(|key| *key != "k07").for_each(|key| script.mend(&format!("{key} 1")));
    let done = redrive(&app, json!({"filter": {"code": "illegible"}, "limit": 25, "reason": "mended"})).await;
    assert_eq!((&done["redriven"], &done["left"]), (&json!(25), &json!(15)));
    redrive(&app, all()).await;
    eventually("all but one are handled", async || {
        let lines = journal(&app).await;
        lines.lines().filter(|line| line.ends_with(" 1 2 3")).count() == 39
    })
    .await;
    eventually("one is dead", async || dead(&app, "").await.len() == 1).await;
    assert!(!journal(&app).await.contains("k07"));
    app.stop().await;
}

#[tokio::test]
async fn what_is_discarded_lets_its_key_go_on() {
    let script = Script::default();
    let app = app(&script).await;
    script.breaks("a 1", Trouble::Fatal);
    script.breaks("a 2", Trouble::Fatal);
    send(&app, "a", [1, 2, 3]).await;
    app.idle().await;
    let discard = json!({"filter": {"key": "a"}, "reason": "an order of a test", "actor": "ada"});
    assert_eq!(app.post("/admin/dead-letters/discard", &discard).await.body["discarded"], 1);
    // The next one fails too, and is a decision of its own.
    eventually("the next one is dead", async || dead(&app, "").await.len() == 1).await;
    assert_eq!(app.post("/admin/dead-letters/discard", &discard).await.body["discarded"], 1);
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await, "a 3");
    assert_eq!(dead(&app, "state=discarded").await.len(), 2);
    // Both come again, and are known.
    send(&app, "a", [1, 2, 3, 4]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 3 4");
    app.stop().await;
}

#[tokio::test]
async fn a_payload_is_replaced_and_the_original_kept() {
    let app = app(&Script::default()).await;
    let broken = json!({"key": "a", "n": "one"});
    let message = tidings::Message { value: broken.to_string().into(), ..Binary::note("a", 1).message() };
    app.stage().send(NOTES, [message]).await;
    app.idle().await;
    let id = dead(&app, "code=payload_undecodable").await[0]["id"].as_str().expect("an id").to_owned();
    let edit = json!({"payload": {"key": "a", "n": 1}, "reason": "the producer wrote a word"});
    let edited = app.post(&format!("/admin/dead-letters/{id}/edit"), &edit).await.body;
    assert_eq!((&edited["payload"]["n"], &edited["original_payload"]), (&json!(1), &broken));
    redrive(&app, json!({"ids": [id], "reason": "edited"})).await;
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await, "a 1");
    app.stop().await;
}

#[tokio::test]
async fn who_fails_again_and_again_is_brought_back_only_by_its_id() {
    let script = Script::default();
    let app = app(&script).await;
    script.breaks("a 1", Trouble::Fatal);
    send(&app, "a", [1]).await;
    app.idle().await;
    for n in 1..=5 {
        assert_eq!(redrive(&app, all()).await["redriven"], 1, "{n}");
        eventually("it is dead again", async || {
            dead(&app, "").await.first().is_some_and(|letter| letter["redrives"] == n)
        })
        .await;
    }
    let done = redrive(&app, all()).await;
    assert_eq!((&done["redriven"], &done["quarantined"], &done["left"]), (&json!(0), &json!(1), &json!(0)));
    script.mend("a 1");
    let id = dead(&app, "").await[0]["id"].clone();
    assert_eq!(redrive(&app, json!({"ids": [id], "reason": "mended at last"})).await["redriven"], 1);
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await, "a 1");
    app.stop().await;
}

#[tokio::test]
async fn what_has_no_key_and_what_no_service_has_is_said() {
    let app = app(&Script::default()).await;
    app.stage().send(NOTES, [raw(None, "no event".to_owned())]).await;
    app.idle().await;
    let letters = dead(&app, "topic=notes&service=readers").await;
    assert_eq!((&letters[0]["code"], &letters[0]["stream"]), (&json!("envelope_undecodable"), &Value::Null));
    redrive(&app, all()).await;
    eventually("it is dead again", async || dead(&app, "redriven=true").await.len() == 1).await;
    for path in [
        "/admin/dead-letters/readers:999",
        "/admin/dead-letters/nobody:1",
        "/admin/dead-letters?service=nobody",
    ] {
        assert_eq!(app.get(path).await.status, 404, "{path}");
    }
    assert_eq!(app.get("/admin/dead-letters?kode=x").await.status, 400);
    assert_eq!(app.get("/statusz").await.body["readers"]["parked"]["dead"], 1);
    app.stop().await;
}
