//! The description of a route, put together by what it takes and answers: OpenAPI's operation object.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::schemas::Schemas;

/// The description of a route so far.
pub struct OperationDoc<'a> {
    pub(super) schemas: &'a mut Schemas,
    pub(super) path: &'static str,
    pub(super) parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Answer>,
    problems: BTreeMap<u16, BTreeSet<&'static str>>,
    headers: Vec<(StatusCode, &'static str, &'static str)>,
    /// Its query may have parameters that are not named.
    pub(super) takes_any_parameter: bool,
}

struct Answer {
    words: &'static str,
    content: Value,
}

impl<'a> OperationDoc<'a> {
    pub(super) fn new(schemas: &'a mut Schemas, path: &'static str) -> Self {
        Self {
            schemas,
            path,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            problems: BTreeMap::new(),
            headers: Vec::new(),
            takes_any_parameter: false,
        }
    }

    /// Says that the route takes a JSON body.
    pub fn body<T: JsonSchema>(&mut self) {
        let schema = self.schemas.read::<T>();
        self.body = Some(json!({"required": true, "content": {"application/json": {"schema": schema}}}));
    }

    /// Says that the route takes the fields of `T` as parameters of its query.
    pub fn query<T: JsonSchema>(&mut self) {
        let schema = self.schemas.read_in_place::<T>();
        let none = Map::new();
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        self.takes_any_parameter |= schema.get("additionalProperties").is_some_and(|rest| *rest != false);
        for (name, property) in schema.get("properties").and_then(Value::as_object).unwrap_or(&none) {
            let mut property = property.clone();
            let description = property.as_object_mut().and_then(|property| property.remove("description"));
            let mut parameter = json!({"name": name, "in": "query", "schema": property});
            if required.iter().any(|required| required == name) {
                parameter["required"] = true.into();
            }
            if let Some(description) = description {
                parameter["description"] = description;
            }
            self.parameters.push(parameter);
        }
    }

    /// Says that the route heeds a header, which may be left out.
    pub fn header(&mut self, name: &str, words: &str, schema: &Value) {
        self.parameters.push(json!({"name": name, "in": "header", "description": words, "schema": schema}));
    }

    /// Says that the route answers a `T` as JSON, with this status.
    pub fn answers<T: JsonSchema>(&mut self, status: StatusCode) {
        let schema = self.schemas.written::<T>();
        self.answer(status, "", json!({"application/json": {"schema": schema}}));
    }

    /// Says that the route answers other content, with this status.
    pub fn answer(&mut self, status: StatusCode, words: &'static str, content: Value) {
        self.answers.insert(status.as_u16(), Answer { words, content });
    }

    /// Says that the route's answer of this status has a header.
    pub fn answer_header(&mut self, status: StatusCode, name: &'static str, words: &'static str) {
        self.headers.push((status, name, words));
    }

    /// Says that the route may refuse, with this kind of problem.
    pub fn refuses(&mut self, status: StatusCode, kind: &'static str) {
        self.problems.entry(status.as_u16()).or_default().insert(kind);
    }

    /// The whole, as OpenAPI's operation object.
    pub(super) fn finished(self, method: &str, summary: &str, tag: &str) -> Value {
        let mut responses = Map::new();
        for (status, Answer { words, content }) in self.answers {
            let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            let words = if words.is_empty() { reason.unwrap_or_default() } else { words };
            let mut headers = json!({
                "X-Request-Id": {"schema": {"type": "string"}, "description": "The request's, or one made for it"},
            });
            for (of, name, words) in &self.headers {
                if of.as_u16() == status {
                    headers[*name] = json!({"schema": {"type": "string"}, "description": words});
                }
            }
            let mut response = json!({"description": words, "headers": headers});
            if !content.is_null() {
                response["content"] = content;
            }
            responses.insert(status.to_string(), response);
        }
        for (status, kinds) in self.problems {
            responses.insert(status.to_string(), refusal(status, &kinds));
        }
        let words = self.path.split(['/', '{', '}']).filter(|part| !part.is_empty());
        let id = std::iter::once(method).chain(words).collect::<Vec<_>>().join("_");
        let mut described = json!({
            "operationId": id.replace('.', "_"),
            "summary": summary,
            "tags": [tag],
            "responses": responses,
        });
        if !self.parameters.is_empty() {
            described["parameters"] = self.parameters.into();
        }
        if let Some(body) = self.body {
            described["requestBody"] = body;
        }
        described
    }
}

/// A response that is a problem of one of these kinds.
fn refusal(status: u16, kinds: &BTreeSet<&'static str>) -> Value {
    let types: Vec<String> = kinds.iter().map(|kind| Problem::kind_path(kind)).collect();
    let words: Vec<&str> = kinds.iter().copied().collect();
    let schema = json!({
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {"type": {"enum": types}, "status": {"const": status}},
    });
    let mut response = json!({
        "description": words.join(", "),
        "content": {"application/problem+json": {"schema": schema}},
    });
    if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT].iter().any(|s| s.as_u16() == status) {
        response["headers"] = json!({
            "Retry-After": {"schema": {"type": "integer"}, "description": "When to ask again, in seconds"},
        });
    }
    response
}
