//! A schema registry of a hundred lines, as Confluent's answers, that can be told to misbehave.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A running registry; it ends with the test.
pub struct Registry {
    pub address: String,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
pub struct Book {
    /// Every schema once; its place, from 1, is its id.
    schemas: Vec<String>,
    /// What is registered: subject and id.
    pub versions: Vec<(String, usize)>,
    /// Subjects whose next schema is incompatible with the last.
    pub incompatible: bool,
    /// `Basic …`, without which nothing is answered.
    pub authorization: Option<&'static str>,
    /// Answers every request.
    pub broken: Option<StatusCode>,
}

type Shelf = State<Arc<Mutex<Book>>>;

/// A schema as it is sent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    schema_type: String,
    schema: String,
}

impl Registry {
    pub async fn start() -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let routes = Router::new()
            .route("/subjects/{subject}/versions", post(register))
            .route("/subjects/{subject}", post(look_up))
            .route("/compatibility/subjects/{subject}/versions/latest", post(judge))
            .route("/schemas/ids/{id}", get(by_id))
            .layer(from_fn_with_state(book.clone(), guard))
            .with_state(book.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, book }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// The schema of an id.
    pub fn schema(&self, id: usize) -> Value {
        serde_json::from_str(&self.book().schemas[id - 1]).unwrap()
    }
}

impl Book {
    fn id(&self, schema: &str) -> Option<usize> {
        self.schemas.iter().position(|known| known == schema).map(|place| place + 1)
    }

    fn is_registered(&self, subject: &str, schema: &str) -> Option<usize> {
        let id = self.id(schema)?;
        self.versions.contains(&(subject.to_owned(), id)).then_some(id)
    }
}

fn error(status: StatusCode, code: u32, message: &str) -> Response {
    (status, Json(json!({"error_code": code, "message": message}))).into_response()
}

async fn guard(State(book): Shelf, request: Request, next: Next) -> Response {
    let (broken, wanted) = {
        let book = book.lock().unwrap();
        (book.broken, book.authorization)
    };
    if let Some(status) = broken {
        return (status, "<html>").into_response();
    }
    let given = request.headers().get(header::AUTHORIZATION).map(|given| given.to_str().unwrap());
    if wanted.is_some() && given != wanted {
        return error(StatusCode::UNAUTHORIZED, 401, "Unauthorized");
    }
    next.run(request).await
}

async fn register(State(book): Shelf, Path(subject): Path<String>, Json(sent): Json<Sent>) -> Response {
    let mut book = book.lock().unwrap();
    if let Some(id) = book.is_registered(&subject, &sent.schema) {
        return Json(json!({"id": id})).into_response();
    }
    if sent.schema_type != "JSON" {
        return error(StatusCode::UNPROCESSABLE_ENTITY, 42201, "Invalid schema");
    }
    if book.incompatible {
        return error(
            StatusCode::CONFLICT,
            409,
            "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL at #/properties/tip",
        );
    }
    if book.id(&sent.schema).is_none() {
        book.schemas.push(sent.schema.clone());
    }
    let id = book.id(&sent.schema).unwrap();
    book.versions.push((subject, id));
    Json(json!({"id": id})).into_response()
}

async fn look_up(State(book): Shelf, Path(subject): Path<String>, Json(sent): Json<Sent>) -> Response {
    let book = book.lock().unwrap();
    match book.is_registered(&subject, &sent.schema) {
        Some(id) => {
            let found = json!({"subject": subject, "id": id, "version": 1, "schemaType": "JSON", "schema": sent.schema});
            Json(found).into_response()
        }
        None => error(StatusCode::NOT_FOUND, 40403, "Schema not found"),
    }
}

async fn judge(State(book): Shelf, Path(subject): Path<String>, Json(_): Json<Sent>) -> Response {
    let book = book.lock().unwrap();
    if !book.versions.iter().any(|(known, _)| *known == subject) {
        return error(StatusCode::NOT_FOUND, 40401, "Subject not found");
    }
    let messages: &[&str] = if book.incompatible { &["`tip` is gone"] } else { &[] };
    Json(json!({"is_compatible": !book.incompatible, "messages": messages})).into_response()
}

async fn by_id(State(book): Shelf, Path(id): Path<usize>) -> Response {
    match book.lock().unwrap().schemas.get(id - 1) {
        Some(schema) => Json(json!({"schemaType": "JSON", "schema": schema})).into_response(),
        None => error(StatusCode::NOT_FOUND, 40403, "Schema not found"),
    }
}
