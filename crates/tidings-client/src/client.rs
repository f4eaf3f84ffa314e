//! One keep-alive HTTP/1.1 connection that comes back after it broke.

use std::fmt::Write as _;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::Error;

/// Longer than any answer a healthy service gives; a frozen one must not hold the operator for ever.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Bound of what a service can make us wait with `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// One connection to one of several equal endpoints. It connects when first used; after a failure
/// the next request connects again, to the next endpoint.
pub struct Client {
    endpoints: Arc<[Endpoint]>,
    current: usize,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of several endpoints that serve the same data; there is at least one.
    pub fn new(endpoints: Arc<[Endpoint]>) -> Client {
        Client::starting_at(endpoints, 0)
    }

    /// A client of exactly this endpoint.
    pub fn to(endpoint: Endpoint) -> Client {
        Client::new(Arc::new([endpoint]))
    }

    /// A client as [`Client::new`] makes it, beginning with endpoint `number` so that many clients spread.
    pub fn starting_at(endpoints: Arc<[Endpoint]>, number: usize) -> Client {
        assert!(!endpoints.is_empty(), "a client needs an endpoint");
        Client { endpoints, current: number, sender: None }
    }

    /// The body of a successful `GET`.
    pub async fn get(&mut self, path: &str) -> Result<Bytes, Error> {
        self.send(request(Method::GET, path)?).await?.success()
    }

    /// Sends a request once and reads the whole answer, whatever its status.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let question = Question { method: request.method().clone(), uri: request.uri().clone() };
        let exchange = timeout(ANSWER_WAIT_MAX, self.exchange(request));
        let failure = match exchange.await {
            Ok(Ok((head, body))) => {
                return Ok(Answer { question, head, body });
            }
            Ok(Err(Failure::Connect(error))) => cannot_connect(self.endpoint(), &error),
            Ok(Err(Failure::Exchange(error))) => question.unanswered(self.endpoint(), &with_source(&error)),
            Err(_) => question.unanswered(self.endpoint(), "it took longer than 30 s"),
        };
        self.sender = None;
        self.current += 1;
        Err(failure)
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.current % self.endpoints.len()]
    }

    async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Parts, Failure> {
        request.headers_mut().insert(header::HOST, self.endpoint().host_header.clone());
        let sender = self.connected().await?;
        let answer = sender.send_request(request).await?;
        let (head, body) = Response::into_parts(answer);
        Ok((head, whole(body).await?))
    }

    /// The open connection, or a new one when the service closed it while it was idle.
    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Failure> {
        let open = match self.sender.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match open {
            Some(sender) => sender,
            None => connect(self.endpoint()).await?,
        };
        Ok(self.sender.insert(sender))
    }
}

/// One `http://host:port`.
///
/// ```
/// use tidings_client::Endpoint;
///
/// let endpoint: Endpoint = "http://[::1]:8080".parse().unwrap();
/// assert_eq!((&*endpoint.host, endpoint.port), ("::1", 8080));
/// assert!("https://example.com".parse::<Endpoint>().is_err());
/// ```
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The endpoint as messages name it.
    pub url: String,
    /// The host to connect to, without the brackets of an IPv6 address.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// The `Host` of every request, made once.
    pub host_header: HeaderValue,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let uri: Uri = text.parse().map_err(|_| "expected http://HOST:PORT".to_owned())?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            return Err("expected http://HOST:PORT, without TLS and without a path".to_owned());
        }
        let authority = uri.authority().ok_or("expected a host after http://")?;
        Ok(Endpoint {
            url: format!("http://{authority}"),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            host_header: HeaderValue::from_str(authority.as_str())
                .map_err(|_| "expected a host of plain characters".to_owned())?,
        })
    }
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let address = (endpoint.host.as_str(), endpoint.port);
    let stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    // Our requests are a few hundred bytes: copying head and body together is cheaper than
    // handing the kernel two pieces.
    let (sender, connection) = http1::Builder::new().writev(false).handshake(TokioIo::new(stream)).await?;
    // Its end, good or bad, shows as the outcome of the request that uses it.
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

