//! Routes of a service: path, query and body in, one transaction, an answer after its commit.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings::http::{Problem, ValidQuery};
use tidings::{Document, HandlerError, RunningService, Service, Store, Tx, document, params};
use tower::ServiceExt as _;

#[derive(Deserialize, Serialize, JsonSchema, Validate)]
struct Scan {
    #[garde(length(min = 1))]
    place: String,
}

#[derive(Deserialize, JsonSchema, Validate)]
struct Wanted {
    #[garde(range(min = 1, max = 10))]
    limit: u32,
}

async fn scan(tx: &mut Tx, Path(id): Path<String>, scan: Scan) -> Result<Scan, HandlerError> {
    assert!(scan.place != "nowhere", "it is nowhere");
    tx.execute("INSERT INTO scan (id, place) VALUES ($1, $2)", params![&id, &scan.place]).await?;
    Ok(scan)
}

async fn replace(tx: &mut Tx, Path(id): Path<String>, scan: Scan) -> Result<(), HandlerError> {
    tx.execute("UPDATE scan SET place = $1 WHERE id = $2", params![&scan.place, &id]).await?;
    Ok(())
}

async fn forget(tx: &mut Tx, Path(id): Path<String>) -> Result<u64, Problem> {
    match tx.execute("DELETE FROM scan WHERE id = $1", params![&id]).await? {
        0 => Err(Problem::not_found("there is no such parcel")),
        count => Ok(count),
    }
}

async fn scans(
    store: &Store,
    Path(id): Path<String>,
    ValidQuery(wanted): ValidQuery<Wanted>,
) -> Result<Vec<String>, Problem> {
    let rows = store
        .query("SELECT place FROM scan WHERE id = $1 ORDER BY place LIMIT $2", params![&id, wanted.limit])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?)
}

async fn count(store: &Store) -> Result<u64, Problem> {
    Ok(store.query("SELECT count(*) FROM scan", &[]).await?[0].get(0)?)
}

fn parcels() -> Service {
    Service::new("parcels")
        .tables(&["CREATE TABLE scan (id TEXT NOT NULL, place TEXT NOT NULL)"])
        .post("/parcels/{id}/scans", scan)
        .put("/parcels/{id}", replace)
        .delete("/parcels/{id}", forget)
        .get("/parcels/{id}/scans", scans)
        .get("/count", count)
}

/// The status, whether it is an answer to an earlier request, and the body of an answer.
async fn ask(
    running: &RunningService,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: Option<Value>,
) -> (StatusCode, bool, Value) {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = request.body(body).expect("a request");
    let answer = running.router().oneshot(request).await.expect("an answer");
    let (status, is_replayed) = (answer.status(), answer.headers().contains_key("idempotent-replayed"));
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    (status, is_replayed, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn place(name: &str) -> Option<Value> {
    Some(json!({"place": name}))
}

#[tokio::test]
async fn a_route_has_a_path_a_query_and_a_body() {
    let stage = crate::stage();
    let running = stage.start(parcels).await;
    let made = ask(&running, "POST", "/parcels/p%201/scans", None, place("Graz")).await;
    assert_eq!(made, (StatusCode::CREATED, false, json!({"place": "Graz"})));
    ask(&running, "POST", "/parcels/p%201/scans", None, place("Wien")).await;
    let (status, _, found) = ask(&running, "GET", "/parcels/p%201/scans?limit=10", None, None).await;
    assert_eq!((status, found), (StatusCode::OK, json!(["Graz", "Wien"])));
    let (_, _, found) = ask(&running, "GET", "/parcels/p%201/scans?limit=1", None, None).await;
    assert_eq!(found, json!(["Graz"]));
    for wrong in ["", "?limit=0", "?limit=1&limit=2", "?limits=1"] {
        let (status, _, problem) =
            ask(&running, "GET", &format!("/parcels/p%201/scans{wrong}"), None, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {problem}");
    }
    let (status, _, problem) = ask(&running, "GET", "/count?limit=1", None, None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "nobody reads it: {problem}");
    let (status, _, problem) = ask(&running, "POST", "/parcels/p1/scans", None, place("")).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/place"))
    );
    let (status, ..) = ask(&running, "PUT", "/parcels/p%201", None, place("Linz")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _, deleted) = ask(&running, "DELETE", "/parcels/p%201", None, None).await;
    assert_eq!((status, deleted), (StatusCode::OK, json!(2)));
    let (status, ..) = ask(&running, "DELETE", "/parcels/p%201", None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, ..) = ask(&running, "POST", "/parcels/p1/scans", None, place("nowhere")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "a panic is its request's");
    assert_eq!(ask(&running, "GET", "/count", None, None).await.2, json!(0));
}

#[tokio::test]
async fn a_key_stands_for_one_method_one_path_and_one_body() {
    let stage = crate::stage();
    let running = stage.start(parcels).await;
    let first = ask(&running, "POST", "/parcels/p1/scans", Some("k1"), place("Graz")).await;
    assert_eq!(first, (StatusCode::CREATED, false, json!({"place": "Graz"})));
    let again = ask(&running, "POST", "/parcels/p1/scans", Some("k1"), place("Graz")).await;
    assert_eq!(again, (StatusCode::CREATED, true, json!({"place": "Graz"})));
    for (path, body) in [("/parcels/p2/scans", place("Graz")), ("/parcels/p1/scans", place("Wien"))] {
        let (status, _, problem) = ask(&running, "POST", path, Some("k1"), body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert_eq!(problem["type"], "/problems/idempotency-mismatch");
    }
    let (status, ..) = ask(&running, "PUT", "/parcels/p1", Some("k2"), place("Linz")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _, problem) = ask(&running, "DELETE", "/parcels/p1", Some("k2"), None).await;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/problems/idempotency-mismatch"))
    );
    let (status, is_replayed, _) = ask(&running, "DELETE", "/parcels/p1", Some("k3"), None).await;
    assert_eq!((status, is_replayed), (StatusCode::OK, false));
    let again = ask(&running, "DELETE", "/parcels/p1", Some("k3"), None).await;
    assert_eq!(again, (StatusCode::OK, true, json!(1)));
    assert_eq!(ask(&running, "GET", "/count", None, None).await.2, json!(0));
}

#[test]
fn each_parameter_of_a_path_is_described_by_its_own_type() {
    async fn night(_: &Store, Path((room, night)): Path<(String, u32)>) -> Result<String, Problem> {
        Ok(format!("{room}/{night}"))
    }
    let document = document(&[Service::new("rooms").get("/rooms/{room}/{night}", night)], Document::Openapi);
    let parameters = &document["paths"]["/rooms/{room}/{night}"]["get"]["parameters"];
    let types = ["room", "night"].map(|name| {
        let found = parameters.as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
        found.map(|one| one["schema"]["type"].clone())
    });
    assert_eq!(types, [Some(json!("string")), Some(json!("integer"))]);
}
