//! Events that have to wait, or are known, told apart from those that have to be looked at one by one: many may, while
//! a dependency is away or behind an event that failed, and they must cost others no round trips.

use std::collections::HashMap;

use super::decode::{Item, Task};
use super::hold::Hold;
use crate::envelope::Metadata;
use crate::error::Error;
use crate::failure::{Failure, Fate, WaitReason};
use crate::store::Tx;
use crate::store::inbox::{self, Admission, StreamPosition};

/// The message of an event that waits behind another one of its key.
pub(super) const BEHIND: &str = "an earlier event of its key is parked";

/// The places of the streams of some events, as they were looked up together.
#[derive(Default)]
pub(super) struct Outlook<'a> {
    positions: HashMap<&'a str, StreamPosition>,
    /// The event that is parked under a number, and whether one of its stream waits for another try.
    parked: HashMap<(&'a str, u64), (Option<String>, bool)>,
}

/// The end of an event that can be told without looking at it alone.
pub(super) enum Foreseen<'a> {
    Duplicate,
    Waits(Failure<'a>),
}

impl<'a> Outlook<'a> {
    /// Looks up the places of events, and locks their streams.
    pub(super) async fn of(
        tx: &mut Tx,
        consumer: &str,
        events: impl Iterator<Item = &'a Item>,
    ) -> Result<Self, Error> {
        let events: Vec<(&str, u64)> = events
            .filter_map(|item| item.metadata.as_deref())
            .filter_map(|metadata| Some((&*metadata.stream, metadata.seq?)))
            .collect();
        if events.is_empty() {
            return Ok(Self::default());
        }
        let mut streams: Vec<&str> = events.iter().map(|(stream, _)| *stream).collect();
        streams.sort_unstable();
        streams.dedup();
        let positions = inbox::lock(tx, consumer, &streams).await?;
        let positions: HashMap<&str, StreamPosition> = streams.into_iter().zip(positions).collect();
        let mut looked_up = Vec::new();
        for &(stream, seq) in &events {
            let place = &positions[stream];
            // Nothing is parked ahead of a stream that flows.
            if place.is_blocked || seq <= place.last {
                looked_up.push((stream, seq, place.last + 1 == seq));
            }
        }
        let parked = inbox::parked_of_events(tx, consumer, &looked_up).await?;
        let parked = looked_up.into_iter().map(|(stream, seq, _)| (stream, seq)).zip(parked).collect();
        Ok(Self { positions, parked })
    }

    /// Tells the end of an event of the batch, if it waits or is known; `hold` holds it back if it is its turn. Events
    /// are asked for in their order.
    pub(super) fn foresee(
        &mut self,
        item: &'a Item,
        hold: Option<&'a Hold>,
        tx: &Tx,
    ) -> Option<Foreseen<'a>> {
        let metadata: &Metadata = item.metadata.as_deref()?;
        let (stream, seq) = (&*metadata.stream, metadata.seq?);
        let is_handled = matches!(item.task, Task::Handle);
        let place = self.positions.get_mut(stream)?;
        let (parked, is_retried) = self.parked.entry((stream, seq)).or_default();
        let failure = match (inbox::decide(place, seq, &metadata.id, parked.as_deref(), *is_retried), hold) {
            (Admission::Duplicate, _) => return Some(Foreseen::Duplicate),
            (Admission::Behind, _) if is_handled => {
                Failure { fate: Fate::Waits(WaitReason::Behind, None), message: BEHIND, attempts: 0 }
            }
            (Admission::Next, Some(hold)) if is_handled => hold.failure(tx),
            _ => return None,
        };
        place.is_blocked = true;
        *parked = Some(metadata.id.to_string());
        Some(Foreseen::Waits(failure))
    }

    /// Forgets a stream that has changed: its events are looked at one by one.
    pub(super) fn forget(&mut self, item: &Item) {
        if let Some(metadata) = &item.metadata {
            self.positions.remove(&*metadata.stream);
        }
    }
}
