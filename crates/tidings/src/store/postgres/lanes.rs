//! Lanes, by which processes share the relaying of streams: a lane is a hash of the stream, leased on the database's
//! clock.
//!
//! Several processes of a service share its outbox. Each relays the lanes it has leased; a lease that is not renewed
//! expires, and the process that takes the lane over gets a new epoch. A process that was paused past its lease finds
//! its epoch gone: it can delete nothing any more, and drops its lanes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Database, PostgresTransaction};
use crate::clock::Clock;
use crate::error::Error;

/// The number of lanes; the table holds a row for each.
pub(crate) const LANES: usize = 64;
/// The time after which a lease that was not renewed may be taken by any process.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// The lane of a stream (FNV-1a), the same in every release: rows of the outbox carry it.
pub(crate) fn lane_of(stream: &str) -> i16 {
    let hash = stream.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ hash >> 32) % LANES as u64) as i16
}

/// The lanes that a process holds, each with the epoch under which it got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) owner: i64,
    pub(crate) lanes: BTreeMap<i16, i64>,
}

impl Lease {
    pub(crate) fn of(owner: i64) -> Self {
        Self { owner, lanes: BTreeMap::new() }
    }

    /// Epochs are drawn from one sequence, so one lane's says nothing of another's.
    pub(super) fn epochs(&self) -> Vec<i64> {
        self.lanes.values().copied().collect()
    }
}

const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";

/// The result of [`renew`].
pub(crate) struct Renewed {
    pub(crate) lease: Lease,
    /// The number of lanes that a process should have, given how many processes are alive.
    pub(crate) share: usize,
}

/// Says that this process is alive, renews its lanes and takes free ones up to its fair share. Also makes
/// due again what dead processes had begun.
pub(crate) async fn renew(database: &Arc<Database>, owner: i64, clock: &Clock) -> Result<Renewed, Error> {
    let lease_us = lease_us();
    let mut unit = database.begin().await?;
    let asked = Instant::now();
    let alive = unit
        .query_arrays(
            &format!(
                "WITH me AS (
                     INSERT INTO instance (id, expires_us, relays) VALUES ($1, {NOW} + $2, true)
                     ON CONFLICT (id) DO UPDATE SET expires_us = excluded.expires_us, relays = true)
                 SELECT count(*), {NOW} FROM instance WHERE relays AND expires_us > {NOW} AND id <> $1"
            ),
            &[&owner, &lease_us],
        )
        .await?;
    clock.follow(time(&alive[0], 1), asked, Instant::now());
    let others: i64 = alive[0].get(0);
    let share = (LANES as i64 + others) / (others + 1);
    // The second process sees what the first did: the rows are locked, in the order of their lanes.
    let rows = unit
        .query_arrays(
            &format!(
                "WITH seen AS MATERIALIZED (
                     SELECT lane, (owner = $1 AND expires_us >= {NOW}) IS TRUE AS mine,
                            owner IS NULL OR expires_us < {NOW} AS free
                     FROM relay_lane ORDER BY lane FOR UPDATE),
                 wanted AS (
                     SELECT lane, mine FROM seen WHERE mine OR free ORDER BY mine DESC, lane
                     LIMIT greatest($3, (SELECT count(*) FROM seen WHERE mine)))
                 UPDATE relay_lane l SET expires_us = {NOW} + $2, owner = $1,
                     epoch = CASE WHEN w.mine THEN l.epoch ELSE nextval('lane_epoch') END
                 FROM wanted w WHERE l.lane = w.lane RETURNING l.lane, l.epoch"
            ),
            &[&owner, &lease_us, &share],
        )
        .await?;
    let dead = unit
        .query_arrays(&format!("DELETE FROM instance WHERE expires_us < {NOW} RETURNING id"), &[])
        .await?;
    for row in &dead {
        take_over(&mut unit, row.get(0)).await?;
    }
    unit.commit(Box::new(|_| ())).await?;
    let lanes = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(Renewed { lease: Lease { owner, lanes }, share: usize::try_from(share).expect("a share is positive") })
}

/// Tells whether there are lanes that no process holds.
pub(crate) async fn any_free(database: &Database) -> Result<bool, Error> {
    let sql = format!("SELECT EXISTS (SELECT FROM relay_lane WHERE owner IS NULL OR expires_us < {NOW})");
    Ok(database.query_arrays(&sql, &[]).await?[0].get(0))
}

/// Gives lanes back that have nothing under way.
pub(crate) async fn give_back(database: &Database, owner: i64, lanes: &[i16]) -> Result<u64, Error> {
    let sql = "UPDATE relay_lane SET owner = NULL WHERE owner = $1 AND lane = ANY($2)";
    database.execute_arrays(sql, &[&owner, &lanes]).await
}

/// Gives everything back: a clean stop. What this process had begun may be taken by any other.
pub(crate) async fn leave(database: &Arc<Database>, owner: i64) -> Result<(), Error> {
    let mut unit = database.begin().await?;
    unit.query_arrays("UPDATE relay_lane SET owner = NULL WHERE owner = $1", &[&owner]).await?;
    unit.query_arrays("DELETE FROM instance WHERE id = $1", &[&owner]).await?;
    take_over(&mut unit, owner).await?;
    unit.commit(Box::new(|_| ())).await
}

/// Makes due what an instance had called and not recorded. External calls are short: what is older than a day was
/// claimed in another way.
async fn take_over(unit: &mut PostgresTransaction, owner: i64) -> Result<(), Error> {
    unit.query_arrays("SET LOCAL enable_bitmapscan = on", &[]).await?;
    let sql = format!(
        "UPDATE effect SET due_us = {NOW}
         WHERE asked_us > {NOW} - 86400000000 AND state = 'called' AND owner = $1"
    );
    unit.query_arrays(&sql, &[&owner]).await.map(|_| ())
}

/// A number for this process, which no other has. What instances left behind that are known no more becomes
/// due.
pub(crate) async fn register(database: &Arc<Database>) -> Result<i64, Error> {
    let mut unit = database.begin().await?;
    unit.query_arrays("SET LOCAL enable_bitmapscan = on", &[]).await?;
    let left = format!(
        "UPDATE effect SET due_us = {NOW}
         WHERE asked_us > {NOW} - 86400000000 AND state = 'called' AND due_us IS NULL
           AND owner NOT IN (SELECT id FROM instance)"
    );
    unit.query_arrays(&left, &[]).await?;
    unit.commit(Box::new(|_| ())).await?;
    let sql = format!(
        "INSERT INTO instance (id, expires_us) VALUES (nextval('instance_id'), {NOW} + $1) RETURNING id"
    );
    let rows = database.query_arrays(&sql, &[&lease_us()]).await?;
    Ok(rows[0].get(0))
}

/// Reads the server's clock.
pub(crate) async fn read_clock(database: &Arc<Database>, clock: &Clock) -> Result<(), Error> {
    // The first answer may have waited for a connection and a plan.
    for _ in 0..2 {
        let asked = Instant::now();
        let rows = database.query_arrays(&format!("SELECT {NOW}"), &[]).await?;
        clock.follow(time(&rows[0], 0), asked, Instant::now());
    }
    Ok(())
}

fn time(row: &tokio_postgres::Row, column: usize) -> Timestamp {
    Timestamp::from_microsecond(row.get(column)).unwrap_or_else(|_| Timestamp::now())
}

fn lease_us() -> i64 {
    i64::try_from(LEASE.as_micros()).expect("a lease is short")
}
