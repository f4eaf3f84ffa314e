//! Dependencies that handlers name: one that is away holds back the events of the handlers that need it, and no others.
//! One event at a time asks whether it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use crate::breaker::{Breaker, Gate};
use crate::panic::lock;
use crate::status::AwayDependency;

/// The dependencies that handlers of a service have named, while they are away or may be.
#[derive(Default)]
pub(crate) struct Dependencies {
    /// True if some have failed since they last answered: looked at for every event.
    is_any_failing: AtomicBool,
    named: Mutex<BTreeMap<&'static str, Dependency>>,
}

#[derive(Default)]
struct Dependency {
    breaker: Breaker,
    /// Types of events whose handlers have named it.
    types: BTreeSet<&'static str>,
    /// The parked event that asks whether it is back.
    probe: Option<i64>,
    since: Option<Instant>,
}

impl Dependencies {
    /// Takes note that an event's handler could not do without a dependency; `jitter` in 0..=1 spreads the probes of
    /// instances. Says whether it counts as away now, and whether that is new.
    pub(crate) fn failed(
        &self,
        name: &'static str,
        event_type: &'static str,
        event: &str,
        now: Instant,
        jitter: f64,
    ) -> (bool, bool) {
        let mut named = lock(&self.named);
        let dependency = named.entry(name).or_default();
        let was_away = dependency.since.is_some();
        dependency.types.insert(event_type);
        dependency.probe = None;
        let is_away = dependency.breaker.failed(event, now, jitter);
        if is_away && !was_away {
            dependency.since = Some(now);
        }
        self.is_any_failing.store(true, Ordering::Relaxed);
        (is_away, is_away && !was_away)
    }

    /// True if some have failed since they last answered.
    pub(crate) fn is_any_failing(&self) -> bool {
        self.is_any_failing.load(Ordering::Relaxed)
    }

    /// The dependency that holds events of a type back; `parked` is the event's row, if it has one: the probe goes on.
    pub(crate) fn holds(&self, event_type: &str, parked: Option<i64>) -> Option<&'static str> {
        if !self.is_any_failing() {
            return None;
        }
        let named = lock(&self.named);
        let holds = |dependency: &Dependency| {
            dependency.since.is_some()
                && dependency.types.contains(event_type)
                && (parked.is_none() || dependency.probe != parked)
        };
        named.iter().find(|(_, dependency)| holds(dependency)).map(|(name, _)| *name)
    }

    /// Takes note that events of these types were handled; returns the dependencies that are back.
    pub(crate) fn handled<'a>(&self, types: impl IntoIterator<Item = &'a str>) -> Vec<&'static str> {
        if !self.is_any_failing() {
            return Vec::new();
        }
        let mut named = lock(&self.named);
        let mut back = Vec::new();
        for event_type in types {
            named.retain(|name, dependency| {
                let answers = dependency.types.contains(event_type);
                if answers && dependency.breaker.succeeded() {
                    back.push(*name);
                }
                !answers
            });
        }
        self.is_any_failing.store(!named.is_empty(), Ordering::Relaxed);
        back
    }

    /// Forgets a dependency that no event waits for any more.
    pub(crate) fn forget(&self, name: &str) {
        let mut named = lock(&self.named);
        named.remove(name);
        self.is_any_failing.store(!named.is_empty(), Ordering::Relaxed);
    }

    /// The dependencies that may be asked now whether they are back, each with the types that need it.
    pub(crate) fn to_probe(&self, now: Instant) -> Vec<(&'static str, Vec<&'static str>)> {
        let named = lock(&self.named);
        let due = named.iter().filter(|(_, dependency)| dependency.breaker.gate(now) == Gate::Probe);
        due.map(|(name, dependency)| (*name, dependency.types.iter().copied().collect())).collect()
    }

    /// Takes note that a parked event asks whether a dependency is back.
    pub(crate) fn probes(&self, name: &str, parked: i64) {
        if let Some(dependency) = lock(&self.named).get_mut(name) {
            dependency.breaker.probes();
            dependency.probe = Some(parked);
        }
    }

    /// The next moment at which one may be asked.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        if !self.is_any_failing() {
            return None;
        }
        lock(&self.named).values().filter_map(|dependency| dependency.breaker.probe_at()).min()
    }

    /// Those that are away.
    pub(crate) fn away(&self) -> Vec<AwayDependency> {
        let named = lock(&self.named);
        let away = named.iter().filter_map(|(name, dependency)| {
            let seconds = dependency.since?.elapsed().as_secs();
            Some(AwayDependency { name, types: dependency.types.iter().copied().collect(), seconds })
        });
        away.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_dependency_holds_back_only_who_named_it_and_one_event_asks_for_it() {
        let (dependencies, now) = (Dependencies::default(), Instant::now());
        let failed = |event: &str| dependencies.failed("printer", "a.v1", event, now, 1.0);
        let away: Vec<(bool, bool)> = ["1", "2", "3", "4", "5", "6"].map(failed).to_vec();
        assert_eq!(away[3..], [(false, false), (true, true), (true, false)]);
        assert_eq!(dependencies.holds("a.v1", None), Some("printer"));
        assert_eq!(dependencies.holds("b.v1", None), None);
        assert_eq!(dependencies.to_probe(now), []);
        let later = now + Duration::from_secs(1);
        assert_eq!(dependencies.to_probe(later), [("printer", vec!["a.v1"])]);
        dependencies.probes("printer", 7);
        assert_eq!(dependencies.to_probe(later), [], "one at a time");
        assert_eq!(dependencies.holds("a.v1", Some(7)), None);
        assert_eq!(dependencies.holds("a.v1", Some(8)), Some("printer"));
        assert_eq!(dependencies.handled(["b.v1"]), [""; 0]);
        assert_eq!(dependencies.handled(["a.v1"]), ["printer"]);
        assert_eq!(dependencies.holds("a.v1", None), None);
    }
}
