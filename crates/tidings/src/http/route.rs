//! Routes of a service: path, query and body in, one transaction, an answer after its commit; idempotent by key.

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{MethodFilter, get, on};
use bytes::Bytes;
use garde::Validate;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{Api, Input, OperationDoc};
use super::body::{ValidJson, json_body, valid};
use super::checked::Parameters;
use super::idempotency::{self, IdempotencyKey, InFlight};
use super::intake::Intake;
use super::page::ValidQuery;
use super::problem::Problem;
use crate::envelope::Cause;
use crate::panic::catch_panic;
use crate::store::{Store, Tx};
use crate::strict;

#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument of a route that stands before the last one",
    note = "`Path<T>` and `ValidQuery<T>` come first, the body last"
)]
/// A part of a request that a route's handler takes before the body: [`Path`] or [`ValidQuery`].
pub trait Argument: Input + Sized + Send {
    /// Takes it from a request.
    fn take(parts: &mut Parts) -> impl Future<Output = Result<Self, Problem>> + Send;
}

impl<T: DeserializeOwned + JsonSchema + Send> Argument for Path<T> {
    async fn take(parts: &mut Parts) -> Result<Self, Problem> {
        let path = Self::from_request_parts(parts, &()).await;
        path.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "path", e.body_text()))
    }
}

impl<T: DeserializeOwned + Validate<Context = ()> + JsonSchema + Send> Argument for ValidQuery<T> {
    async fn take(parts: &mut Parts) -> Result<Self, Problem> {
        Self::from_request_parts(parts, &()).await
    }
}

/// A JSON body that keeps the rules of its type: the last argument of a handler.
pub trait Body: DeserializeOwned + JsonSchema + Validate<Context = ()> + Send {}

impl<T: DeserializeOwned + JsonSchema + Validate<Context = ()> + Send> Body for T {}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument of a route",
    note = "it takes `Path<T>`, `ValidQuery<T>`, and last a body that derives `serde::Deserialize`, `schemars::JsonSchema` and `garde::Validate`"
)]
/// The last argument of a handler: an [`Argument`], or a [`Body`]; `M` tells which.
pub trait LastArgument<M>: Sized + Send {
    /// True if it is a body.
    const IS_BODY: bool;

    /// Takes it from a request and its body.
    fn take(parts: &mut Parts, body: &Bytes) -> impl Future<Output = Result<Self, Problem>> + Send;

    /// Adds it to a description.
    fn describe(doc: &mut OperationDoc<'_>);
}

/// Marks an argument that is taken from the head of a request.
pub struct FromHead;

/// Marks an argument that is the body.
pub struct FromBody;

impl<A: Argument> LastArgument<FromHead> for A {
    const IS_BODY: bool = false;

    async fn take(parts: &mut Parts, _: &Bytes) -> Result<Self, Problem> {
        <A as Argument>::take(parts).await
    }

    fn describe(doc: &mut OperationDoc<'_>) {
        <A as Input>::describe(doc);
    }
}

impl<T: Body> LastArgument<FromBody> for T {
    const IS_BODY: bool = true;

    async fn take(_: &mut Parts, body: &Bytes) -> Result<Self, Problem> {
        valid(body)
    }

    fn describe(doc: &mut OperationDoc<'_>) {
        <ValidJson<T> as Input>::describe(doc);
    }
}

/// The arguments of a handler: at most two [`Argument`]s before the last one.
pub trait Arguments {
    /// The arguments themselves.
    type Values: Send;
    /// True if there is a body.
    const HAS_BODY: bool;

    /// Takes them from a request and its body.
    fn take(parts: &mut Parts, body: &Bytes) -> impl Future<Output = Result<Self::Values, Problem>> + Send;

    /// Adds them to a description.
    fn describe(doc: &mut OperationDoc<'_>);
}

impl Arguments for () {
    type Values = ();
    const HAS_BODY: bool = false;

    async fn take(_: &mut Parts, _: &Bytes) -> Result<(), Problem> {
        Ok(())
    }

    fn describe(_: &mut OperationDoc<'_>) {}
}

macro_rules! arguments {
    ($($argument:ident)*) => {
        impl<M, $($argument: Argument,)* L: LastArgument<M>> Arguments for (M, $($argument,)* L) {
            type Values = ($($argument,)* L,);
            const HAS_BODY: bool = L::IS_BODY;

            async fn take(parts: &mut Parts, body: &Bytes) -> Result<Self::Values, Problem> {
                Ok(($(<$argument as Argument>::take(parts).await?,)* <L as LastArgument<M>>::take(parts, body).await?,))
            }

            fn describe(doc: &mut OperationDoc<'_>) {
                $(<$argument as Input>::describe(doc);)*
                <L as LastArgument<M>>::describe(doc);
            }
        }
    };
}
arguments!();
arguments!(A);
arguments!(A B);

/// A handler of a route that changes something: `async fn(&mut Tx, …) -> Result<R, E>`, with [`Path`] and [`ValidQuery`]
/// arguments first and a JSON body last, each left out where it is not needed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of a route",
    note = "write `async fn(tx: &mut Tx, …) -> Result<R, HandlerError>`, with at most two of `Path<T>` and `ValidQuery<T>`, and then a body that derives `Deserialize, JsonSchema, Validate`"
)]
pub trait RouteHandler<A: Arguments, R, E>: Clone + Send + Sync + 'static {
    /// Handles one request in a transaction.
    fn call(&self, tx: &mut Tx, arguments: A::Values) -> impl Future<Output = Result<R, Problem>> + Send;
}

