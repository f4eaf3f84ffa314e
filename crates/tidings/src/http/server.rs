//! Connections: how long each may take over what, how many there are, and which one goes when there are too many.
//!
//! A connection on which nothing is being worked on may be closed at any time: its client connects again. So when
//! all seats are taken, the one that has waited longest goes, and a client that sends a request gets in, whatever
//! others do not send.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::problem::Problem;
use crate::error::Error;
use crate::panic::lock;

/// A head that is not whole by then, or a next one that has not begun, closes the connection.
const HEAD_MAX: Duration = Duration::from_secs(15);
/// A body that is not whole by then is refused: 256 KiB come within it over the slowest link.
const BODY_MAX: Duration = Duration::from_secs(8);
/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// Connections at a time; fewer where the process may not open so many files.
const CONNECTIONS_MAX: usize = 1000;
/// Connections beyond it, for probes: while every other one is being worked on, these are answered all the same.
const RESERVE: usize = 32;
/// Pause after a connection could not be accepted for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Paths that are answered however many requests are being worked on.
pub(super) const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Serves until `stop`, then finishes what is under way.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: CancellationToken,
) -> Result<(), Error> {
    let limits = Limits { connections: connections_max(), head: HEAD_MAX, body: BODY_MAX };
    serve_within(limits, listener, routes, stop).await
}

/// The limits that clients are held to.
#[derive(Clone, Copy)]
struct Limits {
    connections: usize,
    head: Duration,
    body: Duration,
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    routes: Router,
    stop: CancellationToken,
) -> Result<(), Error> {
    let crowd = Arc::new(Crowd { max: limits.connections, seats: Mutex::default() });
    // Every conversation holds a sender; when the last has ended, nothing comes any more.
    let (open, mut all_ended) = mpsc::channel::<()>(1);
    for number in 0_u64.. {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(_) => {
                crowd.make_room();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(seat) = crowd.enter(number) else { continue };
        // Answers are small; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let (routes, stop, open, leaving) =
            (routes.clone(), stop.clone(), open.clone(), crowd.leaving(number));
        tokio::spawn(async move {
            converse(stream, routes, seat, limits, stop).await;
            drop((leaving, open));
        });
    }
    drop((listener, open));
    while all_ended.recv().await.is_some() {}
    Ok(())
}

/// As many connections as the process can have files open for, its databases and logs left aside.
fn connections_max() -> usize {
    // Linux tells it here; elsewhere the usual limits are far above.
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    files.map_or(CONNECTIONS_MAX, |files| (files / 2).min(CONNECTIONS_MAX))
}

/// Serves one connection until it ends, or has to go.
async fn converse(
    stream: TcpStream,
    routes: Router,
    seat: Arc<Seat>,
    limits: Limits,
    stop: CancellationToken,
) {
    let answering = {
        let seat = seat.clone();
        service_fn(move |request| answer(request, routes.clone(), seat.clone(), limits.body))
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head);
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answering));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = seat.goes.cancelled() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = seat.goes.cancelled() => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    routes: Router,
    seat: Arc<Seat>,
    body_max: Duration,
) -> Result<Response<Watched<Body>>, Infallible> {
    seat.does(if request.body().is_end_stream() { Doing::Working } else { Doing::Reading });
    let mut response = if seat.is_for_probes && !PROBES.contains(&request.uri().path()) {
        let busy = "every connection is being worked on; nothing was done, try again";
        let mut response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", busy).into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    } else {
        let asked = request.map(|body| Body::new(Watched::request(body, seat.clone(), body_max)));
        routes.oneshot(asked).await.unwrap_or_else(|never| match never {})
    };
    if response.status() == StatusCode::REQUEST_TIMEOUT {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    seat.does(Doing::Answering);
    Ok(response.map(|body| Watched::response(body, seat)))
}

/// The state of a connection, in the order in which connections have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// Nothing has come yet, or not a whole head.
    Waiting,
    /// A body comes.
    Reading,
    /// An answer goes out, which for live events takes as long as the client listens.
    Answering,
    /// A request is being worked on.
    Working,
}

/// A connection, to others.
struct Seat {
    doing: Mutex<(Doing, Instant)>,
    goes: CancellationToken,
    is_for_probes: bool,
}

impl Seat {
    fn does(&self, doing: Doing) {
        *lock(&self.doing) = (doing, Instant::now());
    }
}

/// All connections.
struct Crowd {
    max: usize,
    seats: Mutex<BTreeMap<u64, Arc<Seat>>>,
}

impl Crowd {
    /// A seat for the next connection; none if every one is being worked on.
    fn enter(&self, number: u64) -> Option<Arc<Seat>> {
        let mut seats = lock(&self.seats);
        let is_for_probes = seats.len() >= self.max && !show_out(&mut seats);
        if is_for_probes && seats.len() >= self.max + RESERVE {
            return None;
        }
        let doing = Mutex::new((Doing::Waiting, Instant::now()));
        let seat = Arc::new(Seat { doing, goes: CancellationToken::new(), is_for_probes });
        seats.insert(number, seat.clone());
        Some(seat)
    }

    fn make_room(&self) {
        show_out(&mut lock(&self.seats));
    }

    /// Gives the seat back when it is dropped.
    fn leaving(self: &Arc<Self>, number: u64) -> Leaving {
        Leaving { crowd: self.clone(), number }
    }
}

/// Closes the connection that can best be spared, if any can.
fn show_out(seats: &mut BTreeMap<u64, Arc<Seat>>) -> bool {
    let spared = seats.iter().map(|(number, seat)| (*lock(&seat.doing), *number)).min();
    match spared {
        Some(((doing, _), number)) if doing < Doing::Working => {
            seats.remove(&number).inspect(|seat| seat.goes.cancel());
            true
        }
        _ => false,
    }
}

struct Leaving {
    crowd: Arc<Crowd>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        lock(&self.crowd.seats).remove(&self.number);
    }
}

/// A body that says when it has ended, and that ends if it takes too long to come.
struct Watched<B> {
    body: B,
    seat: Arc<Seat>,
    /// The time at which a request's body is late. A timer is set once the body was waited for, which most never are.
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B: HttpBody> Watched<B> {
    fn request(body: B, seat: Arc<Seat>, within: Duration) -> Self {
        Self { body, seat, due: Some(Instant::now() + within), timer: None }
    }

    fn response(body: B, seat: Arc<Seat>) -> Self {
        Self { body, seat, due: None, timer: None }
    }
}

impl<B> HttpBody for Watched<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context).map_err(Into::into);
        let Some(due) = self.due else { return polled };
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.seat.does(Doing::Working);
        }
        let timer = || Box::pin(sleep_until(due));
        if polled.is_pending() && self.timer.get_or_insert_with(timer).as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Late.into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        if self.due.is_none() {
            self.seat.does(Doing::Waiting);
        }
    }
}

/// The reason that a body was not read to its end.
#[derive(Debug, thiserror::Error)]
#[error("the body did not come within {BODY_MAX:?}")]
pub(super) struct Late;

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
