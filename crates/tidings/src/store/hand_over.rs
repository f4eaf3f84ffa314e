//! The way from a commit to the task that acts on it next, in memory, in commit order.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::panic::lock;

/// A bounded queue whose overflow loses nothing: the table is the truth behind it.
pub(crate) struct HandOver<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    overflowed: AtomicBool,
    changed: Notify,
}

impl<T> HandOver<T> {
    /// Starts overflowed, so that its reader begins with the table.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            capacity,
            overflowed: AtomicBool::new(true),
            changed: Notify::new(),
        }
    }

    /// Hands over what fits and returns what does not: that is left to the table, and the reader is
    /// told to look there.
    pub(crate) fn push(&self, mut items: Vec<T>) -> Vec<T> {
        let mut queue = lock(&self.queue);
        let room = self.capacity.saturating_sub(queue.len()).min(items.len());
        let left = items.split_off(room);
        queue.extend(items);
        if !left.is_empty() {
            self.overflowed.store(true, Ordering::SeqCst);
        }
        drop(queue);
        self.changed.notify_one();
        left
    }

    pub(crate) fn take(&self, max: usize) -> Vec<T> {
        let mut queue = lock(&self.queue);
        let count = queue.len().min(max);
        queue.drain(..count).collect()
    }

    /// Takes items as [`take`](Self::take) does; `note` hears their number before any task can find the queue empty.
    pub(crate) fn take_and(&self, max: usize, note: impl FnOnce(usize)) -> Vec<T> {
        let mut queue = lock(&self.queue);
        let count = queue.len().min(max);
        note(count);
        queue.drain(..count).collect()
    }

    /// Returns whether the table holds something that was not handed over, and takes the mark down.
    pub(crate) fn take_overflowed(&self) -> bool {
        self.overflowed.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.queue).is_empty() && !self.overflowed.load(Ordering::SeqCst)
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}
