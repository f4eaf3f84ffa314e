//! The gate at the door: every request passes it, whatever route it is for.
//!
//! Behind it a path and a query are text that can be stored and looked up, the client was meant to reach this
//! address, and an answer comes in time.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;
use tower_http::cors::CorsLayer;
use uuid::Uuid;

use super::names::{host, listed, origin, without_port};
use super::problem::{Problem, TurnedAway};
use super::{IDEMPOTENT_REPLAYED, LONG_POLL_MAX, REQUEST_ID, TRACEPARENT, TRACESTATE};
use crate::error::Error;
use crate::panic::lock;
use crate::trace;

/// A request that has not been answered by then is given up. Live events are answered at once, and go on.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest path and query, and longest value of a parameter, in bytes.
const PATH_BYTES_MAX: usize = 4096;
const QUERY_BYTES_MAX: usize = 16 * 1024;
const VALUE_BYTES_MAX: usize = 4096;
/// Longest `X-Request-Id`: it stands in every event that the request leads to.
const REQUEST_ID_MAX: usize = 200;
/// Longest name of a caller.
const CALLER_MAX: usize = 500;
/// An error of a route that says it in plain text has no more of it.
const PLAIN_ERROR_MAX: usize = 4096;
/// Requests that are turned away are logged so often.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);
/// The time for which browsers remember what another origin may do.
const CORS_AGE: Duration = Duration::from_secs(600);

/// The rules by which requests are let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// Names by which clients may call this server; any name if there is none.
    hosts: Vec<String>,
    /// Origins whose pages may ask.
    origins: Vec<HeaderValue>,
    /// The header in which a proxy names the caller.
    caller: Option<HeaderName>,
    turned_away: Arc<Mutex<Refusals>>,
}

/// Requests that were turned away since one was last logged.
#[derive(Debug, Default)]
struct Refusals {
    logged: Option<Instant>,
    others: u64,
}

impl Manners {
    /// The manners of a server at this address: names by which clients may call it and origins whose pages may ask,
    /// each listed with commas, and the header in which a proxy names the caller.
    pub(crate) fn of(
        hosts: Option<&str>,
        origins: Option<&str>,
        caller: Option<&str>,
        bound: Option<SocketAddr>,
    ) -> Result<Self, Error> {
        let mut hosts: Vec<String> = listed(hosts).map(host).collect::<Result<_, _>>()?;
        if hosts.is_empty() && bound.is_some_and(|address| address.ip().is_loopback()) {
            hosts = vec!["localhost".to_owned()];
        } else if hosts.iter().any(|host| host == "*") {
            hosts.clear();
        }
        let origins = listed(origins).map(origin).collect::<Result<_, _>>()?;
        let caller = caller.filter(|name| !name.is_empty());
        let wrong =
            |name| move |_| Error::config(format!("--caller-header {name:?} is not the name of a header"));
        let caller = caller.map(|name| name.parse().map_err(wrong(name))).transpose()?;
        Ok(Self { hosts, origins, caller, turned_away: Arc::default() })
    }

    /// Logs a request that was turned away: the first at once, then one each minute with how many others there were.
    fn log_turned_away(&self, request: &str, id: &HeaderValue, why: &str) {
        let mut refusals = lock(&self.turned_away);
        if refusals.logged.is_some_and(|logged| logged.elapsed() < REFUSALS_EVERY) {
            refusals.others += 1;
            return;
        }
        refusals.logged = Some(Instant::now());
        let others = std::mem::take(&mut refusals.others);
        let id = id.to_str().unwrap_or_default();
        tracing::warn!(request, request_id = id, others, "a request was turned away: {why}");
    }

    /// Tells whether a name is one of ours. A server that only this machine reaches is called by the machine's names;
    /// the name of a page elsewhere that was made to lead here is none of them.
    fn knows(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let is_loopback = |name: &str| {
            let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            name == "localhost" || name.ends_with(".localhost") || literal.is_ok_and(|ip| ip.is_loopback())
        };
        self.hosts.is_empty()
            || self.hosts.iter().any(|known| *known == name || (known == "localhost" && is_loopback(&name)))
    }
}

