//! An operator's view of effects: found, tried again, decided by word.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::audit::{self, Operator};
use super::condition::Condition;
use super::{Row, Store};
use crate::error::Error;
use crate::params;

/// An effect, as an operator sees it.
pub(crate) struct EffectRow {
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) request: String,
    pub(crate) state: EffectState,
    pub(crate) attempts: u32,
    pub(crate) due: Option<Timestamp>,
    pub(crate) error: Option<String>,
    /// The time since which its provider has contradicted it.
    pub(crate) conflict: Option<Timestamp>,
    pub(crate) asked: Timestamp,
    pub(crate) done: Option<Timestamp>,
}

/// A state of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum EffectState {
    /// Waits for its time.
    New,
    /// Its call is under way.
    Calling,
    /// Was certainly not done, and is tried again.
    Failing,
    /// Was perhaps done: it is looked up before anything else.
    Unknown,
    /// The provider contradicts it: nobody tries it before an operator has decided.
    Conflict,
    Done,
}

impl EffectState {
    /// The condition on its rows.
    fn condition(self) -> &'static str {
        match self {
            Self::New => "state = 'new' AND error IS NULL",
            Self::Calling => "state = 'called' AND error IS NULL",
            Self::Failing => "state = 'new' AND error IS NOT NULL",
            Self::Unknown => "state = 'called' AND error IS NOT NULL",
            Self::Conflict => "conflict_us IS NOT NULL",
            Self::Done => "state = 'done'",
        }
    }
}

const COLUMNS: &str = "key, kind, request, state, attempts, due_us, error, asked_us, done_us, conflict_us";

impl EffectRow {
    fn read(row: &Row) -> Result<Self, Error> {
        let (state, error): (String, Option<String>) = (row.get(3)?, row.get(6)?);
        let state = match (state.as_str(), error.is_some()) {
            ("done", _) => EffectState::Done,
            ("conflict", _) => EffectState::Conflict,
            ("called", true) => EffectState::Unknown,
            ("called", false) => EffectState::Calling,
            (_, true) => EffectState::Failing,
            (_, false) => EffectState::New,
        };
        Ok(Self {
            key: row.get(0)?,
            kind: row.get(1)?,
            request: row.get(2)?,
            state,
            attempts: row.get(4)?,
            due: row.get(5)?,
            error,
            asked: row.get(7)?,
            done: row.get(8)?,
            conflict: row.get(9)?,
        })
    }
}

/// Lists effects, those first that were asked for first: all that are not done, or those in a state.
pub(crate) async fn list(
    store: &Store,
    state: Option<EffectState>,
    kind: Option<&str>,
    part_of_key: Option<&str>,
    limit: u32,
) -> Result<Vec<EffectRow>, Error> {
    let state = state.map_or("state <> 'done'", EffectState::condition);
    let mut condition = Condition::new(state, Vec::new());
    if let Some(kind) = kind {
        condition.and("kind", "=", kind);
    }
    let pattern = part_of_key.map(|part| format!("%{}%", part.replace(['%', '_'], "")));
    if let Some(pattern) = &pattern {
        condition.and("key", "LIKE", pattern);
    }
    let limit = condition.value(limit);
    let sql =
        format!("SELECT {COLUMNS} FROM effect WHERE {} ORDER BY asked_us, key LIMIT {limit}", condition.sql);
    store.query(&sql, &condition.values).await?.iter().map(EffectRow::read).collect()
}

/// An effect by its key.
pub(crate) async fn show(store: &Store, key: &str) -> Result<Option<EffectRow>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM effect WHERE key = $1");
    store.query(&sql, params![key]).await?.first().map(EffectRow::read).transpose()
}

/// Has an effect that has failed tried again now; says whether it is one. One that was perhaps done, or that its
/// provider contradicts, is looked up first.
pub(crate) async fn retry(store: &Store, key: &str, by: &Operator) -> Result<bool, Error> {
    let sql = "UPDATE effect SET due_us = $1, conflict_us = NULL,
                                 state = CASE state WHEN 'conflict' THEN 'called' ELSE state END
               WHERE key = $2 AND state <> 'done' AND error IS NOT NULL";
    act(store, sql, key, by, "effect.retry", &Value::Null).await
}

/// Takes an operator's word that an effect was not done: it is done at its next try, which is now. Says whether it was
/// unknown or in conflict.
pub(crate) async fn resolve_absent(store: &Store, key: &str, by: &Operator) -> Result<bool, Error> {
    let sql = "UPDATE effect SET state = 'new', due_us = $1, conflict_us = NULL
               WHERE key = $2 AND state IN ('called', 'conflict') AND error IS NOT NULL";
    act(store, sql, key, by, "effect.resolve", &json!({"absent": true})).await
}

async fn act(
    store: &Store,
    sql: &str,
    key: &str,
    by: &Operator,
    action: &str,
    detail: &Value,
) -> Result<bool, Error> {
    let mut tx = store.begin().await?;
    let now = tx.now();
    if tx.execute(sql, params![now, key]).await? == 0 {
        return Ok(false);
    }
    audit::record(&mut tx, by, action, key, detail).await?;
    tx.commit().await?;
    Ok(true)
}
