//! `Idempotency-Key`: the same request again gets the same answer and does nothing.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::problem::Problem;
use crate::sqlite::lock;
use crate::store::idempotency::{Before, Idempotency};

/// How long the second of two equal requests waits for the first one.
const FIRST_MAX: Duration = Duration::from_secs(2);
/// Longest key, in characters.
const KEY_MAX: usize = 255;

/// The claim in a request's headers, if it makes one.
///
/// # Errors
/// 400 for a key that is empty, too long or not printable ASCII.
pub fn claim(route: &'static str, headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().ok().map(|text| {
        let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        quoted.unwrap_or(text)
    });
    match key {
        Some(key) if (1..=KEY_MAX).contains(&key.len()) => {
            Ok(Some(Idempotency { route, key: key.to_owned(), fingerprint: Sha256::digest(body).into() }))
        }
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "idempotency-key",
            format!("an Idempotency-Key has 1 to {KEY_MAX} printable ASCII characters"),
        )),
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
pub struct Running(Option<Key>);

/// Route and key.
type Key = (&'static str, String);

static RUNNING: LazyLock<Mutex<HashSet<Key>>> = LazyLock::new(Default::default);
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
