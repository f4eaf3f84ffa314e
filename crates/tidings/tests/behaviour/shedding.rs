//! Bounds on what waits: at one of them requests that write are refused, nothing is read, and all goes on by itself.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tidings::http::{Api, Problem, ValidJson};
use tidings::status::{Loop, Reason};
use tidings::store::Tables;
use tidings::{Bounds, HandlerError, Service, Store, Tx, params};
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::wire::Binary;
use tidings_testkit::{Answer, TestApp, eventually};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use crate::effects::{self, Bank, ask, paid};
use crate::reader::{self, Script, Trouble, journal, readers, readers_on};

async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> {
    tx.publish(note).await
}

/// What has to go on: it states an event, too.
async fn give_up(tx: &mut Tx, Path(key): Path<String>) -> Result<(), HandlerError> {
    tx.publish(NoteTaken::new(key, 1)).await
}

async fn count(store: &Store) -> Result<u64, Problem> {
    Ok(store.query("SELECT count(*) FROM event_log", &[]).await?[0].get(0)?)
}

/// Routes of every kind that write.
fn notes() -> Service {
    let api = Api::new().post("/described", "Takes a note", async |note: ValidJson<NoteTaken>| {
        Ok::<_, Problem>(Json(note.value.n))
    });
    Service::new("notes")
        .publishes::<NoteTaken>()
        .post("/notes", take)
        .delete("/notes/{key}", give_up)
        .essential()
        .get("/count", count)
        .api(api, |_| ())
        .routes(|_| Router::new().route("/raw", post(async || "done").get(async || "read")))
}

async fn app(bounds: Bounds) -> TestApp {
    TestApp::start_on(crate::stage(), [notes().bounds(bounds)]).await
}

/// Looks at what waits, as happens by itself now and then.
async fn look(app: &TestApp, service: &str) -> (Vec<&'static str>, Option<Reason>) {
    let status = app.service(service).status().await.expect("the store can be used");
    let intake = status.waiting.iter().find(|stopped| stopped.of == Loop::Intake);
    (status.intake.full.clone(), intake.and_then(|stopped| stopped.reason))
}

fn note(n: u64) -> NoteTaken {
    NoteTaken::new(format!("k{n}"), n)
}

fn refusal(answer: &Answer) -> (u16, Option<&str>, Option<&str>, Option<&str>) {
    let retry_after = answer.headers.get("retry-after").and_then(|value| value.to_str().ok());
    (answer.status.as_u16(), answer.body["type"].as_str(), answer.body["reason"].as_str(), retry_after)
}

#[tokio::test]
async fn requests_that_write_are_refused_at_the_bound_of_the_outbox_until_there_is_room() {
    let app = app(Bounds::new().outbox_rows(4)).await;
    let away = app.broker_away();
    for n in 1..=4 {
        assert_eq!(look(&app, "notes").await, (vec![], None));
        let answer = app.post_with_key("/notes", &format!("key-{n}"), &note(n)).await;
        assert_eq!(answer.status, 202, "{n}: one below the bound");
    }
    assert_eq!(look(&app, "notes").await, (vec!["outbox_rows"], Some(Reason::Full)));
    let refused = app.post_with_key("/notes", "key-5", &note(5)).await;
    let overloaded = (503, Some("/problems/overloaded"), Some("outbox_rows"), Some("10"));
    assert_eq!(refusal(&refused), overloaded);
    assert_eq!(refusal(&app.post_with_key("/notes", "key-1", &note(1)).await), overloaded, "not even again");
    for path in ["/described", "/raw"] {
        assert_eq!(refusal(&app.post(path, &note(5)).await), overloaded, "{path}");
    }
    assert_eq!(app.get("/count").await.body, 4, "reads go on, and nothing was done");
    assert_eq!(app.get("/readyz").await.status, 200);
    assert!(app.text("/raw").await.contains("read"));
    for n in 5..=6 {
        assert_eq!(app.delete("/notes/given-up").await.status, 204, "{n}: what is essential goes on");
    }
    assert_eq!(look(&app, "notes").await, (vec!["outbox_rows"], Some(Reason::Closed)));
    assert_eq!(refusal(&app.delete("/notes/given-up").await), overloaded, "half as much again");
    assert_eq!(app.get("/readyz").await.status, 503, "nothing that writes is taken any more");
    let metrics = app.text("/metrics").await;
    assert!(metrics.contains("http_shed_total{service=\"notes\",reason=\"outbox_rows\"} 5"), "{metrics}");
    let shown = app.get("/statusz").await.body["notes"]["intake"].clone();
    assert_eq!((&shown["full"], &shown["refused"]["outbox_rows"]), (&json!(["outbox_rows"]), &json!(5)));

    drop(away);
    app.idle().await;
    eventually("the intake opens by itself", async || {
        app.post_with_key("/notes", "key-5", &note(5)).await.status == 202
    })
    .await;
    let again = app.post_with_key("/notes", "key-1", &note(1)).await;
    assert_eq!((again.status.as_u16(), again.headers.contains_key("idempotent-replayed")), (202, true));
    assert_eq!(look(&app, "notes").await, (vec![], None));
    assert_eq!(app.get("/readyz").await.status, 200);
    app.idle().await;
    assert_eq!(app.events::<NoteTaken>().await.len(), 7, "all that was taken, and nothing else");
    app.stop().await;
}

