//! The line that moves while a load runs, and the shop's own count of open orders behind it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;
use tidings_client::output::grouped;
use tidings_client::{Client, Endpoint};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::post::Posting;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Without a terminal the count only tells a slow shop from a stuck one.
const LOOK_UNSEEN_EVERY: Duration = Duration::from_secs(1);

/// A shop with many open orders takes its time to count them: it is left alone for so many times as long.
const COST_MAX: u32 = 50;

/// Shows the progress until dropped or finished.
pub(crate) struct Progress {
    bar: ProgressBar,
    open: Arc<Mutex<Option<OpenOrders>>>,
    task: JoinHandle<()>,
}

impl Progress {
    /// Keeps looking; what was open `before` the load is not counted as ours.
    pub(crate) fn start(
        posting: Arc<Posting>,
        endpoints: Arc<[Endpoint]>,
        before: Option<OpenOrders>,
    ) -> Progress {
        let client = Client::new(endpoints);
        let bar = bar(posting.orders());
        let open = Arc::new(Mutex::new(before));
        let watch = Watch { posting, client, before, bar: bar.clone(), open: open.clone() };
        Progress { bar, open, task: tokio::spawn(watch.run()) }
    }

    /// The number of open orders in the shop's last answer, if it tells that at all.
    pub(crate) fn open(&self) -> Option<OpenOrders> {
        *self.open.lock().expect("nothing panics while it copies")
    }

    /// Takes the line away, for the report to stand in its place.
    pub(crate) fn finish(self) {
        drop(self);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

struct Watch {
    posting: Arc<Posting>,
    client: Client,
    before: Option<OpenOrders>,
    bar: ProgressBar,
    open: Arc<Mutex<Option<OpenOrders>>>,
}

impl Watch {
    async fn run(mut self) {
        let pause = if self.bar.is_hidden() { LOOK_UNSEEN_EVERY } else { LOOK_EVERY };
        loop {
            let asked = Instant::now();
            let open = open_orders(&mut self.client).await;
            let pause = pause.max(COST_MAX * asked.elapsed());
            *self.open.lock().expect("nothing panics while it copies") = open;
            self.show(open);
            sleep(pause).await;
        }
    }

    fn show(&self, open: Option<OpenOrders>) {
        let accepted = self.posting.accepted_count();
        let settled = self.settled(accepted, open);
        let done = settled.unwrap_or(accepted);
        let rate = done as f64 * 60.0 / self.posting.elapsed().as_secs_f64();
        let settled = settled.map_or_else(|| "?".to_owned(), grouped);
        let (accepted, rate) = (grouped(accepted), grouped(rate as u64));
        self.bar.set_position(done);
        self.bar.set_message(format!("accepted {accepted}  settled {settled}  {rate}/min"));
    }

    /// Orders that were open before and ended meanwhile make this an estimate; the report counts.
    fn settled(&self, accepted: u64, open: Option<OpenOrders>) -> Option<u64> {
        let ours = open?.total().saturating_sub(self.before.map_or(0, OpenOrders::total));
        Some(accepted.saturating_sub(ours))
    }
}

/// Hidden by itself when stderr is not a terminal.
fn bar(orders: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:32} {percent:>3}%  {msg}");
    ProgressBar::new(orders).with_style(style.expect("the template is a constant"))
}

/// The shop's count of orders that have not ended, by status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct OpenOrders {
    processing: u64,
    #[serde(default)]
    confirmed: u64,
    #[serde(default)]
    cancelling: u64,
}

impl OpenOrders {
    fn total(self) -> u64 {
        self.processing + self.confirmed + self.cancelling
    }
}

/// Asks the shop; absent while the shop is away, and in a shop that does not count.
pub(crate) async fn open_orders(client: &mut Client) -> Option<OpenOrders> {
    let status = client.get("/statusz").await.ok()?;
    find_open_orders(&serde_json::from_slice(&status).ok()?)
}

/// The first object named `orders` that counts, at any depth.
fn find_open_orders(status: &Value) -> Option<OpenOrders> {
    match status {
        Value::Object(fields) => fields
            .get("orders")
            .and_then(|orders| OpenOrders::deserialize(orders).ok())
            .or_else(|| fields.values().find_map(find_open_orders)),
        Value::Array(values) => values.iter().find_map(find_open_orders),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn open_orders_are_found_at_any_depth() {
        let counts = json!({"processing": 3, "confirmed": 2, "cancelling": 1});
        let status = json!({"services": [{"orders": "ok"}, {"order": {"orders": counts}}]});
        assert_eq!(Some(6), find_open_orders(&status).map(OpenOrders::total));
        assert_eq!(None, find_open_orders(&json!({"status": "ok", "orders": {"lag": 3}})));
    }
}
