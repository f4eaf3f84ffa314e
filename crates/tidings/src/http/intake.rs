//! The door of a route that writes: shut while too much waits in its service.
//!
//! A request is refused before anything of it is read or done, so it may be sent again as it is, under its key or
//! without one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use crate::bounds::{Admitted, Pressure};

/// The door of a route. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Intake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_essential: AtomicBool,
    /// Set when the service starts; before it, and for routes of no service, everybody gets in.
    pressure: OnceLock<Arc<Pressure>>,
}

impl Intake {
    /// Lets requests in at a bound too, until it is exceeded by far.
    pub(crate) fn is_essential(&self) {
        self.0.is_essential.store(true, Ordering::Relaxed);
    }

    /// Sets the bounds that it heeds.
    pub(crate) fn heed(&self, pressure: &Arc<Pressure>) {
        let _ = self.0.pressure.set(pressure.clone());
    }

    /// Lets a request in, which counts as under way for as long as what is returned lives.
    pub(super) fn enter(&self) -> Result<Option<Admitted>, Problem> {
        let Some(pressure) = self.0.pressure.get() else { return Ok(None) };
        let is_essential = self.0.is_essential.load(Ordering::Relaxed);
        pressure.admit(is_essential).map(Some).map_err(Problem::overloaded)
    }
}

/// Puts a door before routes that are not described: before all that write.
pub(crate) fn bounded(routes: Router, intake: Intake) -> Router {
    routes.layer(from_fn_with_state(intake, admit))
}

async fn admit(State(intake): State<Intake>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match intake.enter() {
        Ok(_admitted) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
