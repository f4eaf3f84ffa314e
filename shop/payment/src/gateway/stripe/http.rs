//! Requests to the provider, and when it is certain that one was not received.

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri, http};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sha2::{Digest as _, Sha256};
use tidings::{EffectError, Error};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A call that takes longer has an unknown outcome: connecting, asking and answering.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Connecting alone: short of `CALL_MAX`, so that a provider out of reach is known not to have been asked.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Calls at once, each on a connection that is kept. Providers limit it too; and a process has 1,024 files.
const CALLS_MAX: usize = 128;
/// Far more than a page of the list.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest idempotency key that the provider takes.
const KEY_CHARS_MAX: usize = 255;
/// The newest version in which a card that is confirmed at once needs no page to return to.
const VERSION: HeaderValue = HeaderValue::from_static("2022-11-15");

/// The header with which the provider marks an answer that it has given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The provider's answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// Set if this answer was given under this key before.
    pub is_replayed: bool,
    pub body: Bytes,
}

/// Calls of one provider over connections that are kept.
pub struct Http {
    connections: Connections,
    turns: Semaphore,
    url: String,
    authorization: HeaderValue,
}

enum Connections {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Http {
    pub fn new(url: &str, key: &str) -> Result<Self, Error> {
        let url = url.trim_end_matches('/');
        let no_url =
            || Error::config(format!("{url:?} is not a URL: give --gateway stripe:https://HOST[:PORT]"));
        let uri: Uri = url.parse().map_err(|_| no_url())?;
        let is_secret = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(no_url()),
        };
        if !is_secret && (key.starts_with("sk_live_") || key.starts_with("rk_live_")) {
            return Err(Error::config(format!(
                "a live key is not sent in clear to {url}: give an https URL"
            )));
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
            Error::config("STRIPE_API_KEY is not a key: it has other than visible characters")
        })?;
        authorization.set_sensitive(true);
        let connections = if is_secret { tls(url)? } else { Connections::Plain(pool().build(tcp())) };
        Ok(Self { connections, turns: Semaphore::new(CALLS_MAX), url: url.to_owned(), authorization })
    }

    pub async fn get(self: &Arc<Self>, path: &str) -> Result<Reply, EffectError> {
        let request = self.request(Method::GET, path).body(Full::default());
        // A question that was not asked leaves open what it was about.
        self.call(request).await.map_err(|e| match e {
            EffectError::NotDone(why) => EffectError::Unknown(why),
            e => e,
        })
    }

    pub async fn post(self: &Arc<Self>, path: &str, key: &str, form: String) -> Result<Reply, EffectError> {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(HeaderName::from_static("idempotency-key"), idempotency_key(key))
            .body(Full::from(form));
        self.call(request).await
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(HeaderName::from_static("stripe-version"), VERSION)
    }

    /// Asks, on a task of its own: the next call's turn comes when this one is answered, even if the caller has
    /// no time to take the answer yet.
    async fn call(
        self: &Arc<Self>,
        request: http::Result<Request<Full<Bytes>>>,
    ) -> Result<Reply, EffectError> {
        let request = request.map_err(|e| EffectError::NotDone(format!("this cannot be asked: {e}")))?;
        let provider = self.clone();
        let answer = tokio::spawn(async move { provider.call_in_turn(request).await }).await;
        answer.unwrap_or_else(|e| Err(EffectError::Unknown(format!("the call was not finished: {e}"))))
    }

    async fn call_in_turn(&self, request: Request<Full<Bytes>>) -> Result<Reply, EffectError> {
        let Ok(Ok(_turn)) = timeout(CALL_MAX, self.turns.acquire()).await else {
            return Err(EffectError::NoTurn(format!("{CALLS_MAX} calls of {} took {CALL_MAX:?}", self.url)));
        };
        let answered = async {
            let answer = self.connections.request(request).await.map_err(|e| self.no_answer(&e))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body =
                body.map_err(|e| EffectError::Unknown(format!("the answer broke off: {e}")))?.to_bytes();
            let is_replayed = head.headers.get(REPLAYED).is_some_and(|value| value == "true");
            Ok(Reply { status: head.status, is_replayed, body })
        };
        timeout(CALL_MAX, answered).await.unwrap_or_else(|_| {
            Err(EffectError::Unknown(format!("no answer from {} for {CALL_MAX:?}", self.url)))
        })
    }

    fn no_answer(&self, e: &hyper_util::client::legacy::Error) -> EffectError {
        let mut why = e.to_string();
        let mut source = e.source();
        while let Some(e) = source {
            let _ = write!(why, ": {e}");
            source = e.source();
        }
        if e.is_connect() {
            EffectError::NotDone(format!("cannot connect to {}: {why}", self.url))
        } else {
            EffectError::Unknown(format!("no answer from {}: {why}", self.url))
        }
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Http({})", self.url)
    }
}

impl Connections {
    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            Self::Plain(client) => client.request(request),
            Self::Tls(client) => client.request(request),
        }
    }
}

fn tls(url: &str) -> Result<Connections, Error> {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|e| {
            Error::config(format!(
                "cannot tell whether {url} is genuine: {e}; install ca-certificates, or set SSL_CERT_FILE"
            ))
        })?
        .https_only()
        .enable_http1()
        .wrap_connector(tcp());
    Ok(Connections::Tls(pool().build(connector)))
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_MAX));
    connector
}

fn pool() -> hyper_util::client::legacy::Builder {
    let mut pool = Client::builder(TokioExecutor::new());
    pool.pool_timer(TokioTimer::new()).pool_max_idle_per_host(CALLS_MAX);
    pool
}

/// The operation key as the provider takes it: as it is, or a digest of one with other characters.
fn idempotency_key(key: &str) -> HeaderValue {
    let fits = key.len() <= KEY_CHARS_MAX && key.bytes().all(|b| b.is_ascii_graphic());
    let digest = || HeaderValue::try_from(format!("sha256-{}", hex(&Sha256::digest(key))));
    let value = if fits { HeaderValue::from_str(key).or_else(|_| digest()) } else { digest() };
    value.expect("visible characters are a header's value")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_key_is_passed_on_as_it_is_if_the_provider_can_take_it() {
        assert_eq!(idempotency_key("authorize/o-1"), "authorize/o-1");
        let strange = idempotency_key("authorize/ö 1\n");
        assert_eq!(strange, idempotency_key("authorize/ö 1\n"));
        assert_ne!(strange, idempotency_key("authorize/ö 2\n"));
        assert_eq!(strange.len(), 7 + 64);
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_one_line() {
        let refusal = |url, key| Http::new(url, key).expect_err("it must be refused").to_string();
        for url in ["", "api.stripe.com", "ftp://api.stripe.com", "https://"] {
            assert!(refusal(url, "sk_test_1").contains("--gateway stripe:https://HOST[:PORT]"), "{url}");
        }
        assert!(refusal("http://api.stripe.com", "sk_live_1").contains("not sent in clear"));
        assert!(refusal("http://127.0.0.1", "sk_test\n1").contains("STRIPE_API_KEY"));
        assert!(!format!("{:?}", Http::new("http://127.0.0.1", "sk_test_1").unwrap()).contains("sk_test"));
    }
}
