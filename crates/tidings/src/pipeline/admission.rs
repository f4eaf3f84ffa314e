//! Admission: which events of a batch are to be handled now, which were before, which have to wait.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use super::decode::{Batch, Item, Task};
use super::hold::Hold;
use super::outlook::{BEHIND, Foreseen, Outlook};
use super::process::Resolutions;
use super::{Pipeline, Resolution};
use crate::envelope::Metadata;
use crate::error::{Error, HandlerError};
use crate::failure::{Failure, WaitReason};
use crate::store::Tx;
use crate::store::inbox::{self, Admission, Moves, SeqRange};
use crate::store::parked;

/// A numbered event on its way to the inbox.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    stream: &'a str,
    seq: u64,
    id: &'a str,
    is_broken: bool,
}

/// Events as the inbox may take them, streams in which all is as it should be in one statement.
#[derive(Default)]
struct Plan<'a> {
    /// Numbers that follow each other, one range for each stream.
    ranges: Vec<SeqRange<'a>>,
    /// The range of each event; none if it has no number.
    range_of: Vec<Option<usize>>,
    /// Ranges with an event that is broken, or does not follow its predecessor: each event is looked at.
    irregular: HashSet<usize>,
}

impl<'a> Plan<'a> {
    /// Plans the admission of events in the order in which they are given.
    fn of(arrivals: impl ExactSizeIterator<Item = Option<Arrival<'a>>>) -> Self {
        let count = arrivals.len();
        let mut plan = Self {
            ranges: Vec::with_capacity(count),
            range_of: Vec::with_capacity(count),
            irregular: HashSet::new(),
        };
        let mut known: HashMap<&str, usize> = HashMap::with_capacity(count);
        for arrival in arrivals {
            let range = arrival.map(|arrival| {
                let index = *known.entry(arrival.stream).or_insert(plan.ranges.len());
                plan.add(index, arrival);
                index
            });
            plan.range_of.push(range);
        }
        plan
    }

    fn add(&mut self, index: usize, Arrival { stream, seq, id, is_broken }: Arrival<'a>) {
        let follows = match self.ranges.get_mut(index) {
            None => {
                self.ranges.push(SeqRange { stream, first: seq, last: seq, id });
                true
            }
            Some(range) if range.last + 1 == seq => {
                (range.last, range.id) = (seq, id);
                true
            }
            Some(_) => false,
        };
        if is_broken || !follows {
            self.irregular.insert(index);
        }
    }
}

impl Pipeline {
    /// Decides about events of a batch: `Handled` if it is their turn and a handler is to be called.
    pub(super) async fn admit(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        items: &[usize],
    ) -> Result<Resolutions, HandlerError> {
        let mut resolutions = vec![None; batch.items.len()];
        let holds = self.holds(batch, items);
        let arrival = |&item: &usize| batch.items[item].arrival(holds.contains_key(&item));
        let plan = Plan::of(items.iter().map(arrival));
        let group = &self.subscription.group;
        let moved = inbox::advance(tx, group, &plan.ranges, &plan.irregular).await?;
        let has_moved = |range: &Option<usize>| range.is_some_and(|range| moved[range]);
        let arrivals = || items.iter().zip(&plan.range_of);
        let unmoved = arrivals().filter(|(_, range)| range.is_some() && !has_moved(range));
        let mut outlook = Outlook::of(tx, group, unmoved.map(|(&index, _)| &batch.items[index])).await?;
        let mut waiting = Vec::new();
        for (&index, range) in arrivals() {
            let (item, hold) = (&batch.items[index], holds.get(&index));
            let resolution = match (has_moved(range), &item.task) {
                (true, Task::Ignore) => Resolution::Ignored,
                (true, _) => Resolution::Handled,
                _ => match outlook.foresee(item, hold, tx) {
                    Some(Foreseen::Duplicate) => Resolution::Duplicate,
                    Some(Foreseen::Waits(failure)) => {
                        waiting.push((index, failure));
                        continue;
                    }
                    None => {
                        self.keep_waiting(tx, batch, &mut waiting, &mut resolutions).await?;
                        outlook.forget(item);
                        self.admit_one(tx, item, hold).await?
                    }
                },
            };
            resolutions[index] = Some(resolution);
        }
        self.keep_waiting(tx, batch, &mut waiting, &mut resolutions).await?;
        Ok(resolutions)
    }

