//! Lists in pages: `?limit=&cursor=` in, `{"items": […], "next_cursor"?}` out.

use std::borrow::Cow;

use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use garde::Validate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::api::{Input, OperationDoc};
use super::problem::Problem;

/// Items on a page, if the client does not say.
const LIMIT_DEFAULT: u32 = 50;
/// Items on a page, at most: `#[garde(range(min = 1, max = LIMIT_MAX))] limit: Option<u32>`.
pub const LIMIT_MAX: u32 = 1000;

/// The query of a request, or a problem that says what is wrong with it.
///
/// ```
/// # use tidings::{garde, prelude::*, schemars, serde};
/// #[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
/// struct Wanted { #[garde(range(max = 100))] limit: u32 }
///
/// async fn numbers(_: &Store, ValidQuery(wanted): ValidQuery<Wanted>) -> Result<Vec<u32>, Problem> {
///     Ok((0..wanted.limit).collect())
/// }
/// # #[tokio::main] async fn main() {
/// let app = tidings_testkit::TestApp::start([Service::new("numbers").get("/numbers", numbers)]).await;
/// assert_eq!(app.get("/numbers?limit=2").await.body, serde_json::json!([0, 1]));
/// assert_eq!(app.get("/numbers?limit=101").await.status, 400);
/// # }
/// ```
pub struct ValidQuery<T>(pub T);

impl<T, S> FromRequestParts<S> for ValidQuery<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|e| Problem::bad_query(e.body_text()))?;
        query.validate().map_err(|report| {
            let wrong = report.iter().map(|(path, error)| format!("{path}: {error}"));
            Problem::bad_query(wrong.collect::<Vec<_>>().join("; "))
        })?;
        Ok(Self(query))
    }
}

impl<T: JsonSchema> Input for ValidQuery<T> {
    fn describe(to: &mut OperationDoc<'_>) {
        to.query::<T>();
        to.refuses(StatusCode::BAD_REQUEST, "query");
    }
}

/// Digits of a cursor: what fits a column.
const CURSOR_DIGITS_MAX: usize = 18;

/// The beginning of a page: the `next_cursor` of the page before.
///
/// ```
/// let cursor: tidings::http::Cursor = serde_json::from_str(r#""7""#).unwrap();
/// let page = tidings::http::PageRequest::new(None, Some(&cursor));
/// assert_eq!((page.limit, page.before), (50, 7));
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Cursor(i64);

impl TryFrom<String> for Cursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_number =
            (1..=CURSOR_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_number);
        number.map(Self).ok_or("the cursor is not one that a list gave out")
    }
}

impl JsonSchema for Cursor {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cursor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]{1,18}$",
            "description": "Where the page begins: `next_cursor` of the page before",
        })
    }
}

/// A page of a list that is numbered, newest first.
///
/// ```
/// use tidings::http::PageRequest;
///
/// let page = PageRequest::new(Some(2), None); // of `?limit=2`
/// let answer = page.answer(vec![(9, "p9"), (7, "p7")]); // `… WHERE n < $1 ORDER BY n DESC LIMIT $2`
/// assert_eq!(answer.next_cursor.as_deref(), Some("7"));
/// ```
#[non_exhaustive]
pub struct PageRequest {
    /// The number of items.
    pub limit: u32,
    /// Only items with a lower number.
    pub before: i64,
}

impl PageRequest {
    /// The page that a client asked for.
    #[must_use]
    pub fn new(limit: Option<u32>, cursor: Option<&Cursor>) -> Self {
        let limit = limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        Self { limit, before: cursor.map_or(i64::MAX, |cursor| cursor.0) }
    }

    /// The answer: the items, each given with its number, and where the next page begins.
    #[must_use]
    pub fn answer<T>(&self, items: Vec<(i64, T)>) -> Page<T> {
        let is_full = items.len() == self.limit as usize;
        let next_cursor = items.last().filter(|_| is_full).map(|(number, _)| number.to_string());
        Page { items: items.into_iter().map(|(_, item)| item).collect(), next_cursor }
    }
}

/// A page of a list.
///
/// ```
/// use tidings::http::Page;
///
/// let page = Page::whole(vec!["p1", "p2"]);
/// assert_eq!(serde_json::to_string(&page).unwrap(), r#"{"items":["p1","p2"]}"#);
/// ```
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
#[non_exhaustive]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next page begins, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that is one page.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}
