//! Requests that wait share one transaction: a batch forms by itself, one when idle, many under load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Store, Tx};
use crate::error::{Error, HandlerError};
use crate::panic::catch_panic;
use crate::retry::conflict_pause;

/// Requests in one transaction.
const BATCH_MAX: usize = 512;
/// Requests that may wait; beyond it callers are told to come back, before memory is spent on them.
const WAITING_MAX: usize = 4096;
/// The longest time for which requests are handled again while the outcome of their commit is not known, or others
/// are in the way.
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Pause while the outcome of a commit is not known.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);
/// A request that has waited longer for a place is told that the store is busy.
const WAIT_MAX: Duration = Duration::from_secs(10);

type WaitingRequest<Q, A> = (Q, oneshot::Sender<Result<A, HandlerError>>);

/// The queue of requests that share transactions. Cheap to clone.
///
/// ```
/// # use tidings::{prelude::*, store::BatchWork};
/// struct Insert;
/// impl BatchWork<String, ()> for Insert {
///     async fn handle(&self, ids: &[String], tx: &mut Tx) -> Result<Vec<()>, HandlerError> {
///         tx.execute_many("INSERT INTO parcel (id) VALUES ($1)", ids.iter().map(|id| [id.into()])).await?;
///         Ok(vec![(); ids.len()])
///     }
/// }
/// # #[tokio::main] async fn main() -> Result<(), HandlerError> {
/// # let scratch = tidings_testkit::Scratch::new();
/// # let tables = &["CREATE TABLE parcel (id TEXT PRIMARY KEY)"];
/// # let store = Store::open(&scratch.url(), "shipping", tables).await?;
/// let batcher = store.write_batcher(Insert);
/// let (one, two) = tokio::join!(batcher.submit("p1".to_owned()), batcher.submit("p2".to_owned()));
/// assert!(one.is_ok() && two.is_ok());
/// # Ok(()) }
/// ```
pub struct WriteBatcher<Q, A> {
    queue: mpsc::Sender<WaitingRequest<Q, A>>,
}

impl<Q, A> Clone for WriteBatcher<Q, A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// A handler of batches of requests: answers each, in order. If it fails, everything it did is undone and the
/// requests are handled one by one, each behind a savepoint, so that only the culprit fails.
///
/// On PostgreSQL a connection can die in `COMMIT`: then it is not known whether the commit happened, and the same
/// requests are handled again. A handler must therefore recognise the rows that are there already: give the rows that
/// a request makes their id before the request is submitted, and insert with `ON CONFLICT`.
pub trait BatchWork<Q, A>: Send + Sync + 'static {
    /// Answers the requests, one answer each, in order.
    fn handle(
        &self,
        requests: &[Q],
        tx: &mut Tx,
    ) -> impl Future<Output = Result<Vec<A>, HandlerError>> + Send;
}

impl<Q: Send + Sync + 'static, A: Send + 'static> WriteBatcher<Q, A> {
    pub(super) fn start<H: BatchWork<Q, A>>(store: Store, handler: H) -> Self {
        let (queue, mut waiting) = mpsc::channel(WAITING_MAX);
        let handler = Arc::new(handler);
        tokio::spawn(async move {
            let mut taken: Vec<WaitingRequest<Q, A>> = Vec::with_capacity(BATCH_MAX);
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
        let permit = match self.queue.try_reserve() {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(WAIT_MAX, self.queue.reserve())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or_else(|| Error::unavailable("too many requests wait"))?,
        };
        permit.send((request, caller));
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the store has stopped").into()))
    }
}

/// The way in which requests share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    /// In one call of the handler.
    All,
    /// Each behind a savepoint.
    OneByOne,
}

async fn answer<Q, A, H: BatchWork<Q, A>>(
    store: &Store,
    handler: &H,
    requests: &[Q],
) -> Vec<Result<A, HandlerError>> {
    let mut tried = in_time(store, handler, requests, Together::All).await;
    if let Err(e) = &tried
        && requests.len() > 1
        && !matches!(e, HandlerError::Dependency(_) | HandlerError::InDoubt(_))
    {
        tried = in_time(store, handler, requests, Together::OneByOne).await;
    }
    tried.unwrap_or_else(|e| requests.iter().map(|_| Err(e.clone())).collect())
}

/// Handles requests; again while the outcome of their commit is not known, or another transaction is in the way.
async fn in_time<Q, A, H: BatchWork<Q, A>>(
    store: &Store,
    handler: &H,
    requests: &[Q],
    how: Together,
) -> Result<Vec<Result<A, HandlerError>>, HandlerError> {
    let begun = Instant::now();
    let mut unknown: Option<Error> = None;
    loop {
        let failed = match (transact(store, handler, requests, how).await, &unknown) {
            (Ok(answers), _) => return Ok(answers),
            // Still away: whether the first time was committed is as unknown as before.
            (Err(Failed::Before(HandlerError::Dependency(_) | HandlerError::InDoubt(_))), Some(e)) => {
                Failed::InCommit(e.clone())
            }
            (Err(failed), _) => failed,
        };
        let pause = match &failed {
            Failed::InCommit(e) => {
                tracing::warn!(error = %e, "the outcome of a commit is unknown; its requests are handled again");
                unknown = Some(e.clone());
                UNKNOWN_PAUSE
            }
            Failed::Before(HandlerError::Conflict(_)) => conflict_pause(),
            Failed::Before(_) => return Err(failed.into_error()),
        };
        if begun.elapsed() >= AGAIN_MAX {
            return Err(failed.into_error());
        }
        tokio::time::sleep(pause).await;
    }
}

async fn transact<Q, A, H: BatchWork<Q, A>>(
    store: &Store,
    handler: &H,
    requests: &[Q],
    how: Together,
) -> Result<Vec<Result<A, HandlerError>>, Failed> {
    let mut tx = store.begin().await?;
    let mut answers = Vec::with_capacity(requests.len());
    match how {
        Together::All => answers.extend(call(handler, requests, &mut tx).await?.into_iter().map(Ok)),
        Together::OneByOne => {
            for request in requests.chunks(1) {
                let one = tx.attempt(async |tx| call(handler, request, tx).await).await?;
                answers.push(one.map(|mut one| one.remove(0)));
            }
        }
    }
    tx.flush().await?;
    match tx.commit().await {
        Err(e) if e.is_unavailable() && store.commits_can_be_in_doubt() => Err(Failed::InCommit(e)),
        committed => committed.map(|()| answers).map_err(Into::into),
    }
}

async fn call<Q, A, H: BatchWork<Q, A>>(
    handler: &H,
    requests: &[Q],
    tx: &mut Tx,
) -> Result<Vec<A>, HandlerError> {
    let answers = catch_panic(handler.handle(requests, tx)).await?;
    assert_eq!(answers.len(), requests.len(), "each request has an answer");
    Ok(answers)
}

/// The point up to which a failed transaction had come.
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
