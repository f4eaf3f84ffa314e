//! The only way in: the last handled number per (consumer, stream), moved in the handler's transaction.

use std::collections::HashSet;

use crate::envelope::Metadata;
use crate::error::Error;
use crate::message::{Message, digest};
use crate::params;
use crate::store::{Param, Tx};

/// The verdict on an event that arrives at its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Next in its stream (or never seen, if it has no number): the inbox has moved onto it.
    Next,
    /// Next in its stream, and later events of its stream have been waiting for it.
    Awaited,
    /// Seen before.
    Duplicate,
    /// Another event was seen under its number or id.
    Differs,
    /// An earlier event of its key is parked: it must wait behind it.
    Behind,
    /// Events before it are missing: `expected` is the first of them.
    Gap { expected: u64 },
}

/// Consecutive events of a stream that arrive at once.
pub(crate) struct SeqRange<'a> {
    pub(crate) stream: &'a str,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The id of the last one.
    pub(crate) id: &'a str,
}

/// A number that stands for an event's id beside its number; 0 is none.
fn mark(id: &str) -> i64 {
    // Rows of the inbox carry it, so it is the same in every release: eight bytes at a time are mixed in as
    // SplitMix64 does.
    let hash = id.as_bytes().chunks(8).fold(id.len() as u64, |hash, chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        let mixed = (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    });
    hash.cast_signed() | 1
}

/// Moves the inbox over ranges of different streams whose turn it is; returns which moved. Of the others
/// nothing is known but that each event has to be looked at: [`admit_by_number`]. `except` stay as they are.
pub(crate) async fn advance(
    tx: &mut Tx,
    consumer: &str,
    ranges: &[SeqRange<'_>],
    except: &HashSet<usize>,
) -> Result<Vec<bool>, Error> {
    let mut moved = vec![false; ranges.len()];
    let mut indexes: Vec<usize> = (0..ranges.len()).filter(|index| !except.contains(index)).collect();
    indexes.sort_unstable_by_key(|&index| ranges[index].stream); // the order in which rows are locked
    let (new, known): (Vec<usize>, Vec<usize>) =
        indexes.into_iter().partition(|&index| ranges[index].first == 1);
    if !new.is_empty() {
        let rows = new.iter().map(|&index| &ranges[index]).map(|range| {
            [range.stream.into(), consumer.into(), range.last.into(), Param::from(mark(range.id))]
        });
        let inserted = tx
            .execute_many(
                "INSERT INTO inbox (stream, consumer, seq, last_id) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (stream, consumer) DO NOTHING",
                rows,
            )
            .await?;
        new.iter().zip(inserted).for_each(|(&index, inserted)| moved[index] = inserted == 1);
    }
    if !known.is_empty() {
        let rows = known.iter().map(|&index| &ranges[index]).map(|range| {
            let (stream, before) = (Param::from(range.stream), Param::from(range.first - 1));
            [range.last.into(), mark(range.id).into(), stream, consumer.into(), before]
        });
        let updated = tx
            .execute_many(
                "UPDATE inbox SET seq = $1, last_id = $2
                 WHERE stream = $3 AND consumer = $4 AND seq = $5 AND blocked = 0",
                rows,
            )
            .await?;
        known.iter().zip(updated).for_each(|(&index, updated)| moved[index] = updated == 1);
    }
    Ok(moved)
}

/// The choice whether the inbox moves onto an event whose turn it is: not onto one that is broken and blocks its
/// stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    Onto,
    No,
}