/// A handler of a route that reads: `async fn(&Store, …) -> Result<R, E>`, with [`Path`] and [`ValidQuery`] arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of a route that reads",
    note = "write `async fn(store: &Store, …) -> Result<R, Problem>`, with at most two of `Path<T>` and `ValidQuery<T>`"
)]
pub trait ReadHandler<A: Arguments, R, E>: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, store: &Store, arguments: A::Values) -> impl Future<Output = Result<R, Problem>> + Send;
}

macro_rules! handlers {
    ($handler:ident, $function:ident, $on:ty, [$($borrow:tt)*], [$($argument:ident)*], [$($last:ident $marker:ident)?]) => {
        /// Names the future of a function that borrows its first argument.
        #[doc(hidden)]
        pub trait $function<'a, R, E, $($argument,)* $($last)?>:
            Fn(&'a $($borrow)* $on, $($argument,)* $($last)?) -> Self::Future
        {
            type Future: Future<Output = Result<R, E>> + Send;
        }

        impl<'a, R, E, F, Fut, $($argument,)* $($last)?> $function<'a, R, E, $($argument,)* $($last)?> for F
        where
            F: Fn(&'a $($borrow)* $on, $($argument,)* $($last)?) -> Fut,
            Fut: Future<Output = Result<R, E>> + Send,
        {
            type Future = Fut;
        }

        impl<R, E, F, $($argument: Argument,)* $($last: LastArgument<$marker>, $marker)?>
            $handler<($($marker,)? $($argument,)* $($last)?), R, E> for F
        where
            R: Send,
            E: Into<Problem> + Send,
            F: for<'a> $function<'a, R, E, $($argument,)* $($last)?> + Clone + Send + Sync + 'static,
        {
            #[allow(non_snake_case, reason = "each argument is called like its type")]
            async fn call(
                &self,
                on: &$($borrow)* $on,
                arguments: <($($marker,)? $($argument,)* $($last)?) as Arguments>::Values,
            ) -> Result<R, Problem> {
                let ($($argument,)* $($last,)?) = arguments;
                self(on, $($argument,)* $($last)?).await.map_err(Into::into)
            }
        }
    };
}
handlers!(RouteHandler, RouteFn0, Tx, [mut], [], []);
handlers!(RouteHandler, RouteFn1, Tx, [mut], [], [L M]);
handlers!(RouteHandler, RouteFn2, Tx, [mut], [A], [L M]);
handlers!(RouteHandler, RouteFn3, Tx, [mut], [A B], [L M]);
handlers!(ReadHandler, ReadFn0, Store, [], [], []);
handlers!(ReadHandler, ReadFn1, Store, [], [], [L M]);
handlers!(ReadHandler, ReadFn2, Store, [], [A], [L M]);

/// A method that changes something.
pub(crate) trait Verb: 'static {
    const METHOD: MethodFilter;
    /// Its name in documents.
    const NAME: &'static str;
    /// The status of an answer with a value, and of one without.
    const STATUS: (StatusCode, StatusCode);

    fn status(has_value: bool) -> StatusCode {
        if has_value { Self::STATUS.0 } else { Self::STATUS.1 }
    }
}

pub(crate) enum Post {}
pub(crate) enum Put {}
pub(crate) enum Delete {}

impl Verb for Post {
    const METHOD: MethodFilter = MethodFilter::POST;
    const NAME: &'static str = "post";
    const STATUS: (StatusCode, StatusCode) = (StatusCode::CREATED, StatusCode::ACCEPTED);
}

impl Verb for Put {
    const METHOD: MethodFilter = MethodFilter::PUT;
    const NAME: &'static str = "put";
    const STATUS: (StatusCode, StatusCode) = (StatusCode::OK, StatusCode::NO_CONTENT);
}

impl Verb for Delete {
    const METHOD: MethodFilter = MethodFilter::DELETE;
    const NAME: &'static str = "delete";
    const STATUS: (StatusCode, StatusCode) = (StatusCode::OK, StatusCode::NO_CONTENT);
}

/// A route and what it works on.
#[derive(Clone)]
pub(crate) struct Route<H> {
    path: &'static str,
    parameters: Parameters,
    intake: Intake,
    store: Store,
    handler: H,
}

/// A route whose request is handled in one transaction and answered after its commit.
pub(crate) fn changing<V, A, R, E, H>(
    path: &'static str,
    handler: H,
) -> (Api<Route<H>>, impl FnOnce(&Store) -> Route<H> + Send + 'static)
where
    V: Verb,
    A: Arguments + 'static,
    R: Serialize + JsonSchema + Send + 'static,
    E: 'static,
    H: RouteHandler<A, R, E>,
{
    let router = on(V::METHOD, change::<V, A, R, E, H>);
    let summary = "Handled in one transaction, answered after its commit";
    let (parameters, intake) = (Parameters::of(path, A::describe), Intake::default());
    let api =
        Api::new().route(V::NAME, path, summary, router, describe_change::<V, A, R>).behind(intake.clone());
    (api, move |store: &Store| Route { path, parameters, intake, store: store.clone(), handler })
}

/// A route that reads.
pub(crate) fn reading<A, R, E, H>(
    path: &'static str,
    handler: H,
) -> (Api<Route<H>>, impl FnOnce(&Store) -> Route<H> + Send + 'static)
where
    A: Arguments + 'static,
    R: Serialize + JsonSchema + Send + 'static,
    E: 'static,
    H: ReadHandler<A, R, E>,
{
    let router = get(read::<A, R, E, H>);
    let parameters = Parameters::of(path, A::describe);
    let api = Api::new().route("get", path, "Read from what is committed", router, describe_read::<A, R>);
    (api, move |store: &Store| Route {
        path,
        parameters,
        intake: Intake::default(),
        store: store.clone(),
        handler,
    })
}

fn describe_change<V: Verb, A: Arguments, R: JsonSchema>(doc: &mut OperationDoc<'_>) {
    <Cause as Input>::describe(doc);
    <IdempotencyKey as Input>::describe(doc);
    A::describe(doc);
    if R::schema_name() == <()>::schema_name() {
        doc.answer(V::status(false), "Done", serde_json::Value::Null);
    } else {
        doc.answers::<R>(V::status(true));
    }
    describe_failures(doc);
}

fn describe_read<A: Arguments, R: JsonSchema>(doc: &mut OperationDoc<'_>) {
    A::describe(doc);
    doc.answers::<R>(StatusCode::OK);
    describe_failures(doc);
}

fn describe_failures(doc: &mut OperationDoc<'_>) {
    doc.refuses(StatusCode::INTERNAL_SERVER_ERROR, "internal");
    doc.refuses(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
}

async fn change<V, A, R, E, H>(State(route): State<Route<H>>, request: Request) -> Result<Response, Problem>
where
    V: Verb,
    A: Arguments,
    R: Serialize + Send,
    H: RouteHandler<A, R, E>,
{
    route.parameters.check(&request)?;
    let _admitted = route.intake.enter()?;
    let (mut parts, body) = request.into_parts();
    let (Ok(cause), key) = (
        Cause::from_request_parts(&mut parts, &()).await,
        IdempotencyKey::from_request_parts(&mut parts, &()).await?,
    );
    let request = Request::from_parts(parts.clone(), body);
    let body = if A::HAS_BODY { json_body(request).await? } else { Bytes::new() };
    // Two requests with one key to different resources are two requests.
    let claim = key.claim(route.path, &fingerprinted(route.path, &parts, &body));
    let arguments = A::take(&mut parts, &body).await?;
    let _in_flight = InFlight::enter(claim.as_ref()).await?;
    let mut tx = route.store.begin().await?;
    tx.caused_by(&cause);
    if let Some(claim) = &claim
        && let Some(before) = tx.find_response(claim).await?
    {
        return Ok(idempotency::replay(before));
    }
    let value = catch_panic(route.handler.call(&mut tx, arguments)).await?;
    let answer = strict::to_text(&value)?;
    let status = V::status(answer != "null");
    if let Some(claim) = &claim {
        tx.save_response(claim, status.as_u16(), &answer).await?;
    }
    tx.commit().await?;
    Ok(idempotency::json_answer(status.as_u16(), answer))
}

async fn read<A, R, E, H>(State(route): State<Route<H>>, request: Request) -> Result<Response, Problem>
where
    A: Arguments,
    R: Serialize + Send,
    H: ReadHandler<A, R, E>,
{
    route.parameters.check(&request)?;
    let (mut parts, _) = request.into_parts();
    let arguments = A::take(&mut parts, &Bytes::new()).await?;
    let value = catch_panic(route.handler.call(&route.store, arguments)).await?;
    Ok(idempotency::json_answer(StatusCode::OK.as_u16(), strict::to_text(&value)?))
}

/// The bytes that tell two requests with one key apart: the body, and the method and path where a route has others.
fn fingerprinted(path: &str, parts: &Parts, body: &Bytes) -> Bytes {
    if parts.method == axum::http::Method::POST && !path.contains('{') {
        return body.clone();
    }
    [parts.method.as_str().as_bytes(), b" ", parts.uri.path().as_bytes(), b"\n", body].concat().into()
}
