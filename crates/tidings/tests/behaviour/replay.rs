//! Topics read again: groups set to other offsets, events handled once more, shadows of handlers.

use serde_json::{Value, json};
use tidings::{Envelope, HandlerError, Service, Tx, event};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::stage::drain_parked;
use tidings_testkit::wire::{Binary, raw};
use tidings_testkit::{Answer, TestApp};

use crate::reader::{Script, TABLES, Trouble, journal_by_key, readers, write_down};

async fn app() -> TestApp {
    TestApp::start_on(crate::stage(), [readers(&Script::default())()]).await
}

async fn send(app: &TestApp, key: &str, numbers: impl IntoIterator<Item = u64>) {
    app.stage().send(NOTES, numbers.into_iter().map(|n| Binary::note(key, n).message())).await;
}

async fn journal(app: &TestApp) -> String {
    journal_by_key(app.service("readers")).await
}

async fn act(app: &TestApp, path: &str, mut body: Value) -> Answer {
    body["service"] = json!("readers");
    if body.get("reason").is_none() {
        body["reason"] = json!("a test");
    }
    app.post(path, &body).await
}

async fn done(app: &TestApp, path: &str, body: Value) -> Value {
    let answer = act(app, path, body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body
}

async fn pause(app: &TestApp) {
    done(app, "/admin/pauses", json!({"scope": "service"})).await;
}

async fn resume(app: &TestApp) {
    done(app, "/admin/pauses/resume", json!({"scope": "service"})).await;
}

async fn seek(app: &TestApp, to: &str, skip: bool) -> Value {
    done(app, "/admin/seek", json!({"topic": NOTES, "to": to, "skip": skip})).await
}

/// The problem of an answer.
fn problem(answer: &Answer) -> (u16, String) {
    let kind = answer.body["type"].as_str().unwrap_or_default();
    (answer.status.as_u16(), kind.rsplit('/').next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_paused_service_is_set_back_and_handles_nothing_twice() {
    let app = app().await;
    send(&app, "a", 1..=3).await;
    app.idle().await;
    pause(&app).await;
    let back = seek(&app, "beginning", false).await;
    assert_eq!(
        (&back["read_again"], &back["skipped"], &back["changed"]),
        (&json!(3), &json!(0), &json!(true))
    );
    send(&app, "a", [4]).await;
    resume(&app).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1 2 3 4");
    let status = app.service("readers").status().await.expect("a status");
    assert_eq!((status.consumer.delivered, status.consumer.duplicate, status.consumer.lag), (7, 3, Some(0)));
    let audit = app.get("/admin/audit?action=group.seek").await.body;
    assert_eq!(
        (&audit["items"][0]["subject"], &audit["items"][0]["reason"]),
        (&json!(NOTES), &json!("a test"))
    );
    app.stop().await;
}

#[tokio::test]
async fn a_seek_is_refused_while_the_service_reads_and_leaves_nothing_out_unasked() {
    let app = app().await;
    send(&app, "a", [1]).await;
    app.idle().await;
    let to = |place: &str| json!({"topic": NOTES, "to": place});
    let refused = async |body| problem(&act(&app, "/admin/seek", body).await);
    assert_eq!(refused(to("beginning")).await, (409, "not-paused".to_owned()));
    assert_eq!(refused(json!({"topic": "teas", "to": "end"})).await, (400, "selection".to_owned()));
    assert_eq!(
        refused(json!({"topic": NOTES, "to": "end", "partition": 99})).await,
        (400, "selection".to_owned())
    );
    assert_eq!(refused(to("soon")).await.0, 422);
    pause(&app).await;
    send(&app, "a", 2..=4).await;
    assert_eq!(refused(to("end")).await, (409, "skips".to_owned()));
    let dry = json!({"topic": NOTES, "to": "end", "dry_run": true});
    let dry = done(&app, "/admin/seek", dry).await;
    assert_eq!((&dry["skipped"], &dry["changed"]), (&json!(3), &json!(false)));
    let skipped = seek(&app, "end", true).await;
    assert_eq!((&skipped["skipped"], &skipped["changed"]), (&json!(3), &json!(true)));
    resume(&app).await;
    send(&app, "a", [5]).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1", "5 waits for what was left out");

    // They are still on the topic, and the inbox takes them in their order.
    let from = json!({"topic": NOTES, "from": "beginning"});
    let replayed = done(&app, "/admin/replay", from).await;
    let results = &replayed["results"];
    assert_eq!((&replayed["read"], &results["handled"]), (&json!(5), &json!(3)), "{replayed}");
    assert_eq!(results["duplicate"], 2, "the first one, and the one that waits");
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(&app).await, "a 1 2 3 4 5");
    app.stop().await;
}

#[event(name = "copy.made", version = 1, topic = "copies", key = key)]
struct CopyMade {
    #[garde(skip)]
    key: String,
}

async fn copy(note: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
    write_down(tx, &format!("{} {}", note.key(), note.payload().n)).await?;
    match note.payload().n {
        3 => Err(HandlerError::fatal("illegible", "three")),
        4 => Err(HandlerError::Transient("busy".to_owned())),
        _ => tx.publish(CopyMade { key: note.key().to_owned() }).await,
    }
}

#[tokio::test]
async fn a_shadow_says_what_would_be_done_and_changes_nothing() {
    let copier = Service::new("readers").tables(TABLES).takes_external::<NoteTaken>().on(copy);
    let app = TestApp::start_on(crate::stage(), [copier.publishes::<CopyMade>()]).await;
    pause(&app).await;
    send(&app, "a", 1..=4).await;
    app.stage().send(NOTES, [raw(Some("b"), "no JSON")]).await;
    let shadow = json!({"topic": NOTES, "from": "beginning", "shadow": true});
    let done = done(&app, "/admin/replay", shadow).await;
    let results = json!({"handled": 2, "dead": 2, "failed": 1});
    assert_eq!((&done["read"], &done["results"], &done["next_cursor"]), (&json!(5), &results, &Value::Null));
    let events = done["events"].as_array().expect("a list");
    let of = |offset: u64, key: &str| {
        let wanted = |event: &&Value| event["offset"] == offset && event["key"] == key;
        events.iter().find(wanted).unwrap_or_else(|| panic!("{done}"))
    };
    assert_eq!(of(0, "a")["published"], json!([["copy.made.v1", "a"]]));
    assert_eq!((&of(2, "a")["code"], &of(3, "a")["result"]), (&json!("illegible"), &json!("failed")));

    assert_eq!(journal(&app).await, "");
    assert!(app.get("/admin/dead-letters").await.body["items"].as_array().expect("a list").is_empty());
    assert!(app.stage().read("copies").await.is_empty());
    resume(&app).await;
    app.idle().await;
    assert_eq!(journal(&app).await, "a 1 2", "it was not handled before");
    app.stop().await;
}

#[tokio::test]
async fn a_replay_is_bounded_filtered_and_goes_on_where_it_stopped() {
    let script = Script::default();
    let app = TestApp::start_on(crate::stage(), [readers(&script)()]).await;
    script.breaks("c 1", Trouble::Transient);
    for key in ["a", "b", "c"] {
        send(&app, key, 1..=4).await;
    }
    app.idle().await;
    let mut body = json!({"topic": NOTES, "from": "beginning", "key": "b", "limit": 3});
    let first = done(&app, "/admin/replay", body.clone()).await;
    assert_eq!((&first["matched"], &first["results"]["duplicate"]), (&json!(3), &json!(3)));
    body["cursor"] = first["next_cursor"].clone();
    let rest = done(&app, "/admin/replay", body).await;
    assert_eq!((&rest["matched"], &rest["next_cursor"]), (&json!(1), &Value::Null));
    assert_eq!(first["read"].as_u64().expect("a count") + rest["read"].as_u64().expect("a count"), 12);

    let refused = async |body| problem(&act(&app, "/admin/replay", body).await);
    assert_eq!(refused(json!({"topic": NOTES})).await, (400, "selection".to_owned()));
    let unknown = json!({"topic": NOTES, "from": "beginning", "types": ["tea.made.v1"]});
    assert_eq!(refused(unknown).await, (400, "selection".to_owned()));
    let all = json!({"topic": NOTES, "from": "beginning"});
    pause(&app).await;
    assert_eq!(refused(all.clone()).await, (409, "paused".to_owned()));
    let mut shadow = all;
    shadow["shadow"] = json!(true);
    let shadow = done(&app, "/admin/replay", shadow).await;
    assert_eq!(shadow["results"], json!({"handled": 11, "failed": 1}), "the inbox is not asked");
    let audit = app.get("/admin/audit?action=replay").await.body;
    assert_eq!(audit["items"].as_array().map(Vec::len), Some(1), "once for each replay, none for a shadow");
    app.stop().await;
}
