//! The flood breaker: a handler that fails on everything must not drain a topic into the dead letters.

use std::sync::Mutex;

use super::{Pipeline, Resolution};
use crate::error::Error;
use crate::panic::lock;
use crate::store::audit::Operator;
use crate::store::pauses::{self, Scope};
use crate::subscription::FloodLimits;

/// The actor of a pause that no operator made.
const ACTOR: &str = "tidings";
/// Events of which the share of dead letters is taken: of fewer it says nothing.
const SHARE_OF: u32 = 1000;

/// The dead letters of late, and the events that were handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    in_a_row: u64,
    /// Handled or dead; halved when it reaches twice [`SHARE_OF`].
    ended: u32,
    dead: u32,
}

impl Tally {
    /// The tally after one more event has ended.
    pub(super) fn after(self, resolution: Resolution) -> Self {
        let Self { in_a_row, ended, dead } = match self.ended {
            ended if ended >= 2 * SHARE_OF => Self { ended: ended / 2, dead: self.dead / 2, ..self },
            _ => self,
        };
        match resolution {
            Resolution::Handled => Self { in_a_row: 0, ended: ended + 1, dead },
            Resolution::Dead => Self { in_a_row: in_a_row + 1, ended: ended + 1, dead: dead + 1 },
            _ => self,
        }
    }

    /// The tally if so many more were dead.
    fn with(self, dead: u64) -> Self {
        let more = u32::try_from(dead).unwrap_or(u32::MAX);
        Self {
            in_a_row: self.in_a_row + dead,
            ended: self.ended.saturating_add(more),
            dead: self.dead.saturating_add(more),
        }
    }

    /// The reason to pause, if there is one.
    pub(super) fn flood(&self, limits: FloodLimits) -> Option<String> {
        let Self { in_a_row, ended, dead } = *self;
        if in_a_row >= limits.in_a_row {
            return Some(format!("{in_a_row} events in a row were dead letters"));
        }
        let is_over =
            ended >= SHARE_OF && u64::from(dead) * 100 > u64::from(ended) * u64::from(limits.percent);
        is_over.then(|| format!("{dead} of the last {ended} events were dead letters"))
    }
}

/// The tally of a service, which pauses it when there are too many.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    deaths: Mutex<Deaths>,
    /// Held by who pauses the service: one is enough.
    pausing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Deaths {
    tally: Tally,
    /// Events that may be dead when the transactions that are under way commit.
    expected: u64,
    /// The service was paused for them: what is under way ends, whether or not an operator has resumed it meanwhile.
    has_paused: bool,
}

impl Flood {
    /// The tally so far.
    pub(super) fn tally(&self) -> Tally {
        lock(&self.deaths).tally
    }

    /// Takes note of the ends of events whose transaction is committed.
    pub(super) fn note(&self, resolutions: impl IntoIterator<Item = Resolution>) {
        let mut deaths = lock(&self.deaths);
        deaths.tally = resolutions.into_iter().fold(deaths.tally, Tally::after);
    }

    /// The events that may be dead when a transaction commits; dropped once it has.
    pub(super) fn expect(&self) -> Expected<'_> {
        Expected { flood: self, own: 0 }
    }

    /// Forgets what was: a service that is resumed may have as many again.
    pub(crate) fn forget(&self) {
        let mut deaths = lock(&self.deaths);
        (deaths.tally, deaths.has_paused) = (Tally::default(), false);
    }
}

/// The events of a transaction that may be dead when it commits: others count them, so that all together are no more
/// than may be.
pub(super) struct Expected<'a> {
    flood: &'a Flood,
    own: u64,
}

impl Expected<'_> {
    /// Takes note that one more may be dead after the transaction's events that have ended so far, unless there are too
    /// many already, with those that others expect.
    pub(super) fn may_be_dead(
        &mut self,
        so_far: impl IntoIterator<Item = Resolution>,
        limits: FloodLimits,
    ) -> bool {
        let mut deaths = lock(&self.flood.deaths);
        let tally = so_far.into_iter().fold(deaths.tally, Tally::after);
        let may = tally.with(deaths.expected - self.own).flood(limits).is_none();
        if may {
            deaths.expected += 1;
            self.own += 1;
        }
        may
    }

    /// Takes note that the last one is not dead.
    pub(super) fn is_not_dead(&mut self) {
        lock(&self.flood.deaths).expected -= 1;
        self.own -= 1;
    }

    /// Takes note of the ends of events; false if there are too many dead letters among them.
    pub(super) fn may_end(&mut self, resolutions: &[Option<Resolution>], limits: FloodLimits) -> bool {
        let mut deaths = lock(&self.flood.deaths);
        let (mut tally, others) = (deaths.tally, deaths.expected - self.own);
        for resolution in resolutions.iter().flatten() {
            if *resolution == Resolution::Dead {
                if tally.with(others).flood(limits).is_some() {
                    return false;
                }
                deaths.expected += 1;
                self.own += 1;
            }
            tally = tally.after(*resolution);
        }
        true
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        lock(&self.flood.deaths).expected -= self.own;
    }
}

