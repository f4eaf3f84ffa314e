//! The gate at the door: what is refused before any route sees it, and what goes through, on both stores.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use hyper::header::{HOST, HeaderValue};
use hyper::{Method, StatusCode};
use process::{Answer, Client, Shop, request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::Broker;

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":2}]}"#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn open_with(more: &[&str]) -> (TempDir, Shop, Client) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), more);
    let client = shop.client();
    (directory, shop, client)
}

/// Status and kind of a refusal, which must be a problem; and whether its words say this.
#[track_caller]
fn refused(answer: &Answer, status: u16, kind: &str, words: &str) {
    let text = answer.text();
    assert_eq!(answer.header("content-type"), "application/problem+json", "{} {text}", answer.status);
    let problem = answer.json();
    assert_eq!(
        (answer.status.as_u16(), &problem["type"]),
        (status, &json!(format!("/problems/{kind}"))),
        "{text}"
    );
    assert!(text.contains(words), "{text}");
}

async fn text_is_checked(client: &mut Client) {
    refused(&client.get("/orders/%00").await, 404, "not-found", "nothing at this path");
    refused(&client.get("/orders/a%00b/history").await, 404, "not-found", "");
    refused(&client.get("/orders/%FF").await, 400, "path", "UTF-8");
    refused(&client.get("/stock/%C3%28").await, 400, "path", "UTF-8");
    refused(&client.post("/stock/%FF/receipts", "{}").await, 400, "path", "UTF-8");
    refused(&client.get(&format!("/orders/{}", "a".repeat(5000))).await, 414, "path", "5008 bytes");
    refused(
        &client.get("/orders?customer_id=%00").await,
        400,
        "query",
        "customer_id: has the character U+0000",
    );
    refused(&client.get("/orders?customer_id=a%FF").await, 400, "query", "customer_id: is not UTF-8");
    refused(&client.get("/orders?x%00=1").await, 400, "query", "U+0000");
    refused(
        &client.get(&format!("/orders?customer_id={}", "a".repeat(5000))).await,
        400,
        "query",
        "too long",
    );
    for wrong in ["-5", "+5", "", "5.0", "1e3", "9999999999999999999", "%205"] {
        for list in ["/orders", "/payments"] {
            let answer = client.get(&format!("{list}?cursor={wrong}")).await;
            refused(&answer, 400, "query", "cursor");
        }
    }
    let zero =
        |field: &str| json!({"items": [{"product_id": "tea", "quantity": 1}], field: "a\u{0}"}).to_string();
    for field in ["customer_id", "payment_method"] {
        let answer = client.post("/orders", &zero(field)).await;
        refused(&answer, 422, "validation", "U+0000");
        assert_eq!(answer.json()["errors"][0]["pointer"], format!("/{field}"), "{}", answer.text());
    }
    let receipt = json!({"quantity": 1, "reference": "r\u{0}"}).to_string();
    let answer = client.post("/stock/tea/receipts", &receipt).await;
    refused(&answer, 422, "validation", "U+0000");
    assert_eq!(answer.json()["errors"][0]["pointer"], "/reference");
    for coding in ["gzip", "br", "identity, gzip"] {
        let answer = client.post_with("/orders", &[("content-encoding", coding)], TEA).await;
        refused(&answer, 415, "content-encoding", coding.rsplit(' ').next().unwrap());
    }
    assert_eq!(
        client.post_with("/orders", &[("content-encoding", "identity")], TEA).await.status,
        StatusCode::CREATED
    );
    // Text that is only strange is text.
    assert_eq!(client.get("/orders?customer_id=%F0%9F%AB%96%0A'--").await.status, StatusCode::OK);
}

