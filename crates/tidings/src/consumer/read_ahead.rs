//! Records that were read and wait for a transaction: each key's in order, and never in two transactions at once.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

use crate::broker::Record;

/// Events in one transaction of a handler that was not called yet: it may take long.
const UNKNOWN_MAX: usize = 16;

/// The way in which events of a handler are taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Many in a transaction.
    Together,
    /// A few in a transaction: nobody knows yet how long the handler takes.
    Unknown,
    /// Each in a transaction of its own, beside others.
    Alone,
    /// Not now.
    Later,
}

/// Records that wait, in the order of their arrival, and the keys that are under way.
#[derive(Default)]
pub(super) struct ReadAhead {
    /// One transaction is under way at a time: keys need not be kept apart.
    is_one: bool,
    waiting: VecDeque<QueuedRecord>,
    /// Keys of records that were taken and have not ended.
    busy: HashSet<u64>,
    hasher: RandomState,
}

struct QueuedRecord {
    record: Record,
    key: u64,
    /// The handler of its type, if it says which type it has.
    handler: Option<usize>,
}

/// Records that were taken up, and their keys.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) records: Vec<Record>,
    pub(super) keys: Vec<u64>,
    /// Handlers of which nobody knows yet how long they take.
    pub(super) handlers: Vec<usize>,
    /// The handler, if it is called with nothing else.
    pub(super) alone: Option<usize>,
}

