//! JSON bodies that are what they claim to be, or a problem that says where they are not.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::Bytes;
use garde::Validate;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::api::{Input, OperationDoc};
use super::checked::BodyMax;
use super::problem::Problem;
use super::server::Late;
use crate::{schema, strict};

/// A JSON body, decoded and validated.
///
/// ```
/// # use tidings::{axum, http::{Api, Problem, ValidJson}, prelude::*};
/// # use tidings_testkit::event::NoteTaken;
/// /// A route of an `Api`; one of `Service::post` takes the body by its type.
/// async fn take(note: ValidJson<NoteTaken>) -> Result<axum::Json<u64>, Problem> {
///     Ok(axum::Json(note.value.n))
/// }
/// # #[tokio::main] async fn main() {
/// let service = Service::new("notes").api(Api::new().post("/notes", "Takes a note", take), |_| ());
/// let app = tidings_testkit::TestApp::start([service]).await;
/// assert_eq!(app.post("/notes", &NoteTaken::new("k", 3)).await.body, 3);
/// assert_eq!(app.post("/notes", &NoteTaken::new("k", 0)).await.status, 422);
/// # }
/// ```
pub struct ValidJson<T> {
    /// The body.
    pub value: T,
    /// The bytes it was read from: what an idempotency key is compared by.
    pub bytes: Bytes,
}

impl<T, S> FromRequest<S> for ValidJson<T>
where
    T: DeserializeOwned + JsonSchema + Validate<Context = ()>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let _ = state;
        let bytes = json_body(request).await?;
        Ok(Self { value: valid(&bytes)?, bytes })
    }
}

/// The bytes of a body that says it is JSON.
pub(super) async fn json_body(request: Request) -> Result<Bytes, Problem> {
    check_content_type(&request)?;
    check_encoding(&request)?;
    body_bytes(request, &()).await
}

/// The bytes of a body, for a route that has to see them before it reads them with [`valid`]: a signature's.
///
/// # Errors
/// The problems of a body that is too large, too slow or broken off.
pub async fn body_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let BodyMax(bytes_max) = request.extensions().get().copied().unwrap_or(BodyMax(super::BODY_BYTES_MAX));
    Bytes::from_request(request, state).await.map_err(|e| unreadable(&e, bytes_max))
}

/// A JSON body, decoded and validated, from its bytes.
///
/// ```
/// use tidings_testkit::event::NoteTaken;
///
/// let note: NoteTaken = tidings::http::valid(br#"{"key": "k", "n": 1}"#).unwrap();
/// let problem = tidings::http::valid::<NoteTaken>(br#"{"key": "", "n": 1}"#).unwrap_err();
/// assert_eq!(problem.errors[0].pointer, "/key");
/// ```
///
/// # Errors
/// The problems of a body that is no JSON, or breaks the rules of its type: each of them, with its pointer.
pub fn valid<T>(bytes: &[u8]) -> Result<T, Problem>
where
    T: DeserializeOwned + JsonSchema + Validate<Context = ()>,
{
    let value: T = parse(bytes)?;
    value.validate().map_err(|report| {
        let document = serde_json::from_slice(bytes).unwrap_or_default();
        Problem::invalid(schema::invalid_document::<T>(&document, &report))
    })?;
    Ok(value)
}

/// Reads a JSON object; if it is no `T`, everything that is wrong with it is told, each with its pointer.
fn parse<T: DeserializeOwned + JsonSchema>(bytes: &[u8]) -> Result<T, Problem> {
    strict::from_slice(bytes).map_err(|e| match e.classify() {
        Category::Data => match schema::undecodable::<T>(bytes) {
            Ok(violations) => Problem::invalid(violations),
            Err(e) => malformed(&e),
        },
        _ => malformed(&e),
    })
}

impl<T: JsonSchema> Input for ValidJson<T> {
    fn describe(to: &mut OperationDoc<'_>) {
        to.body::<T>();
        to.refuses(StatusCode::BAD_REQUEST, "malformed-json");
        to.refuses(StatusCode::PAYLOAD_TOO_LARGE, "too-large");
        to.refuses(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type");
        to.refuses(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding");
        to.refuses(StatusCode::REQUEST_TIMEOUT, "timeout");
        to.refuses(StatusCode::UNPROCESSABLE_ENTITY, "validation");
    }
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

fn check_encoding(request: &Request) -> Result<(), Problem> {
    let codings = request.headers().get_all(header::CONTENT_ENCODING);
    let coded = codings.iter().find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match coded {
        None => Ok(()),
        Some(coding) => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-encoding",
            format!("the body is encoded as {coding:?}; send it as it is"),
        )),
    }
}

/// Tells whether an error has [`Late`] among its causes.
fn is_late(e: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(e), |e| e.source()).any(|e| e.is::<Late>())
}

fn unreadable(e: &BytesRejection, bytes_max: usize) -> Problem {
    if is_late(e) {
        return Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", Late.to_string());
    }
    match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body has more than {bytes_max} bytes"),
        ),
        status => Problem::new(status, "body", e.body_text()),
    }
}
