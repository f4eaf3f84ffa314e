//! Requests that wait share one transaction: a batch forms by itself, one when idle, many under load.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Store, Tx};
use crate::error::{Error, HandlerError};

/// Requests in one transaction.
const BATCH_MAX: usize = 512;
/// Requests that may wait; beyond it callers are told to come back, before memory is spent on them.
const WAITING_MAX: usize = 4096;
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
    match together(store, handler, requests).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(e) if requests.len() == 1 => vec![Err(e)],
        Err(HandlerError::Dependency(what)) => {
            let away = || Err(HandlerError::Dependency(what));
            requests.iter().map(|_| away()).collect()
        }
        Err(_) => {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                let answer = together(store, handler, std::slice::from_ref(request)).await;
                answers.push(answer.map(|mut one| one.remove(0)));
            }
            answers
        }
    }
}

async fn together<Q, A, H: Batch<Q, A>>(
    store: &Store,
    handler: &H,
    requests: &[Q],
) -> Result<Vec<A>, HandlerError> {
    let mut tx = store.begin().await?;
    let answers = crate::handler::caught(handler.handle(requests, &mut tx)).await?;
    assert_eq!(answers.len(), requests.len(), "an intake answers each request");
    tx.commit().await?;
    Ok(answers)
}
