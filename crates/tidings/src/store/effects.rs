//! The table of effects: asked for in a transaction, claimed by one process, marked as done.

use std::time::Duration;

use jiff::Timestamp;

use super::{Engine, Param, Row, Store, Tx};
use crate::effect::{EffectError, EffectRequest};
use crate::envelope::Cause;
use crate::error::Error;
use crate::health::Loop;
use crate::params;

/// Effects on their way from commit to their handler; beyond it the table is read.
pub(super) const HAND_OVER_MAX: usize = 8192;
/// The time for which an effect belongs to the process that took it up, before another may take it: far longer than
/// any external call.
const CLAIM: Duration = Duration::from_secs(300);
/// No pause before the next try is longer.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Pauses before each look for what a lost commit has claimed: the server may be at it for as long as a
/// statement may take.
const DOUBTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// The difference that clocks may have.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Writes what was asked for; returns what is to be done right after the commit.
pub(super) async fn write(tx: &mut Tx, mut asked: Vec<EffectRequest>) -> Result<Vec<EffectRequest>, Error> {
    let now = tx.now();
    let owner = tx.store().instance();
    // A file has one owner, who takes up again whatever is due. Where several share a database, a claim
    // holds for as long as its owner lives, and the row is updated in place when it is done.
    let claim = if tx.store().has_other_writers() { None } else { Some(now + CLAIM) };
    asked.sort_by(|a, b| a.key.cmp(&b.key));
    let rows = asked.iter().map(|effect| {
        let at_once = effect.due <= now;
        let (state, owner, due) =
            if at_once { ("called", Some(owner), claim) } else { ("new", None, Some(effect.due)) };
        [
            Param::from(&effect.key),
            Param::from(&effect.kind),
            Param::from(&effect.payload),
            Param::from(state),
            Param::from(owner),
            Param::from(due),
            Param::from(effect.cause.correlation_id.as_ref()),
            Param::from(effect.cause.causation_id.as_ref()),
            Param::from(effect.cause.traceparent.as_ref()),
            Param::from(effect.cause.tracestate.as_ref()),
            Param::from(now),
        ]
    });
    let inserted = tx
        .execute_many(
            "INSERT INTO effect (key, kind, request, state, owner, due_us, correlation_id, causation_id, traceparent, tracestate,
                                 asked_us)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (key) DO NOTHING",
            rows,
        )
        .await?;
    let new =
        asked.into_iter().zip(inserted).filter(|(effect, inserted)| *inserted == 1 && effect.due <= now);
    Ok(new.map(|(effect, _)| effect).collect())
}

/// Takes back effects that no process has begun.
pub(super) async fn cancel(tx: &mut Tx, keys: &[String]) -> Result<(), Error> {
    let rows = keys.iter().map(|key| [Param::from(key)]);
    tx.execute_many("DELETE FROM effect WHERE key = $1 AND state = 'new'", rows).await.map(|_| ())
}

/// Makes the effects that did not fit into the hand-over due in the table.
pub(crate) fn leave_to_table(store: &Store, left: Vec<EffectRequest>) {
    const DUE: &str =
        "UPDATE effect SET state = 'new', due_us = asked_us WHERE key = $1 AND state = 'called'";
    if left.is_empty() {
        return;
    }
    match store.database() {
        Engine::Sqlite(database) => database.defer(move |connection| {
            let mut due = connection.prepare_cached(DUE)?;
            left.iter().try_for_each(|effect| due.execute([&effect.key]).map(|_| ()))
        }),
        Engine::Postgres(_) => {
            let (store, health) = (store.clone(), store.health().clone());
            let due = async move |left: &[EffectRequest]| {
                let mut tx = store.begin().await?;
                tx.execute_many(DUE, left.iter().map(|effect| [Param::from(&effect.key)])).await?;
                tx.commit().await
            };
            tokio::spawn(async move {
                while let Err(e) = due(&left).await {
                    health.failed(Loop::HandOver, &e);
                    tokio::time::sleep(DOUBTS[0]).await;
                }
                health.goes_on(Loop::HandOver);
            });
        }
    }
}

/// The mark of a transaction's claim on effects: when it asked for them, or until when it holds them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claimed {
    At(Timestamp),
    Until(Timestamp),
}

/// Sees to a commit that has failed without a known outcome. If it was done, it has claimed effects for this process
/// that are not on their way in it: they become due.
pub(crate) fn in_doubt(store: &Store, asked: &[EffectRequest], claimed: Claimed) {
    if asked.is_empty() || !store.commits_can_be_in_doubt() {
        return;
    }
    let (store, keys) = (store.clone(), asked.iter().map(|asked| asked.key.clone()).collect::<Vec<_>>());
    tokio::spawn(async move {
        for pause in DOUBTS {
            tokio::time::sleep(pause).await;
            while let Err(e) = make_due(&store, &keys, claimed).await {
                store.health().failed(Loop::HandOver, &e);
                tokio::time::sleep(pause).await;
            }
            store.health().goes_on(Loop::HandOver);
        }
    });
}