/// Looks a numbered event up and, if it is its turn, moves the inbox onto it.
pub(crate) async fn admit_by_number(
    tx: &mut Tx,
    consumer: &str,
    event: &Metadata,
    seq: u64,
    moves: Moves,
) -> Result<Admission, Error> {
    let range = SeqRange { stream: &event.stream, first: seq, last: seq, id: &event.id };
    if moves == Moves::Onto && advance(tx, consumer, &[range], &HashSet::new()).await? == [true] {
        return Ok(Admission::Next);
    }
    let stream = &event.stream;
    let place = lock_one(tx, consumer, stream).await?;
    let (parked, is_retried) =
        parked_of_events(tx, consumer, &[(stream, seq, place.last + 1 == seq)]).await?.remove(0);
    let admission = decide(&place, seq, &event.id, parked.as_deref(), is_retried);
    if moves == Moves::Onto && matches!(admission, Admission::Next | Admission::Awaited) {
        // The one that a gap was waiting for (a failed one would be parked).
        tx.execute(
            "UPDATE inbox SET seq = $1, last_id = $2 WHERE stream = $3 AND consumer = $4",
            params![seq, mark(&event.id), stream, consumer],
        )
        .await?;
    }
    Ok(admission)
}

/// The event that is parked under a number; and, if that is asked, the events of its stream that are to be tried again.
///
/// `count(due_us)` and not `due_us IS NOT NULL`: that would be looked up among all that wait.
pub(super) const PARKED_OF_EVENT: &str =
    "SELECT (SELECT min(event_id) FROM parked WHERE consumer = $1 AND stream = $2 AND seq = $3),
    CASE WHEN $4 = 1 THEN (SELECT count(due_us) FROM parked WHERE consumer = $1 AND stream = $2) ELSE 0 END";

/// Returns of each number of a stream the id of the event that is parked under it, and whether an event of the stream
/// waits for another try: looked up only if asked, for an event whose turn it is.
pub(crate) async fn parked_of_events(
    tx: &mut Tx,
    consumer: &str,
    events: &[(&str, u64, bool)],
) -> Result<Vec<(Option<String>, bool)>, Error> {
    let params = events
        .iter()
        .map(|&(stream, seq, is_its_turn)| [consumer.into(), stream.into(), seq.into(), is_its_turn.into()]);
    let found = if events.is_empty() { Vec::new() } else { tx.query_many(PARKED_OF_EVENT, params).await? };
    found.iter().map(|rows| Ok((rows[0].get(0)?, rows[0].get(1)?))).collect()
}

/// The progress of a consumer in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamPosition {
    /// The last number that was handled.
    pub(crate) last: u64,
    /// Later events wait.
    pub(crate) is_blocked: bool,
    /// The mark of the last event's id, if it is known.
    last_id: i64,
}

/// Decides about an event out of turn: a duplicate, one behind another, one beyond a gap. `parked` is the id of
/// the event that waits under its number; `is_retried` says that one of its key waits for another try, if it is
/// its turn.
pub(crate) fn decide(
    place: &StreamPosition,
    seq: u64,
    id: &str,
    parked: Option<&str>,
    is_retried: bool,
) -> Admission {
    let is_other_than_last = seq == place.last && place.last_id != 0 && place.last_id != mark(id);
    match parked {
        _ if is_other_than_last => Admission::Differs,
        Some(parked) if parked != id => Admission::Differs,
        Some(_) => Admission::Duplicate,
        None if seq <= place.last => Admission::Duplicate,
        // An event of its key that has no number failed and comes first.
        None if seq == place.last + 1 && is_retried => Admission::Behind,
        None if seq == place.last + 1 && place.is_blocked => Admission::Awaited,
        None if seq == place.last + 1 => Admission::Next,
        None if place.is_blocked => Admission::Behind,
        None => Admission::Gap { expected: place.last + 1 },
    }
}

/// Locks streams for a consumer, so that no other transaction parks or frees their events meanwhile. They are given in
/// order, each once.
pub(crate) async fn lock(
    tx: &mut Tx,
    consumer: &str,
    streams: &[&str],
) -> Result<Vec<StreamPosition>, Error> {
    let rows = tx
        .query_many(
            "SELECT seq, blocked, last_id FROM inbox WHERE stream = $1 AND consumer = $2 FOR UPDATE",
            streams.iter().map(|stream| [(*stream).into(), consumer.into()]),
        )
        .await?;
    rows.iter()
        .map(|rows| match rows.first() {
            Some(row) => {
                Ok(StreamPosition { last: row.get(0)?, is_blocked: row.get(1)?, last_id: row.get(2)? })
            }
            None => Ok(StreamPosition::default()),
        })
        .collect()
}

