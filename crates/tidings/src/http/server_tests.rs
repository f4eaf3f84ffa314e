//! Clients that do not send what they should, in numbers.

use std::net::SocketAddr;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A server with few places, which stops with the test.
async fn server(connections: usize, routes: Router) -> SocketAddr {
    within(Limits { connections, head: HEAD_MAX, body: BODY_MAX }, routes).await
}

async fn within(limits: Limits, routes: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_within(limits, listener, routes, CancellationToken::new()));
    address
}

fn routes() -> Router {
    Router::new()
        .route("/livez", get(async || "live"))
        .route("/echo", post(async |body: Bytes| body))
        .route("/never", get(async || std::future::pending::<()>().await))
}

/// Sends a request and reads the answer to the end of the connection.
async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

const PROBE: &str = "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn whoever_sends_a_request_gets_in_past_those_who_send_none_or_half_of_one() {
    let address = server(4, routes()).await;
    let mut idle = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let half = ["", "GET /livez HT", "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf"];
        stream.write_all(half[n % 3].as_bytes()).await.unwrap();
        idle.push(stream);
        assert!(ask(address, PROBE).await.ends_with("live"), "after {n}");
    }
    // Those who had to go know it.
    assert_eq!(read(&mut idle[0]).await, "");
}

#[tokio::test]
async fn probes_are_answered_while_every_connection_is_worked_on() {
    let address = server(2, routes()).await;
    let mut working = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        working.push(stream);
    }
    // A connection gets a place before its request has come: until both are worked on, one may have to go.
    loop {
        let answer = ask(address, "GET /other HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after") {
            break;
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        working.push(stream);
    }
    assert!(ask(address, PROBE).await.ends_with("live"));
}

#[tokio::test]
async fn half_a_head_or_half_a_body_is_cut_off() {
    let short = Duration::from_millis(50);
    let limits = Limits { connections: 4, head: short, body: HEAD_MAX };
    assert_eq!(ask(within(limits, routes()).await, "GET /livez HT").await, "", "closed without an answer");
    assert_eq!(ask(within(limits, routes()).await, "").await, "", "closed without a request");
    let limits = Limits { connections: 4, head: HEAD_MAX, body: short };
    let half = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    let answer = ask(within(limits, routes()).await, half).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}
