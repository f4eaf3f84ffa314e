//! The largest events, through the commands and the routes of running services.

use std::path::Path;

use tidings::MESSAGE_BYTES_MAX;
use tidings::axum;
use tidings::prelude::*;
use tidings::store::Tables;
use tidings_testkit::event::{NOTES, NoteTaken};
use tidings_testkit::{TestApp, eventually};

use crate::fake::tidings;

const TABLES: Tables = Tables {
    sqlite: &["CREATE TABLE heard (n BIGINT PRIMARY KEY, length BIGINT NOT NULL)"],
    postgres: &["CREATE TABLE heard (n BIGINT PRIMARY KEY, length BIGINT NOT NULL)"],
};

/// More events than an answer of the event log has room for.
const LAST: u64 = 24;

async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> {
    tx.publish(note).await
}

async fn hear(note: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
    let NoteTaken { n, text, .. } = note.payload();
    if text == "cannot be read" {
        return Err(HandlerError::fatal("illegible", n));
    }
    tx.execute("INSERT INTO heard (n, length) VALUES ($1, $2)", params![*n, text.len() as u64]).await?;
    Ok(())
}

/// A service behind a server, and where it is.
async fn served(service: Service) -> (TestApp, String) {
    let app = TestApp::start([service]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app.router()).into_future());
    (app, url)
}

/// Runs the command beside the services.
fn run(urls: &[&str], args: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::task::block_in_place(|| tidings(urls, args));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The words that the command prints, which succeeds.
#[track_caller]
fn prints(urls: &[&str], args: &[&str]) -> String {
    let (code, stdout, stderr) = run(urls, args);
    assert_eq!(code, Some(0), "{args:?}: {stderr}");
    stdout
}

async fn heard(app: &TestApp) -> Vec<(u64, u64)> {
    let rows = app.service("readers").store().query("SELECT n, length FROM heard ORDER BY n", &[]).await;
    rows.unwrap().iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_events_are_fetched_into_a_gap() {
    let (writers, writers_url) = served(Service::new("writers").topic(NOTES)).await;
    let (readers, readers_url) = served(Service::new("readers").tables(TABLES).on(hear)).await;
    // As large as an event may be: one byte more is refused.
    let store = writers.service("writers").store();
    let publish = async |n: u64, length: usize| {
        let note = NoteTaken { text: "x".repeat(length), ..NoteTaken::new("k", n) };
        store.transaction(async move |tx: &mut Tx| take(tx, note).await).await
    };
    publish(1, 1).await.unwrap();
    let around = store.published("notes/k").await.unwrap()[0].message.clone();
    let around = around.value.len()
        + around.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let mut largest = MESSAGE_BYTES_MAX - around;
    while publish(2, largest).await.is_err() {
        largest -= 1;
    }
    assert!(largest > MESSAGE_BYTES_MAX - 2 * around, "{largest} of {MESSAGE_BYTES_MAX}");
    for n in 3..=LAST {
        publish(n, largest).await.unwrap();
    }
    // All but the first and the last are lost on their way.
    let stored = store.published("notes/k").await.unwrap();
    let arrived = [&stored[0], &stored[stored.len() - 1]].map(|event| event.message.clone());
    readers.stage().send(NOTES, arrived).await;
    eventually("one is missing", async || readers.get("/admin/gaps").await.body["items"][0]["expected"] == 2)
        .await;
    let fetch = ["gaps", "fetch", "readers", "notes/k", "--reason", "lost"];
    let told = prints(&[&readers_url, &writers_url], &fetch);
    assert_eq!(told, "filled 22 of 22 missing events of notes/k, from writers\n");
    eventually("all are handled", async || heard(&readers).await.len() as u64 == LAST).await;
    let long = |event: &&(u64, u64)| event.1 == largest as u64;
    assert_eq!(heard(&readers).await.iter().filter(long).count(), 23);
    readers.stop().await;
    writers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_is_edited_to_the_largest_and_no_body_is_taken_that_fits_none() {
    let (app, url) = served(Service::new("readers").tables(TABLES).on(hear)).await;
    app.publish(&NoteTaken { text: "cannot be read".to_owned(), ..NoteTaken::new("k", 1) }).await;
    eventually("it is dead", async || {
        app.get("/admin/dead-letters").await.body["items"][0]["code"] == "illegible"
    })
    .await;
    let letters = app.get("/admin/dead-letters").await.body;
    let id = letters["items"][0]["id"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("payload.json");
    let length = MESSAGE_BYTES_MAX - 1024;
    write(&file, length);
    let edit = ["dlq", "edit", id, "--payload", file.to_str().unwrap(), "--reason", "typing error"];
    prints(&[&url], &edit);
    prints(&[&url], &["dlq", "replay", id, "--reason", "mended"]);
    eventually("it is handled", async || heard(&app).await == [(1, length as u64)]).await;

    write(&file, 4 * MESSAGE_BYTES_MAX);
    let (code, _, stderr) = run(&[&url], &edit);
    assert!(code == Some(1) && stderr.contains("more than 2097152 bytes"), "{stderr}");
    app.stop().await;
}

fn write(file: &Path, length: usize) {
    let note = NoteTaken { text: "x".repeat(length), ..NoteTaken::new("k", 1) };
    std::fs::write(file, serde_json::to_vec(&note).unwrap()).unwrap();
}
