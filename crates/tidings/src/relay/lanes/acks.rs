//! Rows that the broker has acknowledged, on their way out of the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::error::Error;
use crate::store::postgres::lanes::{LANES, Lease};
use crate::store::postgres::{Database, outbox};

/// Deletes under way at once.
const DELETES_MAX: usize = 2;
/// Pause after a delete that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Streams whose last acknowledged number is remembered, twice over.
const REMEMBERED_MAX: usize = 20_000;

/// A row that the broker has acknowledged, and its lane.
type AckedRow = (i64, i16);
/// Rows whose deletion has ended, and how many were there.
pub(super) type Deleted = (Vec<AckedRow>, Result<u64, Error>);

/// Acknowledged rows, until their deletion is committed.
pub(super) struct Acks {
    waiting: Vec<AckedRow>,
    deleting: FuturesUnordered<BoxFuture<'static, Deleted>>,
    /// The number of rows of each lane that are not deleted yet.
    undeleted: [usize; LANES],
    delete_at: Instant,
}

impl Acks {
    pub(super) fn new(now: Instant) -> Self {
        Self { waiting: Vec::new(), deleting: FuturesUnordered::new(), undeleted: [0; LANES], delete_at: now }
    }

    /// Has a row deleted with the next statement.
    pub(super) fn push(&mut self, id: i64, lane: i16) {
        self.waiting.push((id, lane));
        self.undeleted[lane as usize] += 1;
    }

    /// The ids that wait for their deletion.
    pub(super) fn waiting(&self) -> impl Iterator<Item = i64> {
        self.waiting.iter().map(|(id, _)| *id)
    }

    /// True if no row of a lane is left to delete.
    pub(super) fn is_done(&self, lane: i16) -> bool {
        self.undeleted[lane as usize] == 0
    }

    /// The time at which the next delete may begin, if rows wait and no delete is under way.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (!self.waiting.is_empty() && self.deleting.is_empty()).then_some(self.delete_at)
    }

    /// Has the next delete begin without a pause.
    pub(super) fn hurry(&mut self) {
        self.delete_at = Instant::now();
    }

    /// Begins to delete what waits, under a lease.
    pub(super) fn start(&mut self, database: &Arc<Database>, lease: &Lease) {
        let is_early = Instant::now() < self.delete_at;
        if self.waiting.is_empty() || self.deleting.len() >= DELETES_MAX || is_early {
            return;
        }
        let rows = std::mem::take(&mut self.waiting);
        let (database, lease) = (database.clone(), lease.clone());
        self.deleting.push(Box::pin(async move {
            let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
            let deleted = outbox::delete(&database, &ids, &lease).await;
            (rows, deleted)
        }));
    }

    /// True if deletes are under way.
    pub(super) fn are_under_way(&self) -> bool {
        !self.deleting.is_empty()
    }

    /// The next delete that has ended.
    pub(super) async fn ended(&mut self) -> Option<Deleted> {
        self.deleting.next().await
    }

    /// Takes note of a delete that was committed.
    pub(super) fn are_deleted(&mut self, rows: &[AckedRow]) {
        for (_, lane) in rows {
            self.undeleted[*lane as usize] -= 1;
        }
    }

    /// Has rows deleted again after a while: their delete failed.
    pub(super) fn try_again(&mut self, rows: Vec<AckedRow>) {
        self.waiting.extend(rows);
        self.delete_at = Instant::now() + TRY_AGAIN;
    }
}

/// The last acknowledged number of streams that were busy lately.
#[derive(Default)]
pub(super) struct LastNumbers {
    recent: HashMap<Arc<str>, i64>,
    older: HashMap<Arc<str>, i64>,
}

impl LastNumbers {
    pub(super) fn get(&self, stream: &str) -> Option<i64> {
        self.recent.get(stream).or_else(|| self.older.get(stream)).copied()
    }

    pub(super) fn put(&mut self, stream: Arc<str>, seq: i64) {
        if self.recent.len() >= REMEMBERED_MAX {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(stream, seq);
    }
}
