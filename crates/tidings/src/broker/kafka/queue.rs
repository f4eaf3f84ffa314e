//! Records on their way from the owner of a client to the engine, and what the engine asks for in return.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex};

use super::Record;
use super::progress::{Handled, Partition};
use crate::error::Error;

/// Records on their way from the owner of the client to the engine.
pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    pub(super) arrived: tokio::sync::Notify,
    pub(super) room: Condvar,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) records: VecDeque<(u64, Record)>,
    pub(super) bytes: usize,
    /// The next offset after what was handed out, by generation.
    pub(super) handed_out: HashMap<u64, i64>,
    pub(super) error: Option<Error>,
    pub(super) closed: bool,
}

impl Queue {
    /// Forgets what was read and what was handed out.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
        self.handed_out.clear();
    }
}

/// A wish of the engine's.
pub(super) enum Wish {
    /// Progress of partitions, each under a generation.
    Handled(Vec<(Partition, u64, Handled)>),
    /// Leave the group.
    Leave,
}
