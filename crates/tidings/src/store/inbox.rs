//! The only way in: a watermark per (consumer, stream), moved in the handler's transaction.

use crate::envelope::Metadata;
use crate::error::Error;
use crate::params;
use crate::store::Tx;

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

/// Looks an event up and, if it is its turn, moves the watermark onto it.
pub(crate) async fn arrive(tx: &mut Tx, consumer: &str, event: &Metadata) -> Result<Arrival, Error> {
    let Some(seq) = event.seq else {
        return arrive_without_number(tx, consumer, event).await;
    };
    let moved = if seq == 1 {
        tx.execute(
            "INSERT INTO inbox (stream, consumer, seq) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING",
            params![&event.stream, consumer],
        )
        .await?
    } else {
        tx.execute(
            "UPDATE inbox SET seq = $1 WHERE stream = $2 AND consumer = $3 AND seq = $1 - 1 AND blocked = 0",
            params![seq, &event.stream, consumer],
        )
        .await?
    };
    if moved == 1 {
        return Ok(Arrival::Fresh);
    }
    arrive_out_of_turn(tx, consumer, &event.stream, seq).await
}

/// The rare ways: a duplicate, a stream that waits, a hole.
async fn arrive_out_of_turn(tx: &mut Tx, consumer: &str, stream: &str, seq: u64) -> Result<Arrival, Error> {
    let rows = tx
        .query(
            "SELECT seq, blocked,
                    EXISTS (SELECT 1 FROM parked WHERE consumer = $1 AND stream = $2 AND seq = $3),
                    EXISTS (SELECT 1 FROM parked WHERE consumer = $1 AND stream = $2 AND due_us IS NOT NULL)
             FROM inbox WHERE consumer = $1 AND stream = $2",
            params![consumer, stream, seq],
        )
        .await?;
    let (last, blocked, is_parked, is_retried) = match rows.first() {
        Some(row) => (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?),
        None => (0_u64, false, false, false),
    };
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

async fn arrive_without_number(tx: &mut Tx, consumer: &str, event: &Metadata) -> Result<Arrival, Error> {
    let inserted = tx
        .execute(
            "INSERT INTO inbox_id (consumer, source, event_id, seen_us) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            params![consumer, &event.source, &event.id, tx.now()],
        )
        .await?;
    if inserted == 0 {
        return Ok(Arrival::Duplicate);
    }
    let rows = tx
        .query(
            "SELECT blocked FROM inbox WHERE stream = $1 AND consumer = $2",
            params![&event.stream, consumer],
        )
        .await?;
    match rows.first() {
        Some(row) if !event.key.is_empty() && row.get(0)? => Ok(Arrival::Behind),
        _ => Ok(Arrival::Fresh),
    }
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
