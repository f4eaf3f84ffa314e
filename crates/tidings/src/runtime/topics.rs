//! The check that the topics are what a service was written for: at the start, and again at intervals.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, TopicSpec};
use crate::error::Error;
use crate::health::{Health, Loop, Reason};
use crate::params;
use crate::store::Store;

/// The interval at which topics are looked at while the service runs: a topic that was deleted and created again is
/// read at the wrong place for no longer.
const EVERY: Duration = Duration::from_secs(10);

/// Tells whether every store has seen the topics of these specs before.
pub(crate) async fn are_known(stores: &[Store], specs: &[TopicSpec]) -> Result<bool, Error> {
    let mut known = HashSet::new();
    for store in stores {
        for row in store.query("SELECT name FROM topic", &[]).await? {
            known.insert(row.get::<String>(0)?);
        }
    }
    Ok(specs.iter().all(|spec| known.contains(&*spec.name)))
}

/// Refuses topics that are missing, or that have another number of partitions than when they were first
/// seen: a key would live elsewhere, and its events overtake each other.
pub(crate) async fn verify(store: &Store, broker: &Broker, topics: &[String]) -> Result<(), Error> {
    let found = broker.topics().await?;
    let known: HashMap<String, u32> = store
        .query("SELECT name, partitions FROM topic", &[])
        .await?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect::<Result<_, Error>>()?;
    for topic in topics {
        let Some(found) = found.iter().find(|found| found.name == *topic) else {
            return Err(Error::refused(format!(
                "there is no topic {topic}; make it with: topics apply (or start with --apply-topics)"
            )));
        };
        match known.get(topic) {
            Some(before) if *before != found.partitions => {
                return Err(Error::config(format!(
                    "topic {topic} had {before} partitions and has {} now, so keys have moved; go on with a new topic, or take the new number as docs/kafka.md says (\"More partitions\")",
                    found.partitions
                )));
            }
            Some(_) => {}
            None => {
                let mut tx = store.begin().await?;
                tx.execute(
                    "INSERT INTO topic (name, partitions) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
                    params![topic, found.partitions],
                )
                .await?;
                tx.commit().await?;
            }
        }
    }
    Ok(())
}

/// Remembers which topics a group has read, so that it is noticed when its offsets are gone.
async fn remember_handled(
    store: &Store,
    broker: &Broker,
    group: &str,
    written: &mut BTreeMap<Arc<str>, i64>,
) -> Result<(), Error> {
    let handled = broker.handled_until(group);
    if handled == *written {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    for (topic, latest_us) in &handled {
        tx.execute(
            "UPDATE topic SET handled_us = $1 WHERE name = $2 AND (handled_us IS NULL OR handled_us < $1)",
            params![*latest_us, &**topic],
        )
        .await?;
    }
    tx.commit().await?;
    *written = handled;
    Ok(())
}

/// Reports topics that were deleted and created again, or had their offsets deleted, while the service did not read
/// them: what was not handled by then is gone, and nothing else would tell.
pub(crate) async fn tell_lost(
    store: &Store,
    broker: &Broker,
    group: &str,
    topics: &[String],
) -> Result<(), Error> {
    let rows = store.query("SELECT name, handled_us FROM topic WHERE handled_us IS NOT NULL", &[]).await?;
    let handled: HashMap<String, i64> =
        rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect::<Result<_, Error>>()?;
    let read: Vec<String> = topics.iter().filter(|topic| handled.contains_key(*topic)).cloned().collect();
    if read.is_empty() {
        return Ok(());
    }
    for topic in broker.without_offsets(group, &read).await? {
        let until = jiff::Timestamp::from_microsecond(handled[&topic]);
        let until = until.map_or_else(|e| e.to_string(), |time| time.to_string());
        tracing::error!(
            topic,
            group,
            "this topic was made anew since it was read, or the offsets of its group were deleted: it is read from its beginning, and of the one before, what came after {until} may never have been handled"
        );
        let mut tx = store.begin().await?;
        tx.execute("UPDATE topic SET handled_us = NULL WHERE name = $1", params![&topic]).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Looks every while; ends when stopped, or with what is wrong.
pub(crate) async fn watch(
    store: &Store,
    broker: &Broker,
    group: &str,
    topics: &[String],
    health: &Health,
    stop: &CancellationToken,
) -> Option<Error> {
    let mut written = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return None,
        }
        let verified = async {
            verify(store, broker, topics).await?;
            broker.verify_read(group).await?;
            remember_handled(store, broker, group, &mut written).await
        };
        match verified.await {
            Ok(()) => health.goes_on(Loop::Topics),
            Err(e) if e.is_config() => return Some(e),
            Err(e) if e.is_unavailable() => health.waits(Loop::Topics, Reason::Away, &e),
            // A topic is missing, perhaps for a while: what goes there waits.
            Err(e) => health.waits(Loop::Topics, Reason::Ours, &e),
        }
    }
}

/// Warns of topics that lose events; says nothing while the broker is away.
pub(crate) async fn warn(broker: Broker, specs: Vec<TopicSpec>) {
    for loss in broker.losses(&specs).await.unwrap_or_default() {
        tracing::warn!("{loss}");
    }
}
