//! What an operator asks and does: refused events, effects, the way of an event.

use serde_json::{Value, json};
use tidings::{Tx, params};
use tidings_testkit::event::NOTES;
use tidings_testkit::fault::Tripwire;
use tidings_testkit::stage::{number, stop};
use tidings_testkit::{TestApp, eventually};

use crate::effects::{Bank, Reply, ask, paid, payer};
use crate::reader::{Script, journal_by_key, readers};
use crate::relay::{publish, writers};

async fn publish_notes(app: &TestApp, first: u64, last: u64) {
    publish(app.service("writers").store(), &["a".to_owned()], first, last).await;
}

fn whats(why: &Value) -> Vec<&str> {
    why["waits"].as_array().expect("a list").iter().filter_map(|wait| wait["what"].as_str()).collect()
}

#[tokio::test]
async fn the_way_of_an_event_is_shown_across_services() {
    let app = TestApp::start_on(crate::stage(), [writers(), readers(&Script::default())()]).await;
    let away = app.broker_away();
    publish_notes(&app, 1, 2).await;
    let published = app.service("writers").store().published("notes/a").await.expect("a log");
    let id = published[1].message.header("ce_id").expect("an id").to_owned();
    let steps = async || {
        let trail = app.get(&format!("/admin/events?id={id}")).await.body;
        let steps = trail["steps"].as_array().expect("a list").iter();
        let steps: Vec<String> =
            steps.map(|step| format!("{} {}", step["service"], step["step"]).replace('"', "")).collect();
        (trail["seq"].clone(), steps.join(", "))
    };
    assert_eq!(
        steps().await,
        (json!(2), "writers published, writers unsent, readers not_arrived".to_owned())
    );
    let why = app.get("/admin/why?key=a").await.body;
    assert_eq!(whats(&why), ["unsent"]);
    drop(away);
    app.idle().await;
    assert_eq!(steps().await, (json!(2), "writers published, writers sent, readers handled".to_owned()));
    let why = app.get("/admin/why?key=a").await.body;
    assert_eq!((whats(&why), &why["known"]), (Vec::new(), &json!(true)));
    assert_eq!(app.get("/admin/why?key=none").await.body["known"], false);
    let unknown = app.get("/admin/events?id=nonsense").await.body;
    assert_eq!(unknown["steps"], json!([]));
    let topics = app.get("/admin/topics").await.body;
    let notes = topics["items"].as_array().expect("a list").iter().find(|topic| topic["name"] == NOTES);
    assert_eq!(
        notes.expect("it is there")["services"][1],
        json!({"service": "readers", "publishes": false, "reads": true})
    );
    let log = app.get("/admin/log?stream=notes/a&first=2").await.body;
    assert_eq!((&log["items"][0]["seq"], &log["items"][0]["event_id"]), (&json!(2), &json!(id)));
    app.stop().await;
}

/// A writer whose first event of key `a` no broker can take.
async fn refused_app() -> TestApp {
    let stage = crate::stage();
    let running = stage.start(writers).await;
    let away = Tripwire::broker_away(stage.scratch().path());
    publish(running.store(), &["a".to_owned()], 1, 3).await;
    let damaged = running.store().transaction(async |tx: &mut Tx| {
        let sql = "UPDATE event_log SET head = $1 WHERE stream = 'notes/a' AND seq = 1";
        Ok(tx.execute(sql, params![&b"\xff"[..]]).await?)
    });
    assert_eq!(damaged.await.expect("a damage"), 1);
    stop(running).await;
    drop(away);
    let app = TestApp::start_on(stage, [writers(), readers(&Script::default())()]).await;
    let blocked =
        "UPDATE outbox SET blocked = 'never: it cannot be read' WHERE id = (SELECT min(id) FROM outbox)";
    let store = app.service("writers").store();
    store.transaction(async |tx: &mut Tx| Ok(tx.execute(blocked, &[]).await?)).await.expect("a mark");
    app
}

