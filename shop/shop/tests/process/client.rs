//! A small HTTP client: one connection, opened again when it has broken.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{LOOK_EVERY, PATIENCE};

/// A connection to a shop.
pub struct Client {
    address: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    /// Connects with the first request.
    pub fn to(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None }
    }

    /// `GET`s a path that answers 200 with JSON.
    pub async fn json(&mut self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "GET {path}: {}", answer.text());
        answer.json()
    }

    /// `GET`s a path.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(request(Method::GET, path, &[], "")).await
    }

    /// `POST`s JSON.
    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.post_with(path, &[], body).await
    }

    /// `POST`s JSON with further headers.
    pub async fn post_with(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut all = vec![(CONTENT_TYPE.as_str(), "application/json")];
        all.extend(headers);
        self.ask(request(Method::POST, path, &all, body)).await
    }

    /// Places an order that must be accepted; returns its id.
    pub async fn place(&mut self, body: &str) -> String {
        let answer = self.post("/orders", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "POST /orders {body}: {}", answer.text());
        answer.json()["id"].as_str().expect("an accepted order has an id").to_owned()
    }

    /// An order once it has ended.
    pub async fn ended(&mut self, id: &str) -> Value {
        let path = format!("/orders/{id}");
        eventually(async || {
            let order = self.json(&path).await;
            let has_ended = order["status"] == "completed" || order["status"] == "cancelled";
            if has_ended { Ok(order) } else { Err(format!("it has not ended: {order}")) }
        })
        .await
    }

    /// Sends a request that must be answered.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.try_ask(request).await.expect("the shop answers")
    }

    /// Sends a request and reads the answer.
    pub async fn try_ask(&mut self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        let answered = self.exchange(request).await;
        if answered.is_err() {
            self.connection = None;
        }
        answered
    }

    /// Opens a stream of server-sent events.
    pub async fn live(&mut self, path: &str, headers: &[(&str, &str)]) -> Live {
        let answer = self.send(request(Method::GET, path, headers, "")).await.expect("the shop answers");
        assert_eq!(answer.status(), StatusCode::OK, "GET {path}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
        Live { body: answer.into_body(), text: String::new() }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        let (parts, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> io::Result<Response<Incoming>> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = Some(connect(&self.address).await?);
        }
        let connection = self.connection.as_mut().expect("it was opened");
        connection.ready().await.map_err(io::Error::other)?;
        connection.send_request(request).await.map_err(io::Error::other)
    }
}

impl Answer {
    /// The body, which must be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers here are text"))
    }
}

/// Server-sent events, one after the other.
pub struct Live {
    body: Incoming,
    text: String,
}

impl Live {
    /// The next event: its id, its name, its data.
    pub async fn next(&mut self) -> (String, String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = read_event(event);
                self.text = rest.to_owned();
                match event {
                    Some(event) => return event,
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event comes");
            let frame = frame.expect("the stream goes on").expect("the stream can be read");
            let bytes = frame.into_data().expect("events are data");
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

/// A comment keeps the connection alive and says nothing.
fn read_event(text: &str) -> Option<(String, String, Value)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = serde_json::from_str(field("data")?).expect("the data are JSON");
    Some((field("id")?.to_owned(), field("event")?.to_owned(), data))
}

/// A request of the given parts.
pub fn request(method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.to_owned())).expect("tests make valid requests")
}

/// Waits until `look` finds what it looks for; until then it says what there is instead.
pub async fn eventually<T>(mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {instead}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn connect(address: &str) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}
