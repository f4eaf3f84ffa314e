//! Events that are held back although it is their turn: an operator has paused them, or a dependency is away. They are
//! parked in the order of their keys, and nothing is charged to them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::decode::{Batch, Item, Task};
use super::{Pipeline, Resolution};
use crate::error::{Error, HandlerError, THE_DATABASE};
use crate::failure::{Failure, Fate, WaitReason};
use crate::health::{Loop, Reason};
use crate::params;
use crate::retry::jitter;
use crate::store::Tx;
use crate::store::parked::{self, Parked};

/// An event that waits for a dependency is looked at again after this time even if nobody says that it is back: the
/// instance that knew it may have died.
pub(super) const HELD_MAX: Duration = Duration::from_secs(300);
/// The pause of an event whose dependency does not count as away yet.
const UNSURE: Duration = Duration::from_millis(500);

/// The reason that an event is held back, and the time after which it is looked at again.
pub(super) struct Hold {
    pub(super) reason: WaitReason,
    pub(super) message: String,
    until: Option<Duration>,
}

impl Hold {
    /// The failure as which an event is parked that is held back: nothing is charged to it.
    pub(super) fn failure(&self, tx: &Tx) -> Failure<'_> {
        Failure { fate: self.fate(tx), message: &self.message, attempts: 0 }
    }

    /// The future of an event that is held back.
    pub(super) fn fate(&self, tx: &Tx) -> Fate {
        Fate::Waits(self.reason, self.until.map(|until| tx.now() + until))
    }
}

impl Pipeline {
    /// True if some events may be held back: looked at for every batch.
    pub(super) fn may_hold(&self) -> bool {
        self.dependencies.is_any_failing() || self.store.pauses().hold_events()
    }

    /// The events of a batch that are held back.
    pub(super) fn holds(&self, batch: &Batch, items: &[usize]) -> HashMap<usize, Hold> {
        match self.may_hold() {
            true => {
                items.iter().filter_map(|&item| Some((item, self.hold(&batch.items[item], None)?))).collect()
            }
            false => HashMap::new(),
        }
    }

    /// Parks an event that is held back although it is its turn.
    pub(super) async fn hold_back(
        &self,
        tx: &mut Tx,
        item: &Item,
        hold: &Hold,
    ) -> Result<Resolution, HandlerError> {
        let failure = hold.failure(tx);
        let group = &self.subscription.group;
        let is_new = parked::keep(tx, group, &item.record, item.metadata.as_deref(), &failure).await?;
        Ok(if is_new { Resolution::Parked } else { Resolution::Duplicate })
    }

    /// The reason that an event is held back, if it is; `parked` is its row, if it has one.
    pub(super) fn hold(&self, item: &Item, parked: Option<i64>) -> Option<Hold> {
        let metadata = item.metadata.as_ref().filter(|_| matches!(item.task, Task::Handle))?;
        let event_type = metadata.delivery.event_type;
        let (topic, key) = (&item.record.topic, &metadata.key);
        if let Some(pause) = self.store.pauses().of_event(topic, event_type, key) {
            let message = format!("{} paused it: {}", pause.by.actor, pause.by.reason);
            return Some(Hold { reason: WaitReason::Paused, message, until: None });
        }
        let name = self.dependencies.holds(event_type, parked)?;
        Some(Hold {
            reason: WaitReason::Dependency,
            message: HandlerError::Dependency(name).to_string(),
            until: Some(HELD_MAX),
        })
    }

    /// The hold of an event whose handler has named a dependency that is away.
    pub(super) fn hold_for(&self, e: &HandlerError, item: &Item) -> Option<Hold> {
        let HandlerError::Dependency(name) = e else { return None };
        let metadata = item.metadata.as_ref().filter(|_| *name != THE_DATABASE)?;
        let event_type = metadata.delivery.event_type;
        let (is_away, is_new) =
            self.dependencies.failed(name, event_type, &metadata.id, Instant::now(), jitter());
        if is_away {
            let away = format!("{e}; events that need it wait, one at a time asks");
            self.health.waits(Loop::Depend, Reason::Away, &away);
        }
        if is_new {
            tracing::warn!(
                dependency = name,
                event_type,
                "a dependency is away; the events that need it wait"
            );
        }
        let until = Some(if is_away { HELD_MAX } else { UNSURE });
        Some(Hold { reason: WaitReason::Dependency, message: e.to_string(), until })
    }

    /// Puts a parked event off that is held back.
    pub(super) async fn put_off(&self, tx: &mut Tx, parked: &Parked, hold: &Hold) -> Result<(), Error> {
        let failure = Failure { fate: hold.fate(tx), message: &hold.message, attempts: parked.attempts };
        parked::fail_again(tx, &self.subscription.group, parked, &failure).await
    }

    /// Takes note that events of these types were handled: what waited for a dependency that is back becomes due.
    pub(super) async fn have_handled(&self, types: impl IntoIterator<Item = &str>) -> Result<(), Error> {
        let back = self.dependencies.handled(types);
        if back.is_empty() {
            return Ok(());
        }
        tracing::info!(dependencies = ?back, "dependencies are back; the events that waited for them go on");
        if self.dependencies.away().is_empty() {
            self.health.goes_on(Loop::Depend);
        }
        parked::release_all(&self.store, WaitReason::Dependency).await
    }

    /// Has one event of each dependency that may be back ask for it.
    pub(super) async fn probe_dependencies(&self) -> Result<(), Error> {
        for (name, types) in self.dependencies.to_probe(Instant::now()) {
            let types: Vec<String> =
                types.iter().map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
            let sql = format!(
                "UPDATE parked SET due_us = $1 WHERE id = (
                     SELECT id FROM parked WHERE consumer = $2 AND state = 'waiting' AND error_code = 'dependency'
                     AND event_type IN ({}) ORDER BY last_failed_us, id LIMIT 1) RETURNING id",
                types.join(", ")
            );
            let mut tx = self.store.begin().await?;
            let now = tx.now();
            let rows = tx.query(&sql, params![now, &*self.subscription.group]).await?;
            tx.commit().await?;
            match rows.first() {
                Some(row) => self.dependencies.probes(name, row.get(0)?),
                // Nothing waits for it: the next event that comes finds out.
                None => self.dependencies.forget(name),
            }
        }
        if self.dependencies.away().is_empty() {
            self.health.goes_on(Loop::Depend);
        }
        Ok(())
    }
}