#[tokio::test]
async fn an_age_of_the_outbox_is_a_bound_where_it_is_set() {
    let app = app(Bounds::new().outbox_age(std::time::Duration::from_secs(60))).await;
    let away = app.broker_away();
    assert_eq!(app.post("/notes", &note(1)).await.status, 202);
    app.advance(std::time::Duration::from_secs(50));
    assert_eq!(look(&app, "notes").await.0, [""; 0]);
    assert_eq!(app.post("/notes", &note(2)).await.status, 202);
    app.advance(std::time::Duration::from_secs(20));
    assert_eq!(look(&app, "notes").await, (vec!["outbox_age"], Some(Reason::Full)));
    assert_eq!(refusal(&app.post("/notes", &note(3)).await).2, Some("outbox_age"));
    assert_eq!(app.delete("/notes/given-up").await.status, 204);
    drop(away);
    eventually("there is room", async || app.post("/notes", &note(3)).await.status == 202).await;
    app.stop().await;
}

#[tokio::test]
async fn one_request_too_many_at_a_time_is_refused_at_once_and_the_next_is_taken() {
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let waits = {
        let (gate, entered) = (gate.clone(), entered.clone());
        async move || {
            entered.add_permits(1);
            gate.acquire().await.expect("it is never closed").forget();
            "done"
        }
    };
    let service = notes().routes(move |_| Router::new().route("/slow", post(waits)));
    let app = TestApp::start_on(crate::stage(), [service.bounds(Bounds::new().requests(1))]).await;
    let others = async {
        entered.acquire().await.expect("it is never closed").forget();
        let refused = app.post("/notes", &note(1)).await;
        let (described, read) = (app.post("/described", &note(1)).await, app.get("/count").await);
        let essential = app.delete("/notes/given-up").await;
        gate.add_permits(1);
        (refused, described, read, essential)
    };
    let service = app.service("notes").router();
    let first = async {
        let request = axum::http::Request::post("/slow").body(axum::body::Body::empty()).expect("a request");
        service.oneshot(request).await.expect("an answer").status()
    };
    let (first, (refused, described, read, essential)) = tokio::join!(first, others);
    let overloaded = (503, Some("/problems/overloaded"), Some("requests"), Some("1"));
    assert_eq!((first.as_u16(), refusal(&refused), refusal(&described)), (200, overloaded, overloaded));
    assert_eq!((read.status.as_u16(), essential.status.as_u16()), (200, 204));
    assert_eq!(app.post("/notes", &note(1)).await.status, 202);
    app.stop().await;
}

const TABLES: Tables = Tables {
    sqlite: &[reader::TABLES.sqlite[0], effects::TABLES.sqlite[0]],
    postgres: &[reader::TABLES.postgres[0], effects::TABLES.postgres[0]],
};