impl ReadAhead {
    /// Nothing yet, for so many transactions at once.
    pub(super) fn new(lanes: usize) -> Self {
        Self { is_one: lanes == 1, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a record behind all others; `handler` is that of its type.
    pub(super) fn push(&mut self, record: Record, handler: Option<usize>) {
        let key = match &record.message.key {
            _ if self.is_one => 0,
            // The same key of different topics is one: what one service does about it is in one order.
            Some(key) if !key.is_empty() => self.hasher.hash_one(&key[..]),
            _ => self.hasher.hash_one((&record.topic, record.partition)),
        };
        self.waiting.push_back(QueuedRecord { record, key, handler });
    }

    /// Takes records that are handled in one transaction, `limit` at most: the first of each key that is free.
    pub(super) fn take_together(
        &mut self,
        limit: usize,
        manner: impl Fn(Option<usize>, &Record) -> Manner,
    ) -> Option<Taken> {
        if self.is_one {
            return self.take_in_turn(limit, manner);
        }
        let (mut records, mut keys) = (Vec::with_capacity(limit.min(self.waiting.len())), HashSet::new());
        let (mut left, mut passed) = (VecDeque::new(), HashSet::new());
        let mut handlers = Vec::new();
        while records.len() < limit
            && let Some(next) = self.waiting.pop_front()
        {
            let is_free = !self.busy.contains(&next.key) && !passed.contains(&next.key);
            let manner = manner(next.handler, &next.record);
            let is_taken = match manner {
                Manner::Together => is_free,
                Manner::Unknown => is_free && handlers.len() < UNKNOWN_MAX,
                Manner::Alone | Manner::Later => false,
            };
            if is_taken {
                handlers.extend(next.handler.filter(|_| manner == Manner::Unknown));
                keys.insert(next.key);
                records.push(next.record);
            } else {
                passed.insert(next.key);
                left.push_back(next);
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        self.busy.extend(&keys);
        (!records.is_empty()).then(|| Taken {
            records,
            keys: keys.into_iter().collect(),
            handlers,
            alone: None,
        })
    }

    /// Takes the first records.
    fn take_in_turn(
        &mut self,
        limit: usize,
        manner: impl Fn(Option<usize>, &Record) -> Manner,
    ) -> Option<Taken> {
        let is_taken = |next: &&QueuedRecord| manner(next.handler, &next.record) == Manner::Together;
        let count = self.waiting.iter().take(limit).take_while(is_taken).count();
        let records: Vec<Record> = self.waiting.drain(..count).map(|next| next.record).collect();
        (!records.is_empty()).then(|| Taken { records, ..Taken::default() })
    }

    /// Takes the first record whose handler takes each alone and whose key is free.
    pub(super) fn take_alone(&mut self, manner: impl Fn(Option<usize>, &Record) -> Manner) -> Option<Taken> {
        let mut passed = HashSet::new();
        let place = self.waiting.iter().position(|waiting| {
            let is_next = manner(waiting.handler, &waiting.record) == Manner::Alone
                && !self.busy.contains(&waiting.key)
                && !passed.contains(&waiting.key);
            if !is_next {
                passed.insert(waiting.key);
            }
            is_next
        })?;
        let QueuedRecord { record, key, handler } = self.waiting.remove(place)?;
        self.busy.insert(key);
        Some(Taken { records: vec![record], keys: vec![key], handlers: Vec::new(), alone: handler })
    }

    /// Frees the keys of records that have ended.
    pub(super) fn ended(&mut self, keys: &[u64]) {
        for key in keys {
            self.busy.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    /// Records written as `key:handler`, numbered by their place.
    fn read_ahead(records: &str) -> ReadAhead {
        let mut read_ahead = ReadAhead::default();
        for (offset, record) in records.split_whitespace().enumerate() {
            let (key, handler) = record.split_once(':').expect("key:handler");
            let message = Message { key: Some(key.to_owned().into()), ..Message::default() };
            let record = Record {
                topic: "t".into(),
                partition: 0,
                offset: offset as i64,
                timestamp_us: 0,
                message: message.into(),
                unreadable: None,
            };
            read_ahead.push(record, handler.parse().ok());
        }
        read_ahead
    }

    /// Handler 0 takes many together, 1 each alone, 2 is unknown, 3 is busy.
    fn manner(handler: Option<usize>, _: &Record) -> Manner {
        match handler {
            Some(1) => Manner::Alone,
            Some(2) => Manner::Unknown,
            Some(3) => Manner::Later,
            _ => Manner::Together,
        }
    }

    fn offsets(taken: Option<Taken>) -> Vec<i64> {
        taken.map(|taken| taken.records.iter().map(|record| record.offset).collect()).unwrap_or_default()
    }

    #[test]
    fn what_goes_together_passes_what_goes_alone_but_never_its_own_key() {
        let mut waiting = read_ahead("a:0 b:1 a:0 b:0 c:- c:0");
        assert_eq!(offsets(waiting.take_together(10, manner)), [0, 2, 4, 5]);
        assert_eq!(offsets(waiting.take_together(10, manner)), [0; 0], "b waits behind its first");
        let alone = waiting.take_alone(manner).expect("b is free");
        assert_eq!((alone.records[0].offset, alone.alone), (1, Some(1)));
        assert_eq!(offsets(waiting.take_together(10, manner)), [0; 0], "b is under way");
        waiting.ended(&alone.keys);
        assert_eq!(offsets(waiting.take_together(10, manner)), [3]);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn a_key_that_is_under_way_is_passed_over() {
        let mut waiting = read_ahead("a:0 a:1 b:1 a:1 b:1 d:3 c:1");
        let first = waiting.take_together(1, manner).expect("a");
        assert_eq!(offsets(waiting.take_alone(manner)), [2]);
        assert_eq!(offsets(waiting.take_alone(manner)), [6], "d's handler is busy");
        assert_eq!(offsets(waiting.take_alone(manner)), [0; 0]);
        waiting.ended(&first.keys);
        assert_eq!(offsets(waiting.take_alone(manner)), [1]);
        assert_eq!(offsets(waiting.take_alone(manner)), [0; 0], "one of a key at a time");
    }

    #[test]
    fn a_handler_that_nobody_knows_yet_gets_a_few() {
        let records: Vec<String> = (0..40).map(|n| format!("k{n}:2")).collect();
        let mut waiting = read_ahead(&records.join(" "));
        assert_eq!(offsets(waiting.take_together(100, manner)).len(), UNKNOWN_MAX);
        assert_eq!(waiting.len(), 40 - UNKNOWN_MAX);
    }

    #[test]
    fn one_transaction_at_a_time_takes_what_comes_first() {
        let mut waiting = read_ahead("a:- a:- b:- c:3 a:-");
        waiting.is_one = true;
        assert_eq!(offsets(waiting.take_together(2, manner)), [0, 1]);
        assert_eq!(offsets(waiting.take_together(10, manner)), [2], "nothing passes what may not go");
        assert_eq!(waiting.len(), 2);
    }
}