async fn lock_one(tx: &mut Tx, consumer: &str, stream: &str) -> Result<StreamPosition, Error> {
    Ok(lock(tx, consumer, &[stream]).await?[0])
}

/// Looks an event without a number up by its source and id. One that is broken waits behind no other.
pub(crate) async fn admit_by_id(
    tx: &mut Tx,
    consumer: &str,
    event: &Metadata,
    message: &Message,
    is_broken: bool,
) -> Result<Admission, Error> {
    let digest = digest([&message.value[..]]);
    let inserted = tx
        .execute(
            "INSERT INTO inbox_id (consumer, source, event_id, seen_us, digest) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (consumer, source, event_id) DO NOTHING",
            params![consumer, &event.source, &event.id, tx.now(), &digest[..]],
        )
        .await?;
    if inserted == 0 {
        let rows = tx
            .query(
                "SELECT digest FROM inbox_id WHERE consumer = $1 AND source = $2 AND event_id = $3",
                params![consumer, &event.source, &event.id],
            )
            .await?;
        let known: Option<Vec<u8>> = rows.first().map(|row| row.get(0)).transpose()?.flatten();
        let differs = known.is_some_and(|known| known != digest);
        return Ok(if differs { Admission::Differs } else { Admission::Duplicate });
    }
    if is_broken || event.key.is_empty() {
        return Ok(Admission::Next);
    }
    let place = lock_one(tx, consumer, &event.stream).await?;
    Ok(if place.is_blocked { Admission::Behind } else { Admission::Next })
}

/// Makes every later event of these streams wait.
pub(crate) async fn block(tx: &mut Tx, consumer: &str, streams: &[&str]) -> Result<(), Error> {
    tx.execute_many(
        "INSERT INTO inbox (stream, consumer, seq, blocked) VALUES ($1, $2, 0, 1)
         ON CONFLICT (stream, consumer) DO UPDATE SET blocked = 1",
        streams.iter().map(|stream| [(*stream).into(), consumer.into()]),
    )
    .await
    .map(|_| ())
}

/// Lets streams flow again.
pub(crate) async fn unblock(tx: &mut Tx, consumer: &str, streams: &[&str]) -> Result<(), Error> {
    let rows = streams.iter().map(|stream| [(*stream).into(), consumer.into()]);
    tx.execute_many("UPDATE inbox SET blocked = 0 WHERE stream = $1 AND consumer = $2", rows).await?;
    Ok(())
}

/// Takes note of an event that no handler takes and whose turn has not come: when it comes, it is passed over.
pub(crate) async fn skip(tx: &mut Tx, consumer: &str, stream: &str, seq: u64) -> Result<(), Error> {
    let known = tx
        .execute(
            "UPDATE inbox_skipped SET last_seq = CASE WHEN last_seq < $1 THEN $1 ELSE last_seq END
             WHERE stream = $2 AND consumer = $3 AND first_seq <= $1 AND last_seq >= $1 - 1",
            params![seq, stream, consumer],
        )
        .await?;
    if known == 0 {
        tx.execute(
            "INSERT INTO inbox_skipped (stream, consumer, first_seq, last_seq) VALUES ($1, $2, $3, $3)
             ON CONFLICT (stream, consumer, first_seq) DO NOTHING",
            params![stream, consumer, seq],
        )
        .await?;
    }
    block(tx, consumer, &[stream]).await
}

