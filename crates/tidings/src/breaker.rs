//! A breaker for each provider of effects: while it is down, one effect at a time asks, and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Different effects that fail one after the other before it opens: one bad effect is no outage.
const FAILING_MIN: usize = 5;
/// Pause before the first probe; each further one doubles it.
const PROBE_MIN: Duration = Duration::from_millis(500);
/// No pause is longer: what waits goes on within seconds of the provider's return.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// The state of one provider. Pure: the caller passes the time.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// Keys of effects that failed since the last success.
    failing: BTreeSet<String>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    probe_at: Instant,
    pause: Duration,
    is_probing: bool,
    probes: u32,
}

/// The answer to an effect that wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The provider is fine.
    Open,
    /// One effect may ask whether it is back.
    Probe,
    /// It is down.
    Shut,
}

/// The choice of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    TriedMost,
    WaitedLongest,
}

impl Breaker {
    /// The answer at this moment; changes nothing.
    pub(crate) fn gate(&self, now: Instant) -> Gate {
        match &self.open {
            None => Gate::Open,
            Some(open) if !open.is_probing && now >= open.probe_at => Gate::Probe,
            Some(_) => Gate::Shut,
        }
    }

    /// The moment from which a probe may ask; none while one does, and while the provider is fine.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.open.as_ref().filter(|open| !open.is_probing).map(|open| open.probe_at)
    }

    /// Takes note that an effect has begun as the probe.
    pub(crate) fn probes(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_probing = true;
            open.probes += 1;
        }
    }

    /// The effect that is to be the next probe: now the one that was tried most, now the one that has waited
    /// longest. An effect that fails a few times by itself gets its tries, one that always does stops no other.
    pub(crate) fn next_probe(&self) -> Probe {
        match &self.open {
            Some(open) if open.probes % 2 == 1 => Probe::TriedMost,
            _ => Probe::WaitedLongest,
        }
    }

    /// Takes note that an effect ended without a call of the provider: if it was the probe, there is to be another.
    pub(crate) fn asked_nobody(&mut self, now: Instant) {
        if let Some(open) = self.open.as_mut().filter(|open| open.is_probing) {
            open.is_probing = false;
            open.probe_at = now + open.pause;
        }
    }

    /// Takes note of a success; returns whether the provider is back.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.failing.clear();
        self.open.take().is_some()
    }

    /// Takes note of a failure; `jitter` in 0..=1 spreads the probes of instances. Returns whether the provider
    /// counts as down now.
    pub(crate) fn failed(&mut self, key: &str, now: Instant, jitter: f64) -> bool {
        if let Some(open) = &mut self.open {
            // Effects that were under way when it opened say nothing new.
            if open.is_probing {
                open.is_probing = false;
                open.pause = (open.pause * 2).min(PROBE_MAX);
                open.probe_at = now + open.pause.mul_f64(0.5 + jitter / 2.0);
            }
            return true;
        }
        if self.failing.len() < FAILING_MIN {
            self.failing.insert(key.to_owned());
        }
        if self.failing.len() >= FAILING_MIN {
            let probe_at = now + PROBE_MIN.mul_f64(0.5 + jitter / 2.0);
            self.open = Some(Open { probe_at, pause: PROBE_MIN, is_probing: false, probes: 0 });
        }
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_effects_that_fail_open_it_and_one_that_succeeds_closes_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            assert!(!breaker.failed("a", now, 1.0), "one bad effect is no outage");
        }
        let opened: Vec<bool> = ["b", "c", "d", "e"].map(|key| breaker.failed(key, now, 1.0)).to_vec();
        assert_eq!(opened, [false, false, false, true]);
        assert_eq!(breaker.gate(now), Gate::Shut);
        assert_eq!(breaker.gate(now + PROBE_MIN), Gate::Probe);
        breaker.probes();
        assert_eq!(breaker.gate(now + PROBE_MAX), Gate::Shut, "one at a time");
        assert!(breaker.succeeded());
        assert_eq!(breaker.gate(now), Gate::Open);
        assert!(!breaker.failed("a", now, 1.0), "it counts anew");
    }

    #[test]
    fn a_probe_that_asked_nobody_is_followed_by_another() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for key in ["a", "b", "c", "d", "e"] {
            breaker.failed(key, now, 1.0);
        }
        breaker.asked_nobody(now);
        assert_eq!(breaker.gate(now + PROBE_MIN), Gate::Probe, "of others it says nothing");
        breaker.probes();
        assert_eq!(breaker.gate(now + PROBE_MAX), Gate::Shut);
        breaker.asked_nobody(now + PROBE_MAX);
        assert_eq!(breaker.gate(now + 2 * PROBE_MAX), Gate::Probe);
    }

    #[test]
    fn pauses_between_probes_double_up_to_a_few_seconds() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for key in ["a", "b", "c", "d", "e"] {
            breaker.failed(key, now, 1.0);
        }
        let (mut pauses, mut choices) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let shut = now;
            while breaker.gate(now) == Gate::Shut {
                now += Duration::from_millis(100);
            }
            pauses.push((now - shut).as_millis());
            choices.push(breaker.next_probe());
            breaker.probes();
            assert!(breaker.failed("f", now, 1.0));
        }
        assert_eq!(choices[..3], [Probe::WaitedLongest, Probe::TriedMost, Probe::WaitedLongest]);
        assert_eq!(pauses, [500, 1000, 2000, 2000, 2000, 2000]);
    }
}