async fn make_due(store: &Store, keys: &[String], claimed: Claimed) -> Result<(), Error> {
    // Claimed by that transaction, and not by another one since.
    let (claim, sql) = match claimed {
        Claimed::At(asked) => (
            asked,
            "UPDATE effect SET due_us = $1 WHERE key = $2 AND asked_us = $3 AND state = 'called' AND due_us IS NULL",
        ),
        Claimed::Until(due) => {
            (due, "UPDATE effect SET due_us = $1 WHERE key = $2 AND due_us = $3 AND state = 'called'")
        }
    };
    let mut tx = store.begin().await?;
    let now = tx.now();
    let rows = keys.iter().map(|key| [Param::from(now), Param::from(key), Param::from(claim)]);
    tx.execute_many(sql, rows).await?;
    tx.commit().await
}

/// Returns the number of effects that wait for their time, were claimed from the table or wait for an operator, and the
/// number of those that have failed at least once and are tried again.
pub(crate) async fn counts(store: &Store) -> Result<(u64, u64), Error> {
    let rows = store.query("SELECT count(*), count(error) FROM effect WHERE due_us IS NOT NULL", &[]).await?;
    let due: u64 = rows[0].get(0)?;
    Ok((due + conflicts(store).await?, rows[0].get(1)?))
}

/// Returns the number of effects that their providers contradict.
pub(crate) async fn conflicts(store: &Store) -> Result<u64, Error> {
    store.query("SELECT count(*) FROM effect WHERE conflict_us IS NOT NULL", &[]).await?[0].get(0)
}

/// Tells whether no effect is due, handed over, or claimed from the table.
pub(crate) async fn is_idle(store: &Store) -> Result<bool, Error> {
    let rows = store
        .query(
            "SELECT count(*) FROM effect WHERE due_us <= $1 OR (state = 'called' AND due_us IS NOT NULL)",
            params![store.clock().now()],
        )
        .await?;
    Ok(store.effects().is_empty() && rows[0].get::<i64>(0)? == 0)
}

/// Takes up again at once the effects that a former process had taken up; they are looked up first. Not for use once
/// effects can be asked for: it would take up those that are on their way already. Where several processes share the
/// database, those that are alive notice which ones are not.
pub(crate) async fn reclaim(store: &Store) -> Result<(), Error> {
    if store.has_other_writers() {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    tx.execute(
        "UPDATE effect SET due_us = $1 WHERE due_us IS NOT NULL AND state = 'called'",
        params![tx.now()],
    )
    .await?;
    tx.commit().await
}

/// The kinds of effects and timers that are not done.
pub(crate) async fn open_kinds(store: &Store) -> Result<Vec<String>, Error> {
    let open = "SELECT kind FROM effect WHERE due_us IS NOT NULL
                UNION SELECT kind FROM effect WHERE conflict_us IS NOT NULL ORDER BY kind";
    let rows = store.query(open, &[]).await?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Mends due times of a clock that was ahead: a failed effect never waits for longer than its longest pause,
/// and a timer runs for as long as was asked for.
pub(crate) async fn mend_due(store: &Store) -> Result<(), Error> {
    let now = store.clock().now();
    let latest = now + (2 * PAUSE_MAX).max(CLAIM) + CLOCK_SLACK;
    let mut tx = store.begin().await?;
    let failed = tx
        .execute(
            "UPDATE effect SET due_us = $1 WHERE due_us > $2 AND (attempts > 0 OR state = 'called')",
            params![now, latest],
        )
        .await?;
    let timers = tx
        .execute(
            "UPDATE effect SET due_us = $1 + (due_us - asked_us), asked_us = $1
             WHERE due_us > $1 AND attempts = 0 AND state = 'new' AND asked_us > $2",
            params![now, now + CLOCK_SLACK],
        )
        .await?;
    tx.commit().await?;
    if failed + timers > 0 {
        tracing::warn!(failed, timers, "effects were due too far in the future: the clock was set; mended");
    }
    Ok(())
}

/// Has everything of these kinds that failed, while their provider was down, tried again at once.
pub(crate) async fn make_failed_due(store: &Store, kinds: &[&str]) -> Result<(), Error> {
    let sql = format!(
        "UPDATE effect SET due_us = $1 WHERE due_us > $1 AND attempts > 0 AND state <> 'done' AND kind IN ({})",
        listed(kinds)
    );
    let mut tx = store.begin().await?;
    let now = tx.now();
    tx.execute(&sql, params![now]).await?;
    tx.commit().await
}

/// The effects that may be claimed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    /// Of whatever kind.
    All,
    /// Of these kinds.
    Kinds(&'a [&'static str]),
    /// Of these kinds, those first that were tried most.
    TriedMost(&'a [&'static str]),
}