/// Moves the inbox over events that were skipped and whose turn has come; says of each stream whether some are left
/// whose turn has not.
pub(crate) async fn pass_skipped(tx: &mut Tx, consumer: &str, streams: &[&str]) -> Result<Vec<bool>, Error> {
    let positions = lock(tx, consumer, streams).await?;
    let skipped = tx
        .query_many(
            "SELECT min(first_seq) FROM inbox_skipped WHERE stream = $1 AND consumer = $2",
            streams.iter().map(|stream| [(*stream).into(), consumer.into()]),
        )
        .await?;
    let mut is_left = Vec::with_capacity(streams.len());
    for ((stream, position), rows) in streams.iter().zip(positions).zip(skipped) {
        let first: Option<u64> = rows[0].get(0)?;
        is_left.push(match first {
            None => false,
            Some(first) if first > position.last + 1 => true,
            Some(_) => pass_skipped_of(tx, consumer, stream, position.last).await?,
        });
    }
    Ok(is_left)
}

/// Moves the inbox of one stream, which is locked; says whether events are left whose turn has not come.
async fn pass_skipped_of(tx: &mut Tx, consumer: &str, stream: &str, before: u64) -> Result<bool, Error> {
    let mut last = before;
    loop {
        let passed = tx
            .query(
                "DELETE FROM inbox_skipped WHERE stream = $1 AND consumer = $2 AND first_seq <= $3 RETURNING last_seq",
                params![stream, consumer, last + 1],
            )
            .await?;
        let Some(furthest) =
            passed.iter().map(|row| row.get(0)).collect::<Result<Vec<u64>, _>>()?.into_iter().max()
        else {
            break;
        };
        last = last.max(furthest);
    }
    if last > before {
        tx.execute(
            "UPDATE inbox SET seq = $1, last_id = 0 WHERE stream = $2 AND consumer = $3",
            params![last, stream, consumer],
        )
        .await?;
    }
    let left = "SELECT 1 FROM inbox_skipped WHERE stream = $1 AND consumer = $2 LIMIT 1";
    Ok(!tx.query(left, params![stream, consumer]).await?.is_empty())
}

/// Moves the inbox onto parked events of different streams, or past ones that are discarded; returns of each whether
/// it is its turn.
pub(crate) async fn move_to(
    tx: &mut Tx,
    consumer: &str,
    events: &[(&str, u64, Option<&str>)],
) -> Result<Vec<bool>, Error> {
    let rows = events.iter().map(|&(stream, seq, id)| {
        [seq.into(), id.map_or(0, mark).into(), stream.into(), consumer.into(), (seq - 1).into()]
    });
    let moved = tx
        .execute_many(
            "UPDATE inbox SET seq = $1, last_id = $2 WHERE stream = $3 AND consumer = $4 AND seq = $5",
            rows,
        )
        .await?;
    Ok(moved.into_iter().map(|moved| moved == 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_out_of_turn_is_a_duplicate_waits_or_alarms() {
        let flowing = StreamPosition { last: 4, is_blocked: false, last_id: mark("d") };
        let blocked = StreamPosition { is_blocked: true, ..flowing };
        let table = [
            (flowing, 3, "c", None, false, Admission::Duplicate),
            (flowing, 4, "d", None, false, Admission::Duplicate),
            (flowing, 4, "forged", None, false, Admission::Differs),
            (StreamPosition { last_id: 0, ..flowing }, 4, "d", None, false, Admission::Duplicate),
            (flowing, 5, "e", None, false, Admission::Next),
            (flowing, 5, "e", None, true, Admission::Behind),
            (blocked, 5, "e", None, false, Admission::Awaited),
            (blocked, 5, "e", Some("e"), true, Admission::Duplicate),
            (blocked, 5, "e", Some("forged"), true, Admission::Differs),
            (blocked, 6, "f", None, false, Admission::Behind),
            (blocked, 6, "f", Some("f"), false, Admission::Duplicate),
            (flowing, 6, "f", None, false, Admission::Gap { expected: 5 }),
        ];
        for (place, seq, id, parked, is_retried, expected) in table {
            assert_eq!(
                decide(&place, seq, id, parked, is_retried),
                expected,
                "{place:?} {seq} {id} {parked:?}"
            );
        }
        assert_ne!(mark(""), 0);
    }
}
