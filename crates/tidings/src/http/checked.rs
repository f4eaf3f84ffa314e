//! The part of a route that comes before its handler: what its query may have, and whether it takes requests at all.

use std::sync::Arc;

use axum::extract::Request;
use axum::handler::Handler;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::{BoxFuture, Either, Ready, ready};

use super::door::{parameter_name, shown_name};
use super::intake::Intake;
use super::operation_doc::OperationDoc;
use super::problem::Problem;
use super::schemas::Schemas;
use super::server::PROBES;
use crate::bounds::Admitted;

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

/// Largest body of a request's route, in bytes.
#[derive(Clone, Copy)]
pub(super) struct BodyMax(pub(super) usize);

/// A handler behind the check of its parameters, and the door of its route if it writes.
#[derive(Clone)]
pub(super) struct Checked<H> {
    pub(super) parameters: Parameters,
    pub(super) intake: Option<Intake>,
    /// Largest body, where it is not [`BODY_BYTES_MAX`](super::BODY_BYTES_MAX).
    pub(super) body_max: Option<BodyMax>,
    pub(super) handler: H,
}

impl<H> Checked<H> {
    fn enter(&self, request: &Request) -> Result<Option<Admitted>, Problem> {
        self.parameters.check(request)?;
        self.intake.as_ref().map_or(Ok(None), Intake::enter)
    }
}

impl<T, S, H> Handler<T, S> for Checked<H>
where
    H: Handler<T, S>,
    T: 'static,
    S: 'static,
{
    type Future = Either<H::Future, Either<BoxFuture<'static, Response>, Ready<Response>>>;

    fn call(self, mut request: Request, state: S) -> Self::Future {
        let admitted = match self.enter(&request) {
            Ok(admitted) => admitted,
            Err(problem) => return Either::Right(Either::Right(ready(problem.into_response()))),
        };
        if let Some(body_max) = self.body_max {
            request.extensions_mut().insert(body_max);
        }
        let handled = self.handler.call(request, state);
        match admitted {
            None => Either::Left(handled),
            Some(admitted) => Either::Right(Either::Left(Box::pin(async move {
                let _admitted = admitted;
                handled.await
            }))),
        }
    }
}
