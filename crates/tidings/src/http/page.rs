//! Lists in pages: `?limit=&cursor=` in, `{"items": […], "next_cursor"?}` out.

use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::problem::Problem;

/// Items on a page, if the client does not say.
const LIMIT_DEFAULT: u32 = 50;
/// Items on a page, at most.
const LIMIT_MAX: u32 = 1000;

/// The query of a request, or a problem that says what is wrong with it.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|e| Problem::bad_query(e.body_text()))
    }
}

/// A page of a list that is numbered, newest first.
pub struct Page {
    /// How many items.
    pub limit: u32,
    /// Only items with a lower number.
    pub before: i64,
}

impl Page {
    /// The page that a client asked for.
    ///
    /// # Errors
    /// 400 for a limit out of bounds, or a cursor that no page gave out.
    pub fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::bad_query(format!("limit is 1 to {LIMIT_MAX}")));
        }
        let before = match cursor.map(str::parse) {
            None => i64::MAX,
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                return Err(Problem::bad_query("the cursor is not one that a list gave out"));
            }
        };
        Ok(Self { limit, before })
    }

    /// The answer: the items, each given with its number, and where the next page begins.
    pub fn answer<T: Serialize>(&self, items: Vec<(i64, T)>) -> Response {
        let is_full = items.len() == self.limit as usize;
        let next_cursor = items.last().filter(|_| is_full).map(|(number, _)| number.to_string());
        let items: Vec<T> = items.into_iter().map(|(_, item)| item).collect();
        let mut page = json!({ "items": items });
        if let Some(next_cursor) = next_cursor {
            page["next_cursor"] = next_cursor.into();
        }
        Json(page).into_response()
    }
}