/// Puts the gate before routes.
pub(super) fn guard(routes: Router, manners: &Manners) -> Router {
    let manners = Arc::new(manners.clone());
    // One layer: each costs every request a copy of the routes and a few allocations.
    let routes = routes.layer(from_fn_with_state(manners.clone(), identify));
    if manners.origins.is_empty() { routes } else { routes.layer(cors(&manners)) }
}

fn cors(manners: &Manners) -> CorsLayer {
    let sent =
        ["content-type", "idempotency-key", "last-event-id", "x-request-id", "traceparent", "tracestate"];
    let seen = [header::LOCATION, header::RETRY_AFTER, REQUEST_ID, TRACEPARENT, IDEMPOTENT_REPLAYED];
    CorsLayer::new()
        .allow_origin(manners.origins.clone())
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(sent.map(HeaderName::from_static))
        .expose_headers(seen)
        .max_age(CORS_AGE)
}

/// Takes a request id over or makes one, and returns it with the trace context. An id that is too long, or has what
/// cannot be seen, is replaced by a new one; a trace that cannot be gone on with is left out.
async fn identify(State(manners): State<Arc<Manners>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let is_id = |id: &&HeaderValue| {
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let id = headers.get(&REQUEST_ID).filter(is_id).cloned().unwrap_or_else(|| {
        let id = Uuid::now_v7().hyphenated().to_string();
        HeaderValue::try_from(id).expect("a UUID is ASCII")
    });
    headers.insert(REQUEST_ID, id.clone());
    let traceparent = one_trace(headers);
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = admit(&manners, request, next).await;
    if let Some(TurnedAway(why)) = response.extensions_mut().remove() {
        manners.log_turned_away(&format!("{method} {}", uri.path()), &id, &why);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if let Some(traceparent) = traceparent {
        headers.insert(TRACEPARENT, traceparent);
    }
    response
}

/// The trace that a request belongs to. What is no trace, and what is said of it, is removed.
fn one_trace(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut all = headers.get_all(&TRACEPARENT).iter();
    let one = all.next().filter(|_| all.next().is_none()).cloned();
    let one = one.filter(|value| value.to_str().is_ok_and(trace::is_traceparent));
    let states: Vec<&str> =
        headers.get_all(&TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let state = Some(states.join(",")).filter(|state| one.is_some() && trace::is_tracestate(state));
    headers.remove(&TRACEPARENT);
    headers.remove(&TRACESTATE);
    if let Some(state) = state.and_then(|state| HeaderValue::try_from(state).ok()) {
        headers.insert(TRACESTATE, state);
    }
    if let Some(one) = &one {
        headers.insert(TRACEPARENT, one.clone());
    }
    one
}

/// The caller of a request, as named by the proxy that let the request through, in the header of `--caller-header`.
#[derive(Clone, Debug)]
pub struct Caller(pub String);

/// Lets a request in, or says why not.
async fn admit(manners: &Manners, mut request: Request, next: Next) -> Response {
    if let Err(problem) = check(manners, &request) {
        return problem.into_response();
    }
    if let Some(name) = &manners.caller {
        let mut values = request.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => {}
            (Some(value), None) if value.len() <= CALLER_MAX => {
                let caller = Caller(String::from_utf8_lossy(value.as_bytes()).into_owned());
                request.extensions_mut().insert(caller);
            }
            _ => {
                let detail =
                    format!("the header {name} does not say one caller, of at most {CALLER_MAX} bytes");
                return Problem::new(StatusCode::BAD_REQUEST, "caller", detail).into_response();
            }
        }
    }
    in_time(request, next).await
}

fn check(manners: &Manners, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let hosts = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("\u{fffd}"));
    let hosts: Vec<&str> = hosts.collect();
    if hosts.len() > 1 || (hosts.is_empty() && request.version() == Version::HTTP_11) {
        let detail =
            format!("a request names its host once, in the header Host; this one has {}", hosts.len());
        return Err(Problem::new(StatusCode::BAD_REQUEST, "host", detail));
    }
    let hosts: Vec<&str> =
        hosts.into_iter().chain(request.uri().authority().map(|authority| authority.as_str())).collect();
    // Orchestrators call by numbers of their own, and learn nothing but yes or no.
    let is_probe = ["/livez", "/readyz"].contains(&request.uri().path());
    if let Some(stranger) = hosts.iter().find(|host| !is_probe && !manners.knows(host)) {
        let detail = format!("this is not {stranger:?}; if it should be, start with --allowed-hosts NAME,…");
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", detail));
    }
    if !request.method().is_safe() && is_cross_site(headers, hosts.first().copied(), &manners.origins) {
        let detail = "a page of another site sent this; if it may, start with --cors-origins https://HOST,…";
        return Err(Problem::new(StatusCode::FORBIDDEN, "cross-site", detail));
    }
    check_path(request.uri().path())?;
    check_query(request.uri().query().unwrap_or_default())
}

/// Tells whether a page of another site made a browser send this request. Programs send neither `Origin` nor
/// `Sec-Fetch-Site`.
fn is_cross_site(headers: &HeaderMap, host: Option<&str>, allowed: &[HeaderValue]) -> bool {
    let origin = headers.get(header::ORIGIN);
    if origin.is_some_and(|origin| allowed.contains(origin)) {
        return false;
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(site) => ![&b"same-origin"[..], b"none"].contains(&site),
        None => origin.is_some_and(|origin| {
            let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
            authority.is_none() || authority.map(str::to_ascii_lowercase) != host.map(str::to_ascii_lowercase)
        }),
    }
}

fn check_path(path: &str) -> Result<(), Problem> {
    if path.len() > PATH_BYTES_MAX {
        let detail = format!("the path has {} bytes, of at most {PATH_BYTES_MAX}", path.len());
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "path", detail));
    }
    match percent_decode_str(path).decode_utf8() {
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "path", "the path is not UTF-8")),
        // It would be the id of something, and nothing has such an id.
        Ok(text) if text.contains('\0') => Err(Problem::not_found("there is nothing at this path")),
        Ok(_) => Ok(()),
    }
}

