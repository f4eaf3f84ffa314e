//! The parts that operators' routes share: which services are meant, ids of rows, pages, who acts and why.

use std::borrow::Cow;
use std::fmt;

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use garde::Validate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::http::{Caller, Input, LIMIT_MAX, OperationDoc, Problem};
use crate::runtime::RunningService;
use crate::store::audit::Operator;

/// Items on a page, if the client does not say.
const LIMIT_DEFAULT: u32 = 100;

/// The row of a service: `payment:17`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct RowId {
    pub(super) service: String,
    pub(super) id: i64,
}

impl TryFrom<String> for RowId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (service, id) = text.rsplit_once(':').ok_or("it is not of the form SERVICE:NUMBER")?;
        match id.parse() {
            Ok(id) if !service.is_empty() && id >= 0 => Ok(Self { service: service.to_owned(), id }),
            _ => Err("it is not of the form SERVICE:NUMBER"),
        }
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.id)
    }
}

impl JsonSchema for RowId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RowId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,60}:[0-9]{1,18}$"})
    }
}

/// The part of a list that is asked for.
#[derive(Deserialize, JsonSchema, Validate)]
pub(super) struct Paging {
    /// At most this many items
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    /// The beginning of the page: `next_cursor` of the page before
    #[garde(skip)]
    cursor: Option<RowId>,
}

impl Paging {
    /// The number of items still to come after so many.
    pub(super) fn room(&self, taken: usize) -> u32 {
        self.limit.unwrap_or(LIMIT_DEFAULT).saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// The id after which a service's items begin; `None` if all of them were on former pages. Services come in the
    /// order of their names.
    pub(super) fn after(&self, service: &str) -> Option<i64> {
        match &self.cursor {
            None => Some(0),
            Some(cursor) if cursor.service == service => Some(cursor.id),
            Some(cursor) => (service > cursor.service.as_str()).then_some(0),
        }
    }

    /// The id before which a service's items begin, where the newest come first.
    pub(super) fn before(&self, service: &str) -> Option<i64> {
        match &self.cursor {
            None => Some(i64::MAX),
            Some(cursor) if cursor.service == service => Some(cursor.id),
            Some(cursor) => (service > cursor.service.as_str()).then_some(i64::MAX),
        }
    }
}

/// The services that a request means, in the order of their names.
pub(super) fn chosen<'a>(
    services: &'a [RunningService],
    name: Option<&str>,
) -> Result<Vec<&'a RunningService>, Problem> {
    let mut chosen: Vec<&RunningService> =
        services.iter().filter(|service| name.is_none_or(|name| service.name() == name)).collect();
    chosen.sort_by_key(|service| service.name());
    match name {
        Some(name) if chosen.is_empty() => Err(unknown_service(services, name)),
        _ => Ok(chosen),
    }
}

/// The service of this name.
pub(super) fn one<'a>(services: &'a [RunningService], name: &str) -> Result<&'a RunningService, Problem> {
    services.iter().find(|service| service.name() == name).ok_or_else(|| unknown_service(services, name))
}

/// The refusal of a change for which no reason is given.
pub(super) fn no_reason() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "reason", "say why, in `reason`")
}

/// Refuses a topic that a service does not read.
pub(super) fn read_by(service: &RunningService, topic: &str) -> Result<(), Problem> {
    match service.reads_topic(topic) {
        true => Ok(()),
        false => {
            let read = service.read_topics().join(", ");
            let detail = format!("{} does not read topic {topic}; it reads {read}", service.name());
            Err(Problem::new(StatusCode::BAD_REQUEST, "selection", detail))
        }
    }
}

fn unknown_service(services: &[RunningService], name: &str) -> Problem {
    let names: Vec<&str> = services.iter().map(RunningService::name).collect();
    Problem::not_found(format!("there is no service {name} in this process; there are {}", names.join(", ")))
}

/// The row that the path of a request names.
pub(super) struct NamedRow(pub(super) RowId);

impl<S: Send + Sync> FromRequestParts<S> for NamedRow {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<RowId>::from_request_parts(parts, state).await;
        let Path(id) = path.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "path", e.body_text()))?;
        Ok(Self(id))
    }
}

impl Input for NamedRow {
    fn describe(to: &mut OperationDoc<'_>) {
        Path::<RowId>::describe(to);
    }
}

/// The caller of a request, if a proxy has named one.
pub(super) struct CallerName(Option<String>);

impl<S: Sync> FromRequestParts<S> for CallerName {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Caller>().map(|caller| caller.0.clone())))
    }
}

impl Input for CallerName {
    fn describe(_: &mut OperationDoc<'_>) {}
}

impl CallerName {
    /// The operator who acts: the caller whom a proxy named, or else the one whom the body names.
    pub(super) fn acts(self, actor: Option<String>, reason: String) -> Operator {
        Operator { actor: self.0.or(actor).unwrap_or_else(|| "unknown".to_owned()), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_a_service_and_a_row() {
        let id = RowId::try_from("payment:17".to_owned()).expect("it is one");
        assert_eq!((id.service.as_str(), id.id, id.to_string().as_str()), ("payment", 17, "payment:17"));
        for wrong in ["", "17", ":17", "payment:", "payment:-1", "payment:x"] {
            assert!(RowId::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_goes_on_behind_the_last_row_of_the_one_before() {
        let cursor = RowId { service: "order".to_owned(), id: 4 };
        let paging = Paging { limit: Some(10), cursor: Some(cursor) };
        assert_eq!(
            ["inventory", "order", "payment"].map(|name| paging.after(name)),
            [None, Some(4), Some(0)]
        );
        assert_eq!((paging.room(7), paging.room(11)), (3, 0));
    }
}