/// Claims due effects for this process, so that no other process does them.
pub(crate) async fn claim_due(
    store: &Store,
    limit: usize,
    which: Which<'_>,
) -> Result<Vec<EffectRequest>, Error> {
    let (and, order) = match which {
        Which::All => (String::new(), "due_us"),
        Which::Kinds(kinds) => (format!("AND kind IN ({})", listed(kinds)), "due_us"),
        Which::TriedMost(kinds) => (format!("AND kind IN ({})", listed(kinds)), "attempts DESC, due_us"),
    };
    let now = store.clock().now();
    // Asked outside a transaction, since mostly nothing is due.
    let due = format!("SELECT due_us FROM effect WHERE due_us <= $1 {and} LIMIT 1");
    if store.query(&due, params![now]).await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = store.begin().await?;
    let due = tx
        .query(
            &format!(
                "SELECT key, kind, request, correlation_id, causation_id, traceparent, attempts, state, due_us,
                        tracestate
                 FROM effect WHERE due_us <= $1 {and} ORDER BY {order} LIMIT $2 FOR UPDATE SKIP LOCKED"
            ),
            params![now, limit as u64],
        )
        .await?;
    let claimed = due.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let owner = store.instance();
    let rows = claimed.iter().map(|asked| [Param::from(now + CLAIM), owner.into(), Param::from(&asked.key)]);
    tx.execute_many("UPDATE effect SET state = 'called', due_us = $1, owner = $2 WHERE key = $3", rows)
        .await?;
    if let Err(e) = tx.commit().await {
        in_doubt(store, &claimed, Claimed::Until(now + CLAIM));
        return Err(e);
    }
    Ok(claimed)
}

/// An effect that is not done, locked.
pub(crate) async fn open(tx: &mut Tx, key: &str) -> Result<Option<EffectRequest>, Error> {
    let rows = tx
        .query(
            "SELECT key, kind, request, correlation_id, causation_id, traceparent, attempts, state,
                    coalesce(due_us, asked_us), tracestate
             FROM effect WHERE key = $1 AND state <> 'done' FOR UPDATE",
            params![key],
        )
        .await?;
    rows.first().map(read).transpose()
}

/// Marks effects as done; 1 for each that was not before.
pub(crate) async fn mark_done(tx: &mut Tx, all: &[EffectRequest]) -> Result<Vec<u64>, Error> {
    let now = tx.now();
    tx.execute_many(
        "UPDATE effect SET state = 'done', due_us = NULL, conflict_us = NULL, done_us = $1, error = NULL
         WHERE key = $2 AND state <> 'done'",
        all.iter().map(|asked| [Param::from(now), Param::from(&asked.key)]),
    )
    .await
}

/// Writes down that an effect has no outcome yet, and when it is tried again.
pub(crate) async fn postpone(
    tx: &mut Tx,
    asked: &EffectRequest,
    e: &EffectError,
    pause: Duration,
) -> Result<(), Error> {
    let (attempts, state) = match e {
        EffectError::NotDone(_) => (asked.attempts + 1, "new"),
        EffectError::Unknown(_) | EffectError::Conflict(_) => (asked.attempts + 1, "called"),
        // It is as it was: never tried, or to be looked up.
        EffectError::NoTurn(_) => (asked.attempts, if asked.look_up { "called" } else { "new" }),
    };
    let now = tx.now();
    tx.execute(
        "UPDATE effect SET state = $1, attempts = $2, due_us = $3, error = $4
         WHERE key = $5 AND state NOT IN ('done', 'conflict')",
        params![state, attempts, now + pause, &text(e), &asked.key],
    )
    .await
    .map(|_| ())
}

/// Writes down that the provider contradicts an effect: it is never due, until an operator decides.
pub(crate) async fn hold(tx: &mut Tx, asked: &EffectRequest, e: &EffectError) -> Result<(), Error> {
    let now = tx.now();
    tx.execute(
        "UPDATE effect SET state = 'conflict', attempts = $1, due_us = NULL, conflict_us = $2, error = $3
         WHERE key = $4 AND state NOT IN ('done', 'conflict')",
        params![asked.attempts + 1, now, &text(e), &asked.key],
    )
    .await
    .map(|_| ())
}

/// A reason as a column can hold it.
fn text(e: &EffectError) -> String {
    e.to_string().replace('\0', "\u{fffd}")
}

/// Kinds as SQL has them: they are constants of the program.
fn listed(kinds: &[&str]) -> String {
    kinds.iter().map(|kind| format!("'{}'", kind.replace('\'', "''"))).collect::<Vec<_>>().join(", ")
}

fn read(row: &Row) -> Result<EffectRequest, Error> {
    let state: String = row.get(7)?;
    Ok(EffectRequest {
        key: row.get(0)?,
        kind: row.get(1)?,
        payload: row.get(2)?,
        cause: Cause {
            correlation_id: row.get(3)?,
            causation_id: row.get(4)?,
            traceparent: row.get(5)?,
            tracestate: row.get(9)?,
        },
        attempts: row.get(6)?,
        look_up: state == "called",
        due: row.get(8)?,
    })
}