fn check_query(query: &str) -> Result<(), Problem> {
    if query.len() > QUERY_BYTES_MAX {
        let detail = format!("the query has {} bytes, of at most {QUERY_BYTES_MAX}", query.len());
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "query", detail));
    }
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let wrong =
            |why: &str| Err(Problem::bad_query(format!("{}: {why}", shown_name(&parameter_name(parameter)))));
        for part in [name, value] {
            match percent_decode_str(part).decode_utf8() {
                Err(_) => return wrong("is not UTF-8"),
                Ok(text) if text.contains('\0') => {
                    return wrong("has the character U+0000, which no text here has");
                }
                Ok(text) if text.len() > VALUE_BYTES_MAX => return wrong("is too long"),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

/// The name of a parameter, as it is told.
pub(super) fn parameter_name(parameter: &str) -> Cow<'_, str> {
    let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
    percent_decode_str(name).decode_utf8_lossy()
}

/// Returns the beginning of a name from outside, fit to be shown.
pub(super) fn shown_name(name: &str) -> String {
    name.chars().take(40).collect::<String>().escape_debug().to_string()
}

/// Gives a request up that takes too long. What it began to write is undone, unless it was about to be committed.
async fn in_time(request: Request, next: Next) -> Response {
    let is_poll = request.uri().path().starts_with("/admin/");
    let limit = REQUEST_MAX + if is_poll { LONG_POLL_MAX } else { Duration::ZERO };
    within(limit, request, next).await
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    let is_safe = request.method().is_safe();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => as_problem(response).await,
        Err(_) if is_safe => {
            let detail = format!("there was no answer within {} s; ask again", limit.as_secs());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).into_response()
        }
        Err(_) => Problem::outcome_unknown().into_response(),
    }
}

/// Turns the plain-text error of a route that is not ours into a problem.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_plain = content_type.is_none_or(|content_type| content_type.starts_with("text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !is_plain {
        return response;
    }
    let reason = status.canonical_reason().unwrap_or("error");
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, PLAIN_ERROR_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let kind = reason.to_ascii_lowercase().replace(' ', "-");
    let detail = if text.trim().is_empty() { reason } else { text.trim() };
    let mut problem = Problem::new(status, &kind, detail).into_response();
    // `Allow`, `Retry-After` and the like say what they said before.
    let about_body = [header::CONTENT_TYPE, header::CONTENT_LENGTH];
    for (name, value) in parts.headers.iter().filter(|(name, _)| !about_body.contains(name)) {
        problem.headers_mut().insert(name, value.clone());
    }
    problem
}

