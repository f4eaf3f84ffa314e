//! HTTP in front of a service: JSON in, JSON or problem details out.

mod api;
mod body;
mod checked;
mod door;
pub mod idempotency;
mod intake;
mod names;
mod operation_doc;
mod page;
mod problem;
mod problems;
mod route;
mod schemas;
mod server;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::http::header::HeaderName;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect};
use tokio::net::TcpListener;

use crate::envelope::Cause;
use crate::error::Error;
use crate::message::MESSAGE_BYTES_MAX;

pub use crate::schema::Violation;
pub(crate) use api::Operation;
pub use api::{Api, Created, Described, Input, OperationDoc, Output};
pub use body::{ValidJson, body_bytes, valid};
pub use door::Caller;
pub(crate) use door::Manners;
pub(crate) use intake::{Intake, bounded};
pub use page::{Cursor, LIMIT_MAX, Page, PageRequest, ValidQuery};
pub(crate) use problem::OVERLOADED;
pub use problem::Problem;
pub(crate) use problems::routes as problem_routes;
pub use route::{Argument, Arguments, Body, ReadHandler, RouteHandler};
pub(crate) use route::{Delete, Post, Put, Verb, changing, reading};
pub(crate) use schemas::{SCHEMAS, Schemas};
pub(crate) use server::serve;

/// Largest request body, in bytes; routes for operators that take whole events have a bound of their own.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Largest body of a request that brings events, in bytes: the largest message that a topic takes of other programs,
/// twice over, or the largest of ours in base64 with what is said around it.
pub(crate) const EVENT_BODY_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// Upper bound of a long poll, in seconds: proxies drop idle requests after about this long.
pub(crate) const LONG_POLL_SECONDS_MAX: u32 = 20;
const LONG_POLL_MAX: Duration = Duration::from_secs(LONG_POLL_SECONDS_MAX as u64);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Wraps routes with what every service does: the gate, limits, request ids, problems for unknown paths.
pub(crate) fn finish(routes: Router, manners: &Manners) -> Router {
    let routes = routes
        .fallback(async |method: Method, uri: Uri| match uri.path() {
            "/" if method == Method::GET => Redirect::temporary("/docs").into_response(),
            _ => Problem::not_found("there is nothing at this path").into_response(),
        })
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not know this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    door::guard(routes, manners)
}

/// Routes as clients find them, for tests: behind the gate and within the limits of every service.
#[cfg(any(test, feature = "testing"))]
pub fn finished(routes: Router) -> Router {
    finish(routes, &Manners::default())
}

/// Binds the address, or says in one line what is in the way; `flag` is where it was named.
pub(crate) async fn bind(listen: &str, flag: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|e| {
        Error::config(format!("cannot listen on {listen}: {e}; choose another with {flag} HOST:PORT"))
    })
}

/// A request as the cause of events: its id is their correlation id, its trace goes on in them.
impl<S: Sync> FromRequestParts<S> for Cause {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let text = |name| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
        Ok(Self {
            correlation_id: text(&REQUEST_ID),
            causation_id: None,
            traceparent: text(&TRACEPARENT),
            tracestate: text(&TRACESTATE),
        })
    }
}
