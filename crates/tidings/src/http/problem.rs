//! Errors as clients see them: RFC 9457 problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::{Bound, LOOK_MAX};
use crate::error::{CORRUPT_DATA, Error, HandlerError, UNDECLARED_EFFECT, UNDECLARED_EVENT};
use crate::schema::Violation;

/// The time that a client should wait after a 503, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;
/// The kind of problem of a service that has too much waiting.
pub(crate) const OVERLOADED: &str = "overloaded";

/// An RFC 9457 problem: the public half of an error.
///
/// ```
/// use tidings::axum::http::StatusCode;
/// use tidings::prelude::*;
///
/// async fn book(tx: &mut Tx, Path(night): Path<String>) -> Result<(), Problem> {
///     let sql = "INSERT INTO booking (night) VALUES ($1) ON CONFLICT (night) DO NOTHING";
///     match tx.execute(sql, params![&night]).await? {
///         0 => Err(Problem::new(StatusCode::CONFLICT, "night-taken", format!("{night} is taken"))),
///         _ => Ok(()),
///     }
/// }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// A stable name for this kind of problem: `/problems/validation`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This case in words.
    pub detail: String,
    /// What is wrong where, for invalid bodies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Violation>,
    /// A stable name for the cause, where a kind has several: the bound that is reached, of an overloaded service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
}

impl Problem {
    /// A problem of a kind, told in words.
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: Self::kind_path(kind),
            title: title(kind),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            reason: None,
        }
    }

    /// The stable name of a kind of problem.
    pub(crate) fn kind_path(kind: &str) -> String {
        format!("/problems/{kind}")
    }

    /// The body is JSON of the wrong content.
    ///
    /// ```
    /// use tidings::http::{Problem, Violation};
    ///
    /// let problem = Problem::invalid(vec![Violation::new("/to", "unknown-city", "is no city that we know")]);
    /// assert_eq!((problem.status, &*problem.detail), (422, "/to: is no city that we know"));
    /// ```
    #[must_use]
    pub fn invalid(errors: Vec<Violation>) -> Self {
        let detail = match errors.as_slice() {
            [only] if only.pointer.is_empty() => format!("the body: {}", only.detail),
            [only] => format!("{}: {}", only.pointer, only.detail),
            many => format!("{} things are wrong with the body", many.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation", detail) }
    }

    /// There is no such thing.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// async fn parcel(store: &Store, Path(id): Path<String>) -> Result<String, Problem> {
    ///     let rows = store.query("SELECT state FROM parcel WHERE id = $1", params![&id]).await?;
    ///     let row = rows.first().ok_or_else(|| Problem::not_found("there is no such parcel"))?;
    ///     Ok(row.get(0)?)
    /// }
    /// ```
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", what)
    }

    /// The problem of a request whose outcome is not known: the same request with the same key finds it out, or does
    /// the work.
    pub(crate) fn outcome_unknown() -> Self {
        let detail = "it is not known whether this was done; send it again with the same Idempotency-Key: then it is \
                      done once";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", detail)
    }

    /// A bound of the service is reached.
    pub(crate) fn overloaded(bound: Bound) -> Self {
        let reason: &str = bound.into();
        let detail =
            format!("the service has too much before it ({reason}); nothing was done, try again later");
        let reason = Some(reason.into());
        Self { reason, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED, detail) }
    }

    /// The time after which it is worth trying again, in seconds.
    fn retry_after(&self) -> u64 {
        let is_overloaded = self.kind == Self::kind_path(OVERLOADED);
        match &self.reason {
            // Requests that are under way end soon.
            Some(reason) if is_overloaded && **reason != *<&str>::from(Bound::Requests) => LOOK_MAX.as_secs(),
            _ => RETRY_AFTER_SECONDS,
        }
    }

    /// A query parameter has a value that it cannot have.
    pub fn bad_query(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "query", detail)
    }
}

/// The reason that a request was not served, for the log.
#[derive(Clone)]
pub(super) struct TurnedAway(pub(super) String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
        let turned_away = is_unavailable.then(|| TurnedAway(self.detail.clone()));
        let retry_after = self.retry_after();
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if is_unavailable || status == StatusCode::CONFLICT {
            headers.insert(header::RETRY_AFTER, retry_after.into());
        }
        if let Some(why) = turned_away {
            response.extensions_mut().insert(why);
        }
        response
    }
}

impl From<HandlerError> for Problem {
    fn from(e: HandlerError) -> Self {
        match e {
            HandlerError::Dependency(what) => {
                tracing::debug!(what, "a request was turned away");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    format!("{what} cannot be used at the moment; nothing was done, try again"),
                )
            }
            HandlerError::InDoubt(error) => {
                tracing::debug!(error, "the outcome of a request is not known");
                Self::outcome_unknown()
            }
            HandlerError::Conflict(what) => {
                tracing::debug!(what, "a request was turned away");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "another request was in the way; nothing was done, try again",
                )
            }
            HandlerError::Transient(message)
            | HandlerError::Fatal { code: CORRUPT_DATA | UNDECLARED_EVENT | UNDECLARED_EFFECT, message } => {
                tracing::error!(error = message, "a request failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the request failed and nothing was done; the log says why",
                )
            }
            HandlerError::Fatal { code, message } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, &code.replace('_', "-"), message)
            }
        }
    }
}

impl From<Error> for Problem {
    fn from(e: Error) -> Self {
        if e.is_unavailable() {
            tracing::debug!(error = %e, "a request was turned away");
        }
        HandlerError::from(e).into()
    }
}

pub(super) fn title(kind: &str) -> String {
    let mut words = kind.replace('-', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_whose_outcome_is_unknown_is_not_said_to_have_done_nothing() {
        let in_doubt = || Error::unavailable("cannot execute COMMIT: connection closed").in_doubt();
        assert!(in_doubt().is_in_doubt() && in_doubt().is_unavailable());
        for problem in [Problem::from(in_doubt()), Problem::from(HandlerError::from(in_doubt()))] {
            assert_eq!((problem.kind.as_str(), problem.status), ("/problems/outcome-unknown", 503));
            assert!(
                problem.detail.contains("Idempotency-Key") && !problem.detail.contains("nothing was done")
            );
        }
        let away = Problem::from(Error::unavailable("cannot connect"));
        assert!(away.kind == "/problems/unavailable" && away.detail.contains("nothing was done"));
    }
}