#[cfg(test)]
mod tests {
    use axum::middleware::from_fn;

    use super::*;

    #[test]
    fn a_loopback_server_is_called_by_names_of_the_machine() {
        let at = |address: &str, allowed: Option<&str>| {
            Manners::of(allowed, None, None, Some(address.parse().unwrap())).unwrap()
        };
        let loopback = at("127.0.0.1:8080", None);
        for ours in [
            "localhost",
            "LOCALHOST:8080",
            "shop.localhost",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:80",
            "::1",
        ] {
            assert!(loopback.knows(ours), "{ours}");
        }
        for other in
            ["evil.example", "localhost.evil.example:8080", "10.0.0.1", "[::2]:80", "", "127.0.0.1.nip.io"]
        {
            assert!(!loopback.knows(other), "{other}");
        }
        assert!(at("0.0.0.0:8080", None).knows("anything"));
        let named = at("0.0.0.0:8080", Some("shop.example, Localhost"));
        assert!(named.knows("shop.example:443") && named.knows("127.0.0.1") && !named.knows("evil.example"));
        assert!(at("127.0.0.1:8080", Some("*")).knows("anything"));
        for literal in ["::1", "[2001:DB8::1]"] {
            assert!(
                at("[::]:8080", Some(literal)).knows(&format!("[{}]:80", literal.trim_matches(['[', ']'])))
            );
        }
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_whether_anything_may_have_been_done() {
        use tower::ServiceExt as _;
        let never = || std::future::pending::<()>();
        let routes = Router::new()
            .route("/", axum::routing::get(never).post(never))
            .layer(from_fn(|request, next| within(Duration::from_millis(10), request, next)));
        for (method, kind) in [(Method::GET, "unavailable"), (Method::POST, "outcome-unknown")] {
            let request = Request::builder().method(method).body(axum::body::Body::empty()).unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
            let body = to_bytes(response.into_body(), 4096).await.unwrap();
            assert!(String::from_utf8_lossy(&body).contains(&format!("/problems/{kind}")), "{body:?}");
        }
    }

    #[tokio::test]
    async fn what_routes_of_others_refuse_in_plain_text_is_a_problem() {
        use tower::ServiceExt as _;
        let number = async |axum::extract::Path(n): axum::extract::Path<u32>| n.to_string();
        let routes = guard(Router::new().route("/{n}", axum::routing::get(number)), &Manners::default());
        let ask = |path: &str| {
            Request::get(path).header(header::HOST, "shop").body(axum::body::Body::empty()).unwrap()
        };
        assert_eq!(routes.clone().oneshot(ask("/7")).await.unwrap().status(), StatusCode::OK);
        let response = routes.oneshot(ask("/x")).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("/problems/bad-request"), "{body:?}");
    }

    #[test]
    fn a_page_of_another_site_is_known_by_what_its_browser_says() {
        let table = [
            (None, None, false), // a program
            (Some("same-origin"), Some("http://shop:1"), false),
            (Some("none"), None, false),
            (Some("cross-site"), Some("http://evil"), true),
            (Some("same-site"), Some("http://other.shop:1"), true),
            (Some("cross-site"), Some("https://friend"), false), // allowed
            (None, Some("http://shop:1"), false),
            (None, Some("http://shop:2"), true),
            (None, Some("null"), true),
        ];
        let allowed = [HeaderValue::from_static("https://friend")];
        for (site, origin, expected) in table {
            let mut headers = HeaderMap::new();
            site.map(|site| headers.insert("sec-fetch-site", HeaderValue::from_static(site)));
            origin.map(|origin| headers.insert(header::ORIGIN, HeaderValue::from_static(origin)));
            assert_eq!(is_cross_site(&headers, Some("shop:1"), &allowed), expected, "{site:?} {origin:?}");
        }
    }
}