#[tokio::test]
async fn a_refused_event_is_given_up_with_an_explained_hole() {
    let app = refused_app().await;
    let refused = app.get("/admin/outbox").await.body;
    let item = &refused["items"][0];
    assert_eq!(
        (&item["stream"], &item["seq"], &item["for_good"], &item["behind"]),
        (&json!("notes/a"), &json!(1), &json!(true), &json!(2))
    );
    assert_eq!(whats(&app.get("/admin/why?key=a").await.body), ["refused"]);
    for (filter, count) in [("key=a&limit=1", 1), ("key=b", 0), ("topic=notes", 1), ("topic=teas", 0)] {
        let listed = app.get(&format!("/admin/outbox?{filter}")).await.body;
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(count), "{filter}");
    }
    let discard = json!({"ids": [item["id"]], "reason": "it was damaged", "actor": "ada"});
    assert_eq!(app.post("/admin/outbox/discard", &discard).await.body["discarded"], 1);
    assert_eq!(app.post("/admin/outbox/discard", &discard).await.body["discarded"], 0, "once");
    eventually("what follows is sent", async || {
        number(app.service("writers"), |s| s.outbox.rows.expect("it is known").pending).await == 0
    })
    .await;
    app.idle().await;
    assert_eq!(journal_by_key(app.service("readers")).await, "a 2 3");
    let records = app.stage().read(NOTES).await;
    let hole: Value = serde_json::from_slice(&records[0].message.value).expect("JSON");
    assert_eq!(records[0].message.header("ce_type"), Some("tidings.discarded.v1"));
    assert_eq!(
        (records[0].message.header("ce_streamseq"), &hole["reason"]),
        (Some("1"), &json!("it was damaged"))
    );
    let audit = app.get("/admin/audit?action=outbox.discard").await.body;
    assert_eq!(audit["items"][0]["actor"], "ada");
    app.stop().await;
}

#[tokio::test]
async fn an_effect_whose_outcome_is_unknown_is_decided_by_an_operators_word() {
    let bank = Bank::default();
    let app = TestApp::start_on(crate::stage(), [payer(&bank)()]).await;
    let store = app.service("payer").store();
    for bill in ["b1", "b2", "b3"] {
        bank.plans(bill, &[Reply::LostBefore; 30]);
        ask(store, bill).await;
    }
    eventually("their outcomes are unknown", async || {
        let effects = app.get("/admin/effects?state=unknown").await.body;
        effects["items"].as_array().is_some_and(|items| items.len() == 3)
    })
    .await;
    assert_eq!(whats(&app.get("/admin/why?key=b1").await.body), ["effect"]);
    let whole = app.get("/admin/effects/show?service=payer&key=pay/b1").await.body;
    assert_eq!((&whole["request"]["bill"], &whole["kind"]), (&json!("b1"), &json!("pay")));
    let of =
        |key: &str| json!({"service": "payer", "key": key, "reason": "seen at the bank", "actor": "ada"});
    let with = |key: &str, name: &str, value: Value| {
        let mut body = of(key);
        body[name] = value;
        body
    };
    let resolve = "/admin/effects/resolve";
    let wrong = app.post(resolve, &with("pay/b1", "outcome", json!("perhaps"))).await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["type"]), (422, &json!("/problems/outcome")));
    let nothing = app.post(resolve, &with("pay/b1", "outcome", Value::Null)).await;
    assert_eq!(nothing.body["type"], "/problems/outcome", "null is an outcome, and none of this kind");
    assert_eq!(app.post(resolve, &with("pay/b1", "outcome", json!("paid"))).await.status, 200);
    assert_eq!(app.post(resolve, &with("pay/b1", "outcome", json!("paid"))).await.status, 404, "once");
    assert_eq!(paid(app.service("payer")).await, ["b1"]);
    // Not done, says the operator: it is done at its next try, without asking again.
    bank.plans("b2", &[]);
    let asked = bank.count("look up pay/b2: not done");
    eventually("it is not under way", async || {
        app.post(resolve, &with("pay/b2", "absent", json!(true))).await.status == 200
    })
    .await;
    eventually("it is done", async || paid(app.service("payer")).await.contains(&"b2".to_owned())).await;
    assert!(bank.count("look up pay/b2: not done") <= asked + 1);
    bank.plans("b3", &[]);
    assert_eq!(app.post("/admin/effects/retry", &of("pay/b3")).await.status, 200);
    eventually("it is done too", async || paid(app.service("payer")).await.len() == 3).await;
    assert_eq!(bank.overpaid(), 0);
    app.stop().await;
}

