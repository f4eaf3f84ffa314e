//! Requests that wait share one transaction: a batch forms by itself, one when idle, many under load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Database, Store, Tx};
use crate::error::{Error, HandlerError};

/// Requests in one transaction.
const BATCH_MAX: usize = 512;
/// Requests that may wait; beyond it callers are told to come back, before memory is spent on them.
const WAITING_MAX: usize = 4096;
/// How long requests are handled again while the outcome of their commit is not known.
const UNKNOWN_MAX: Duration = Duration::from_secs(10);
/// Pause before each of those times.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);
/// A request that has waited longer for a place is told that the store is busy.
const WAIT_MAX: Duration = Duration::from_secs(10);

type Waiting<Q, A> = (Q, oneshot::Sender<Result<A, HandlerError>>);

/// Where requests queue for a transaction they share. Cheap to clone.
pub struct Intake<Q, A> {
    queue: mpsc::Sender<Waiting<Q, A>>,
}

impl<Q, A> Clone for Intake<Q, A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// What handles a batch of requests: answers each, in order. If it fails, everything it did is undone
/// and the requests are handled one by one, so that only the culprit fails.
///
/// On PostgreSQL a connection can die in `COMMIT`: then nobody knows whether it happened, and the same
/// requests are handled again. So what is written must be recognised when it is there already: give what a
/// request makes its id before it is submitted, and insert with `ON CONFLICT`.
pub trait Batch<Q, A>: Send + Sync + 'static {
    /// Answers the requests, one answer each, in order.
    fn handle(
        &self,
        requests: &[Q],
        tx: &mut Tx,
    ) -> impl Future<Output = Result<Vec<A>, HandlerError>> + Send;
}

impl<Q: Send + Sync + 'static, A: Send + 'static> Intake<Q, A> {
    pub(super) fn start<H: Batch<Q, A>>(store: Store, handler: H) -> Self {
        let (queue, mut waiting) = mpsc::channel(WAITING_MAX);
        let handler = Arc::new(handler);
        tokio::spawn(async move {
            let mut taken: Vec<Waiting<Q, A>> = Vec::with_capacity(BATCH_MAX);
            while waiting.recv_many(&mut taken, BATCH_MAX).await > 0 {
                let (requests, callers): (Vec<_>, Vec<_>) = taken.drain(..).unzip();
                let answers = answer(&store, &*handler, &requests).await;
                for (caller, answer) in callers.into_iter().zip(answers) {
                    // The caller may have hung up; what was committed stands.
                    let _ = caller.send(answer);
                }
            }
        });
        Self { queue }
    }

    /// Hands a request in and waits for its answer, which comes after the commit.
    ///
    /// # Errors
    /// What the handler answered; `Dependency` when the store is busy or away.
    pub async fn submit(&self, request: Q) -> Result<A, HandlerError> {
        let (caller, answer) = oneshot::channel();
        let place = match self.queue.try_reserve() {
            Ok(place) => place,
            Err(_) => tokio::time::timeout(WAIT_MAX, self.queue.reserve())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or_else(|| Error::unavailable("too many requests wait"))?,
        };
        place.send((request, caller));
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the store has stopped").into()))
    }
}

async fn answer<Q, A, H: Batch<Q, A>>(
    store: &Store,
    handler: &H,
    requests: &[Q],
) -> Vec<Result<A, HandlerError>> {
    let begun = Instant::now();
    let mut tried = together(store, handler, requests).await;
    while let Err(Failed::InCommit(e)) = &tried
        && begun.elapsed() < UNKNOWN_MAX
    {
        tracing::warn!(error = %e, "the outcome of a commit is unknown; its requests are handled again");
        tokio::time::sleep(UNKNOWN_PAUSE).await;
        tried = match together(store, handler, requests).await {
            // Still away: whether the first time was committed is as unknown as before.
            Err(Failed::Before(HandlerError::Dependency(_) | HandlerError::InDoubt(_))) => {
                Err(Failed::InCommit(e.clone()))
            }
            tried => tried,
        };
    }
    match tried.map_err(Failed::into_error) {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(e) if requests.len() == 1 => vec![Err(e)],
        Err(e @ (HandlerError::Dependency(_) | HandlerError::InDoubt(_))) => {
            requests.iter().map(|_| Err(e.clone())).collect()
        }
        Err(_) => {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                let answer = together(store, handler, std::slice::from_ref(request)).await;
                answers.push(answer.map(|mut one| one.remove(0)).map_err(Failed::into_error));
            }
            answers
        }
    }
}

async fn together<Q, A, H: Batch<Q, A>>(
    store: &Store,
    handler: &H,
    requests: &[Q],
) -> Result<Vec<A>, Failed> {
    let mut tx = store.begin().await?;
    let answers = crate::panic::catch_panic(handler.handle(requests, &mut tx)).await?;
    assert_eq!(answers.len(), requests.len(), "an intake answers each request");
    tx.flush().await?;
    match tx.commit().await {
        Err(e) if e.is_unavailable() && matches!(store.database(), Database::Postgres(_)) => {
            Err(Failed::InCommit(e))
        }
        committed => committed.map(|()| answers).map_err(Into::into),
    }
}

/// How far a transaction had come.
enum Failed {
    /// It was certainly not committed.
    Before(HandlerError),
    /// Perhaps it was.
    InCommit(Error),
}

impl Failed {
    fn into_error(self) -> HandlerError {
        match self {
            Self::Before(e) => e,
            Self::InCommit(e) => e.into(),
        }
    }
}

impl<E: Into<HandlerError>> From<E> for Failed {
    fn from(e: E) -> Self {
        Self::Before(e.into())
    }
}
