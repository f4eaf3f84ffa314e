//! A shop of a hundred lines that can be told to misbehave.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::RETRY_AFTER;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

/// What becomes of the n-th POST, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Recorded and answered.
    Accepted,
    /// The connection breaks before the order is recorded.
    LostQuestion,
    /// The connection breaks after it.
    LostAnswer,
    /// This status, with `Retry-After: 0`.
    Refused(u16),
    /// All connections break, the port closes and opens again.
    Killed,
    /// Answered and forgotten.
    Forgotten,
    /// Recorded, answered and never ended.
    Stuck,
}

/// A running shop; it ends with the test process.
pub(crate) struct Shop {
    pub(crate) url: String,
    state: Arc<State>,
}

struct State {
    fate: fn(usize) -> Fate,
    kill: Notify,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    posts: usize,
    looks: usize,
    by_key: HashMap<String, Uuid>,
    orders: Vec<(Uuid, Value)>,
}

impl Shop {
    /// Opens on a free port.
    pub(crate) fn open(fate: fn(usize) -> Fate) -> Shop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State { fate, kill: Notify::new(), book: Mutex::default() });
        let serving = state.clone();
        std::thread::spawn(move || keep_serving(listener, address, &serving));
        Shop { url: format!("http://{address}"), state }
    }

    /// How many orders were recorded.
    pub(crate) fn orders(&self) -> usize {
        self.state.book().orders.len()
    }

    /// How many keys the orders came with.
    pub(crate) fn keys(&self) -> usize {
        self.state.book().by_key.len()
    }

    /// How many POSTs arrived.
    pub(crate) fn posts(&self) -> usize {
        self.state.book().posts
    }
}

impl State {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no handler panics")
    }
}

/// Dropping the runtime is the kill: it takes the listener and every connection with it.
fn keep_serving(mut listener: TcpListener, address: SocketAddr, state: &Arc<State>) {
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve_until_killed(listener, state));
        drop(runtime);
        listener = TcpListener::bind(address).expect("the port is still ours");
    }
}

async fn serve_until_killed(listener: TcpListener, state: &Arc<State>) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection"),
            () = state.kill.notified() => return,
        };
        let state = state.clone();
        let service = service_fn(move |request| answer(state.clone(), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

type Reply = Result<Response<Full<Bytes>>, std::io::Error>;

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/orders") => post(&state, request).await,
        (&Method::GET, "/products") => reply(200, &json!([{"product_id": "tea"}, {"product_id": "mug"}])),
        (&Method::GET, "/statusz") => reply(200, &json!({"status": "ok", "orders": {"processing": 0}})),
        (&Method::GET, "/admin/reconciliation") => reconciliation(&query),
        (&Method::GET, "/orders") => reply(200, &list(&mut state.book(), &query)),
        _ => reply(404, &json!({"title": "Not Found"})),
    }
}

async fn post(state: &State, request: Request<Incoming>) -> Reply {
    let key = request.headers()["idempotency-key"].to_str().expect("plain").to_owned();
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let order: Value = serde_json::from_slice(&body)?;
    let mut book = state.book();
    book.posts += 1;
    match (state.fate)(book.posts) {
        Fate::Accepted => created(book.record(key, &order)),
        Fate::Stuck => {
            let id = book.record(key, &order);
            book.leave_open(id);
            created(id)
        }
        Fate::Forgotten => created(Uuid::now_v7()),
        Fate::Refused(status) => reply(status, &json!({"title": "Refused", "detail": "not today"})),
        Fate::LostQuestion => Err(std::io::Error::other("lost")),
        Fate::LostAnswer | Fate::Killed => {
            book.record(key, &order);
            if (state.fate)(book.posts) == Fate::Killed {
                state.kill.notify_one();
            }
            Err(std::io::Error::other("lost"))
        }
    }
}

impl Book {
    fn record(&mut self, key: String, order: &Value) -> Uuid {
        let new = Uuid::now_v7();
        let id = *self.by_key.entry(key).or_insert(new);
        if id == new {
            self.orders.push((id, ended(id, order)));
        }
        id
    }

    fn leave_open(&mut self, id: Uuid) {
        let of_that_id = self.orders.iter_mut().filter(|(other, _)| *other == id);
        of_that_id.for_each(|(_, order)| order["status"] = json!("processing"));
    }
}

/// Every order ends at once, by its payment method.
fn ended(id: Uuid, order: &Value) -> Value {
    let declined = order["payment_method"].as_str().is_some_and(|pm| pm.ends_with("chargeDeclined"));
    let (status, reason) =
        if declined { ("cancelled", json!("declined")) } else { ("completed", Value::Null) };
    json!({
        "id": id, "status": status, "reason": reason,
        "created_at": "2100-01-01T00:00:00Z", "updated_at": "2100-01-01T00:00:00.25Z",
    })
}

fn list(book: &mut Book, query: &str) -> Value {
    let cursor = query.split("cursor=").nth(1).and_then(|cursor| cursor.parse().ok());
    if query.contains("status=") { open(book, cursor) } else { page(book, cursor.unwrap_or(0)) }
}

/// First somebody else's order, open for ever; then ours that are stuck, and for a few looks all.
fn open(book: &mut Book, cursor: Option<usize>) -> Value {
    if cursor.is_none() {
        let mut stranger = ended(Uuid::nil(), &Value::Null);
        stranger["id"] = json!("o-1");
        return json!({"items": [stranger], "next_cursor": "1"});
    }
    book.looks += 1;
    let early = book.looks < 3;
    let orders = book.orders.iter().rev().map(|(_, order)| order);
    let open = orders.filter(|order| early || order["status"] == "processing");
    json!({"items": open.collect::<Vec<_>>()})
}

fn page(book: &Book, from: usize) -> Value {
    const PAGE: usize = 40;
    let orders = book.orders.iter().rev().skip(from).take(PAGE);
    let more = from + PAGE < book.orders.len();
    json!({
        "items": orders.map(|(_, order)| order).collect::<Vec<_>>(),
        "next_cursor": more.then(|| (from + PAGE).to_string()),
    })
}

/// Two pages of books that agree since 2021, differ since 2022 and cannot be read before.
fn reconciliation(query: &str) -> Reply {
    let year = |year: &str| query.contains(&format!("since={year}"));
    if !year("2021") && !year("2022") {
        return reply(409, &json!({"title": "No book", "detail": "the gateway keeps no book"}));
    }
    let is_first = !query.contains("cursor=");
    let line = json!({"difference": "missing_here", "order_id": "o-1", "provider_ref": "pi_1", "todo": "refund pi_1"});
    let since = if year("2021") { "2021-01-01T00:00:00Z" } else { "2022-01-01T00:00:00Z" };
    reply(
        200,
        &json!({
            "since": since, "until": "2023-01-01T00:00:00Z",
            "items": if is_first || year("2021") { json!([]) } else { json!([line]) },
            "seen_at_provider": if is_first { 1 } else { 0 }, "seen_here": if is_first { 0 } else { 1 },
            "under_way": [], "next_cursor": is_first.then_some("ledger.9"),
        }),
    )
}

fn created(id: Uuid) -> Reply {
    reply(201, &json!({"id": id, "status": "processing"}))
}

fn reply(status: u16, body: &Value) -> Reply {
    let response = Response::builder().status(status).header(RETRY_AFTER, "0");
    response.body(Full::from(body.to_string())).map_err(std::io::Error::other)
}
