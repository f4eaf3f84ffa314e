//! Ages and counts of what has not arrived, or was not read yet.

use std::time::Duration;

use serde_json::json;
use tidings_testkit::event::NOTES;
use tidings_testkit::wire::Binary;
use tidings_testkit::{TestApp, eventually};

use crate::reader::{Script, journal, readers};

async fn metric(app: &TestApp, name: &str) -> Option<f64> {
    let metrics = app.text("/metrics").await;
    let sample = format!("{name}{{service=\"readers\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&*sample)?.parse().ok())
}

#[tokio::test]
async fn the_age_of_the_oldest_unread_record_is_shown_until_it_is_handled() {
    let app = TestApp::start_on(crate::stage(), [readers(&Script::default())()]).await;
    app.stage().send(NOTES, [Binary::note("a", 1).message()]).await;
    app.idle().await;
    eventually("nothing is unread", async || metric(&app, "consumer_lag_seconds").await == Some(0.0)).await;
    let pause = json!({"service": "readers", "scope": "service", "reason": "a test", "actor": "ada"});
    assert_eq!(app.post("/admin/pauses", &pause).await.status, 200);
    app.stage().send(NOTES, (0..9).map(|n| Binary::note(&format!("k{n}"), 1).message())).await;
    app.advance(Duration::from_secs(500));
    eventually("its age is shown", async || {
        let age = metric(&app, "consumer_lag_seconds").await;
        age.is_some_and(|age| (500.0..600.0).contains(&age))
    })
    .await;
    let status = app.service("readers").status().await.expect("a status");
    assert!(status.consumer.oldest_unread_seconds.is_some_and(|age| age >= 500), "{:?}", status.consumer);
    let lag = app.get("/admin/lag").await.body;
    let rows = lag["items"].as_array().expect("a list");
    for row in rows {
        let is_old = row["oldest_seconds"].as_u64().is_some_and(|age| age >= 500);
        assert_eq!(is_old, row["lag"].as_u64() > Some(0), "{row}");
    }
    assert_eq!(app.post("/admin/pauses/resume", &pause).await.status, 200);
    eventually("all are handled", async || journal(app.service("readers")).await.len() == 10).await;
    eventually("nothing is unread", async || metric(&app, "consumer_lag_seconds").await == Some(0.0)).await;
    app.stop().await;
}

#[tokio::test]
async fn streams_that_wait_for_a_number_are_counted_until_it_has_come() {
    let app = TestApp::start_on(crate::stage(), [readers(&Script::default())()]).await;
    let send = async |key: &str, n: u64| app.stage().send(NOTES, [Binary::note(key, n).message()]).await;
    for (key, n) in [("a", 2), ("a", 3), ("b", 1), ("b", 3), ("c", 1)] {
        send(key, n).await;
    }
    app.idle().await;
    eventually("two streams wait", async || metric(&app, "inbox_gap_streams").await == Some(2.0)).await;
    send("a", 1).await;
    eventually("one waits", async || metric(&app, "inbox_gap_streams").await == Some(1.0)).await;
    let skip = json!({"service": "readers", "stream": "notes/b", "reason": "it is lost", "actor": "ada"});
    assert_eq!(app.post("/admin/gaps/skip", &skip).await.status, 200);
    eventually("none waits", async || metric(&app, "inbox_gap_streams").await == Some(0.0)).await;
    app.stop().await;
}
