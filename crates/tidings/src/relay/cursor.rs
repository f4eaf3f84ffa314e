//! One writer gives ids out in commit order: the table can be read on from the highest id that was seen.

use std::sync::Arc;
use std::time::Duration;

use super::Queues;
use crate::health::Loop;
use crate::sqlite::SqliteFile;
use crate::store::outbox::{self, Pending};

/// Rows read from the table at once.
const SCAN_MAX: usize = 8192;
/// Pause before a table that could not be read is read again.
const READ_AGAIN: Duration = Duration::from_millis(50);

pub(super) struct TableCursor {
    database: Arc<SqliteFile>,
    /// The highest id taken into memory; ids come in order.
    taken: i64,
    /// The table holds events that were not handed over.
    behind: bool,
}

impl TableCursor {
    pub(super) fn new(database: Arc<SqliteFile>) -> Self {
        Self { database, taken: 0, behind: true }
    }

    /// Takes committed events into memory, from the hand-over or, when behind, from the table.
    pub(super) async fn take_in(&mut self, queues: &mut Queues) {
        let store = queues.store.clone();
        let committed = &store.outbox().committed;
        if committed.take_overflowed() {
            self.behind = true;
        }
        while self.behind && queues.has_room() {
            // What was handed over is in the table too; and before it may stand what was not.
            committed.take(usize::MAX);
            match outbox::scan(&self.database, self.taken, SCAN_MAX).await {
                Ok(found) => {
                    queues.health.goes_on(Loop::Scan);
                    self.behind = found.len() == SCAN_MAX;
                    self.admit(queues, found);
                }
                Err(e) => {
                    queues.health.failed(Loop::Scan, &e);
                    return;
                }
            }
        }
        if !self.behind && queues.has_room() {
            self.admit(queues, committed.take(SCAN_MAX));
        }
    }

    fn admit(&mut self, queues: &mut Queues, events: Vec<Pending>) {
        for event in events {
            if event.id > self.taken {
                self.taken = event.id;
                queues.admit(event);
            }
        }
    }

    /// Reads the table once more from this id on; what is in memory is passed over.
    pub(super) fn go_back(&mut self, id: i64) {
        self.taken = self.taken.min(id - 1);
        self.behind = true;
    }

    /// The table is tried again after a while if it could not be read.
    pub(super) async fn wait(&self, queues: &Queues) {
        if self.behind && queues.has_room() {
            tokio::time::sleep(READ_AGAIN).await;
        } else {
            std::future::pending().await
        }
    }

    pub(super) fn acknowledged(&self, events: &[Pending]) {
        outbox::delete(&self.database, events.iter().map(|event| event.id).collect());
    }
}