#[tokio::test]
async fn nothing_is_read_while_too_many_effects_fail_and_reading_goes_on_by_itself() {
    let bank = Bank::default();
    bank.books().is_closed = true;
    let service = readers_on(&Script::default(), TABLES).effect(bank.clone());
    let app = TestApp::start_on(crate::stage(), [service.bounds(Bounds::new().effects(3))]).await;
    let readers = app.service("readers");
    for bill in ["b1", "b2"] {
        ask(readers.store(), bill).await;
    }
    eventually("they have failed", async || {
        readers.status().await.expect("a status").effects.rows.is_some_and(|rows| rows.failing == 2)
    })
    .await;
    app.stage().send(NOTES, [Binary::note("a", 1).message()]).await;
    eventually("one below the bound", async || journal(readers).await == ["a 1"]).await;
    ask(readers.store(), "b3").await;
    eventually("the bound is reached", async || look(&app, "readers").await.0 == ["effects"]).await;
    app.stage().send(NOTES, (2..=9).map(|n| Binary::note("a", n).message())).await;
    eventually("they lie there", async || readers.status().await.expect("a status").consumer.lag == Some(8))
        .await;
    assert_eq!((look(&app, "readers").await.0, journal(readers).await.len()), (vec!["effects"], 1));
    bank.books().is_closed = false;
    app.advance(std::time::Duration::from_secs(400));
    eventually("all goes on", async || paid(readers).await.len() == 3 && journal(readers).await.len() == 9)
        .await;
    assert_eq!((look(&app, "readers").await, bank.overpaid()), ((vec![], None), 0));
    app.stop().await;
}

/// The bound of parked events.
const PARKED_MAX: u64 = 100_000;

/// Has so many events wait that nobody looks at.
async fn park(store: &Store, count: u64) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
         INSERT INTO parked (consumer, topic, partition, \"offset\", timestamp_us, message, state, attempts,
                             first_failed_us, last_failed_us, error_code, error_message)
         SELECT 'readers', 'elsewhere', 0, i, 0, $2, 'waiting', 0, 0, 0, 'behind', '' FROM n";
    let parked = store.transaction(async |tx: &mut Tx| Ok(tx.execute(sql, params![count, &b""[..]]).await?));
    assert_eq!(parked.await.expect("they can be parked"), count);
}

#[tokio::test]
async fn nothing_is_read_at_the_bound_of_parked_events_until_there_is_room() {
    let script = Script::default();
    let app = TestApp::start_on(crate::stage(), [readers(&script)()]).await;
    let readers = app.service("readers");
    park(readers.store(), PARKED_MAX - 2).await;
    let send = async |key: &str| app.stage().send(NOTES, [Binary::note(key, 1).message()]).await;
    for failing in ["a 1", "c 1"] {
        script.breaks(failing, Trouble::Transient);
    }
    send("a").await;
    eventually("it is parked", async || script.tries("a 1") > 0).await;
    send("b").await;
    eventually("one below the bound", async || journal(readers).await == ["b 1"]).await;
    assert_eq!(app.get("/readyz").await.status, 200);
    send("c").await;
    eventually("reading stops", async || app.get("/readyz").await.status == 503).await;
    send("d").await;
    eventually("it lies there", async || readers.status().await.expect("a status").consumer.lag == Some(1))
        .await;
    assert_eq!((journal(readers).await, script.tries("d 1")), (vec!["b 1".to_owned()], 0));
    let told: Value = app.get("/statusz").await.body["readers"]["waiting"].clone();
    assert_eq!((&told[0]["loop"], &told[0]["reason"]), (&json!("room"), &json!("full")));
    let released = readers.store().transaction(async |tx: &mut Tx| {
        Ok(tx.execute("DELETE FROM parked WHERE topic = 'elsewhere' AND \"offset\" = 1", &[]).await?)
    });
    assert_eq!(released.await.expect("one can be taken out"), 1);
    eventually("reading goes on", async || journal(readers).await == ["b 1", "d 1"]).await;
    app.stop().await;
}
