//! What the adapter makes of a provider in trouble: done, refused, not done or unknown, never a guess.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use expect_test::expect;
use payment::domain::Operation;
use payment::gateway::stripe::Stripe;
use payment::gateway::{Charge, PaymentGateway};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::provider::{KEY, aged, charge, insist, words};

/// What happens to a `POST`.
#[derive(Clone)]
pub enum Trouble {
    Answer(&'static str, &'static str),
    HangUpUnread,
    HangUpUnanswered,
    BreakOff,
    Silence,
}

use Trouble::{Answer, BreakOff, HangUpUnanswered, HangUpUnread, Silence};

/// What is listed where there is nothing.
const NOTHING: &str = r#"{"data": [], "has_more": false}"#;

/// What happens to a request, by its first line.
type Script = Arc<dyn Fn(&str) -> Trouble + Send + Sync>;

/// A provider in trouble: its URL, and what it is asked, a request a line.
async fn start(post: Trouble, list: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    start_with(Arc::new(move |line| match line.starts_with("GET") {
        true => Answer("200 OK", list),
        false => post.clone(),
    }))
    .await
}

/// A provider that follows a script.
pub async fn start_with(script: Script) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, script.clone(), log.clone()));
        }
    });
    (url, asked)
}

async fn answer(stream: TcpStream, script: Script, log: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    if matches!(script(""), HangUpUnread) {
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let mut key = String::new();
        for line in head.to_lowercase().lines() {
            length = line.strip_prefix("content-length: ").map_or(length, |l| l.parse().unwrap());
            key = line.strip_prefix("idempotency-key: ").map_or(key, |k| format!(" under {k}"));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
        log.lock().unwrap().push(format!("{line}{key}"));
        let (status, body) = match script(line) {
            Answer(status, body) => (status, body),
            HangUpUnread | HangUpUnanswered => return Ok(()),
            BreakOff => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"id\": ").await;
            }
            Silence => std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// An error body of the provider.
macro_rules! error {
    ($rest:literal) => {
        concat!(r#"{"error": {"message": "so it is", "#, $rest, "}}")
    };
}

/// An intent for order o-1.
macro_rules! intent {
    ($rest:literal) => {
        concat!(r#"{"id": "pi_1", "metadata": {"order_id": "o-1"}, "currency": "eur", "#, $rest, "}")
    };
}

#[tokio::test]
async fn only_what_is_certain_is_called_done_refused_or_not_done() {
    const UNKNOWN_PARAMETER: &str = error!(r#""code": "parameter_unknown", "param": "foo""#);
    const NO_SUCH_METHOD: &str = error!(r#""code": "resource_missing", "param": "payment_method""#);
    const KEY_IN_USE: &str = error!(r#""code": "idempotency_key_in_use""#);
    const STRANGE: &str = error!(r#""code": 7"#);
    const FAILURE: &str = error!(r#""type": "api_error""#);
    const HELD: &str = intent!(r#""status": "requires_capture", "amount": 2598"#);
    const ANOTHER: &str = intent!(r#""status": "requires_capture", "amount": 1"#);
    const NEEDS_ACTION: &str = intent!(r#""status": "requires_action", "amount": 2598"#);
    const PROCESSING: &str = intent!(r#""status": "processing", "amount": 2598"#);
    let troubles = [
        ("held", Answer("200 OK", HELD)),
        ("another amount held", Answer("200 OK", ANOTHER)),
        ("needs its holder", Answer("200 OK", NEEDS_ACTION)),
        ("in the works", Answer("200 OK", PROCESSING)),
        ("not an intent", Answer("200 OK", "{}")),
        ("not JSON", Answer("200 OK", "<html>")),
        ("elsewhere", Answer("302 Found", "")),
        ("wrong parameter", Answer("400 Bad Request", UNKNOWN_PARAMETER)),
        ("wrong method", Answer("400 Bad Request", NO_SUCH_METHOD)),
        ("wrong in some way", Answer("400 Bad Request", STRANGE)),
        ("wrong key", Answer("401 Unauthorized", "")),
        ("weak key", Answer("403 Forbidden", FAILURE)),
        ("not the provider", Answer("404 Not Found", "<html>")),
        ("key in use", Answer("409 Conflict", KEY_IN_USE)),
        ("too fast", Answer("429 Too Many Requests", FAILURE)),
        ("too fast for a proxy", Answer("429 Too Many Requests", "<html>")),
        ("failed", Answer("500 Internal Server Error", FAILURE)),
        ("failed behind a proxy", Answer("502 Bad Gateway", "<html>")),
        ("unavailable", Answer("503 Service Unavailable", FAILURE)),
        ("hangs up", HangUpUnanswered),
        ("breaks off", BreakOff),
    ];
    let mut told = String::new();
    for (what, trouble) in troubles {
        let (url, _) = start(trouble, NOTHING).await;
        writeln!(told, "{what:21} → {}", authorize(&url).await).unwrap();
    }
    expect![[r#"
        held                  → done
        another amount held   → conflict: … of order o-1 is for 1 eur, which was not asked for
        needs its holder      → outcome unknown: … is open, and is to be given up: the provider answered 200, and not what it was asked for
        in the works          → outcome unknown: … of order o-1 is still being processed
        not an intent         → outcome unknown: the provider answered 200, and not what it was asked for
        not JSON              → outcome unknown: the provider answered 200, and not what it was asked for
        elsewhere             → outcome unknown: the provider answered 302
        wrong parameter       → not done: the provider answered 400: parameter_unknown: so it is
        wrong method          → refused: resource_missing: so it is
        wrong in some way     → outcome unknown: the provider answered 400
        wrong key             → not done: the provider answered 401; is STRIPE_API_KEY right, and may it do this?
        weak key              → not done: the provider answered 403: so it is; is STRIPE_API_KEY right, and may it do this?
        not the provider      → outcome unknown: the provider answered 404
        key in use            → outcome unknown: the provider answered 409: idempotency_key_in_use: so it is
        too fast              → not done: the provider answered 429: so it is
        too fast for a proxy  → not done: the provider answered 429
        failed                → outcome unknown: the provider answered 500: so it is
        failed behind a proxy → outcome unknown: the provider answered 502
        unavailable           → outcome unknown: the provider answered 503: so it is
        hangs up              → outcome unknown: no answer from … client error (SendRequest): connection closed before message completed
        breaks off            → outcome unknown: the answer broke off: error reading a body from connection
    "#]].assert_eq(&told);
}

#[tokio::test]
async fn what_contradicts_the_request_is_a_conflict_and_not_tried_for_ever() {
    const OTHER_PARAMETERS: &str = error!(r#""type": "idempotency_error""#);
    const TWO: &str = concat!(
        r#"{"has_more": false, "data": ["#,
        intent!(r#""status": "canceled", "amount": 2598"#),
        ",",
        r#"{"id": "pi_2", "metadata": {"order_id": "o-1"}, "currency": "eur", "status": "succeeded", "amount": 2598},"#,
        intent!(r#""status": "requires_capture", "amount": 2598"#),
        "]}"
    );
    const ONE: &str = concat!(
        r#"{"has_more": false, "data": ["#,
        intent!(r#""status": "canceled", "amount": 2598"#),
        ",",
        intent!(r#""status": "requires_capture", "amount": 2598"#),
        "]}"
    );
    const OTHER_CURRENCY: &str = concat!(
        r#"{"has_more": false, "data": [{"id": "pi_1", "metadata": {"order_id": "o-1"}, "currency": "usd", "#,
        r#""status": "requires_capture", "amount": 2598}]}"#
    );
    let mut told = String::new();
    for (what, list) in [
        ("the key, and no hold", NOTHING),
        ("the key, and a hold", ONE),
        ("the key, and two charges", TWO),
        ("the key, and another currency", OTHER_CURRENCY),
    ] {
        let (url, _) = start(Answer("400 Bad Request", OTHER_PARAMETERS), list).await;
        writeln!(told, "{what:29} → {}", authorize(&url).await).unwrap();
    }
    let mut collected = charge("o-1", "pm_card_visa");
    collected.provider_ref = Some("pi_1".to_owned());
    for (operation, answer) in [
        (
            Operation::Capture,
            r#"{"id": "pi_1", "status": "succeeded", "amount": 2598, "amount_received": 98, "currency": "eur"}"#,
        ),
        (Operation::Refund, r#"{"id": "re_1", "status": "failed"}"#),
    ] {
        let (url, _) = start(Answer("200 OK", answer), NOTHING).await;
        let outcome = Stripe::new(&url, KEY).unwrap().perform(operation, "k", &collected).await;
        writeln!(told, "{:29} → {}", format!("{operation:?}"), words(outcome.as_ref().map(Some))).unwrap();
    }
    expect![[r#"
        the key, and no hold          → conflict: the provider answered 400: so it is
        the key, and a hold           → done
        the key, and two charges      → conflict: order o-1 has two charges, … and … give one up in the dashboard
        the key, and another currency → conflict: … of order o-1 is for 2598 usd, which was not asked for
        Capture                       → conflict: … of order o-1 was collected in part: 98 of 2598 eur
        Refund                        → conflict: refund re_1 is failed: give the money back in another way
    "#]].assert_eq(&told);
}

#[tokio::test]
async fn what_a_failure_left_behind_is_found_once_the_provider_repeats_itself() {
    const LIST: &str = concat!(
        r#"{"has_more": false, "data": ["#,
        intent!(r#""status": "requires_confirmation", "amount": 2598"#),
        ",",
        intent!(r#""status": "requires_capture", "amount": 2598"#),
        "]}"
    );
    let (url, asked) =
        start(Answer("500 Internal Server Error\r\nidempotent-replayed: true", ""), LIST).await;
    let told =
        insist(&Stripe::new(&url, KEY).unwrap(), Operation::Authorize, &mut charge("o-1", "pm_card_visa"))
            .await;
    assert_eq!(told, ["done"]);
    assert_eq!(asked.lock().unwrap().len(), 2);
    // An outage stores nothing: as long as it lasts, nobody reads lists.
    let (url, asked) = start(Answer("503 Service Unavailable", ""), LIST).await;
    for _ in 0..3 {
        assert_eq!(authorize(&url).await, "outcome unknown: the provider answered 503");
    }
    assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("POST")));
}

#[tokio::test]
async fn the_list_is_not_read_for_ever_and_then_a_living_key_decides() {
    const ENDLESS: &str = r#"{"has_more": true, "data": [{"id": "pi_2", "status": "canceled", "amount": 1, "currency": "eur"}]}"#;
    const FAILED_AGAIN: &str = "500 Internal Server Error\r\nidempotent-replayed: true";
    let (url, asked) = start(Answer(FAILED_AGAIN, ""), ENDLESS).await;
    let gateway = Stripe::new(&url, KEY).unwrap();
    let mut charge = charge("o-1", "pm_card_visa");
    let look_up = async |charge: &Charge| {
        let found = gateway.look_up(Operation::Authorize, "", charge).await;
        words(found.as_ref().map(Option::as_ref))
    };
    assert_eq!(look_up(&charge).await, "absent");
    assert_eq!(asked.lock().unwrap().len(), 3);
    assert_eq!(authorize(&url).await, "outcome unknown: the provider answered 500");
    assert_eq!(asked.lock().unwrap().len(), 3 + 1 + 3);
    charge.asked_at = None;
    expect![
        "outcome unknown: there is no hold for order o-1 among the newest 5000: look for it in the dashboard"
    ]
    .assert_eq(&look_up(&charge).await);
}

#[tokio::test]
async fn a_provider_that_cannot_be_connected_to_was_not_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    drop(listener);
    let told = authorize(&url).await;
    assert!(told.starts_with("not done: cannot connect to"), "{told}");
    let told = authorize("http://provider.invalid").await;
    assert!(told.starts_with("not done: cannot connect to"), "{told}");
}

#[tokio::test]
async fn a_connection_that_ends_may_have_carried_the_request() {
    let (url, _) = start(HangUpUnread, NOTHING).await;
    let told = authorize(&url).await;
    assert!(told.starts_with("outcome unknown: no answer from"), "{told}");
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_not_waited_for_for_ever() {
    let (url, _) = start(Silence, NOTHING).await;
    assert_eq!(authorize(&url).await, "outcome unknown: no answer from … for 10s");
}

#[tokio::test]
async fn a_question_without_answer_leaves_open_what_it_was_about() {
    let (url, asked) = start(Silence, NOTHING).await;
    let gateway = Stripe::new(&url, KEY).unwrap();
    let mut charge = aged(&charge("o-1", "pm_card_visa"));
    charge.provider_ref = Some("pi_1".to_owned());
    // A list is no intent.
    let outcome = gateway.look_up(Operation::Capture, "", &charge).await;
    assert_eq!(
        words(outcome.as_ref().map(Option::as_ref)),
        "outcome unknown: the provider answered 200, and not what it was asked for"
    );
    assert_eq!(asked.lock().unwrap()[..], ["GET /v1/payment_intents/pi_1?expand[]=latest_charge"]);
    let nowhere = Stripe::new("http://127.0.0.1:1", KEY).unwrap();
    let told = words(nowhere.look_up(Operation::Capture, "", &charge).await.as_ref().map(Option::as_ref));
    assert!(told.starts_with("outcome unknown: cannot connect"), "{told}");
}

async fn authorize(url: &str) -> String {
    let gateway = Stripe::new(url, KEY).unwrap();
    let outcome =
        gateway.perform(Operation::Authorize, "authorize/o-1", &charge("o-1", "pm_card_visa")).await;
    words(outcome.as_ref().map(Some))
}