/// Reading to the end is what lets the connection serve the next request; a body in one piece,
/// the usual case, is not copied.
async fn whole(body: Incoming) -> Result<Bytes, hyper::Error> {
    Ok(body.collect().await?.to_bytes())
}

type Parts = (hyper::http::response::Parts, Bytes);

enum Failure {
    Connect(io::Error),
    Exchange(hyper::Error),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Failure {
        Failure::Exchange(error)
    }
}

fn cannot_connect(endpoint: &Endpoint, error: &io::Error) -> Error {
    let url = &endpoint.url;
    Error::no_answer(match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens at {url}: start the service or say with --url where it is")
        }
        _ => format!("cannot connect to {url}: {error}"),
    })
}

/// hyper keeps the telling half, such as "connection reset by peer", in the source.
fn with_source(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A `GET` or an empty `POST` of a path.
pub fn request(method: Method, path: &str) -> Result<Request<Full<Bytes>>, Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Full::default())
        .map_err(|error| Error::new(format!("cannot ask for {path}: {error}")))
}

/// A `POST` of JSON.
pub fn post(path: &str, body: impl Into<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
    let mut request = request(Method::POST, path)?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *request.body_mut() = Full::new(body.into());
    Ok(request)
}

/// The request, kept to name it in messages.
struct Question {
    method: Method,
    uri: Uri,
}

impl Question {
    fn unanswered(&self, endpoint: &Endpoint, why: &str) -> Error {
        Error::no_answer(format!("no answer to {self} from {}: {why}", endpoint.url))
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.uri)
    }
}

/// A complete answer.
pub struct Answer {
    question: Question,
    head: hyper::http::response::Parts,
    body: Bytes,
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The body, whatever the status.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body of a success; any other status becomes an error with the problem's text.
    pub fn success(self) -> Result<Bytes, Error> {
        if self.head.status.is_success() {
            return Ok(self.body);
        }
        let problem = problem(&self.body);
        let message = format!("{} was refused with {}{problem}", self.question, self.head.status);
        Err(Error::refused(message, self.head.status, retry_after(&self.head.headers)))
    }
}

/// The parts of `application/problem+json` (RFC 9457) an operator can act on.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<Invalid>,
}

#[derive(Deserialize)]
struct Invalid {
    pointer: String,
    detail: String,
}

fn problem(body: &[u8]) -> String {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return String::new();
    };
    let mut text = String::new();
    if let Some(detail) = problem.detail.or(problem.title) {
        let _ = write!(text, ": {detail}");
    }
    for Invalid { pointer, detail } in problem.errors {
        let _ = write!(text, "; {pointer}: {detail}");
    }
    text
}

/// Seconds only; the other form, a date, is for caches and would need our clocks to agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// A query value in the characters every server takes literally.
///
/// ```
/// assert_eq!(tidings_client::percent_encoded("p 1/ü"), "p%201%2F%C3%BC");
/// ```
pub fn percent_encoded(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_the_places_it_names() {
        let body = br#"{"type":"about:blank","title":"Invalid","status":422,"detail":"the order is invalid",
            "errors":[{"pointer":"/items/0/quantity","detail":"must be at least 1"}]}"#;
        assert_eq!(": the order is invalid; /items/0/quantity: must be at least 1", problem(body));
        assert_eq!("", problem(b"<html>"));
    }

    #[test]
    fn query_values_survive_the_query() {
        assert_eq!("a%2Bb%3D%26%20%C3%A9", percent_encoded("a+b=& \u{e9}"));
    }

    #[test]
    fn a_service_cannot_make_us_wait_for_hours() {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "7200".parse().unwrap())]);
        assert_eq!(Some(RETRY_AFTER_MAX), retry_after(&headers));
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let endpoint: Endpoint = "http://[::1]:8080/".parse().unwrap();
        assert_eq!(("::1", 8080), (endpoint.host.as_str(), endpoint.port));
        assert_eq!("http://[::1]:8080", endpoint.url);
        assert_eq!(80, "http://shop".parse::<Endpoint>().unwrap().port);
    }

    #[test]
    fn what_cannot_be_spoken_to_is_refused() {
        for text in ["https://shop", "shop:8080", "http://shop/api", "http://", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
