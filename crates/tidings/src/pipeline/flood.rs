//! The flood breaker: a handler that fails on everything must not drain a topic into the dead letters.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Pipeline, Resolution};
use crate::error::Error;
use crate::store::audit::Operator;
use crate::store::pauses::{self, Scope};

/// The actor of a pause that no operator made.
const ACTOR: &str = "tidings";

/// Dead letters since an event was last handled.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    in_a_row: AtomicU64,
}

impl Flood {
    /// The number of dead letters since an event was last handled.
    pub(super) fn in_a_row(&self) -> u64 {
        self.in_a_row.load(Ordering::Relaxed)
    }

    /// The number of dead letters in a row after one more event has ended.
    pub(super) fn after(in_a_row: u64, resolution: Resolution) -> u64 {
        match resolution {
            Resolution::Handled => 0,
            Resolution::Dead => in_a_row + 1,
            _ => in_a_row,
        }
    }

    /// Takes note of the ends of events whose transaction is committed.
    pub(super) fn note(&self, resolutions: impl IntoIterator<Item = Resolution>) {
        let before = self.in_a_row();
        let after = resolutions.into_iter().fold(before, Self::after);
        if after != before {
            self.in_a_row.store(after, Ordering::Relaxed);
        }
    }
}

impl Pipeline {
    /// Pauses the service if too many events in a row were dead letters; says whether it is paused, by whomever.
    pub(super) async fn is_paused(&self) -> Result<bool, Error> {
        if self.store.pauses().of_service().is_some() {
            return Ok(true);
        }
        let count = self.flood.in_a_row();
        if count < self.subscription.dead_in_a_row_max {
            return Ok(false);
        }
        let reason = format!("{count} events in a row were dead letters");
        tracing::error!(
            count,
            "too many dead letters in a row: the service is paused until an operator resumes it"
        );
        let by = Operator { actor: ACTOR.to_owned(), reason };
        pauses::pause(&self.store, Scope::Service, "", &by).await?;
        // Once it is resumed, it may have as many again.
        self.flood.in_a_row.store(0, Ordering::Relaxed);
        Ok(true)
    }
}
