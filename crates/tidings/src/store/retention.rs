//! Rows that are forgotten after a while, so that a database does not grow with rows that are asked for no more.
//!
//! Each rule walks its table in short steps, each in a transaction of its own, from where it stopped the last
//! time; a run takes a moment, however much there is. Nothing is forgotten by a clock that cannot be trusted.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Param, Row, Store};
use crate::clock::Clock;
use crate::error::Error;
use crate::health::{Health, Loop, Reason};
use crate::params;

/// The interval at which a run begins.
const EVERY: Duration = Duration::from_secs(10);
/// The pause of a rule that has found nothing old.
const REST: Duration = Duration::from_secs(3600);
/// Time of a rule in a run: others wait no longer than for a batch of events.
const RUN_MAX: Duration = Duration::from_millis(30);
/// Rows looked at in one step.
const ROWS_MAX: u32 = 1000;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The time for which published events can be looked up and sent again.
const EVENTS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time after which an event without a number that comes again is taken for a new one.
const EXTERNAL_IDS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time after which a repeated request is a new one.
const IDEMPOTENCY_KEYS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Effects that are done. Their keys are asked for again by events that come again, so for longer than those.
const EFFECTS: Duration = EVENTS.saturating_add(DAY);
/// A clock that was set, or that is a day ahead of the newest event, is trusted after this time.
const DOUBTED_FOR: Duration = DAY;
/// A clock that differs by more than this from the time that has passed was set.
const SET_BY: Duration = Duration::from_secs(600);

/// One table, walked in the order of its key.
struct Rule {
    table: &'static str,
    age: Duration,
    /// The next rows after a key: the key's columns as text, then the time.
    next: &'static str,
    /// Deletes old rows from one key (exclusive) to another (inclusive).
    delete: &'static str,
    /// True if rows stand in the order of their time, so that the first one that is not old ends the walk.
    by_time: bool,
    /// The key before all others.
    first: [&'static str; 3],
}

const RULES: [Rule; 5] = [
    Rule {
        table: "event_log",
        age: EVENTS,
        next: "SELECT CAST(id AS TEXT), '', '', recorded_us FROM event_log
               WHERE id > CAST(CAST($1 AS TEXT) AS BIGINT) AND $2 = $3 ORDER BY id LIMIT $4",
        // The last event of a stream stays: it holds the stream's number.
        delete: "DELETE FROM event_log AS e
                 WHERE id > CAST(CAST($1 AS TEXT) AS BIGINT) AND $2 = $3 AND id <= CAST(CAST($4 AS TEXT) AS BIGINT) AND $5 = $6
                   AND recorded_us < $7 AND id NOT IN (SELECT id FROM outbox WHERE id <= CAST(CAST($4 AS TEXT) AS BIGINT))
                   AND seq < (SELECT max(seq) FROM event_log AS l WHERE l.stream = e.stream)",
        by_time: true,
        first: ["0", "", ""],
    },
    Rule {
        table: "inbox_id",
        age: EXTERNAL_IDS,
        next: "SELECT consumer, source, event_id, seen_us FROM inbox_id
               WHERE (consumer, source, event_id) > ($1, $2, $3) ORDER BY consumer, source, event_id LIMIT $4",
        delete: "DELETE FROM inbox_id
                 WHERE (consumer, source, event_id) > ($1, $2, $3)
                   AND (consumer, source, event_id) <= ($4, $5, $6) AND seen_us < $7",
        by_time: false,
        first: ["", "", ""],
    },
    Rule {
        table: "parked",
        age: EVENTS,
        next: "SELECT CAST(id AS TEXT), '', '', last_failed_us FROM parked
               WHERE id > CAST(CAST($1 AS TEXT) AS BIGINT) AND $2 = $3 AND state = 'discarded' ORDER BY id LIMIT $4",
        delete: "DELETE FROM parked
                 WHERE id > CAST(CAST($1 AS TEXT) AS BIGINT) AND $2 = $3 AND id <= CAST(CAST($4 AS TEXT) AS BIGINT) AND $5 = $6
                   AND last_failed_us < $7 AND state = 'discarded'",
        by_time: false,
        first: ["0", "", ""],
    },
    Rule {
        table: "idempotency_key",
        age: IDEMPOTENCY_KEYS,
        next: "SELECT route, key, '', created_us FROM idempotency_key
               WHERE (route, key) > ($1, $2) AND $3 = '' ORDER BY route, key LIMIT $4",
        delete: "DELETE FROM idempotency_key
                 WHERE (route, key) > ($1, $2) AND $3 = '' AND (route, key) <= ($4, $5) AND $6 = ''
                   AND created_us < $7",
        by_time: false,
        first: ["", "", ""],
    },
    Rule {
        table: "effect",
        age: EFFECTS,
        next: "SELECT key, '', '', coalesce(done_us, asked_us) FROM effect
               WHERE key > $1 AND $2 = $3 ORDER BY key LIMIT $4",
        delete: "DELETE FROM effect
                 WHERE key > $1 AND $2 = $3 AND key <= $4 AND $5 = $6 AND done_us < $7",
        by_time: false,
        first: ["", "", ""],
    },
];

type Key = [String; 3];

/// The place that a rule has come to.
#[derive(Clone, Debug)]
struct Walk {
    after: Key,
    rests_until: Option<Timestamp>,
}

/// Forgets, every now and then, until `stop`.
pub(crate) async fn run(store: Store, health: Health, stop: CancellationToken) {
    let clock = store.clock().clone();
    let mut walks = RULES.map(|rule| Walk { after: rule.first.map(str::to_owned), rests_until: None });
    let mut trust = Trust::new(&clock);
    loop {
        tokio::select! {
            () = clock.pass(EVERY) => {}
            () = stop.cancelled() => return,
        }
        match trust.look(&store, &clock).await {
            Ok(None) => {}
            Ok(Some(doubt)) => {
                health.waits(Loop::CleanUp, Reason::Ours, &doubt);
                continue;
            }
            Err(e) => {
                health.failed(Loop::CleanUp, &e);
                continue;
            }
        }
        let mut failed = false;
        for (rule, walk) in RULES.iter().zip(&mut walks) {
            // Each on its own: one that fails stops no other.
            if let Err(e) = walk.go_on(rule, &store).await {
                failed = true;
                let e = format!("{} is not cleaned up: {e}", rule.table);
                health.waits(Loop::CleanUp, Reason::Ours, &e);
            }
        }
        if !failed {
            health.goes_on(Loop::CleanUp);
        }
    }
}

impl Walk {
    /// Walks on for a moment.
    async fn go_on(&mut self, rule: &Rule, store: &Store) -> Result<(), Error> {
        let now = store.clock().now();
        if self.rests_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        self.rests_until = None;
        let begun = Instant::now();
        while begun.elapsed() < RUN_MAX {
            if !self.step(rule, store, now - rule.age).await? {
                self.rests_until = Some(now + REST);
                break;
            }
        }
        Ok(())
    }

