//! The lag of a consumer, for readers that only look: a broker that hangs keeps none of them waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::broker::Broker;
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
    latest: watch::Sender<Option<Lag>>,
    asking: AtomicBool,
}

/// Records that are still to be handled, as of a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) records: u64,
    at: Instant,
}

impl LagCache {
    pub(crate) fn new(broker: Broker, subscription: Arc<Subscription>) -> Arc<Self> {
        Arc::new(Self {
            broker,
            subscription,
            latest: watch::Sender::new(None),
            asking: AtomicBool::new(false),
        })
    }

    /// The lag now, or a moment ago; none when it has not been known for a while.
    pub(crate) async fn recent(self: &Arc<Self>) -> Option<Lag> {
        let asked = Instant::now();
        let mut latest = self.latest.subscribe();
        if !self.asking.swap(true, Ordering::SeqCst) {
            let this = self.clone();
            tokio::spawn(async move {
                if let Ok(records) = this.ask().await {
                    this.latest.send_replace(Some(Lag { records, at: Instant::now() }));
                }
                this.asking.store(false, Ordering::SeqCst);
            });
        }
        let is_fresh = |lag: &Option<Lag>| lag.is_some_and(|lag| lag.at >= asked);
        let _ = timeout(FRESH_MAX, latest.wait_for(is_fresh)).await;
        let latest = *self.latest.borrow();
        latest.filter(|lag| lag.at.elapsed() < STALE_AFTER)
    }

    /// The lag now, from the broker.
    pub(crate) async fn ask(&self) -> Result<u64, Error> {
        if self.subscription.handlers.is_empty() {
            return Ok(0);
        }
        let positions = self.broker.positions(&self.subscription.group, &self.subscription.topics).await?;
        Ok(positions.iter().map(|p| p.end.saturating_sub(p.offset).max(0).unsigned_abs()).sum())
    }
}
