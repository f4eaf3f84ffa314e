//! Routes that describe themselves: what a handler takes and answers is read from its signature.

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::Sse;
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::checked::{BodyMax, Checked, Parameters};
use super::intake::Intake;
pub use super::operation_doc::OperationDoc;
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
    /// The door before it, if it writes.
    pub(crate) intake: Option<Intake>,
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
        let parameters = Parameters::of(path, H::describe);
        let route = get(Checked { parameters, intake: None, body_max: None, handler });
        self.route("get", path, summary, route, H::describe)
    }

    /// A route that does something.
    #[must_use]
    pub fn post<T, H>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: Handler<T, S> + Described<T>,
        T: 'static,
    {
        self.posting(path, summary, None, handler)
    }

    /// A route that does something, with bodies of this size at most.
    pub(crate) fn post_large<T, H>(
        self,
        path: &'static str,
        summary: &'static str,
        bytes_max: usize,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S> + Described<T>,
        T: 'static,
    {
        self.posting(path, summary, Some(BodyMax(bytes_max)), handler)
    }

    fn posting<T, H>(
        self,
        path: &'static str,
        summary: &'static str,
        body_max: Option<BodyMax>,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S> + Described<T>,
        T: 'static,
    {
        let (parameters, intake) = (Parameters::of(path, H::describe), Intake::default());
        let route = post(Checked { parameters, intake: Some(intake.clone()), body_max, handler });
        let route = match body_max {
            Some(BodyMax(bytes)) => route.layer(DefaultBodyLimit::max(bytes)),
            None => route,
        };
        self.route("post", path, summary, route, H::describe).behind(intake)
    }

    /// Says that the last route goes on taking requests while the service has too much waiting: a cancellation, or what
    /// makes the backlog smaller. Half as much again is its bound. Routes that are read go on anyway.
    #[must_use]
    pub fn essential(self) -> Self {
        let last = self.operations.last().and_then(|operation| operation.intake.as_ref());
        last.into_iter().for_each(Intake::is_essential);
        self
    }

    /// Notes the door of the last route.
    pub(super) fn behind(mut self, intake: Intake) -> Self {
        if let Some(operation) = self.operations.last_mut() {
            operation.intake = Some(intake);
        }
        self
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
        check_path(method, path);
        self.operations.push(Operation {
            method,
            path,
            summary,
            intake: None,
            refusals: Vec::new(),
            describe,
        });
        Self { router: self.router.route(path, route), ..self }
    }

    pub(crate) fn into_parts(self) -> (Router<S>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// Refuses a path that no request could have, or whose parameters are not seen as such.
///
/// # Panics
/// When it is one.
fn check_path(method: &str, path: &str) {
    let is_foreign = |part: &str| part.starts_with([':', '*', '<']);
    assert!(
        path.starts_with('/') && !path.split('/').any(is_foreign),
        "the path of {} {path} begins with a slash and names its parameters in braces: /parcels/{{id}}",
        method.to_uppercase(),
    );
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
        description.finished(self.method, self.summary, tag)
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

#[cfg(test)]
mod tests {
    use super::check_path;

    #[test]
    fn paths_as_others_write_them_are_refused_in_one_line() {
        for path in ["/parcels", "/parcels/{id}/scans", "/a:b"] {
            check_path("get", path);
        }
        for path in ["", "parcels", "/parcels/:id", "/parcels/*rest", "/parcels/<id>"] {
            let refused = std::panic::catch_unwind(|| check_path("get", path)).unwrap_err();
            let words = refused.downcast_ref::<String>().expect("words");
            assert!(words.starts_with(&format!("the path of GET {path} begins with a slash")), "{words}");
        }
    }
}
