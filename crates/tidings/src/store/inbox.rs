//! The only way in: a watermark per (consumer, stream), moved in the handler's transaction.

use std::collections::HashSet;

use crate::envelope::Metadata;
use crate::error::Error;
use crate::params;
use crate::store::{Param, Tx};

/// What an arriving event is to its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Next in its stream (or never seen, if it has no number): the watermark has been moved onto it.
    Fresh,
    /// The same, and later events of its stream have been waiting for it.
    Awaited,
    /// Seen before.
    Duplicate,
    /// An earlier event of its key is parked: it must wait behind it.
    Behind,
    /// Events before it are missing: `expected` is the first of them.
    Gap { expected: u64 },
}

/// A stretch of a stream that arrives at once.
pub(crate) struct Stretch<'a> {
    pub(crate) stream: &'a str,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// Moves the watermarks over stretches of different streams whose turn it is; says which moved. Of the
/// others nothing is known but that each event has to be looked at: [`arrive`]. `except` stay as they are.
pub(crate) async fn advance(
    tx: &mut Tx,
    consumer: &str,
    stretches: &[Stretch<'_>],
    except: &HashSet<usize>,
) -> Result<Vec<bool>, Error> {
    let mut moved = vec![false; stretches.len()];
    let mut places: Vec<usize> = (0..stretches.len()).filter(|place| !except.contains(place)).collect();
    places.sort_unstable_by_key(|&place| stretches[place].stream); // the order in which rows are locked
    let (new, known): (Vec<usize>, Vec<usize>) =
        places.into_iter().partition(|&place| stretches[place].first == 1);
    let at = |place: &usize| (Param::from(stretches[*place].stream), Param::from(stretches[*place].last));
    if !new.is_empty() {
        let rows = new.iter().map(at).map(|(stream, last)| [stream, consumer.into(), last]);
        let inserted = tx
            .execute_many(
                "INSERT INTO inbox (stream, consumer, seq) VALUES ($1, $2, $3)
                 ON CONFLICT (stream, consumer) DO NOTHING",
                rows,
            )
            .await?;
        new.iter().zip(inserted).for_each(|(&place, inserted)| moved[place] = inserted == 1);
    }
    if !known.is_empty() {
        let rows = known
            .iter()
            .map(|place| (at(place), stretches[*place].first - 1))
            .map(|((stream, last), before)| [last, stream, consumer.into(), before.into()]);
        let updated = tx
            .execute_many(
                "UPDATE inbox SET seq = $1 WHERE stream = $2 AND consumer = $3 AND seq = $4 AND blocked = 0",
                rows,
            )
            .await?;
        known.iter().zip(updated).for_each(|(&place, updated)| moved[place] = updated == 1);
    }
    Ok(moved)
}

/// Looks an event up and, if it is its turn, moves the watermark onto it.
pub(crate) async fn arrive(tx: &mut Tx, consumer: &str, event: &Metadata) -> Result<Arrival, Error> {
    let Some(seq) = event.seq else {
        return arrive_without_number(tx, consumer, event).await;
    };
    let stretch = Stretch { stream: &event.stream, first: seq, last: seq };
    if advance(tx, consumer, &[stretch], &HashSet::new()).await? == [true] {
        return Ok(Arrival::Fresh);
    }
    arrive_out_of_turn(tx, consumer, &event.stream, seq).await
}

/// The rare ways: a duplicate, a stream that waits, a hole.
async fn arrive_out_of_turn(tx: &mut Tx, consumer: &str, stream: &str, seq: u64) -> Result<Arrival, Error> {
    let (last, blocked) = lock(tx, consumer, stream).await?;
    let rows = tx
        .query(
            "SELECT count(*) FILTER (WHERE seq = $1), count(*) FILTER (WHERE due_us IS NOT NULL)
             FROM parked WHERE consumer = $2 AND stream = $3",
            params![seq, consumer, stream],
        )
        .await?;
    let (is_parked, is_retried): (bool, bool) = (rows[0].get(0)?, rows[0].get(1)?);
    if seq <= last || is_parked {
        return Ok(Arrival::Duplicate);
    }
    if seq == last + 1 && is_retried {
        // An event of its key that has no number failed and comes first.
        return Ok(Arrival::Behind);
    }
    if seq == last + 1 {
        // The one that a gap was waiting for (a failed one would be parked).
        tx.execute(
            "UPDATE inbox SET seq = $1 WHERE stream = $2 AND consumer = $3",
            params![seq, stream, consumer],
        )
        .await?;
        return Ok(if blocked { Arrival::Awaited } else { Arrival::Fresh });
    }
    Ok(if blocked { Arrival::Behind } else { Arrival::Gap { expected: last + 1 } })
}

/// Locks a stream for a consumer, so that nobody parks or frees its events meanwhile; returns how far it
/// has come and whether it waits.
pub(crate) async fn lock(tx: &mut Tx, consumer: &str, stream: &str) -> Result<(u64, bool), Error> {
    let rows = tx
        .query(
            "SELECT seq, blocked FROM inbox WHERE stream = $1 AND consumer = $2 FOR UPDATE",
            params![stream, consumer],
        )
        .await?;
    match rows.first() {
        Some(row) => Ok((row.get(0)?, row.get(1)?)),
        None => Ok((0, false)),
    }
}

async fn arrive_without_number(tx: &mut Tx, consumer: &str, event: &Metadata) -> Result<Arrival, Error> {
    let inserted = tx
        .execute(
            "INSERT INTO inbox_id (consumer, source, event_id, seen_us) VALUES ($1, $2, $3, $4)
             ON CONFLICT (consumer, source, event_id) DO NOTHING",
            params![consumer, &event.source, &event.id, tx.now()],
        )
        .await?;
    if inserted == 0 {
        return Ok(Arrival::Duplicate);
    }
    let (_, blocked) = lock(tx, consumer, &event.stream).await?;
    Ok(if blocked && !event.key.is_empty() { Arrival::Behind } else { Arrival::Fresh })
}

/// Makes every later event of the stream wait.
pub(crate) async fn block(tx: &mut Tx, consumer: &str, stream: &str) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO inbox (stream, consumer, seq, blocked) VALUES ($1, $2, 0, 1)
         ON CONFLICT (stream, consumer) DO UPDATE SET blocked = 1",
        params![stream, consumer],
    )
    .await
    .map(|_| ())
}

/// Lets the stream flow again.
pub(crate) async fn unblock(tx: &mut Tx, consumer: &str, stream: &str) -> Result<(), Error> {
    tx.execute("UPDATE inbox SET blocked = 0 WHERE stream = $1 AND consumer = $2", params![stream, consumer])
        .await
        .map(|_| ())
}

/// Moves the watermark onto a parked event, or past one that is discarded; says whether it is its turn.
pub(crate) async fn move_to(tx: &mut Tx, consumer: &str, stream: &str, seq: u64) -> Result<bool, Error> {
    let moved = tx
        .execute(
            "UPDATE inbox SET seq = $1 WHERE stream = $2 AND consumer = $3 AND seq = $1 - 1",
            params![seq, stream, consumer],
        )
        .await?;
    Ok(moved == 1)
}
