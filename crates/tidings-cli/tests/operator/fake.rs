//! A process of services that answers the admin API as a test wants, and remembers the requests.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use expect_test::Expect;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};

/// A running process; it ends with the test.
pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The answer to a request, as `GET /path?query` and its body; none is a 404.
type Answers = dyn Fn(&str, &str) -> Option<String> + Send + Sync;

/// In place of an answer: the connection breaks.
pub(crate) const BREAK: &str = "break";

impl Fake {
    /// Opens on a free port. `/statusz`, if services are named, and `/readyz` are answered by themselves.
    pub(crate) fn of<A: ToString>(
        services: &'static [&'static str],
        answers: impl Fn(&str, &Value) -> Option<A> + Send + Sync + 'static,
    ) -> Fake {
        let answers = move |question: &str, body: &str| {
            let body = serde_json::from_str(body).unwrap_or_default();
            answers(question, &body).map(|answer| answer.to_string())
        };
        let answers: Arc<Answers> = Arc::new(answers);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || serve(listener, services, &answers, &log));
        Fake { url, asked }
    }

    /// Requests, as `POST /path {body}`, without those for names.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The changes among the requests.
    pub(crate) fn posts(&self) -> Vec<String> {
        self.asked().into_iter().filter(|question| question.starts_with("POST")).collect()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(
    listener: TcpListener,
    services: &'static [&'static str],
    answers: &Arc<Answers>,
    log: &Arc<Mutex<Vec<String>>>,
) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (answers, log) = (answers.clone(), log.clone());
        let service = service_fn(move |request| answer(request, services, answers.clone(), log.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    services: &[&str],
    answers: Arc<Answers>,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let question = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("JSON");
    let answer = match question.as_str() {
        "GET /statusz" if !services.is_empty() => {
            let services = services.iter().map(|name| ((*name).to_owned(), json!({})));
            Some(Value::Object(services.collect::<Map<_, _>>()).to_string())
        }
        "GET /readyz" => Some(json!({"status": "ready"}).to_string()),
        _ => {
            log.lock().unwrap().push(format!("{question} {body}").trim_end().to_owned());
            answers(&question, &body)
        }
    };
    if answer.as_deref() == Some(BREAK) {
        return Err(std::io::Error::other("broken"));
    }
    let status = if answer.is_some() { 200 } else { 404 };
    let answer =
        answer.unwrap_or_else(|| json!({"title": "Not Found", "detail": "no such thing"}).to_string());
    Response::builder().status(status).body(Full::from(answer)).map_err(std::io::Error::other)
}

/// An address at which nothing listens.
pub(crate) fn nobody() -> String {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", free.local_addr().unwrap())
}

/// A time three minutes ago. Transcripts have [`THEN`] in its place.
pub(crate) fn then() -> String {
    let then = SystemTime::now() - Duration::from_secs(185);
    let seconds = then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    jiff::Timestamp::from_second(seconds as i64).unwrap().to_string()
}

/// A time that no transcript has.
pub(crate) const NEVER: &str = "1970-01-01T00:00:00Z";

pub(crate) const THEN: &str = "2026-11-28T10:00:00Z";

/// Runs `tidings` as Anna.
pub(crate) fn tidings(urls: &[&str], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.env_remove("TIDINGS_URL").env("USER", "anna").args(["--url", &urls.join(",")]).args(args);
    command.output().expect("it starts")
}

/// Runs `tidings` and compares stdout; `then` is replaced.
#[track_caller]
pub(crate) fn shows(urls: &[&str], then: &str, args: &[&str], stdout: Expect) {
    let output = tidings(urls, args);
    stdout.assert_eq(&String::from_utf8_lossy(&output.stdout).replace(then, THEN));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    assert_eq!(output.status.code(), Some(0), "{args:?}");
}

/// Runs `tidings` and reads what it prints for programs.
#[track_caller]
pub(crate) fn json_of(urls: &[&str], args: &[&str]) -> Value {
    let output = tidings(urls, &[&["--json"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs `tidings`, which fails; gives the code and stderr.
pub(crate) fn fails(urls: &[&str], args: &[&str]) -> (i32, String) {
    let output = tidings(urls, args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Text without the widths of its columns.
pub(crate) fn squeezed(text: &str) -> String {
    let words = |line: &str| {
        let indent = &line[..line.len() - line.trim_start().len()];
        let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        format!("{indent}{}\n", cells.join("  "))
    };
    text.lines().map(words).collect()
}
