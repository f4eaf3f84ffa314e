//! JSON bodies that are what they claim to be, or a problem that says where they are not.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::Bytes;
use garde::Validate;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::object::Object;
use super::problem::{Problem, Violation};

/// A JSON body, decoded and validated.
pub struct Valid<T> {
    /// The body.
    pub value: T,
    /// The bytes it was read from: what an idempotency key is compared by.
    pub bytes: Bytes,
}

impl<T, S> FromRequest<S> for Valid<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_content_type(&request)?;
        let bytes = Bytes::from_request(request, state).await.map_err(|e| unreadable(&e))?;
        let value: T = parse(&bytes)?;
        value.validate().map_err(|report| {
            let violations = report
                .iter()
                .map(|(path, error)| Violation::new(pointer(&path.to_string()), error.message().to_string()));
            Problem::invalid(violations.collect())
        })?;
        Ok(Self { value, bytes })
    }
}

/// Reads JSON; a value of the wrong type or an unknown field is told with its pointer.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let place = pointer(&e.path().to_string());
        let e = e.into_inner();
        match e.classify() {
            Category::Data => Problem::invalid(vec![violation(place, &e.to_string())]),
            _ => malformed(&e),
        }
    })?;
    json.end().map_err(|e| malformed(&e))?;
    Ok(value)
}

fn malformed(e: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed-json", format!("the body is not JSON: {e}"))
}

fn check_content_type(request: &Request) -> Result<(), Problem> {
    let found = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content-type",
        format!("the content type is {found:?}; send application/json"),
    ))
}

fn unreadable(e: &BytesRejection) -> Problem {
    match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body has more than {} bytes", super::BODY_BYTES_MAX),
        ),
        status => Problem::new(status, "body", e.body_text()),
    }
}

/// Drops serde's position; names the field that is unknown or missing in the pointer.
fn violation(mut place: String, message: &str) -> Violation {
    let detail = message.split(" at line ").next().unwrap_or(message);
    if let Some(rest) = detail.strip_prefix("unknown field `")
        && let Some((field, _)) = rest.split_once('`')
    {
        let last = format!("/{field}");
        if !place.ends_with(&last) {
            place.push_str(&last);
        }
    }
    Violation::new(place, detail)
}

/// `items[0].quantity` as `/items/0/quantity`.
fn pointer(path: &str) -> String {
    let mut pointer = String::new();
    for part in path.split(['.', '[', ']']).filter(|p| !p.is_empty() && *p != "?") {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::pointer;

    #[test]
    fn paths_become_json_pointers() {
        assert_eq!(pointer("items[0].quantity"), "/items/0/quantity");
        assert_eq!(pointer("."), "");
        assert_eq!(pointer("a/b"), "/a~1b");
    }
}
