//! Waiting until the orders have ended, then reading how.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use hdrhistogram::Histogram;
use hyper::body::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use tidings_client::{Client, Error, percent_encoded};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::post::{latencies, micros};
use super::progress::Progress;
use super::retry::patiently;

/// The end is read from the orders, so a late look costs no precision.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An order only moves to the right, so none slips past looks made in this order.
const OPEN_STATUSES: [&str; 3] = ["processing", "confirmed", "cancelling"];

/// Returns when no order of ours is open, or when nothing has moved for `patience`: what is still
/// open then is for the report to say.
pub(crate) async fn wait(
    client: &mut Client,
    ids: &HashSet<Uuid>,
    patience: Duration,
    progress: &Progress,
) -> Result<(), Error> {
    let mut seen = None;
    let mut moved = Instant::now();
    while let Some(open) = any_open(client, ids, patience).await? {
        let now_seen = Some((open, progress.open()));
        if seen != now_seen {
            seen = now_seen;
            moved = Instant::now();
        } else if moved.elapsed() > patience {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The newest order of ours that has not ended.
async fn any_open(
    client: &mut Client,
    ids: &HashSet<Uuid>,
    patience: Duration,
) -> Result<Option<Uuid>, Error> {
    for status in OPEN_STATUSES {
        let open = open_with(status, client, ids, patience).await?;
        if open.is_some() {
            return Ok(open);
        }
    }
    Ok(None)
}

/// In a shop of our own the first row answers the question; only other people's open orders make
/// us turn pages, and they must not make us wait.
async fn open_with(
    status: &str,
    client: &mut Client,
    ids: &HashSet<Uuid>,
    patience: Duration,
) -> Result<Option<Uuid>, Error> {
    let mut path = format!("/orders?status={status}&limit=1");
    loop {
        let body = patiently(patience, async || client.get(&path).await).await?;
        let page = page(&body)?;
        let ours = page.items.iter().filter_map(Row::uuid).find(|id| ids.contains(id));
        match page.next_cursor {
            Some(cursor) if ours.is_none() => {
                let cursor = percent_encoded(&cursor);
                path = format!("/orders?status={status}&limit=1000&cursor={cursor}");
            }
            _ => return Ok(ours),
        }
    }
}

/// The ends of the orders of one run.
pub(crate) struct Outcomes {
    pub(crate) completed: u64,
    /// By reason.
    pub(crate) cancelled: BTreeMap<String, u64>,
    /// Accepted, and open when we stopped waiting.
    pub(crate) unsettled: u64,
    /// From the shop's `created_at` to its `updated_at`, of the orders that ended.
    pub(crate) latency_us: Histogram<u64>,
    /// The moment the last order ended.
    pub(crate) last_ended: Option<Timestamp>,
}

impl Outcomes {
    /// The number of orders that ended.
    pub(crate) fn settled(&self) -> u64 {
        self.completed + self.cancelled.values().sum::<u64>()
    }
}

/// Pages through all orders from the newest until every one of `ids` was seen.
pub(crate) async fn outcomes(
    client: &mut Client,
    ids: HashSet<Uuid>,
    patience: Duration,
) -> Result<Outcomes, Error> {
    let mut search = Search::of(ids);
    let mut path = "/orders?limit=1000".to_owned();
    loop {
        let body = patiently(patience, async || client.get(&path).await).await?;
        let page = page(&body)?;
        page.items.iter().for_each(|row| search.see(row));
        match page.next_cursor {
            Some(cursor) if !search.sought.is_empty() => {
                path = format!("/orders?limit=1000&cursor={}", percent_encoded(&cursor));
            }
            _ => return Ok(search.found),
        }
    }
}

/// A search for the orders of one run. An order that shows on two pages, as orders placed meanwhile push it
/// down, counts once.
struct Search {
    sought: HashSet<Uuid>,
    found: Outcomes,
}

impl Search {
    fn of(ids: HashSet<Uuid>) -> Search {
        let found = Outcomes {
            completed: 0,
            cancelled: BTreeMap::new(),
            unsettled: 0,
            latency_us: latencies(),
            last_ended: None,
        };
        Search { sought: ids, found }
    }

    fn see(&mut self, row: &Row<'_>) {
        if !row.uuid().is_some_and(|id| self.sought.remove(&id)) {
            return;
        }
        match row.status.as_ref() {
            "completed" => self.found.completed += 1,
            "cancelled" => self.count_cancelled(row.reason.as_deref()),
            _ => {
                self.found.unsettled += 1;
                return;
            }
        }
        self.time(row);
    }

    fn count_cancelled(&mut self, reason: Option<&str>) {
        let reason = reason.unwrap_or("unknown").to_owned();
        *self.found.cancelled.entry(reason).or_default() += 1;
    }

    fn time(&mut self, row: &Row<'_>) {
        let took = row.updated_at.duration_since(row.created_at);
        let took = Duration::try_from(took).unwrap_or_default();
        self.found.latency_us.saturating_record(micros(took));
        self.found.last_ended = self.found.last_ended.max(Some(row.updated_at));
    }
}

/// One page of `GET /orders`, borrowed from the answer: there are hundreds in a long run.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<Row<'a>>,
    #[serde(borrow)]
    next_cursor: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    /// Orders that other programs put on the topic may have ids of any kind.
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Row<'_> {
    fn uuid(&self) -> Option<Uuid> {
        Uuid::try_parse(&self.id).ok()
    }
}

fn page(body: &Bytes) -> Result<Page<'_>, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::new(format!("cannot read the answer to GET /orders: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u128, status: &'static str, took_ms: i64) -> Row<'static> {
        Row {
            id: Uuid::from_u128(number).to_string().into(),
            status: status.into(),
            reason: (status == "cancelled").then_some("declined".into()),
            created_at: Timestamp::from_millisecond(1_000).unwrap(),
            updated_at: Timestamp::from_millisecond(1_000 + took_ms).unwrap(),
        }
    }

    #[test]
    fn each_of_our_orders_counts_once_and_strangers_never() {
        let mut search = Search::of((1..=5).map(Uuid::from_u128).collect());
        for row in [
            row(1, "completed", 10),
            row(1, "completed", 10),
            row(2, "cancelled", 30),
            row(3, "confirmed", 99),
            row(99, "completed", 500),
        ] {
            search.see(&row);
        }
        assert_eq!(2, search.sought.len());
        let outcomes = search.found;
        assert_eq!((1, 1), (outcomes.completed, outcomes.unsettled));
        assert_eq!(Some(&1), outcomes.cancelled.get("declined"));
        assert_eq!(2, outcomes.latency_us.len());
        assert_eq!(Some(Timestamp::from_millisecond(1_030).unwrap()), outcomes.last_ended);
    }

    #[test]
    fn a_page_without_a_cursor_is_the_last() {
        let body = Bytes::from_static(
            br#"{"items":[{"id":"0190163d-8694-739b-aea5-966c26f8ad90","status":"completed",
                "created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00.25Z","total":{}}]}"#,
        );
        let page = page(&body).unwrap();
        assert_eq!((1, true), (page.items.len(), page.next_cursor.is_none()));
    }
}
