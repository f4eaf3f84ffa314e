//! Pauses: what an operator holds back until it is resumed. They survive restarts, and every instance reads them.

use jiff::Timestamp;
use serde_json::json;

use super::audit::{self, Operator};
use super::{Store, Tx, parked};
use crate::error::Error;
use crate::failure::WaitReason;
use crate::params;

/// A thing that can be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Scope {
    /// The consumer: nothing is read.
    Service,
    /// A topic: it is not read.
    Topic,
    /// Events of a type: they are parked, in the order of their keys.
    Type,
    /// Events of a key: they are parked.
    Key,
    /// Effects of a kind, or all.
    Effects,
}

/// A pause, and who made it.
#[derive(Clone, Debug)]
pub(crate) struct Pause {
    pub(crate) scope: Scope,
    /// The topic, the type, the key, the kind; empty for all.
    pub(crate) name: String,
    pub(crate) since: Timestamp,
    pub(crate) by: Operator,
}

/// The pauses of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pauses(Vec<Pause>);

impl Pauses {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pause> {
        self.0.iter()
    }

    /// Tells whether the same is held back.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| (a.scope, &a.name, a.since) == (b.scope, &b.name, b.since))
    }

    /// The pause of the whole consumer.
    pub(crate) fn of_service(&self) -> Option<&Pause> {
        self.0.iter().find(|pause| pause.scope == Scope::Service)
    }

    /// The pause that keeps a topic from being read.
    pub(crate) fn of_topic(&self, topic: &str) -> Option<&Pause> {
        self.0.iter().find(|pause| match pause.scope {
            Scope::Service => true,
            Scope::Topic => pause.name == topic,
            Scope::Type | Scope::Key | Scope::Effects => false,
        })
    }

    /// The pause that holds an event back.
    pub(crate) fn of_event(&self, topic: &str, event_type: &str, key: &str) -> Option<&Pause> {
        self.0.iter().find(|pause| match pause.scope {
            Scope::Topic => pause.name == topic,
            Scope::Type => pause.name == event_type,
            Scope::Key => pause.name == key,
            Scope::Service | Scope::Effects => false,
        })
    }

    /// The pause that holds effects of a kind back.
    pub(crate) fn of_effects(&self, kind: &str) -> Option<&Pause> {
        let holds =
            |pause: &&Pause| pause.scope == Scope::Effects && (pause.name.is_empty() || pause.name == kind);
        self.0.iter().find(holds)
    }

    /// True if some events are held back.
    pub(crate) fn hold_events(&self) -> bool {
        self.0.iter().any(|pause| matches!(pause.scope, Scope::Topic | Scope::Type | Scope::Key))
    }

    /// True if some effects are held back.
    pub(crate) fn hold_effects(&self) -> bool {
        self.0.iter().any(|pause| pause.scope == Scope::Effects)
    }
}

/// Reads the pauses of a service.
pub(crate) async fn read(store: &Store) -> Result<Pauses, Error> {
    let rows =
        store.query("SELECT scope, name, since_us, actor, reason FROM pause ORDER BY since_us", &[]).await?;
    let mut pauses = Vec::with_capacity(rows.len());
    for row in &rows {
        let scope: String = row.get(0)?;
        // A newer release may know more scopes.
        let Ok(scope) = scope.parse() else { continue };
        let by = Operator { actor: row.get(3)?, reason: row.get(4)? };
        pauses.push(Pause { scope, name: row.get(1)?, since: row.get(2)?, by });
    }
    Ok(Pauses(pauses))
}

/// Holds something back; says whether it was not held back before.
pub(crate) async fn pause(store: &Store, scope: Scope, name: &str, by: &Operator) -> Result<bool, Error> {
    let mut tx = store.begin().await?;
    let now = tx.now();
    let is_new = tx
        .execute(
            "INSERT INTO pause (scope, name, since_us, actor, reason) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (scope, name) DO NOTHING",
            params![<&str>::from(scope), name, now, &by.actor, &by.reason],
        )
        .await?
        == 1;
    if is_new {
        record(&mut tx, by, "pause", scope, name).await?;
    }
    tx.commit().await?;
    store.refresh_pauses().await?;
    Ok(is_new)
}

/// Lets something go on; says whether it was held back. Events that it held back become due.
pub(crate) async fn resume(store: &Store, scope: Scope, name: &str, by: &Operator) -> Result<bool, Error> {
    let mut tx = store.begin().await?;
    let sql = "DELETE FROM pause WHERE scope = $1 AND name = $2";
    let was_paused = tx.execute(sql, params![<&str>::from(scope), name]).await? == 1;
    if was_paused {
        record(&mut tx, by, "resume", scope, name).await?;
    }
    tx.commit().await?;
    store.refresh_pauses().await?;
    // Also when it was resumed before: a process may have ended half-way.
    parked::release_all(store, WaitReason::Paused).await?;
    Ok(was_paused)
}

async fn record(tx: &mut Tx, by: &Operator, action: &str, scope: Scope, name: &str) -> Result<(), Error> {
    let scope: &str = scope.into();
    let subject = format!("{scope} {name}");
    audit::record(tx, by, action, subject.trim_end(), &json!({"scope": scope, "name": name})).await
}
