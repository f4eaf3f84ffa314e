//! The sandbox payment provider as a server: the part of the provider's API that the adapter speaks.
//!
//! `book` knows what was done, `request` what is asked for, `journal` keeps the book over a restart. What
//! a payment method does is decided where the sandbox in process decides it: [`crate::gateway::cards`].

mod request;
mod book;
mod journal;

use std::borrow::Cow;
use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path as Segments, RawQuery, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use jiff::Timestamp;
use serde_json::json;
use tidings::Error;
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::gateway::cards::{Act, Attempts};
use book::Book;
use journal::{Entry, Journal};
use request::{Asked, Failure, REPLAYED};

/// The longest that answers under way may take after the server was told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// A sandbox payment provider.
#[derive(Clone, Default)]
pub struct Psp(Arc<Mutex<Desk>>);

#[derive(Default)]
struct Desk {
    book: Book,
    attempts: Attempts,
    /// Keys of operations that are being done.
    busy: HashSet<String>,
    journal: Option<Journal>,
}

/// An answer, or a connection that ends without one.
enum Reply {
    First(Vec<u8>),
    Again(Vec<u8>),
    Silence,
}

/// The next step for a request.
enum Step {
    Reply(Reply),
    DoAfter(Duration),
}

impl Psp {
    /// A provider that goes on with the book that `file` keeps.
    ///
    /// # Errors
    /// The file cannot be used, or is no journal; in one line.
    pub fn open(file: &Path) -> Result<Self, Error> {
        let mut book = Book::default();
        let journal = Journal::open(file, |entry| {
            // What is written down was done, so it can be done again.
            book.execute(&entry.asked, entry.key.as_deref(), &entry.id, entry.at).is_ok()
        })?;
        let desk = Desk { book, journal: Some(journal), ..Desk::default() };
        Ok(Self(Arc::new(Mutex::new(desk))))
    }

    fn routes(&self) -> Router {
        let api = Router::new()
            .route("/v1/payment_intents", get(list).post(ask))
            .route("/v1/payment_intents/{id}", get(retrieve))
            .route("/v1/payment_intents/{id}/capture", post(ask))
            .route("/v1/payment_intents/{id}/cancel", post(ask))
            .route("/v1/refunds", post(ask))
            .fallback(async |request: Request| Failure::no_such_url(request.method(), request.uri().path()))
            .layer(from_fn(authenticate));
        Router::new()
            .route("/livez", get(async || Json(json!({"status": "live"}))))
            .merge(api)
            .with_state(self.clone())
    }

    async fn ask(&self, asked: Asked, key: Option<String>) -> Result<Reply, Failure> {
        let pause = match self.desk().begin(&asked, key.as_deref())? {
            Step::Reply(reply) => return Ok(reply),
            Step::DoAfter(pause) => pause,
        };
        // On its own: it is done even if the client has gone.
        let psp = self.clone();
        let slowly = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let mut desk = psp.desk();
            if let Some(key) = &key {
                desk.busy.remove(key);
            }
            desk.execute(&asked, key.as_deref()).map(Reply::First)
        });
        slowly.await.unwrap_or_else(|_| Err(Failure::internal("the operation was not finished")))
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn begin(&mut self, asked: &Asked, key: Option<&str>) -> Result<Step, Failure> {
        if let Some(key) = key {
            if self.busy.contains(key) {
                return Err(Failure::key_in_use());
            }
            if let Some(before) = self.book.before(asked, key)? {
                let again = self.book.answer(before).map_err(Failure::again)?;
                return Ok(Step::Reply(Reply::Again(again)));
            }
        }
        let operation = asked.operation();
        let act = match (self.book.method(asked), key) {
            (Some(method), Some(key)) => self.attempts.act(operation, method, key),
            (Some(method), None) => crate::gateway::cards::act(operation, method, 1),
            (None, _) => Act::Do,
        };
        match act {
            Act::Fail => Err(Failure::unavailable()),
            Act::DoAfter(pause) => {
                self.busy.extend(key.map(ToOwned::to_owned));
                Ok(Step::DoAfter(pause))
            }
            Act::DoUnheard => self.execute(asked, key).map(|_| Step::Reply(Reply::Silence)),
            Act::Do | Act::AskHolder | Act::Refuse(..) => {
                self.execute(asked, key).map(|body| Step::Reply(Reply::First(body)))
            }
        }
    }

    fn execute(&mut self, asked: &Asked, key: Option<&str>) -> Result<Vec<u8>, Failure> {
        let (now, id) = (Timestamp::now().as_second(), Uuid::now_v7().simple().to_string());
        let done = self.book.execute(asked, key, &id, now)?;
        if let Some(journal) = &mut self.journal {
            journal.write(&Entry {
                at: now,
                id: Cow::Owned(id),
                key: key.map(Cow::Borrowed),
                asked: Cow::Borrowed(asked),
            });
        }
        self.book.answer(done)
    }
}

async fn ask(State(psp): State<Psp>, uri: Uri, headers: HeaderMap, form: Bytes) -> Result<Reply, Failure> {
    let key = headers.get("idempotency-key").filter(|key| !key.is_empty());
    let key = key.map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    psp.ask(Asked::read(uri.path(), &form)?, key).await
}

async fn retrieve(
    State(psp): State<Psp>,
    Segments(id): Segments<String>,
    RawQuery(query): RawQuery,
) -> Result<Reply, Failure> {
    let expand = request::read_retrieve(query.as_deref())?;
    psp.desk().book.retrieve(&id, expand).map(Reply::First)
}

async fn list(State(psp): State<Psp>, RawQuery(query): RawQuery) -> Result<Reply, Failure> {
    let query = request::read_list(query.as_deref())?;
    psp.desk().book.list(&query).map(Reply::First)
}

/// Any key will do, but there must be one.
async fn authenticate(request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    match header.and_then(|value| value.strip_prefix(b"Bearer ")) {
        Some([_, ..]) => next.run(request).await,
        _ => Failure::no_api_key().into_response(),
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        match self {
            Self::First(body) => (json, body).into_response(),
            Self::Again(body) => (json, [REPLAYED], body).into_response(),
            Self::Silence => Extension(Silence).into_response(),
        }
    }
}

/// Marks an answer that is not to be sent: the connection ends instead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer is lost")]
struct Silence;

/// Serves the provider until `stop`.
pub async fn serve(listener: TcpListener, psp: Psp, stop: impl Future<Output = ()>) {
    let routes = psp.routes();
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, most likely: some will be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Answers are small; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let routes = routes.clone();
        let service = service_fn(move |request| answer(routes.clone(), request));
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async { drop(connection.await) });
    }
    let _ = tokio::time::timeout(DRAIN_MAX, open.shutdown()).await;
}

async fn answer(routes: Router, request: hyper::Request<Incoming>) -> Result<Response, Silence> {
    let Ok(response) = routes.oneshot(request.map(Body::new)).await;
    match response.extensions().get() {
        Some(silence) => Err(*silence),
        None => Ok(response),
    }
}
