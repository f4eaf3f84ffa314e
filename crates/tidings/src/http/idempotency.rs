//! `Idempotency-Key`: the same request again gets the same answer and does nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::api::{Input, OperationDoc};
use super::door::Caller;
use super::problem::Problem;
use crate::panic::lock;
use crate::store::idempotency::{Idempotency, StoredResponse};

/// The longest time that the second of two equal requests waits for the first one.
const FIRST_MAX: Duration = Duration::from_secs(2);
/// Longest key, in characters.
const KEY_MAX: usize = 255;

/// The name that a request gives itself, so that it may be sent again: the header `Idempotency-Key`, if it has one.
///
/// ```
/// # use tidings::{axum, http::{Problem, ValidJson, idempotency::{IdempotencyKey, InFlight}}};
/// # use tidings_testkit::event::NoteTaken;
/// /// A route that is made by hand: of two requests with one key, the second waits for the first.
/// async fn take(key: IdempotencyKey, note: ValidJson<NoteTaken>) -> Result<axum::Json<bool>, Problem> {
///     let claim = key.claim("POST /notes", &note.bytes);
///     let _entered = InFlight::enter(claim.as_ref()).await?;
///     Ok(axum::Json(claim.is_some()))
/// }
/// ```
pub struct IdempotencyKey {
    key: Option<String>,
    /// Two callers may choose the same key.
    caller: Option<Caller>,
}

impl IdempotencyKey {
    /// The claim that the request makes on a route.
    #[must_use]
    pub fn claim(self, route: &'static str, body: &[u8]) -> Option<Idempotency> {
        let key = match (self.key?, self.caller) {
            (key, None) => key,
            (key, Some(Caller(caller))) => {
                let digest: [u8; 32] = Sha256::digest(caller).into();
                let digest: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
                // No key of a request looks so: a line break is not printable.
                format!("{digest}\n{key}")
            }
        };
        Some(Idempotency { route, key, fingerprint: fingerprint(body) })
    }
}

/// Returns the fingerprint that bodies of the same content share: the order of members, white space, and the way in
/// which characters and numbers are written make no difference; a member that is `null` is read as one that is not
/// there.
fn fingerprint(body: &[u8]) -> [u8; 32] {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => {
            let mut digest = Sha256::new();
            digest_of(&value, &mut digest);
            digest.finalize().into()
        }
        Err(_) => Sha256::digest(body).into(),
    }
}

fn digest_of(value: &Value, digest: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> =
                members.iter().filter(|(_, member)| !member.is_null()).collect();
            digest.update(format!("{{{}", sorted.len()));
            for (name, member) in sorted {
                digest.update(Value::from(name.as_str()).to_string());
                digest_of(member, digest);
            }
        }
        Value::Array(items) => {
            digest.update(format!("[{}", items.len()));
            items.iter().for_each(|item| digest_of(item, digest));
        }
        Value::Number(number) => {
            // 2.0 and 1e2 are whole numbers too.
            let whole =
                number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() < WHOLE_END);
            match whole {
                #[allow(clippy::cast_possible_truncation)] // it is whole, and smaller
                Some(whole) => digest.update(format!("{},", whole as i64)),
                None => digest.update(format!("{number},")),
            }
        }
        other => digest.update(other.to_string()),
    }
}

/// Whole numbers below it are told apart by a `f64`.
const WHOLE_END: f64 = 9_007_199_254_740_992.0;

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wrong = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "idempotency-key", detail);
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let key = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => {
                return Err(wrong("the request has two Idempotency-Key headers".to_owned()));
            }
            (Some(value), None) => {
                let key =
                    value.to_str().ok().and_then(key_of).filter(|key| (1..=KEY_MAX).contains(&key.len()));
                let form =
                    || wrong(format!("an Idempotency-Key has 1 to {KEY_MAX} printable ASCII characters"));
                Some(key.ok_or_else(form)?)
            }
        };
        Ok(Self { key, caller: parts.extensions.get::<Caller>().cloned() })
    }
}

