//! `Idempotency-Key`: the same request again gets the same answer and does nothing.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::api::{Description, Input};
use super::problem::Problem;
use crate::sqlite::lock;
use crate::store::idempotency::{Before, Idempotency};

/// How long the second of two equal requests waits for the first one.
const FIRST_MAX: Duration = Duration::from_secs(2);
/// Longest key, in characters.
const KEY_MAX: usize = 255;

/// What a request calls itself, so that it may be sent again: the header `Idempotency-Key`, if it has one.
pub struct Key(Option<String>);

impl Key {
    /// The claim that the request makes on a route.
    #[must_use]
    pub fn claim(self, route: &'static str, body: &[u8]) -> Option<Idempotency> {
        let fingerprint = || Sha256::digest(body).into();
        self.0.map(|key| Idempotency { route, key, fingerprint: fingerprint() })
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        let key = value.to_str().ok().map(|text| {
            let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
            quoted.unwrap_or(text)
        });
        match key {
            Some(key) if (1..=KEY_MAX).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "idempotency-key",
                format!("an Idempotency-Key has 1 to {KEY_MAX} printable ASCII characters"),
            )),
        }
    }
}

impl Input for Key {
    fn describe(to: &mut Description<'_>) {
        let schema = json!({"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[ -~]+$"});
        let words = "The same key again gets the same answer, and nothing is done twice";
        to.header("Idempotency-Key", words, &schema);
        to.refuses(StatusCode::BAD_REQUEST, "idempotency-key");
        to.refuses(StatusCode::CONFLICT, "idempotency-running");
        to.refuses(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-mismatch");
        for status in [StatusCode::CREATED, StatusCode::ACCEPTED] {
            to.answer_header(
                status,
                "Idempotent-Replayed",
                "`true` if this is the answer to an earlier request",
            );
        }
    }
}

/// The answer to a request whose key was used before.
#[must_use]
pub fn replay(before: Before) -> Response {
    match before {
        Before::Same { status, answer } => {
            let mut response = json_answer(status, answer);
            let replayed = HeaderValue::from_static("true");
            response.headers_mut().insert("idempotent-replayed", replayed);
            response
        }
        Before::Other => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-mismatch",
            "this Idempotency-Key was used for another request body",
        )
        .into_response(),
    }
}

/// An answer as it is kept: JSON, or nothing at all.
pub(super) fn json_answer(status: u16, answer: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if answer == "null" {
        return status.into_response();
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json, answer).into_response()
}

/// A key whose request is being handled; another request with it waits, or is told to come back.
pub struct Running(Option<Entry>);

/// Route and key.
type Entry = (&'static str, String);

static RUNNING: LazyLock<Mutex<HashSet<Entry>>> = LazyLock::new(Default::default);
/// Told whenever a request has ended.
static ENDED: Notify = Notify::const_new();

impl Running {
    /// Enters the key, once nobody else has it.
    ///
    /// # Errors
    /// 409 when the first request is still running after two seconds.
    pub async fn enter(claim: Option<&Idempotency>) -> Result<Self, Problem> {
        let Some(claim) = claim else {
            return Ok(Self(None));
        };
        let key = (claim.route, claim.key.clone());
        let entered = tokio::time::timeout(FIRST_MAX, async {
            loop {
                let ended = ENDED.notified();
                if lock(&RUNNING).insert(key.clone()) {
                    return;
                }
                ended.await;
            }
        });
        match entered.await {
            Ok(()) => Ok(Self(Some(key))),
            Err(_) => Err(Problem::new(
                StatusCode::CONFLICT,
                "idempotency-running",
                "the first request with this Idempotency-Key is still running; ask again",
            )),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(key) = self.0.take() {
            lock(&RUNNING).remove(&key);
            ENDED.notify_waiters();
        }
    }
}
