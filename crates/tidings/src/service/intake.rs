//! The bounds of a service, and the doors of its routes that heed them.

use std::sync::Arc;

use axum::http::StatusCode;

use super::Service;
use crate::bounds::{Bounds, Pressure};
use crate::http::{Intake, OVERLOADED, Operation};

/// The doors of a service's routes that write, and the bounds that they heed.
#[derive(Default)]
pub(crate) struct Intakes {
    bounds: Bounds,
    doors: Vec<Intake>,
    /// The door of the last route, if it has one.
    last: Option<Intake>,
}

impl Intakes {
    /// Takes the doors of operations, which say that they may refuse.
    pub(super) fn of(&mut self, operations: &mut [Operation]) {
        for operation in operations {
            self.last = operation.intake.clone();
            if let Some(intake) = &self.last {
                self.doors.push(intake.clone());
                operation.may_refuse(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED);
            }
        }
    }

    /// A door for routes that no document names.
    pub(super) fn more(&mut self) -> Intake {
        let intake = Intake::default();
        self.doors.push(intake.clone());
        self.last = Some(intake.clone());
        intake
    }

    /// Has all of them heed the bounds from now on.
    pub(crate) fn heed(&self, pressure: &Arc<Pressure>) {
        pressure.set(self.bounds);
        self.doors.iter().for_each(|intake| intake.heed(pressure));
    }
}

impl Service {
    /// Sets how much may wait in the service before requests that write are refused, and no more events are read.
    /// What the program's settings say comes before it.
    #[must_use]
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.intakes.bounds = bounds;
        self
    }

    /// Sets the bounds of the program's settings, which come before the service's own.
    pub(crate) fn bounded_by(mut self, settings: Bounds) -> Self {
        self.intakes.bounds = settings.or(self.intakes.bounds);
        self
    }

    /// Says that the last route goes on taking requests while too much waits in the service: a cancellation, or what
    /// makes the backlog smaller. Half as much again is its bound. Routes that read go on anyway.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// # async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> { tx.publish(note).await }
    /// # async fn drop_note(tx: &mut Tx, Path(key): Path<String>) -> Result<(), HandlerError> { Ok(()) }
    /// let service = Service::new("notes")
    ///     .publishes::<NoteTaken>()
    ///     .post("/notes", take)
    ///     .delete("/notes/{key}", drop_note)
    ///     .essential();
    /// ```
    #[must_use]
    pub fn essential(self) -> Self {
        self.intakes.last.iter().for_each(Intake::is_essential);
        self
    }
}