#[tokio::test]
async fn an_effect_in_conflict_is_seen_everywhere_and_decided_by_an_operator() {
    let bank = Bank::default();
    let app = TestApp::start_on(crate::stage(), [payer(&bank)()]).await;
    let store = app.service("payer").store();
    let metric = async || {
        let metrics = app.text("/metrics").await;
        let value =
            metrics.lines().find_map(|line| line.strip_prefix("effects_conflict{service=\"payer\"} "));
        value.expect("it is exported").to_owned()
    };
    assert_eq!(metric().await, "0");
    for bill in ["b1", "b2", "b3", "b4"] {
        bank.plans(bill, &[Reply::Conflict]);
        ask(store, bill).await;
    }
    eventually("they are in conflict", async || {
        let effects = app.get("/admin/effects?state=conflict").await.body;
        effects["items"].as_array().is_some_and(|items| items.len() == 4)
    })
    .await;
    let effects = app.get("/admin/effects?key=b1").await.body;
    let shown = &effects["items"][0];
    assert_eq!(
        [&shown["state"], &shown["error"], &shown["due_at"]],
        [&json!("conflict"), &json!("conflict: this bill has another amount"), &Value::Null]
    );
    assert!(shown["conflict_since"].is_string(), "{shown}");
    let why = app.get("/admin/why?key=b1").await.body;
    assert_eq!(why["waits"][0]["detail"], "the effect pay/b1 is in conflict: this bill has another amount");
    assert_eq!(
        why["waits"][0]["command"],
        "tidings effects resolve pay/b1 --outcome JSON|--absent --service payer --reason …"
    );
    let status = app.get("/statusz").await.body;
    assert_eq!(status["payer"]["effects"]["conflict"], 4);
    assert_eq!((status["payer"]["effects"]["open"].clone(), metric().await), (json!(4), "4".to_owned()));

    let says = async |verb: &str, key: &str, name: &str, value: Value| {
        let mut body = json!({"service": "payer", "key": key, "reason": "seen at the bank", "actor": "ada"});
        if !name.is_empty() {
            body[name] = value;
        }
        app.post(&format!("/admin/effects/{verb}"), &body).await.status
    };
    assert_eq!(says("resolve", "pay/b1", "outcome", json!("paid")).await, 200);
    assert_eq!(paid(app.service("payer")).await, ["b1"]);
    // Not done, says the operator: done without a look. Tried again: looked up first.
    assert_eq!(says("resolve", "pay/b2", "absent", json!(true)).await, 200);
    assert_eq!(says("retry", "pay/b3", "", Value::Null).await, 200);
    bank.plans("b4", &[Reply::Conflict]);
    assert_eq!(says("retry", "pay/b4", "", Value::Null).await, 200);
    eventually("all but one are paid", async || paid(app.service("payer")).await.len() == 3).await;
    eventually("which is contradicted again", async || metric().await == "1").await;
    let asked = ["b1", "b2", "b3", "b4"].map(|bill| {
        let [perform, look] = ["perform pay/", "look up pay/"].map(|call| format!("{call}{bill}"));
        (bank.count(&perform), bank.count(&format!("{look}: not done")))
    });
    assert_eq!(asked, [(1, 0), (2, 0), (2, 1), (2, 1)]);
    let audit = app.get("/admin/audit?action=effect.resolve").await.body;
    assert_eq!(
        (&audit["items"][0]["subject"], &audit["items"][0]["actor"]),
        (&json!("pay/b2"), &json!("ada"))
    );
    assert_eq!(bank.overpaid(), 0);
    app.stop().await;
}

#[tokio::test]
async fn paused_effects_wait() {
    let bank = Bank::default();
    let app = TestApp::start_on(crate::stage(), [payer(&bank)()]).await;
    let pause =
        json!({"service": "payer", "scope": "effects", "name": "pay", "reason": "the bank asks us to"});
    assert_eq!(app.post("/admin/pauses", &pause).await.body["changed"], true);
    assert_eq!(app.post("/admin/pauses", &pause).await.body["changed"], false);
    ask(app.service("payer").store(), "b1").await;
    eventually("it is left to the table", async || {
        app.get("/admin/effects?state=new").await.body["items"][0]["key"] == "pay/b1"
    })
    .await;
    assert_eq!(bank.calls(), "");
    assert_eq!(app.post("/admin/pauses/resume", &pause).await.body["changed"], true);
    eventually("it is done", async || paid(app.service("payer")).await == ["b1"]).await;
    app.stop().await;
}
