//! Work that does not grow with what lies in a table, whatever PostgreSQL's statistics say of it.

use serde_json::json;
use tidings_testkit::event::NOTES;
use tidings_testkit::stage::{drain_parked, manual_retries};
use tidings_testkit::wire::Binary;
use tidings_testkit::{TestApp, eventually};
use tokio_postgres::{Client, NoTls};

use crate::reader::{Script, Trouble, journal, readers_with};

/// Dead letters, each of a key of its own.
const LETTERS: i64 = 1000;

/// Rows that all sessions have read in an index of the table `parked`: they tell within seconds.
async fn read_in(client: &Client, index: &str) -> i64 {
    let sql = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1";
    client.query_one(sql, &[&index]).await.expect("there are statistics").get(0)
}

#[tokio::test]
async fn a_redrive_finds_the_next_of_each_key_without_a_look_at_the_others() {
    let script = Script::default();
    let readers = readers_with(&script, manual_retries(1))().dead_letters_in_a_row_max(u64::MAX);
    let app = TestApp::start_on(crate::stage(), [readers.dead_letters_percent_max(100)]).await;
    let keys: Vec<String> = (0..LETTERS).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| script.breaks(&format!("{key} 1"), Trouble::Transient));
    app.stage().send(NOTES, keys.iter().map(|key| Binary::note(key, 1).message())).await;
    app.idle().await;
    let (client, connection) =
        tokio_postgres::connect(&app.stage().store_url(), NoTls).await.expect("it connects");
    tokio::spawn(connection);
    client.batch_execute("SET search_path = readers; ANALYZE parked").await.expect("the schema is there");

    keys.iter().for_each(|key| script.mend(&format!("{key} 1")));
    let all = json!({"filter": {}, "reason": "mended", "actor": "ada", "limit": LETTERS});
    let answer = app.post("/admin/dead-letters/redrive", &all).await;
    assert_eq!(answer.body["redriven"], LETTERS, "{:?}", answer.body);
    drain_parked(app.service("readers")).await;
    assert_eq!(journal(app.service("readers")).await.len() as i64, LETTERS);
    eventually("the sessions have counted", async || read_in(&client, "parked_stream").await >= LETTERS)
        .await;
    let looks = read_in(&client, "parked_state").await;
    // Who asks for the state of the service counts them all; each key that looks at all is a million.
    assert!(looks < 200 * LETTERS, "{looks} rows for {LETTERS} letters");
    app.stop().await;
}