#[tokio::test]
async fn paths_queries_and_bodies_are_text_that_can_be_stored() {
    let (_directory, _shop, mut client) = open_with(&[]);
    text_is_checked(&mut client).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn paths_queries_and_bodies_are_text_that_can_be_stored_on_postgres() {
    let database = tidings_testkit::servers::FreshDatabase::new();
    let (_directory, shop, mut client) = open_with(&["--store", &database.url()]);
    text_is_checked(&mut client).await;
    drop(shop);
}

/// The headers of the first event of an order.
async fn event_of(directory: &TempDir, id: &str) -> tidings::Message {
    let broker = Broker::open(&format!("sqlite:{}", directory.path().display())).unwrap();
    process::eventually(async || {
        for partition in 0..6 {
            let records = broker.read("orders", partition, 0, 1000).await.map_err(|e| e.to_string())?;
            let of_order = records.into_iter().find(|record| record.message.key_text() == id);
            if let Some(record) = of_order {
                return Ok(tidings::Message::clone(&record.message));
            }
        }
        Err("it is not there yet".to_owned())
    })
    .await
}

#[tokio::test]
async fn request_ids_are_bounded_and_traces_go_on_as_they_are_or_begin_anew() {
    let (directory, shop, mut client) = open_with(&[]);
    for (sent, is_kept) in [
        ("r-1", true),
        (&*"x".repeat(200), true),
        (&*"x".repeat(201), false),
        ("two words", false),
        (&*"x".repeat(30_000), false),
    ] {
        let answer = client.post_with("/orders", &[("x-request-id", sent)], TEA).await;
        let id = answer.header("x-request-id");
        assert_eq!(id == sent, is_kept, "{} characters", sent.len());
        assert!(!id.is_empty() && id.len() <= 200);
    }
    let on = |flags: &str| format!("00-{TRACE}-b7ad6b7169203331-{flags}");
    let (no_trace, state) = (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), "rojo=1,congo=t61");
    let mut ids = Vec::new();
    for (sent, begins, ends) in [
        (on("00"), Some(TRACE), "-00"),
        (on("01"), Some(TRACE), "-01"),
        (no_trace, None, "-01"),
        ("nonsense".to_owned(), None, "-01"),
    ] {
        let answer = client.post_with("/orders", &[("traceparent", &sent), ("tracestate", state)], TEA).await;
        assert_eq!(
            answer.header("traceparent") == sent,
            begins.is_some(),
            "what is no trace is not returned"
        );
        ids.push((answer.json()["id"].as_str().unwrap().to_owned(), begins, ends));
    }
    for (id, ..) in &ids {
        client.ended(id).await;
    }
    shop.terminate();
    drop(shop);
    for (id, begins, ends) in ids {
        let event = event_of(&directory, &id).await;
        let trace = event.header("traceparent").unwrap();
        assert_eq!(trace.contains(TRACE), begins.is_some(), "{trace}");
        assert!(trace.ends_with(ends) && !trace.contains(&"0".repeat(32)), "{trace}");
        assert_eq!(event.header("tracestate"), begins.map(|_| state), "it says something of that trace only");
    }
}

