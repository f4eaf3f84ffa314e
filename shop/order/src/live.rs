//! Changes of orders, announced to readers of the live history.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use serde_json::json;
use tidings::http::{Input, OperationDoc, Problem};
use tidings::{Error, Store, Tx};
use tokio::sync::broadcast;

use crate::history::{self, HistoryEntry};
use crate::store;

/// Announcements a slow live stream may miss before it looks for itself.
const CHANGES_MAX: usize = 1024;
/// A live stream looks for itself at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells live streams which orders have changed.
#[derive(Clone)]
pub struct Changes(broadcast::Sender<Arc<str>>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(CHANGES_MAX))
    }
}

impl Changes {
    /// Announces an order once the transaction has committed, if there is a listener.
    pub fn announce(&self, tx: &mut Tx, id: &str) {
        if self.0.receiver_count() > 0 {
            let (sender, id) = (self.0.clone(), Arc::from(id));
            tx.after_commit(move || drop(sender.send(id)));
        }
    }
}

/// The history of an order, live: all of it that a reader has not seen, then each entry as it is written.
pub struct Live {
    announcements: broadcast::Receiver<Arc<str>>,
    store: Store,
    id: String,
    /// The place of the last entry that was sent.
    sent: u64,
    waiting: Vec<HistoryEntry>,
    /// Set if no entry comes after those in `waiting`.
    is_last: bool,
}

impl Live {
    /// Follows an order from the entry that the reader has seen last.
    pub async fn follow(
        store: &Store,
        changes: &Changes,
        id: String,
        LastEventId(last): LastEventId,
    ) -> Result<Self, Problem> {
        let announcements = changes.0.subscribe();
        if last > 0 {
            let there_are = history::history(store, &id).await?.last().map_or(0, |entry| entry.n);
            if last > there_are {
                let detail =
                    format!("the history of this order has {there_are} events; there is no event {last} yet");
                return Err(bad_last_event_id(detail));
            }
        }
        let store = store.clone();
        Ok(Self { announcements, store, id, sent: last, waiting: Vec::new(), is_last: false })
    }

    /// The next entry; `None` once the order has ended and its last event was sent.
    pub async fn next(&mut self) -> Option<HistoryEntry> {
        loop {
            if let Some(entry) = self.waiting.pop() {
                self.sent = entry.n;
                return Some(entry);
            }
            if self.is_last {
                return None;
            }
            if self.look().await.is_err() || (self.waiting.is_empty() && !self.is_last) {
                self.change().await;
            }
        }
    }

    /// Looks for what came since: first at the order, so that its history is whole if it has ended.
    async fn look(&mut self) -> Result<(), Error> {
        let order = store::find(&self.store, &self.id).await?;
        let mut entries = history::history(&self.store, &self.id).await?;
        entries.retain(|entry| entry.n > self.sent);
        entries.reverse();
        self.waiting = entries;
        self.is_last = order.is_some_and(|order| !order.status.is_open());
        Ok(())
    }

    /// Waits until the order changed, or perhaps did.
    async fn change(&mut self) {
        let announced = async {
            while let Ok(id) = self.announcements.recv().await {
                if *id == *self.id {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_EVERY, announced).await;
    }
}

/// The last event that a reader has seen; 0 if it has seen none.
pub struct LastEventId(u64);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.headers.get("last-event-id").map(HeaderValue::as_bytes) {
            None | Some(b"") => Ok(Self(0)),
            Some(value) => match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                Some(last) => Ok(Self(last)),
                None => {
                    Err(bad_last_event_id("Last-Event-ID is not the id of an event of this stream: a number"))
                }
            },
        }
    }
}

fn bad_last_event_id(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "last-event-id", detail)
}

impl Input for LastEventId {
    fn describe(to: &mut OperationDoc<'_>) {
        let words = "The last event that was seen: those after it follow";
        to.header("Last-Event-ID", words, &json!({"type": "string", "pattern": "^[0-9]*$"}));
        to.refuses(StatusCode::BAD_REQUEST, "last-event-id");
    }
}
