//! An event on its way from the outbox to the broker.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::Error;
use crate::message::Message;

/// A committed event that the broker has not acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) id: i64,
    pub(crate) stream: Arc<str>,
    pub(crate) seq: i64,
    pub(crate) topic: Cow<'static, str>,
    /// The time at which it was recorded, in microseconds since 1970.
    pub(crate) recorded_us: i64,
    pub(crate) message: Arc<Message>,
    /// The reason that the broker refuses it, if it does.
    pub(crate) blocked: Option<String>,
}

/// The beginning of the reason of an event that no broker will ever take.
pub(super) const NEVER: &str = "never: ";

impl Pending {
    /// Gives the event its message, or blocks it for good if that cannot be read: its stream waits for an operator,
    /// and others go on.
    pub(super) fn with(self, message: Result<Message, Error>) -> Self {
        match message {
            Ok(message) => Self { message: message.into(), ..self },
            Err(e) => {
                tracing::error!(stream = %self.stream, outbox_id = self.id, error = %e, "an event cannot be sent");
                Self { blocked: Some(format!("{NEVER}{e}")), ..self }
            }
        }
    }

    /// True if the event waits for an operator, since no change of the broker would let it pass.
    pub(crate) fn is_blocked_for_good(&self) -> bool {
        self.blocked.as_ref().is_some_and(|reason| reason.starts_with(NEVER))
    }
}