#[tokio::test]
async fn an_idempotency_key_is_one_string_whatever_the_body_is_written_like() {
    let (_directory, _shop, mut client) = open_with(&["--caller-header", "x-user"]);
    let body = r#"{"customer_id":"c","items":[{"product_id":"tea","quantity":2}]}"#;
    let first = client.post_with("/orders", &[("idempotency-key", "k-1")], body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let same =
        "{ \"items\": [ {\"quantity\": 2.0, \"product_id\": \"t\\u0065a\"} ],\n  \"customer_id\": \"c\" }";
    for key in ["k-1", "\"k-1\"", "\"k-1\";a=1"] {
        let again = client.post_with("/orders", &[("idempotency-key", key)], same).await;
        assert_eq!((again.text(), again.header("idempotent-replayed")), (first.text(), "true"), "{key}");
        assert_eq!(again.header("location"), first.header("location"));
    }
    let other = client.post_with("/orders", &[("idempotency-key", "k-1")], TEA).await;
    refused(&other, 422, "idempotency-mismatch", "");
    let two = client.post_with("/orders", &[("idempotency-key", "a"), ("idempotency-key", "b")], body).await;
    refused(&two, 400, "idempotency-key", "two");
    // Another caller's key is another key.
    let somebody = async |client: &mut Client, who| {
        let answer = client.post_with("/orders", &[("idempotency-key", "k-1"), ("x-user", who)], body).await;
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let (ann, bob) = (somebody(&mut client, "ann").await, somebody(&mut client, "bob").await);
    assert!(ann != bob && first.json()["id"] != json!(ann));
    assert_eq!(somebody(&mut client, "ann").await, ann);
}

#[tokio::test]
async fn pages_of_other_sites_and_names_of_others_do_not_get_in() {
    let (_directory, shop, mut client) = open_with(&["--cors-origins", "https://friend.example"]);
    let id = client.place(TEA).await;
    let cancel = format!("/orders/{id}/cancel");
    let evil = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
    refused(&client.post_with(&cancel, &evil, "").await, 403, "cross-site", "--cors-origins");
    refused(&client.post_with(&cancel, &evil[1..], "").await, 403, "cross-site", "");
    assert_eq!(
        client.ask(request(Method::GET, "/orders", &evil, "")).await.status,
        StatusCode::OK,
        "it only reads"
    );
    let own = format!("http://{}", shop.address);
    let mut same =
        request(Method::POST, "/orders", &[("content-type", "application/json"), ("origin", &own)], TEA);
    same.headers_mut().insert(HOST, HeaderValue::from_str(&shop.address).unwrap());
    assert_eq!(client.ask(same).await.status, StatusCode::CREATED);
    let friend = [("sec-fetch-site", "cross-site"), ("origin", "https://friend.example")];
    let answer = client.post_with("/orders", &friend, TEA).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("access-control-allow-origin"), "https://friend.example");
    let asks = [
        ("origin", "https://friend.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,idempotency-key"),
    ];
    let answer = client.ask(request(Method::OPTIONS, "/orders", &asks, "")).await;
    assert!(answer.status.is_success(), "{}", answer.status);
    assert!(answer.header("access-control-allow-headers").contains("idempotency-key"));
    assert_eq!(
        client.ask(request(Method::GET, "/orders", &evil, "")).await.header("access-control-allow-origin"),
        ""
    );

    for (host, status) in
        [("evil.example", 421), ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:8080", 200)]
    {
        let mut asked = request(Method::GET, "/orders", &[], "");
        asked.headers_mut().insert(HOST, HeaderValue::from_static(host));
        assert_eq!(client.ask(asked).await.status.as_u16(), status, "{host}");
        let mut probe = request(Method::GET, "/livez", &[], "");
        probe.headers_mut().insert(HOST, HeaderValue::from_static(host));
        assert_eq!(client.ask(probe).await.status, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let (_directory, shop, _) = open_with(&["--allowed-hosts", "*"]);
    for (head, status) in [
        ("GET /orders HTTP/1.1\r\n", 400),
        ("GET /livez HTTP/1.1\r\n", 400),
        ("GET /orders HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        ("GET http://a/orders HTTP/1.1\r\n", 400),
        ("GET /orders HTTP/1.1\r\nHost: a\r\n", 200),
        ("GET /orders HTTP/1.0\r\n", 200),
    ] {
        let mut stream = TcpStream::connect(&shop.address).unwrap();
        write!(stream, "{head}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(&*status.to_string()), "{head}: {answer}");
        let is_problem = answer.contains("application/problem+json") && answer.contains("/problems/host");
        assert_eq!(is_problem, status == 400, "{head}: {answer}");
    }
}

#[tokio::test]
async fn without_a_setting_no_other_origin_may_read() {
    let (_directory, _shop, mut client) = open_with(&[]);
    let answer = client.ask(request(Method::GET, "/orders", &[("origin", "https://a.example")], "")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (StatusCode::OK, ""));
}

#[tokio::test]
async fn probes_have_an_address_of_their_own_if_wanted() {
    let (_directory, shop, _) = open_with(&["--probe-listen", "127.0.0.1:0"]);
    let said = shop.log().into_iter().find_map(|line| {
        let line: Value = serde_json::from_str(&line).ok()?;
        (line["message"] == "probes are answered").then(|| line["listen"].as_str().unwrap().to_owned())
    });
    let mut probes = Client::to(&said.expect("it says where"));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(probes.get(path).await.status, StatusCode::OK, "{path}");
    }
    refused(&probes.get("/orders").await, 404, "not-found", "");
}

#[tokio::test]
async fn a_browser_finds_the_page_and_problems_lead_somewhere() {
    let (_directory, _shop, mut client) = open_with(&[]);
    let front = client.get("/").await;
    assert_eq!((front.status, front.header("location")), (StatusCode::TEMPORARY_REDIRECT, "/docs"));
    let problem = client.get("/orders/nobody").await.json();
    let page = client.get(problem["type"].as_str().unwrap()).await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(page.text().contains("<h1>Not found</h1>"), "{}", page.text());
    refused(&client.get("/problems/No%20such").await, 404, "not-found", "");
}

/// The rules of `promtool check metrics` that can be broken here.
#[tokio::test]
async fn every_metric_says_what_it_is() {
    let (_directory, _shop, mut client) = open_with(&[]);
    let id = client.place(TEA).await;
    client.ended(&id).await;
    let metrics = client.get("/metrics").await.text();
    let typed: Vec<(&str, &str)> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(typed.len() > 20, "{metrics}");
    for (name, kind) in typed {
        let help = metrics.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.len() > 10), "{name} has no help");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    }
}

#[tokio::test]
async fn a_payment_of_which_only_the_cancellation_is_known_is_in_no_list() {
    let (_directory, _shop, mut client) = open_with(&[]);
    assert_eq!(client.json("/payments?status=unknown").await, json!({"items": []}));
}