impl Pipeline {
    /// True if the service is paused, or was for a flood that its consumer has not heard of yet.
    fn has_paused(&self) -> bool {
        self.store.pauses().of_service().is_some() || lock(&self.flood.deaths).has_paused
    }

    /// Pauses the service if too many events were dead letters; says whether it is paused, by whomever.
    pub(super) async fn is_paused(&self) -> Result<bool, Error> {
        if self.has_paused() {
            return Ok(true);
        }
        let Some(reason) = self.flood.tally().flood(self.subscription.flood) else { return Ok(false) };
        let _pausing = self.flood.pausing.lock().await;
        if self.has_paused() {
            return Ok(true);
        }
        tracing::error!(reason, "too many dead letters: the service is paused until an operator resumes it");
        let by = Operator { actor: ACTOR.to_owned(), reason };
        pauses::pause(&self.store, Scope::Service, "", &by).await?;
        lock(&self.flood.deaths).has_paused = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FloodLimits = FloodLimits { in_a_row: 10, percent: 25 };

    /// The reason to pause after so many repeats of a pattern: `d` is a dead letter, `h` is handled, `p` is parked.
    fn flood_after(pattern: &str, repeats: usize) -> Option<String> {
        let ends = pattern.chars().map(|end| match end {
            'd' => Resolution::Dead,
            'h' => Resolution::Handled,
            _ => Resolution::Parked,
        });
        let ends: Vec<Resolution> = ends.collect();
        ends.repeat(repeats).into_iter().fold(Tally::default(), Tally::after).flood(LIMITS)
    }

    #[test]
    fn dead_letters_in_a_row_are_a_flood_and_a_handled_event_ends_the_row() {
        assert_eq!(flood_after("d", 9), None);
        assert_eq!(flood_after("d", 10).as_deref(), Some("10 events in a row were dead letters"));
        assert_eq!(flood_after("dddddddddhddddddddd", 1), None);
        assert!(flood_after("dp", 10).is_some(), "a parked event says nothing");
    }

    #[test]
    fn too_large_a_share_is_a_flood_though_others_are_handled() {
        assert_eq!(flood_after("hd", 499), None, "too few to say");
        assert_eq!(flood_after("hd", 500).as_deref(), Some("500 of the last 1000 events were dead letters"));
        assert_eq!(flood_after("hhhd", 5000), None, "a quarter is not more than a quarter");
        assert!(flood_after("hhdhhd", 5000).is_some());
    }

    #[test]
    fn transactions_side_by_side_have_no_more_dead_letters_than_one() {
        let flood = Flood::default();
        let (mut one, mut other) = (flood.expect(), flood.expect());
        let dead = |count| vec![Resolution::Dead; count];
        let ends = |count| vec![Some(Resolution::Dead); count];
        (0..6).for_each(|own| assert!(one.may_be_dead(dead(own), LIMITS)));
        assert!(other.may_end(&ends(3), LIMITS));
        assert!(one.may_be_dead(dead(6), LIMITS));
        assert!(!one.may_be_dead(dead(7), LIMITS), "the other has the last three");
        flood.note(dead(3));
        drop(other);
        assert!(!one.may_be_dead(dead(7), LIMITS), "and they are committed now");
        one.is_not_dead();
        assert!(one.may_be_dead(dead(6), LIMITS));
        drop(one);
        assert!(flood.expect().may_end(&ends(7), LIMITS), "its seven came to nothing");
        assert!(!flood.expect().may_end(&ends(8), LIMITS));
    }

    #[test]
    fn the_share_is_of_late() {
        let long_ago = std::iter::repeat_n(Resolution::Handled, 1_000_000);
        let now = ["d", "h"].repeat(1500).into_iter().map(|end| match end {
            "d" => Resolution::Dead,
            _ => Resolution::Handled,
        });
        let tally = long_ago.chain(now).fold(Tally::default(), Tally::after);
        assert!(tally.flood(LIMITS).is_some(), "{tally:?}");
    }
}
