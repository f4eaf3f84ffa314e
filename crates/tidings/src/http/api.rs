//! Routes that describe themselves: what a handler takes and answers is read from its signature.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use futures_util::future::{Either, Ready, ready};
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::door::{parameter_name, shown_name};
use super::problem::Problem;
use super::schemas::Schemas;
use super::server::PROBES;
use crate::envelope::Cause;

/// Routes, and what can be said about them. Built without a store, so that a program can tell its contract
/// without having one.
///
/// ```
/// use axum::Json;
/// use axum::http::StatusCode;
/// use schemars::JsonSchema;
/// use serde::Serialize;
/// use tidings::http::{Api, Problem};
///
/// #[derive(Serialize, JsonSchema)]
/// struct Tea { name: String }
///
/// async fn tea() -> Result<Json<Tea>, Problem> {
///     Err(Problem::not_found("it is all gone"))
/// }
///
/// let api: Api = Api::new().get("/tea", "What there is to drink", tea).problem(StatusCode::NOT_FOUND, "not-found");
/// ```
pub struct Api<S = ()> {
    router: Router<S>,
    operations: Vec<Operation>,
}

/// A route and a method of it.
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    refusals: Vec<(StatusCode, &'static str)>,
    describe: fn(&mut OperationDoc<'_>),
}

impl Operation {
    /// Adds a problem that it may answer with.
    pub(crate) fn may_refuse(&mut self, status: StatusCode, kind: &'static str) {
        self.refusals.push((status, kind));
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Api<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// No routes.
    #[must_use]
    pub fn new() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }

    /// A route that is read.
    #[must_use]
    pub fn get<T, H>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: Handler<T, S> + Described<T>,
        T: 'static,
    {
        let route = get(Checked { parameters: Parameters::of(path, H::describe), handler });
        self.route("get", path, summary, route, H::describe)
    }

    /// A route that does something.
    #[must_use]
    pub fn post<T, H>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: Handler<T, S> + Described<T>,
        T: 'static,
    {
        let route = post(Checked { parameters: Parameters::of(path, H::describe), handler });
        self.route("post", path, summary, route, H::describe)
    }

    /// The last route may also answer with this kind of problem.
    #[must_use]
    pub fn problem(mut self, status: StatusCode, kind: &'static str) -> Self {
        if let Some(operation) = self.operations.last_mut() {
            operation.may_refuse(status, kind);
        }
        self
    }

    pub(crate) fn route(
        mut self,
        method: &'static str,
        path: &'static str,
        summary: &'static str,
        route: MethodRouter<S>,
        describe: fn(&mut OperationDoc<'_>),
    ) -> Self {
        self.operations.push(Operation { method, path, summary, refusals: Vec::new(), describe });
        Self { router: self.router.route(path, route), ..self }
    }

    pub(crate) fn into_parts(self) -> (Router<S>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// The parameters that a route's query may have; `None` where any may come.
#[derive(Clone)]
pub(super) struct Parameters(Option<Arc<[String]>>);

impl Parameters {
    /// Reads them from the description of a route. Orchestrators ask the probes in ways of their own.
    pub(super) fn of(path: &'static str, describe: fn(&mut OperationDoc<'_>)) -> Self {
        let mut schemas = Schemas::new();
        let mut doc = OperationDoc::new(&mut schemas, path);
        describe(&mut doc);
        let is_open = PROBES.contains(&path) || doc.takes_any_parameter;
        let of_query = doc.parameters.iter().filter(|parameter| parameter["in"] == "query");
        let names = of_query.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
        Self((!is_open).then(|| names.collect()))
    }

    /// Refuses a parameter that nothing reads: its sender believes that it counts.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        let Some(names) = &self.0 else { return Ok(()) };
        for parameter in request.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            let name = parameter_name(parameter);
            if !names.iter().any(|known| *known == name) {
                let name = shown_name(&name);
                let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(Problem::bad_query(format!(
                    "{name}: is no parameter of this path, which takes {takes}"
                )));
            }
        }
        Ok(())
    }
}

/// A handler behind the check of its parameters.
#[derive(Clone)]
struct Checked<H> {
    parameters: Parameters,
    handler: H,
}

impl<T, S, H> Handler<T, S> for Checked<H>
where
    H: Handler<T, S>,
    T: 'static,
    S: 'static,
{
    type Future = Either<H::Future, Ready<Response>>;

    fn call(self, request: Request, state: S) -> Self::Future {
        match self.parameters.check(&request) {
            Ok(()) => Either::Left(self.handler.call(request, state)),
            Err(problem) => Either::Right(ready(problem.into_response())),
        }
    }
}

/// A handler whose arguments and answer can be described.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it takes or answers",
    note = "an Api's handler takes at most five arguments, each an `Input`, and answers an `Output`, such as \
            `Result<Json<T>, Problem>` with `T: JsonSchema`"
)]
pub trait Described<T> {
    /// Adds what it takes and answers.
    fn describe(to: &mut OperationDoc<'_>);
}

/// An argument that a handler takes from a request.
pub trait Input {
    /// Adds what it takes, and how it refuses.
    fn describe(to: &mut OperationDoc<'_>);
}

/// The answer of a handler.
pub trait Output {
    /// Adds what it answers.
    fn describe(to: &mut OperationDoc<'_>);
}

impl<F, Fut, R> Described<((),)> for F
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = R>,
    R: Output,
{
    fn describe(to: &mut OperationDoc<'_>) {
        R::describe(to);
    }
}

macro_rules! described {
    ($($input:ident)*) => {
        impl<F, Fut, R, M, $($input),*> Described<(M, $($input,)*)> for F
        where
            F: FnOnce($($input),*) -> Fut,
            Fut: Future<Output = R>,
            R: Output,
            $($input: Input,)*
        {
            fn describe(to: &mut OperationDoc<'_>) {
                $($input::describe(to);)*
                R::describe(to);
            }
        }
    };
}
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);

impl<S> Input for State<S> {
    fn describe(_: &mut OperationDoc<'_>) {}
}

impl Input for HeaderMap {
    fn describe(_: &mut OperationDoc<'_>) {}
}

impl Input for Cause {
    fn describe(to: &mut OperationDoc<'_>) {
        to.header(
            "X-Request-Id",
            "What the request is called, in logs and as the correlation id of what it leads to",
            &json!({"type": "string"}),
        );
        to.header("traceparent", "W3C trace context, which goes on in events", &json!({"type": "string"}));
    }
}

impl<T: JsonSchema> Input for Path<T> {
    fn describe(to: &mut OperationDoc<'_>) {
        let schema = to.schemas.read::<T>();
        let names = to.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        for (index, name) in names.enumerate() {
            // Several parameters are a tuple, each with a schema of its own.
            let own = schema.pointer(&format!("/prefixItems/{index}")).unwrap_or(&schema);
            to.parameters.push(json!({"name": name, "in": "path", "required": true, "schema": own}));
        }
    }
}

impl<T: JsonSchema> Output for Json<T> {
    fn describe(to: &mut OperationDoc<'_>) {
        to.answers::<T>(StatusCode::OK);
    }
}

impl<T> Output for Sse<T> {
    fn describe(to: &mut OperationDoc<'_>) {
        let content = json!({"text/event-stream": {"schema": {"type": "string"}}});
        to.answer(StatusCode::OK, "Server-sent events, for as long as the client listens", content);
    }
}

impl<T: Output> Output for Result<T, Problem> {
    fn describe(to: &mut OperationDoc<'_>) {
        T::describe(to);
        to.refuses(StatusCode::INTERNAL_SERVER_ERROR, "internal");
        to.refuses(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    }
}

/// The description of a route so far.
pub struct OperationDoc<'a> {
    schemas: &'a mut Schemas,
    path: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Answer>,
    problems: BTreeMap<u16, BTreeSet<&'static str>>,
    headers: Vec<(StatusCode, &'static str, &'static str)>,
    /// Its query may have parameters that are not named.
    takes_any_parameter: bool,
}

struct Answer {
    words: &'static str,
    content: Value,
}

impl<'a> OperationDoc<'a> {
    fn new(schemas: &'a mut Schemas, path: &'static str) -> Self {
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

    fn finished(self, operation: &Operation, tag: &str) -> Value {
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
        let words = operation.path.split(['/', '{', '}']).filter(|part| !part.is_empty());
        let id = std::iter::once(operation.method).chain(words).collect::<Vec<_>>().join("_");
        let mut described = json!({
            "operationId": id.replace('.', "_"),
            "summary": operation.summary,
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

impl Operation {
    /// Returns the description as OpenAPI's operation object.
    pub(crate) fn described(&self, schemas: &mut Schemas, tag: &str) -> Value {
        let mut description = OperationDoc::new(schemas, self.path);
        (self.describe)(&mut description);
        for (status, kind) in &self.refusals {
            description.refuses(*status, kind);
        }
        description.refuses(StatusCode::MISDIRECTED_REQUEST, "host");
        description.refuses(StatusCode::BAD_REQUEST, "host");
        if !PROBES.contains(&self.path) {
            description.refuses(StatusCode::BAD_REQUEST, "query");
        }
        if self.path.contains('{') {
            description.refuses(StatusCode::BAD_REQUEST, "path");
        }
        if self.method != "get" {
            description.refuses(StatusCode::FORBIDDEN, "cross-site");
            description.refuses(StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown");
        }
        description.finished(self, tag)
    }
}

/// An answer of its own making that stands for a `T`: 201, with the place where it is.
pub struct Created<T> {
    response: axum::response::Response,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T> Created<T> {
    /// A response that was made from a `T`, here or earlier.
    pub fn new(response: impl IntoResponse) -> Self {
        Self { response: response.into_response(), kind: std::marker::PhantomData }
    }
}

impl<T> IntoResponse for Created<T> {
    fn into_response(self) -> axum::response::Response {
        self.response
    }
}

impl<T: JsonSchema> Output for Created<T> {
    fn describe(to: &mut OperationDoc<'_>) {
        to.answers::<T>(StatusCode::CREATED);
        to.answer_header(StatusCode::CREATED, "Location", "Where it is");
    }
}
