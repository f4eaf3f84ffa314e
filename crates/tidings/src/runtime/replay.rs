//! Topics read again for a service: its group set to other offsets, a stretch of a topic handled once more, or seen
//! through by the shadows of its handlers.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::RunningService;
use crate::broker::{Record, Start};
use crate::error::Error;
use crate::message;
use crate::pipeline::{Resolution, Shadow};
use crate::store::audit::{self, Operator};

/// The longest wait for the members of a paused group to leave it: each instance looks at the pauses every second.
const LEAVE_MAX: Duration = Duration::from_secs(8);
const LEAVE_PAUSE: Duration = Duration::from_millis(200);

/// A point in each partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Beginning,
    End,
    Offset(i64),
    Time(Timestamp),
}

impl Place {
    fn start(self) -> Start {
        match self {
            // The first that is still there.
            Self::Beginning => Start::Time(0),
            Self::End => Start::End,
            Self::Offset(offset) => Start::Offset(offset),
            Self::Time(time) => Start::Time(time.as_microsecond()),
        }
    }
}

/// A stretch of a topic that is still to be read: of each partition, the next offset and the one to stop at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Vec<(i64, i64)>);

impl Span {
    /// True if all of it was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|(next, end)| next >= end)
    }
}

/// The change of a group's offset in a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) partition: i32,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl RunningService {
    /// The stretch of a topic from a place to another.
    pub(crate) async fn span(&self, topic: &str, from: Place, until: Place) -> Result<Span, Error> {
        let end = self.broker.offsets(topic, Start::End).await?;
        let until = self.broker.offsets(topic, until.start()).await?;
        let from = self.broker.offsets(topic, from.start()).await?;
        let bounds = from.into_iter().zip(until).zip(end);
        Ok(Span(bounds.map(|((from, until), end)| (from, until.min(end))).collect()))
    }

    /// Reads on in a span, partition by partition, until so many records are wanted; returns those, and how many were
    /// read.
    pub(crate) async fn read_on(
        &self,
        topic: &str,
        span: &mut Span,
        limit: usize,
        is_wanted: impl Fn(&Record) -> bool,
    ) -> Result<(Vec<Record>, u64), Error> {
        // What is through has nothing to give, wherever it ends.
        let offset = |&(next, end): &(i64, i64)| if next < end { next } else { i64::MAX };
        let offsets: Vec<i64> = span.0.iter().map(offset).collect();
        let stretches = self.broker.stretches(topic, &offsets).await?;
        let (mut wanted, mut read) = (Vec::new(), 0);
        for (stretch, (next, end)) in stretches.into_iter().zip(&mut span.0) {
            let mut is_cut = false;
            for record in stretch.records {
                is_cut = record.offset >= *end || wanted.len() >= limit;
                if is_cut {
                    break;
                }
                *next = record.offset + 1;
                read += 1;
                if is_wanted(&record) {
                    wanted.push(record);
                }
            }
            if (stretch.is_end && !is_cut) || (is_cut && wanted.len() < limit) {
                // Nothing more lies before the end: markers, or what was compacted away.
                *next = *end;
            }
        }
        Ok((wanted, read))
    }

    /// The type, as its handler has it, and the key of a record; none if no handler here takes it.
    pub(crate) fn names_of(&self, record: &Record) -> Option<(&'static str, String)> {
        let incoming = message::read(&record.topic, &record.message).ok()?;
        Some((self.canonical_type(&incoming.event_type)?, incoming.metadata.key))
    }

    /// Handles records again, as a delivery: the inbox decides. Their ends, in no order.
    ///
    /// # Errors
    /// The service is stopping or paused.
    pub(crate) async fn replay(&self, records: Vec<Record>) -> Result<Vec<Resolution>, Error> {
        let handled = self.pipeline.handle(records, &self.tasks.stop).await;
        let resolved = handled.ok_or_else(|| Error::unavailable("the service is stopping or paused"))?;
        self.store.parked_has_changed();
        Ok(resolved.resolutions)
    }

    /// The thing that a handler would do with a record.
    pub(crate) async fn shadow(&self, record: Record) -> Result<Shadow, Error> {
        self.pipeline.shadow(record).await
    }

    /// The changes that would bring the group to a place in a topic, or in one partition of it.
    pub(crate) async fn moves(
        &self,
        topic: &str,
        partition: Option<i32>,
        to: Place,
    ) -> Result<Vec<Move>, Error> {
        let positions = self.broker.positions(self.group(), &[topic.to_owned()]).await?;
        let first = self.broker.offsets(topic, Start::Time(0)).await?;
        let to = self.broker.offsets(topic, to.start()).await?;
        let wanted = positions.iter().filter(|position| partition.is_none_or(|p| p == position.partition));
        let moved = |position: &crate::broker::Position| {
            let index = position.partition.unsigned_abs() as usize;
            let (first, to) = (*first.get(index)?, *to.get(index)?);
            let to = to.clamp(first.min(position.end), position.end);
            Some(Move { partition: position.partition, from: position.offset.max(first), to })
        };
        Ok(wanted.filter_map(moved).collect())
    }

    /// Sets the group's offsets in a topic, once every instance has left it.
    ///
    /// # Errors
    /// Somebody stays in the group ([`Error::is_conflict`]); an unusable broker or database.
    pub(crate) async fn seek(&self, topic: &str, moves: &[Move], by: &Operator) -> Result<(), Error> {
        let offsets: Vec<(i32, i64)> = moves.iter().map(|to| (to.partition, to.to)).collect();
        let asked = Instant::now();
        while let Err(e) = self.broker.set_offsets(self.group(), topic, &offsets).await {
            if !e.is_conflict() || asked.elapsed() >= LEAVE_MAX {
                return Err(e);
            }
            sleep(LEAVE_PAUSE).await;
        }
        let detail: Vec<_> = moves.iter().map(|to| [i64::from(to.partition), to.from, to.to]).collect();
        let detail = serde_json::json!({"topic": topic, "partition_from_to": detail});
        self.note(by, "group.seek", topic, &detail).await
    }

    /// Writes an action of an operator down that has no transaction of its own.
    pub(crate) async fn note(
        &self,
        by: &Operator,
        action: &str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        audit::record(&mut tx, by, action, subject, detail).await?;
        tx.commit().await
    }
}
