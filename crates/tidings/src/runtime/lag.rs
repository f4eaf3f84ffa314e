//! The lag of a consumer, for readers that only look: a broker that hangs keeps none of them waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, Position};
use crate::error::Error;
use crate::subscription::Subscription;

/// The longest wait for a fresh figure; then the last one is told.
const FRESH_MAX: Duration = Duration::from_millis(250);
/// A figure that is older says nothing about now.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// A consumer's lag, asked for by one at a time.
pub(crate) struct LagCache {
    broker: Broker,
    subscription: Arc<Subscription>,
    unread: Latest<Unread>,
    oldest_us: Latest<Option<i64>>,
}

/// Records that are still to be handled, as of a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) records: u64,
    /// The time at which the broker took the oldest of them, in microseconds, if that is known.
    pub(crate) oldest_us: Option<i64>,
}

/// Records that are still to be handled, and the partitions in which there are some.
#[derive(Clone, Debug, Default)]
struct Unread {
    records: u64,
    behind: Vec<Position>,
}

impl LagCache {
    pub(crate) fn new(broker: Broker, subscription: Arc<Subscription>) -> Self {
        Self { broker, subscription, unread: Latest::default(), oldest_us: Latest::default() }
    }

    /// The lag now, or a moment ago; none when it has not been known for a while.
    pub(crate) async fn recent(&self) -> Option<Lag> {
        let (broker, subscription) = (self.broker.clone(), self.subscription.clone());
        let Unread { records, behind } =
            self.unread.recent(async move { unread(&broker, &subscription).await }).await?;
        let oldest_us = match behind.is_empty() {
            true => None,
            false => {
                let broker = self.broker.clone();
                let asked = async move { Ok(oldest(&broker, &behind).await?.into_iter().flatten().min()) };
                self.oldest_us.recent(asked).await.flatten()
            }
        };
        Some(Lag { records, oldest_us })
    }

    /// The lag now, from the broker.
    pub(crate) async fn ask(&self) -> Result<u64, Error> {
        Ok(unread(&self.broker, &self.subscription).await?.records)
    }
}

async fn unread(broker: &Broker, subscription: &Subscription) -> Result<Unread, Error> {
    if subscription.handlers.is_empty() {
        return Ok(Unread::default());
    }
    let mut behind = broker.positions(&subscription.group, &subscription.topics).await?;
    behind.retain(|position| position.end > position.offset);
    let records = behind.iter().map(|p| p.end.saturating_sub(p.offset).unsigned_abs()).sum();
    Ok(Unread { records, behind })
}

/// The times at which the broker took the records that are next at these positions.
pub(super) async fn oldest(broker: &Broker, positions: &[Position]) -> Result<Vec<Option<i64>>, Error> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    broker.times_at(positions).await
}

/// A figure that is told to many and asked for by one at a time.
struct Latest<T> {
    known: watch::Sender<Option<(T, Instant)>>,
    is_asked: Arc<AtomicBool>,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { known: watch::Sender::new(None), is_asked: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Latest<T> {
    /// The figure now, or a moment ago; none when it has not been known for a while.
    async fn recent(&self, ask: impl Future<Output = Result<T, Error>> + Send + 'static) -> Option<T> {
        let asked = Instant::now();
        let mut latest = self.known.subscribe();
        if !self.is_asked.swap(true, Ordering::SeqCst) {
            let (known, is_asked) = (self.known.clone(), self.is_asked.clone());
            tokio::spawn(async move {
                if let Ok(figure) = ask.await {
                    known.send_replace(Some((figure, Instant::now())));
                }
                is_asked.store(false, Ordering::SeqCst);
            });
        }
        let is_fresh = |known: &Option<(T, Instant)>| known.as_ref().is_some_and(|(_, at)| *at >= asked);
        let _ = timeout(FRESH_MAX, latest.wait_for(is_fresh)).await;
        let known = self.known.borrow().clone();
        known.filter(|(_, at)| at.elapsed() < STALE_AFTER).map(|(figure, _)| figure)
    }
}