    /// Looks at the next rows and forgets the old ones; returns whether there may be more.
    async fn step(&mut self, rule: &Rule, store: &Store, before: Timestamp) -> Result<bool, Error> {
        let after = self.after.each_ref().map(|part| Param::from(part.as_str()));
        let [first, second, third] = after;
        let rows = store.query(rule.next, &[first, second, third, ROWS_MAX.into()]).await?;
        let rows: Vec<(Key, Timestamp)> = rows.iter().map(read).collect::<Result<_, _>>()?;
        let is_old = |(_, time): &&(Key, Timestamp)| *time < before;
        let seen = if rule.by_time { rows.iter().take_while(is_old).count() } else { rows.len() };
        let Some((last, _)) = rows[..seen].last() else {
            if !rule.by_time || rows.is_empty() {
                // From the beginning again: what was kept then may be old by now.
                self.after = rule.first.map(str::to_owned);
            }
            return Ok(false);
        };
        if rows[..seen].iter().any(|row| is_old(&row)) {
            let [a, b, c] = last.each_ref().map(|part| Param::from(part.as_str()));
            let mut tx = store.begin().await?;
            tx.execute(rule.delete, &[first, second, third, a, b, c, before.into()]).await?;
            tx.commit().await?;
        }
        self.after.clone_from(last);
        Ok(seen == rows.len())
    }
}

fn read(row: &Row) -> Result<(Key, Timestamp), Error> {
    Ok(([row.get(0)?, row.get(1)?, row.get(2)?], row.get(3)?))
}

/// The check that the clock can be believed: a clock that was set would have everything forgotten at once.
struct Trust {
    /// The system's clock and the time that passes, when they were last compared.
    compared: (Timestamp, Instant),
    doubted_since: Option<Timestamp>,
    is_first: bool,
}

impl Trust {
    fn new(clock: &Clock) -> Self {
        Self { compared: (clock.system(), Instant::now()), doubted_since: None, is_first: true }
    }

    /// Compares; returns why nothing should be forgotten yet.
    async fn look(&mut self, store: &Store, clock: &Clock) -> Result<Option<String>, Error> {
        let (system, passed) = (clock.system(), Instant::now());
        let expected = self.compared.0 + (passed - self.compared.1);
        let was_set = system.duration_since(expected).abs() > SET_BY.try_into().unwrap_or_default();
        self.compared = (system, passed);
        let now = clock.now();
        let is_far = std::mem::take(&mut self.is_first) && is_far_from(now, newest(store).await?);
        if was_set || is_far {
            self.doubted_since = Some(now);
        }
        match self.doubted_since {
            Some(since) if now < since + DOUBTED_FOR && now >= since => Ok(Some(format!(
                "the clock was set, or is a day from the newest event; nothing is forgotten before {}",
                since + DOUBTED_FOR
            ))),
            _ => Ok(None),
        }
    }
}

/// True if the newest event was recorded more than a day ago, or in the future.
fn is_far_from(now: Timestamp, newest: Option<Timestamp>) -> bool {
    newest.is_some_and(|newest| now > newest + DAY || newest > now + SET_BY)
}

async fn newest(store: &Store) -> Result<Option<Timestamp>, Error> {
    let rows = store.query("SELECT recorded_us FROM event_log ORDER BY id DESC LIMIT 1", params![]).await?;
    rows.first().map(|row| row.get(0)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_from_the_newest_event_is_doubted() {
        let now = Timestamp::from_second(1_800_000_000).unwrap_or_default();
        assert!(!is_far_from(now, None), "an empty database loses nothing");
        assert!(!is_far_from(now, Some(now - DAY)));
        assert!(!is_far_from(now, Some(now + Duration::from_secs(60))));
        assert!(
            is_far_from(now, Some(now - 7 * DAY)),
            "a clock that is a week ahead, or a week without an event"
        );
        assert!(is_far_from(now, Some(now + DAY)), "a clock that is a day behind");
    }
}