/// The key in a header: a structured field's string (RFC 8941), whose parameters say nothing, or the text itself.
fn key_of(text: &str) -> Option<String> {
    let Some(quoted) = text.strip_prefix('"') else {
        return text.bytes().all(|b| (b' '..=b'~').contains(&b)).then(|| text.to_owned());
    };
    let mut key = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => key.push(characters.next().filter(|c| ['"', '\\'].contains(c))?),
            c @ ' '..='~' => key.push(c),
            _ => return None,
        }
    }
    let rest = characters.as_str().trim_start_matches(' ');
    (rest.is_empty() || rest.starts_with(';')).then_some(key)
}

impl Input for IdempotencyKey {
    fn describe(to: &mut OperationDoc<'_>) {
        let schema = json!({"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[ -~]+$"});
        let words = "The same key again gets the same answer, and nothing is done twice";
        to.header("Idempotency-Key", words, &schema);
        to.refuses(StatusCode::BAD_REQUEST, "idempotency-key");
        to.refuses(StatusCode::CONFLICT, "idempotency-running");
        to.refuses(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-mismatch");
        for status in [StatusCode::CREATED, StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT] {
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
pub fn replay(before: StoredResponse) -> Response {
    match before {
        StoredResponse::Replay { status, answer } => {
            let mut response = json_answer(status, answer);
            let replayed = HeaderValue::from_static("true");
            response.headers_mut().insert(super::IDEMPOTENT_REPLAYED, replayed);
            response
        }
        StoredResponse::Mismatch => Problem::new(
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
pub struct InFlight(Option<Entry>);

/// Route and key.
type Entry = (&'static str, String);

static RUNNING: LazyLock<Mutex<HashSet<Entry>>> = LazyLock::new(Default::default);
/// Told whenever a request has ended.
static ENDED: Notify = Notify::const_new();

impl InFlight {
    /// Enters the key, once no other request has it.
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

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(key) = self.0.take() {
            lock(&RUNNING).remove(&key);
            ENDED.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_say_the_same_have_one_fingerprint() {
        let of = |body: &str| fingerprint(body.as_bytes());
        let one = of(r#"{"items":[{"product_id":"tea","quantity":2}],"customer_id":"c"}"#);
        for same in [
            r#"{ "customer_id": "c", "items": [ {"quantity": 2, "product_id": "tea"} ] }"#,
            "{\"customer_id\":\"\\u0063\",\n\"items\":[{\"quantity\":2.0,\"product_id\":\"tea\"}]}",
            r#"{"customer_id":"c","items":[{"quantity":0.2e1,"product_id":"tea"}]}"#,
            r#"{"customer_id":"c","items":[{"quantity":2,"product_id":"tea"}],"payment_method":null}"#,
        ] {
            assert_eq!(of(same), one, "{same}");
        }
        for other in [
            r#"{"items":[{"product_id":"tea","quantity":3}],"customer_id":"c"}"#,
            r#"{"items":[{"product_id":"tea","quantity":"2"}],"customer_id":"c"}"#,
            r#"{"items":[{"product_id":"tea","quantity":2}],"customer_id":null}"#,
            r#"{"items":[{"product_id":"tea","quantity":2},[]],"customer_id":"c"}"#,
            r#"{"items":[{"product_id":"tea","quantity":2}]}"#,
            "",
        ] {
            assert_ne!(of(other), one, "{other}");
        }
        assert_ne!(of("[null]"), of("[]"), "an item is an item");
        assert_ne!(of("[[1],2]"), of("[[1,2]]"));
        assert_ne!(of("[1,12]"), of("[11,2]"));
    }

    #[test]
    fn a_key_is_the_string_alone() {
        let table = [
            ("k-1", Some("k-1")),
            ("\"k-1\"", Some("k-1")),
            ("\"k-1\";a=1;b", Some("k-1")),
            ("\"k-1\" ; a=1", Some("k-1")),
            ("k-1;a=1", Some("k-1;a=1")),
            (r#""k\"1\\""#, Some(r#"k"1\"#)),
            (r#""k\1""#, None),
            ("\"k-1", None),
            ("\"k-1\"x", None),
        ];
        for (header, expected) in table {
            assert_eq!(key_of(header).as_deref(), expected, "{header}");
        }
    }
}
