//! `/problems/{name}`: where the `type` of a problem leads.

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::problem::{Problem, title};

/// Longest name of a kind of problem.
const NAME_MAX: usize = 64;

/// Kinds that the library answers with: what has happened, and what to do.
const KNOWN: [(&str, &str, &str); 33] = [
    (
        "caller",
        "The header that names the caller is there twice, or too long.",
        "Have the proxy that sets it set it once.",
    ),
    ("completed", "The order is completed; nothing can be cancelled any more.", "Nothing is to be done."),
    ("content-encoding", "The body is compressed, which is not read.", "Send it as it is."),
    ("content-type", "The body is not said to be JSON.", "Send it as application/json."),
    (
        "cross-site",
        "A browser sent this for a page of another site.",
        "If that page may: start with --cors-origins.",
    ),
    (
        "host",
        "The request calls this server by a name that is not its own (421), or by none or several (400).",
        "If it is its own: start with --allowed-hosts. Else send one Host.",
    ),
    (
        "idempotency-key",
        "The Idempotency-Key is empty, too long, not printable, or there twice.",
        "Send one of 1 to 255 characters; a UUID is best.",
    ),
    (
        "idempotency-mismatch",
        "The key was used before, for a body that says something else.",
        "Choose a new key for a new request.",
    ),
    (
        "idempotency-running",
        "The first request with this key is still being worked on.",
        "Send it again after Retry-After seconds.",
    ),
    (
        "internal",
        "The request failed and nothing was done.",
        "The log of the service says why, under the answer's X-Request-Id.",
    ),
    (
        "last-event-id",
        "Last-Event-ID is not the id of an event of this stream.",
        "Begin without it, or with an id that the stream has sent.",
    ),
    ("malformed-json", "The body is not JSON.", "The detail says where."),
    (
        "no-book",
        "The payment gateway keeps no book with which the ledger could be compared.",
        "Run the payment service with --gateway stripe:URL.",
    ),
    ("method", "There is something at this path, which does not know this method.", "See /docs."),
    ("not-found", "There is nothing with this id, or at this path.", "See /docs for the paths."),
    (
        "outcome-unknown",
        "The connection to the database was lost while the request was being committed, or it took too long: nobody knows whether it was done.",
        "Send the same request with the same Idempotency-Key again: it is done once.",
    ),
    (
        "overloaded",
        "The service has too much before it, and nothing was done. `reason` names the bound: `outbox_rows` and `outbox_age` (the broker is away), `effects` (a provider is), `requests` (too many at a time).",
        "Send it again after Retry-After seconds, with the same Idempotency-Key if it had one.",
    ),
    ("event", "An event that was to be handed over is not one that is missing.", "The detail says why."),
    (
        "outcome",
        "The outcome that was stated is none of this effect.",
        "The detail says what its handler takes.",
    ),
    (
        "not-paused",
        "The service reads at the moment, or an instance of it still does.",
        "Pause the service; all instances have left the group a few seconds later.",
    ),
    ("paused", "The service is paused.", "Resume it, or ask for what changes nothing."),
    ("skips", "Records that were not read would be left out.", "Say `skip` if that is meant."),
    ("reason", "Nothing is changed without a reason.", "Say why, in `reason`."),
    ("selection", "It is not clear what is meant.", "The detail says what to name."),
    ("path", "The path is not text in UTF-8, or is too long.", "Encode it as UTF-8, then by percent signs."),
    (
        "query",
        "A parameter of the query has a value that it cannot have, or is unknown.",
        "The detail names it.",
    ),
    ("timeout", "The body did not come in time.", "Send it again."),
    ("too-large", "The body is too large.", "The detail says how large it may be."),
    (
        "unavailable",
        "Something that is needed cannot be used at the moment, and nothing was done.",
        "Send it again after Retry-After seconds.",
    ),
    (
        "validation",
        "The body is JSON and breaks rules.",
        "`errors` has every broken rule with its JSON pointer; the schemas are in /openapi.json.",
    ),
    ("body", "The body could not be read.", "Send it again."),
    ("uri-too-long", "The path or the query is too long.", "Send a shorter one."),
    ("invalid-event", "What would have been stated breaks its own rules.", "The detail says which."),
];

/// A page for each.
pub(crate) fn routes() -> Router {
    Router::new().route("/problems/{name}", get(page))
}

async fn page(Path(name): Path<String>) -> Response {
    let is_name =
        |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || name.len() > NAME_MAX || !is_name(&name) {
        return Problem::not_found("no kind of problem is called so").into_response();
    }
    let known = KNOWN.iter().find(|(kind, ..)| *kind == name);
    let (_, happened, to_do) = known.copied().unwrap_or((
        "",
        "A rule of the service does not allow this, and nothing was done.",
        "The answer's detail says which rule; /docs says which routes answer so.",
    ));
    let title = title(&name);
    let style = "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}";
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{title}</title><style>{style}</style><h1>{title}</h1><p>{happened}</p><p>{to_do}</p>\
         <p><a href=/docs>All routes</a></p></html>"
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    (StatusCode::OK, [(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}
