//! The actions of operators: append-only, written in the transaction that does it.

use jiff::Timestamp;
use serde_json::Value;

use super::condition::Condition;
use super::{Store, Tx};
use crate::error::Error;
use crate::params;

/// The operator who acts, and why.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    pub(crate) actor: String,
    pub(crate) reason: String,
}

/// An action as it was written down.
pub(crate) struct AuditRow {
    pub(crate) id: i64,
    pub(crate) at: Timestamp,
    pub(crate) operator: Operator,
    /// The action by name: `dead_letter.redrive`.
    pub(crate) action: String,
    /// The thing it was done to: an id, a key, a stream.
    pub(crate) subject: String,
    pub(crate) detail: Value,
}

/// Writes an action down.
pub(crate) async fn record(
    tx: &mut Tx,
    by: &Operator,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<(), Error> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO audit (at_us, actor, action, subject, reason, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        params![now, &by.actor, action, &subject.replace('\0', "\u{fffd}"), &by.reason, &detail.to_string()],
    )
    .await?;
    tracing::info!(actor = by.actor, action, subject, reason = by.reason, "an operator acted");
    Ok(())
}

/// Reads actions, newest first, with ids below `before`.
pub(crate) async fn list(
    store: &Store,
    action: Option<&str>,
    since: Option<Timestamp>,
    before: i64,
    limit: u32,
) -> Result<Vec<AuditRow>, Error> {
    let mut condition = Condition::new("id < $1", vec![before.into()]);
    if let Some(action) = action {
        condition.and("action", "=", action);
    }
    if let Some(since) = since {
        condition.and("at_us", ">=", since);
    }
    let limit = condition.value(limit);
    let sql = format!(
        "SELECT id, at_us, actor, action, subject, reason, detail FROM audit WHERE {} ORDER BY id DESC LIMIT {limit}",
        condition.sql
    );
    let rows = store.query(&sql, &condition.values).await?;
    rows.iter()
        .map(|row| {
            let detail: String = row.get(6)?;
            Ok(AuditRow {
                id: row.get(0)?,
                at: row.get(1)?,
                operator: Operator { actor: row.get(2)?, reason: row.get(5)? },
                action: row.get(3)?,
                subject: row.get(4)?,
                detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
            })
        })
        .collect()
}