    /// Parks events that wait, all together.
    async fn keep_waiting(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        waiting: &mut Vec<(usize, Failure<'_>)>,
        resolutions: &mut Resolutions,
    ) -> Result<(), Error> {
        let waiting = std::mem::take(waiting);
        let events = waiting.iter().filter_map(|&(index, failure)| {
            let Item { record, metadata, .. } = &batch.items[index];
            metadata.as_deref().map(|metadata| (record, metadata, failure))
        });
        let events: Vec<_> = events.collect();
        let are_new = parked::keep_waiting(tx, &self.subscription.group, &events).await?;
        for ((index, _), is_new) in waiting.into_iter().zip(are_new) {
            resolutions[index] = Some(if is_new { Resolution::Parked } else { Resolution::Duplicate });
        }
        Ok(())
    }

    /// Decides about one event and buries or holds back one whose turn it is and that has no handler now: `Handled` if
    /// a handler is to be called.
    async fn admit_one(
        &self,
        tx: &mut Tx,
        item: &Item,
        hold: Option<&Hold>,
    ) -> Result<Resolution, HandlerError> {
        let resolution = self.turn_of(tx, item, hold.is_some()).await?;
        match (&item.task, hold) {
            _ if resolution != Resolution::Handled => Ok(resolution),
            (Task::Bury(broken), _) => {
                let e = HandlerError::fatal(broken.reason.code(), &broken.message);
                Ok(self.fail(tx, item, &e).await?)
            }
            (_, Some(hold)) => self.hold_back(tx, item, hold).await,
            _ => Ok(resolution),
        }
    }

    /// Decides about one event: `Handled` or `Ignored` if it is its turn.
    async fn turn_of(&self, tx: &mut Tx, item: &Item, is_held: bool) -> Result<Resolution, HandlerError> {
        let group = &self.subscription.group;
        let Some(metadata) = &item.metadata else {
            return Ok(match item.task {
                Task::Skip => Resolution::Ignored,
                _ => Resolution::Handled,
            });
        };
        let is_ignored = matches!(item.task, Task::Ignore);
        let admission = match metadata.seq {
            None if is_ignored => return Ok(Resolution::Ignored),
            None => {
                let is_broken = matches!(item.task, Task::Bury(_));
                inbox::admit_by_id(tx, group, metadata, &item.record.message, is_broken).await?
            }
            Some(seq) => {
                let moves = if stays(item, is_held) { Moves::No } else { Moves::Onto };
                inbox::admit_by_number(tx, group, metadata, seq, moves).await?
            }
        };
        match (admission, metadata.seq) {
            (Admission::Next | Admission::Awaited, _) => {
                if admission == Admission::Awaited && !stays(item, is_held) {
                    self.counts.awaited.fetch_add(1, Ordering::Relaxed);
                    parked::release(tx, group, &[&metadata.stream]).await?;
                }
                Ok(if is_ignored { Resolution::Ignored } else { Resolution::Handled })
            }
            (Admission::Duplicate, _) => Ok(Resolution::Duplicate),
            (Admission::Differs, _) => self.differs(tx, item, metadata).await,
            (Admission::Behind | Admission::Gap { .. }, Some(seq)) if is_ignored => {
                // Its turn will come without it.
                inbox::skip(tx, group, &metadata.stream, seq).await?;
                Ok(Resolution::Ignored)
            }
            (Admission::Behind, _) => self.park(tx, item, metadata, WaitReason::Behind, BEHIND).await,
            (Admission::Gap { expected }, _) => {
                self.counts.gaps.fetch_add(1, Ordering::Relaxed);
                let (consumer, stream, seq) = (&**group, &*metadata.stream, metadata.seq);
                tracing::error!(
                    consumer,
                    stream,
                    seq,
                    expected,
                    "events are missing: the stream waits for them"
                );
                let message = format!("event {expected} of its stream has not arrived");
                self.park(tx, item, metadata, WaitReason::Gap, &message).await
            }
        }
    }
}

/// True if the inbox does not move onto an event although it is its turn.
fn stays(item: &Item, is_held: bool) -> bool {
    is_held || matches!(item.task, Task::Bury(_))
}

impl Item {
    /// The event, if it has a number.
    fn arrival(&self, is_held: bool) -> Option<Arrival<'_>> {
        let metadata: &Metadata = self.metadata.as_deref()?;
        let is_broken = stays(self, is_held);
        Some(Arrival { stream: &metadata.stream, seq: metadata.seq?, id: &metadata.id, is_broken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans events written as `stream/number`, `!` before a broken one, `-` for one without a number; tells the
    /// ranges, `?` behind those that are looked at, and the range of each event.
    fn plan(events: &str) -> (String, Vec<Option<usize>>) {
        let events: Vec<&str> = events.split_whitespace().collect();
        let plan = Plan::of(events.iter().map(|event| {
            let (stream, seq) = event.trim_start_matches('!').split_once('/')?;
            let seq = seq.parse().expect("a number");
            Some(Arrival { stream, seq, id: event, is_broken: event.starts_with('!') })
        }));
        let ranges = plan.ranges.iter().enumerate().map(|(index, range)| {
            let mark = if plan.irregular.contains(&index) { "?" } else { "" };
            format!("{}/{}-{}{mark}", range.stream, range.first, range.last)
        });
        (ranges.collect::<Vec<_>>().join(" "), plan.range_of)
    }

    #[test]
    fn consecutive_events_of_a_stream_are_one_range_and_others_are_looked_at() {
        let table = [
            ("", ""),
            ("a/1", "a/1-1"),
            ("a/1 a/2 b/7 b/8", "a/1-2 b/7-8"),
            ("a/1 b/7 a/2 b/8", "a/1-2 b/7-8"),
            ("a/1 a/1", "a/1-1?"),
            ("a/2 a/1", "a/2-2?"),
            ("a/1 a/3 b/1", "a/1-1? b/1-1"),
            ("a/1 !a/2 b/1", "a/1-2? b/1-1"),
            ("- a/4 -", "a/4-4"),
        ];
        for (events, expected) in table {
            assert_eq!(plan(events).0, expected, "{events}");
        }
        assert_eq!(plan("- a/4 b/1 a/5").1, [None, Some(0), Some(1), Some(0)]);
    }
}
