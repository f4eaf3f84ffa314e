//! Progress, committed each second and before partitions go to another member.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerContext as _};
use rdkafka::{Offset, TopicPartitionList};

use super::super::identity::Beside;
use super::Owner;

/// The longest time for which the last commit is tried, and the pause between tries.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(2);
const LAST_COMMIT_PAUSE: Duration = Duration::from_millis(100);

impl Owner {
    /// Commits what is handled and not committed yet; only ever forward. What is not committed in the end is
    /// delivered again, and recognised.
    pub(super) fn commit(&mut self, mode: CommitMode) {
        self.committed_at = Instant::now();
        let again = self.client.context().commit_failed.swap(false, Ordering::SeqCst);
        let mut list = TopicPartitionList::new();
        for ((topic, partition), assigned) in &mut self.assigned {
            if assigned.handled > assigned.committed || again {
                let offset = Offset::Offset(assigned.handled);
                let topic = self.settings.wire_name(topic);
                if list.add_partition_offset(&topic, *partition, offset).is_ok() {
                    assigned.committed = assigned.handled;
                }
                if let Some(mut element) = list.find_partition(&topic, *partition) {
                    let beside = Beside { latest_us: assigned.latest_us, store: self.store.as_deref() };
                    element.set_metadata(beside.metadata());
                }
            }
        }
        if list.count() > 0
            && let Err(e) = self.client.commit(&list, mode)
        {
            self.client.context().commit_callback(Err(e), &list);
        }
    }

    /// Commits before partitions go to another member: a coordinator that is moving is asked again.
    pub(super) fn commit_last(&mut self) {
        let begun = Instant::now();
        self.commit(CommitMode::Sync);
        while self.client.context().commit_failed.load(Ordering::SeqCst)
            && begun.elapsed() < LAST_COMMIT_MAX
            && !self.client.assignment_lost()
        {
            std::thread::sleep(LAST_COMMIT_PAUSE);
            self.commit(CommitMode::Sync);
        }
    }
}
