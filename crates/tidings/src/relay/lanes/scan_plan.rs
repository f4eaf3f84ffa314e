//! The plan of scans: the time of the next read of the table, and how much of it is read. Pure: the caller passes the
//! time.
//!
//! While there is more than a scan finds, the next one goes on behind it, and need not read again what is in memory.
//! It may miss what was committed late, with a lower id; so it is trusted no more than what is handed over, and every
//! now and then the whole set is scanned all the same.

use std::time::Duration;

use tokio::time::Instant;

use super::admission::Origin;

/// Rows read from the table at once: half of what may be in memory, so that they come while others go.
pub(super) const SCAN_MAX: usize = super::super::IN_MEMORY_MAX / 2;
/// The interval at which the whole set is scanned, however much there is.
const WHOLE_EVERY: Duration = Duration::from_secs(5);
/// The time, after a scan that missed something, in which only the whole set is scanned: there may be more of that
/// kind.
const WHOLE_FOR: Duration = Duration::from_secs(1);
/// The pause between scans while other processes write too: short while scans find events that were not handed over
/// here, longer and longer while they do not. A process that is alone scans for safety only.
const EVERY_MIN: Duration = Duration::from_millis(10);
const EVERY_MAX: Duration = Duration::from_millis(500);
/// Pause after a scan that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The time of the next scan of the table, and the place where it begins.
#[derive(Debug)]
pub(super) struct ScanPlan {
    at: Instant,
    every: Duration,
    /// The highest id of a scan that did not find everything.
    behind: Option<i64>,
    /// From here on, and until there, nothing less than the whole set is scanned.
    whole_at: Instant,
    whole_until: Instant,
    is_alone: bool,
}

impl ScanPlan {
    /// Begins with the whole set.
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, every: EVERY_MIN, behind: None, whole_at: now, whole_until: now, is_alone: false }
    }

    /// The time of the next scan.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// The scan that is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Origin> {
        if now < self.at {
            return None;
        }
        match self.behind {
            Some(id) if (self.whole_until..self.whole_at).contains(&now) => Some(Origin::Behind(id)),
            _ => {
                self.whole_at = now + WHOLE_EVERY;
                Some(Origin::WholeSet)
            }
        }
    }

    /// Takes note of the result of a scan: `count` rows, the last with `last_id`.
    pub(super) fn found(&mut self, now: Instant, count: usize, last_id: Option<i64>) {
        self.every = match count {
            _ if self.is_alone => EVERY_MAX,
            0 => (self.every * 2).min(EVERY_MAX),
            _ => EVERY_MIN,
        };
        let is_all = count < SCAN_MAX;
        self.at = if is_all { now + self.every } else { now };
        self.behind = last_id.filter(|_| !is_all);
    }

    /// Takes note that a scan failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.at = now + TRY_AGAIN;
    }

    /// Takes note that something was missed before an event from there.
    pub(super) fn missed(&mut self, now: Instant, origin: Origin) {
        self.at = now;
        if origin != Origin::HandedOver {
            self.whole_until = now + WHOLE_FOR;
        }
    }

    /// Has the table scanned now: not everything was handed over.
    pub(super) fn scan_now(&mut self, now: Instant) {
        self.at = now;
    }

    /// Has the whole set scanned now: other lanes, or streams to be tried again.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.at = now;
        self.behind = None;
    }

    /// Takes note whether other processes relay too.
    pub(super) fn set_alone(&mut self, is_alone: bool) {
        self.is_alone = is_alone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the scans that are due at each of these times, in milliseconds since `began`.
    fn scans(plan: &mut ScanPlan, began: Instant, times: &[u64]) -> Vec<Option<Origin>> {
        times.iter().map(|ms| plan.next(began + Duration::from_millis(*ms))).collect()
    }

    #[test]
    fn it_begins_with_the_whole_set_and_goes_on_behind_what_it_found() {
        let began = Instant::now();
        let mut plan = ScanPlan::new(began);
        assert_eq!(plan.next(began), Some(Origin::WholeSet));
        plan.found(began, SCAN_MAX, Some(17));
        assert_eq!(scans(&mut plan, began, &[0, 4999]), [Some(Origin::Behind(17)); 2]);
        assert_eq!(plan.next(began + WHOLE_EVERY), Some(Origin::WholeSet), "now and then all the same");
    }

    #[test]
    fn scans_that_find_nothing_become_rare_and_one_that_finds_something_does_not() {
        let began = Instant::now();
        let mut plan = ScanPlan::new(began);
        let pauses: Vec<u128> = [0, 0, 0, 0, 0, 0, 0, 3]
            .map(|count| {
                plan.found(began, count, Some(1));
                (plan.at() - began).as_millis()
            })
            .into();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500, 10]);
        plan.set_alone(true);
        plan.found(began, 3, Some(1));
        assert_eq!(plan.at() - began, EVERY_MAX);
        assert_eq!(scans(&mut plan, began, &[499, 500]), [None, Some(Origin::WholeSet)]);
    }

    #[test]
    fn what_was_missed_is_looked_for_in_the_whole_set() {
        let began = Instant::now();
        let mut plan = ScanPlan::new(began);
        plan.next(began);
        plan.found(began, SCAN_MAX, Some(17));
        plan.missed(began, Origin::HandedOver);
        assert_eq!(plan.next(began), Some(Origin::Behind(17)), "it may stand there");
        plan.missed(began, Origin::Behind(17));
        assert_eq!(scans(&mut plan, began, &[0, 999]), [Some(Origin::WholeSet); 2]);
        plan.found(began, SCAN_MAX, Some(18));
        assert_eq!(scans(&mut plan, began, &[1000]), [Some(Origin::Behind(18))]);
    }

    #[test]
    fn after_a_failure_it_waits_and_with_other_lanes_it_begins_anew() {
        let began = Instant::now();
        let mut plan = ScanPlan::new(began);
        plan.failed(began);
        assert_eq!(scans(&mut plan, began, &[999, 1000]), [None, Some(Origin::WholeSet)]);
        plan.found(began, SCAN_MAX, Some(17));
        plan.begin_anew(began);
        assert_eq!(plan.next(began), Some(Origin::WholeSet));
    }
}
