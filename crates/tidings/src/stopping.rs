//! Waiting that ends with a stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The time for work under way to end when the service stops; what has not ended is undone, and comes again.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Sleeps, but not into a stop.
pub(crate) async fn unless_stopped(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stop.cancelled() => {}
    }
}

/// Does work that a stop leaves a moment to end by itself; `None` if it did not.
pub(crate) async fn until_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = over => None,
    }
}
