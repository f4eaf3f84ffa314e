//! Offsets of records that were handed out: each partition moves on over those that are handled without a gap, in
//! whatever order they end.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The records of each partition that are handed out and not all handled.
#[derive(Debug)]
pub(super) struct HandedOut<P>(HashMap<P, Run>);

impl<P> Default for HandedOut<P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// The records of one partition, under one generation, in their order.
#[derive(Debug, Default)]
struct Run {
    generation: u64,
    records: VecDeque<HandedOutRecord>,
}

#[derive(Clone, Copy, Debug)]
struct HandedOutRecord {
    offset: i64,
    timestamp_us: i64,
    is_handled: bool,
}

/// The progress of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    pub(super) generation: u64,
    /// The next offset to handle.
    pub(super) offset: i64,
    /// The latest time of the records that were passed.
    pub(super) latest_us: i64,
}

impl<P: Clone + Eq + Hash> HandedOut<P> {
    /// Takes note of a record that is handed out, later than all others of its partition in this generation. Those of a
    /// former generation are forgotten.
    pub(super) fn hand_out(&mut self, partition: &P, generation: u64, offset: i64, timestamp_us: i64) {
        let run = match self.0.get_mut(partition) {
            Some(run) => run,
            None => self.0.entry(partition.clone()).or_default(),
        };
        if run.generation != generation {
            *run = Run { generation, records: VecDeque::new() };
        }
        run.records.push_back(HandedOutRecord { offset, timestamp_us, is_handled: false });
    }

    /// True if something is handled that comes behind a record in its partition: it is repeated unless that ends too.
    pub(super) fn is_passed(&self, partition: &P, offset: i64) -> bool {
        let Some(run) = self.0.get(partition) else { return false };
        run.records.iter().rev().take_while(|record| record.offset > offset).any(|record| record.is_handled)
    }

    /// Takes note of a record that is handled. One that is not known is of a former generation.
    pub(super) fn handled(&mut self, partition: &P, offset: i64) {
        let Some(run) = self.0.get_mut(partition) else { return };
        if let Ok(place) = run.records.binary_search_by_key(&offset, |record| record.offset) {
            run.records[place].is_handled = true;
        }
    }

    /// Moves a partition on over what is handled, as far as nothing before it is open; `None` if that is nowhere.
    pub(super) fn advance(&mut self, partition: &P) -> Option<Advance> {
        let run = self.0.get_mut(partition)?;
        let mut advance: Option<Advance> = None;
        while let Some(record) = run.records.front().copied().filter(|record| record.is_handled) {
            run.records.pop_front();
            let latest_us = advance.map_or(record.timestamp_us, |a| a.latest_us.max(record.timestamp_us));
            let offset = record.offset.saturating_add(1);
            advance = Some(Advance { generation: run.generation, offset, latest_us });
        }
        advance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out offsets 1 to 5 (and 7, behind a marker of a transaction), then tells the next offset to handle after
    /// each that ends.
    fn advances(ends: &[i64]) -> Vec<Option<i64>> {
        let mut handed_out = HandedOut::default();
        [1, 2, 3, 4, 5, 7].iter().for_each(|&offset| handed_out.hand_out(&"p", 1, offset, 100 - offset));
        let advance = |&offset: &i64| {
            handed_out.handled(&"p", offset);
            handed_out.advance(&"p").map(|advance| advance.offset)
        };
        ends.iter().map(advance).collect()
    }

    #[test]
    fn a_partition_moves_on_over_what_is_handled_without_a_gap() {
        assert_eq!(advances(&[1, 2, 3]), [Some(2), Some(3), Some(4)]);
        assert_eq!(advances(&[3, 2, 1]), [None, None, Some(4)]);
        assert_eq!(advances(&[2, 1, 5, 3, 7, 4]), [None, Some(3), None, Some(4), None, Some(8)]);
        assert_eq!(advances(&[6, 9]), [None, None], "never handed out");
    }

    #[test]
    fn the_latest_time_counts_and_a_new_generation_forgets_the_former() {
        let mut handed_out = HandedOut::default();
        handed_out.hand_out(&"p", 1, 10, 7);
        handed_out.hand_out(&"p", 1, 11, 5);
        handed_out.handled(&"p", 10);
        handed_out.handled(&"p", 11);
        assert_eq!(handed_out.advance(&"p"), Some(Advance { generation: 1, offset: 12, latest_us: 7 }));
        handed_out.hand_out(&"p", 1, 12, 8);
        handed_out.handled(&"p", 12);
        assert!(handed_out.is_passed(&"p", 11) && !handed_out.is_passed(&"p", 12));
        handed_out.hand_out(&"p", 1, 13, 8);
        handed_out.hand_out(&"p", 2, 4, 9);
        handed_out.handled(&"p", 13);
        assert_eq!(handed_out.advance(&"p"), None, "it was read again from 4 on");
        handed_out.handled(&"p", 4);
        assert_eq!(handed_out.advance(&"p"), Some(Advance { generation: 2, offset: 5, latest_us: 9 }));
    }
}
