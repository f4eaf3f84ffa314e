//! Conditions with a deadline, instead of sleeps.

use std::time::Duration;

use tokio::time::Instant;

/// The longest that anything may take in a test: far longer than on the slowest machine, short of hanging.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The pause between two looks at a condition.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// Asks until the answer is yes.
///
/// ```
/// # #[tokio::main] async fn main() {
/// let (sender, receiver) = tokio::sync::watch::channel(false);
/// tokio::spawn(async move { sender.send(true) });
/// tidings_testkit::eventually("the parcel is there", async || *receiver.borrow()).await;
/// # }
/// ```
///
/// # Panics
/// When it still is not after [`DEADLINE`]; `what` is named as what did not come about.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < give_up, "not after {DEADLINE:?}: {what}");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Returns what a future comes to, or fails with a message that names `what` was waited for.
///
/// ```
/// # #[tokio::main] async fn main() {
/// let task = tokio::spawn(async { 42 });
/// assert_eq!(tidings_testkit::within("the answer", task).await.unwrap(), 42);
/// # }
/// ```
///
/// # Panics
/// When it has not ended after [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not after {DEADLINE:?}: {what}"),
    }
}
