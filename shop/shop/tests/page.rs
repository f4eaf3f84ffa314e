//! The page at `/docs`, opened in a real browser and used to place an order.
//!
//! `TIDINGS_PICTURES=docs/pictures cargo test -p shop --test page` also makes the pictures in the documents.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod browser;
mod process;

use std::io::Write as _;
use std::path::PathBuf;

use browser::Browser;
use process::Shop;
use serde_json::Value;

/// Where pictures go: into the documents, or beside what else is built.
fn pictures() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::var_os("TIDINGS_PICTURES") {
        Some(named) => root.join(named),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures"),
    }
}

#[test]
fn an_order_is_placed_from_the_page() {
    let program = match tidings_servers::chromium() {
        Ok(program) => program,
        Err(e) => {
            // Past the test harness, which would keep it to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {e}");
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut browser = Browser::open(&program, &format!("http://{}/docs", shop.address));
    browser.until("document.body?.dataset.ready === ''");
    let title = browser.value("document.title");
    assert_eq!(title, "order, payment, inventory");
    let cards = browser.value("document.querySelectorAll('#http details').length");
    assert_eq!(cards, 47, "each operation has a card");
    browser.picture(&pictures().join("docs-page.png"));

    // As a person would: open the card, change the body, send it.
    browser.click("#post-orders summary");
    browser.until("document.querySelector('#post-orders').open");
    browser.value(
        "(() => { const area = document.querySelector('#post-orders textarea'); area.focus(); area.select(); })()",
    );
    browser.types(r#"{"items": [{"product_id": "tea", "quantity": 0}], "colour": "red"}"#);
    browser.click("#post-orders button.act");
    browser.until("document.querySelector('#post-orders .status')?.textContent.startsWith('422')");
    let told = browser.until("document.querySelector('#post-orders .body')?.textContent").to_string();
    assert!(told.contains("/items/0/quantity") && told.contains("additionalProperties"), "{told}");

    browser.value("document.querySelector('#post-orders textarea').select()");
    browser.types(r#"{"items": [{"product_id": "tea", "quantity": 2}], "customer_id": "c-1"}"#);
    browser.value("document.querySelector('#post-orders input[name=Idempotency-Key]').focus()");
    browser.types("from-the-page");
    browser.click("#post-orders button.act");
    browser.until("document.querySelector('#post-orders .status')?.textContent.startsWith('201')");
    let placed = browser.until("document.querySelector('#post-orders .body')?.textContent");
    let placed: Value = serde_json::from_str(placed.as_str().unwrap()).unwrap();
    let id = placed["id"].as_str().unwrap().to_owned();
    browser.value("document.querySelector('#post-orders textarea').scrollIntoView({block: 'start', behavior: 'instant'})");
    browser.picture(&pictures().join("docs-order.png"));

    // And it is one, by somebody else's word.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async { shop.client().ended(&id).await });
    assert_eq!((&ended["status"], &ended["customer_id"]), (&"completed".into(), &"c-1".into()));

    // The page goes on: a route with a place in its path, live events, the topics.
    browser.value("location.hash = 'get-orders-id-history'");
    browser.until("document.querySelector('#get-orders-id-history')?.open");
    browser.value("document.querySelector('#get-orders-id-history input[name=id]').focus()");
    browser.types(&id);
    browser.click("#get-orders-id-history button.act");
    browser.until(
        "document.querySelector('#get-orders-id-history .body')?.textContent.includes('order.completed.v1')",
    );
    browser.value("location.hash = 'get-orders-id-events'");
    browser.until("document.querySelector('#get-orders-id-events')?.open");
    browser.value("document.querySelector('#get-orders-id-events input[name=id]').focus()");
    browser.types(&id);
    browser.click("#get-orders-id-events button.act");
    browser.until(
        "document.querySelector('#get-orders-id-events .body')?.textContent.includes('order.completed.v1')",
    );

    browser.look(1280, 900, "dark");
    browser.value("location.hash = 'orders-order.created.v1'");
    browser.until("document.getElementById('orders-order.created.v1')?.open");
    let card = browser.value("document.getElementById('orders-order.created.v1').textContent");
    let card = card.as_str().unwrap();
    for said in
        ["tidings tail orders --type order.created.v1", "ce_streamseq: 1", "ISO 4217 code", "100 at most"]
    {
        assert!(card.contains(said), "the card does not say {said}: {card}");
    }
    browser.value("document.getElementById('orders-order.created.v1').scrollIntoView({behavior: 'instant'})");
    browser.picture(&pictures().join("docs-events.png"));

    // Nothing came from elsewhere.
    let origins = browser.value(
        "performance.getEntriesByType('resource').map((r) => new URL(r.name).host).filter((h) => h !== location.host)",
    );
    assert_eq!(origins, Value::Array(Vec::new()));
}

#[test]
fn the_page_fits_a_phone() {
    let Ok(program) = tidings_servers::chromium() else { return };
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut browser = Browser::open(&program, &format!("http://{}/", shop.address));
    browser.look(400, 800, "light");
    browser.until("document.body?.dataset.ready === ''");
    browser.value("document.querySelectorAll('details').forEach(card => { card.open = true; })");
    browser.until("document.querySelectorAll('details[open] > div').length > 18");
    let too_wide = "[...document.querySelectorAll('main *')].filter(one => one.closest('pre, table') === null && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(one => one.outerHTML.slice(0, 200))";
    assert_eq!(browser.value(too_wide), serde_json::json!([]));
    let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    assert_eq!(browser.value(fits), true);
    browser.picture(&pictures().join("docs-phone.png"));
}
