//! The breakers of all providers.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::breaker::{Breaker, Gate};

/// A breaker for each provider; a provider without one counts as open.
#[derive(Default)]
pub(super) struct Breakers(BTreeMap<&'static str, Breaker>);

impl Breakers {
    pub(super) fn of(&mut self, provider: &'static str) -> &mut Breaker {
        self.0.entry(provider).or_default()
    }

    pub(super) fn gate(&self, provider: &str, now: Instant) -> Gate {
        self.0.get(provider).map_or(Gate::Open, |breaker| breaker.gate(now))
    }

    pub(super) fn all_are_open(&self, now: Instant) -> bool {
        self.0.values().all(|breaker| breaker.gate(now) == Gate::Open)
    }

    pub(super) fn that_probe(&self, now: Instant) -> Vec<&'static str> {
        self.0.iter().filter(|(_, breaker)| breaker.gate(now) == Gate::Probe).map(|(p, _)| *p).collect()
    }
}
