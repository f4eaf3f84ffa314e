//! Deliveries at the limit of stock, with the service's tables in SQLite and in PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use axum::body::Body;
use axum::http::{Request, header};
use contracts::catalogue::STOCK_MAX;
use expect_test::expect;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tidings::{Broker, RunningService};
use tidings_testkit::Scratch;
use tidings_testkit::servers::FreshDatabase;
use tower::ServiceExt as _;

/// Status, and what matters of the answer.
async fn asks(running: &RunningService, method: &str, path: &str, body: Value) -> String {
    let request =
        Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let answer = running.router().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let shown = [&body["available"], &body["type"], &body["errors"]].map(|part| match part {
        Value::Null => String::new(),
        part => format!(" {part}"),
    });
    format!("{status}{}", shown.concat())
}

#[tokio::test]
async fn a_delivery_never_lifts_stock_over_the_limit_on_either_store() {
    for database in [None, Some(FreshDatabase::new())] {
        let scratch = Scratch::new();
        let store = database.as_ref().map_or_else(|| scratch.url(), FreshDatabase::url);
        let broker = Broker::open(&scratch.url()).unwrap();
        let catalogue = tempfile::NamedTempFile::new().unwrap();
        let products = json!([{"product_id": "tea", "stock": STOCK_MAX - 5}]);
        std::fs::write(catalogue.path(), products.to_string()).unwrap();
        let service = inventory::service(Some(catalogue.path())).unwrap();
        broker.apply_plan(&service.topic_specs(), 1).await.unwrap();
        let running = service.start(&store, &broker).await.unwrap();
        let mut told = String::new();
        for (quantity, reference) in [(4, "a"), (2, "b"), (1, "c"), (1, "d"), (1, "c"), (1_000_000_000, "b")]
        {
            let body = json!({"quantity": quantity, "reference": reference});
            told += &asks(&running, "POST", "/stock/tea/receipts", body).await;
            told += "\n";
        }
        told += &asks(&running, "GET", "/stock/tea", Value::Null).await;
        let kept =
            running.store().query("SELECT reference FROM receipt ORDER BY reference", &[]).await.unwrap();
        let kept: Vec<String> = kept.iter().map(|row| row.get(0).unwrap()).collect();
        expect![[r#"
            201 999999999999999
            422 "/problems/validation" [{"detail":"more than 1000000000000000 pieces of \"tea\" would be available","pointer":"/quantity","rule":"stock"}]
            201 1000000000000000
            422 "/problems/validation" [{"detail":"more than 1000000000000000 pieces of \"tea\" would be available","pointer":"/quantity","rule":"stock"}]
            200 1000000000000000
            422 "/problems/validation" [{"detail":"more than 1000000000000000 pieces of \"tea\" would be available","pointer":"/quantity","rule":"stock"}]
            200 1000000000000000"#]]
        .assert_eq(&told);
        assert_eq!(kept, ["a", "c", "opening stock"], "a refused delivery leaves its reference free");
        running.stop().await.unwrap();
    }
}
