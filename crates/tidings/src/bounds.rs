//! The bounds on what may wait in a service, and what follows when one is reached: requests that write are refused,
//! and no more events are read, until there is room again.
//!
//! The figures are looked at from time to time, the more often the nearer a bound is; a request reads one number in
//! memory. A bound that was reached counts until there is room of a fifth, so that nothing flaps.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use strum::{EnumCount, EnumIter, IntoEnumIterator as _, IntoStaticStr};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Loop, Reason};
use crate::panic::lock;

/// Events in the outbox: hours of an outage of the broker, at hundreds of orders a second. What waits costs nothing but
/// its place: about a kilobyte each.
const OUTBOX_ROWS_MAX: u64 = 5_000_000;
/// Effects that should be done by now: hours of a provider's outage. What is not read waits on the topic, safely.
const EFFECTS_MAX: u64 = 1_000_000;
/// Requests that write, at a time: a fifth of the connections is left to those that read and to probes.
const REQUESTS_MAX: u64 = 800;

/// Rows that all instances of a service may write in a second: twice what has been measured.
const GROWTH_MAX: u64 = 100_000;
/// The least and the longest pause between two looks at the figures.
const LOOK_MIN: Duration = Duration::from_millis(100);
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(10);
/// Pause between looks while a bound is reached.
const LOOK_FULL: Duration = Duration::from_millis(250);

/// The most that may wait in a service, where it is not the default. Settings of the program come before it.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::{TestApp, event::NoteTaken};
/// # async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> { tx.publish(note).await }
/// # #[tokio::main] async fn main() -> Result<(), Error> {
/// use tidings::Bounds;
///
/// let notes = Service::new("notes").publishes::<NoteTaken>().post("/notes", take);
/// let app = TestApp::start([notes.bounds(Bounds::new().outbox_rows(1))]).await;
/// let away = app.broker_away();
/// assert_eq!(app.post("/notes", &NoteTaken::new("k", 1)).await.status, 202);
/// app.service("notes").status().await?; // figures are looked at now and then, and when they are shown
/// let refused = app.post("/notes", &NoteTaken::new("k", 2)).await;
/// assert_eq!((refused.status.as_u16(), &refused.body["type"]), (503, &"/problems/overloaded".into()));
/// # drop(away);
/// # Ok(()) }
/// ```
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Requests that write are refused, and nothing is read, while so many events wait for the broker
    /// [env: TIDINGS_OUTBOX_ROWS_MAX] [default: 5000000]
    #[arg(long, value_name = "N", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox_rows_max: Option<u64>,
    /// … or while one has waited for so long; else for however long [env: TIDINGS_OUTBOX_AGE_MAX]
    #[arg(long, value_name = "SECONDS", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox_age_max: Option<u64>,
    /// … or while so many effects are due or fail [env: TIDINGS_EFFECTS_MAX] [default: 1000000]
    #[arg(long, value_name = "N", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    effects_max: Option<u64>,
    /// Requests that write, at a time; one more is refused [env: TIDINGS_REQUESTS_MAX] [default: 800]
    #[arg(long, value_name = "N", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_max: Option<u64>,
}

impl Bounds {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Events that may wait for the broker.
    #[must_use]
    pub fn outbox_rows(self, rows: u64) -> Self {
        Self { outbox_rows_max: Some(rows), ..self }
    }

    /// The time for which one of them may wait.
    #[must_use]
    pub fn outbox_age(self, age: Duration) -> Self {
        Self { outbox_age_max: Some(age.as_secs()), ..self }
    }

    /// Effects that may be due, or fail.
    #[must_use]
    pub fn effects(self, count: u64) -> Self {
        Self { effects_max: Some(count), ..self }
    }

    /// Requests that write, at a time.
    #[must_use]
    pub fn requests(self, count: u64) -> Self {
        Self { requests_max: Some(count), ..self }
    }

    /// These bounds, and `others` where they say nothing.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            outbox_rows_max: self.outbox_rows_max.or(others.outbox_rows_max),
            outbox_age_max: self.outbox_age_max.or(others.outbox_age_max),
            effects_max: self.effects_max.or(others.effects_max),
            requests_max: self.requests_max.or(others.requests_max),
        }
    }

    /// The bounds that are set, by the names of their settings.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("outbox_rows_max", self.outbox_rows_max),
            ("outbox_age_max", self.outbox_age_max),
            ("effects_max", self.effects_max),
            ("requests_max", self.requests_max),
        ]
        .into_iter()
        .filter_map(|(name, bound)| Some((name, bound?)))
    }

    fn of(&self, bound: Bound) -> Option<u64> {
        match bound {
            Bound::OutboxRows => Some(self.outbox_rows_max.unwrap_or(OUTBOX_ROWS_MAX)),
            Bound::OutboxAge => self.outbox_age_max,
            Bound::Effects => Some(self.effects_max.unwrap_or(EFFECTS_MAX)),
            Bound::Requests => Some(self.requests_max.unwrap_or(REQUESTS_MAX)),
        }
        // Without room for one, nothing would ever be done.
        .map(|bound| bound.max(1))
    }
}

/// A bound, as problems, metrics and `/statusz` call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Bound {
    OutboxRows,
    OutboxAge,
    Effects,
    Requests,
}

impl Bound {
    /// The bit that says that it is reached; [`FAR`] above it that it is exceeded by far.
    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn words(self) -> &'static str {
        match self {
            Self::OutboxRows => "events wait for the broker",
            Self::OutboxAge => "seconds one of them has waited",
            Self::Effects => "effects are due or fail",
            Self::Requests => "requests are under way",
        }
    }
}

const FAR: u8 = 4;
const REACHED: u8 = (1 << FAR) - 1;

/// The figures that are bounded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitingFigures {
    /// Events that the broker has not acknowledged.
    pub(crate) outbox_rows: u64,
    /// The age of the oldest one, in seconds.
    pub(crate) outbox_age: u64,
    /// Effects that are due or fail.
    pub(crate) effects: u64,
}

impl WaitingFigures {
    fn of(&self, bound: Bound) -> Option<u64> {
        match bound {
            Bound::OutboxRows => Some(self.outbox_rows),
            Bound::OutboxAge => Some(self.outbox_age),
            Bound::Effects => Some(self.effects),
            Bound::Requests => None,
        }
    }
}

/// The bounds of a service, and which of them are reached.
#[derive(Debug)]
pub(crate) struct Pressure {
    bounds: OnceLock<Bounds>,
    /// A bit for each bound that is reached, and above them one for each that is exceeded by far.
    reached: AtomicU8,
    /// Looks that have begun, and the latest of those that counted: a slow one must not undo a later one.
    begun: AtomicU64,
    latest: Mutex<u64>,
    /// Requests that write.
    under_way: AtomicU64,
    refused: [AtomicU64; Bound::COUNT],
    has_room: watch::Sender<bool>,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            bounds: OnceLock::new(),
            reached: AtomicU8::new(0),
            begun: AtomicU64::new(0),
            latest: Mutex::default(),
            under_way: AtomicU64::new(0),
            refused: Default::default(),
            has_room: watch::Sender::new(true),
        }
    }
}

impl Pressure {
    /// Sets the bounds, once.
    pub(crate) fn set(&self, bounds: Bounds) {
        let _ = self.bounds.set(bounds);
    }

    fn max(&self, bound: Bound) -> Option<u64> {
        self.bounds.get().copied().unwrap_or_default().of(bound)
    }

    /// The count beyond which even what is essential is refused: half as much again.
    fn far(max: u64) -> u64 {
        max.saturating_add(max.div_ceil(2))
    }

    /// The number of rows at which counting may end.
    pub(crate) fn counted_max(&self, bound: Bound) -> u64 {
        self.max(bound).map_or(0, Self::far).min(i64::MAX as u64)
    }

    /// A number for a look whose figures are asked for now.
    pub(crate) fn begin_look(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Compares the figures of a look with the bounds; says so if one is reached, or there is room again.
    pub(crate) fn look(&self, begun: u64, figures: &WaitingFigures, health: &Health) {
        let mut latest = lock(&self.latest);
        if begun < *latest {
            return;
        }
        *latest = begun;
        let before = self.reached.load(Ordering::Relaxed);
        let (mut reached, mut told) = (0, Vec::new());
        for bound in Bound::iter() {
            let (Some(found), Some(max)) = (figures.of(bound), self.max(bound)) else { continue };
            let (bit, far_bit) = (bound.bit(), bound.bit() << FAR);
            if found < max && (before & bit == 0 || found < max - max / 5) {
                continue;
            }
            reached |= bit;
            told.push(format!("{found} {}, of at most {max}", bound.words()));
            // An age says nothing about how much there is.
            let is_far = found >= Self::far(max) || (before & far_bit != 0 && found >= max);
            if is_far && bound != Bound::OutboxAge {
                reached |= far_bit;
            }
        }
        self.reached.store(reached, Ordering::Relaxed);
        self.has_room
            .send_if_modified(|has_room| std::mem::replace(has_room, reached == 0) != (reached == 0));
        match (told.join("; "), reached & !REACHED) {
            (_, 0) if reached == 0 => health.goes_on(Loop::Intake),
            (told, 0) => health.waits(Loop::Intake, Reason::Full, &told),
            (told, _) => health.waits(Loop::Intake, Reason::Closed, &told),
        }
    }

    /// The time for which no bound can be reached, or, while one is, the time after which there may be room.
    pub(crate) fn next_look(&self, figures: &WaitingFigures) -> Duration {
        if self.reached.load(Ordering::Relaxed) != 0 {
            return LOOK_FULL;
        }
        let left = |bound| self.max(bound).map(|max| max.saturating_sub(figures.of(bound).unwrap_or(0)));
        let grown = [Bound::OutboxRows, Bound::Effects].into_iter().filter_map(left);
        let grown = grown.map(|rows| Duration::from_millis(rows.saturating_mul(1000) / GROWTH_MAX));
        let aged = left(Bound::OutboxAge).map(Duration::from_secs);
        grown.chain(aged).min().unwrap_or(LOOK_MAX).clamp(LOOK_MIN, LOOK_MAX)
    }

    /// Lets a request in that writes, or names the bound that is in the way, and counts it.
    pub(crate) fn admit(self: &Arc<Self>, is_essential: bool) -> Result<Admitted, Bound> {
        let reached = self.reached.load(Ordering::Relaxed);
        let bits = if is_essential { reached >> FAR } else { reached & REACHED };
        let full = Bound::iter().find(|bound| bits & bound.bit() != 0);
        let max = self.max(Bound::Requests).unwrap_or(REQUESTS_MAX);
        let max = if is_essential { Self::far(max) } else { max };
        let full = full.or_else(|| {
            let is_taken = self.under_way.fetch_add(1, Ordering::Relaxed) >= max;
            is_taken.then(|| {
                self.under_way.fetch_sub(1, Ordering::Relaxed);
                Bound::Requests
            })
        });
        match full {
            None => Ok(Admitted(self.clone())),
            Some(bound) => {
                self.refused[bound as usize].fetch_add(1, Ordering::Relaxed);
                Err(bound)
            }
        }
    }

    /// Waits while a bound is reached that more work would exceed; says whether it did.
    pub(crate) async fn wait_for_room(&self, stop: &CancellationToken) -> bool {
        if self.reached.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut has_room = self.has_room.subscribe();
        tokio::select! {
            _ = has_room.wait_for(|has_room| *has_room) => {}
            () = stop.cancelled() => {}
        }
        true
    }

    /// Ends when a bound is reached.
    pub(crate) async fn is_full(&self) {
        let _ = self.has_room.subscribe().wait_for(|has_room| !has_room).await;
    }

    /// The bounds that are reached.
    pub(crate) fn full(&self) -> Vec<&'static str> {
        let reached = self.reached.load(Ordering::Relaxed);
        Bound::iter().filter(|bound| reached & bound.bit() != 0).map(Into::into).collect()
    }

    /// The requests that were refused, by the bound that was in the way.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Bound::iter().zip(&self.refused).map(|(bound, count)| (bound.into(), count.load(Ordering::Relaxed)))
    }
}

/// A request that writes and is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Pressure>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounded(bounds: Bounds) -> (Arc<Pressure>, Health) {
        let pressure = Arc::new(Pressure::default());
        pressure.set(bounds);
        (pressure, Health::default())
    }

    fn rows(outbox_rows: u64) -> WaitingFigures {
        WaitingFigures { outbox_rows, ..WaitingFigures::default() }
    }

    #[test]
    fn a_bound_is_reached_exactly_and_stays_so_until_there_is_some_room() {
        let (pressure, health) = bounded(Bounds::new().outbox_rows(10));
        let passes = |found: u64, is_essential: bool| {
            pressure.look(pressure.begin_look(), &rows(found), &health);
            pressure.admit(is_essential).is_ok()
        };
        assert!(passes(9, false), "one below");
        assert!(!passes(10, false) && passes(10, true), "at the bound only what is essential passes");
        assert!(!passes(9, false) && !passes(8, false), "there is hardly room");
        assert!(passes(7, false) && passes(9, false));
        assert!(passes(14, true) && !passes(15, true), "half as much again: nothing passes");
        assert!(!passes(10, true) && passes(9, true));
        assert_eq!(pressure.refused().collect::<Vec<_>>()[0], ("outbox_rows", 5));
    }

    #[test]
    fn a_look_that_took_long_does_not_undo_a_later_one() {
        let (pressure, health) = bounded(Bounds::new().outbox_rows(10));
        let (slow, quick) = (pressure.begin_look(), pressure.begin_look());
        pressure.look(quick, &rows(10), &health);
        pressure.look(slow, &rows(0), &health);
        assert_eq!(pressure.full(), ["outbox_rows"]);
    }

    #[test]
    fn a_bound_of_one_is_reached_by_one() {
        let (pressure, health) = bounded(Bounds::new().effects(1));
        let look = |effects| {
            pressure.look(
                pressure.begin_look(),
                &WaitingFigures { effects, ..WaitingFigures::default() },
                &health,
            );
            (pressure.full(), health.stopped().first().and_then(|stopped| stopped.reason))
        };
        assert_eq!(look(0), (vec![], None));
        assert_eq!(look(1), (vec!["effects"], Some(Reason::Full)));
        assert_eq!(look(2), (vec!["effects"], Some(Reason::Closed)));
        assert!(health.stopped()[0].is_unready(), "nothing that writes is taken any more");
        assert_eq!(look(0), (vec![], None));
    }

    #[test]
    fn an_age_is_bounded_where_somebody_says_so_and_never_stops_what_is_essential() {
        let old = WaitingFigures { outbox_rows: 1, outbox_age: 1_000_000, effects: 0 };
        let (pressure, health) = bounded(Bounds::new());
        pressure.look(pressure.begin_look(), &old, &health);
        assert!(pressure.admit(false).is_ok(), "a broker may be away for days");
        let (pressure, health) = bounded(Bounds::new().outbox_age(Duration::from_secs(60)));
        pressure.look(pressure.begin_look(), &old, &health);
        assert_eq!(pressure.admit(false).err(), Some(Bound::OutboxAge));
        assert!(pressure.admit(true).is_ok());
    }

    #[test]
    fn requests_are_counted_while_they_are_under_way() {
        let (pressure, _) = bounded(Bounds::new().requests(2));
        let first = pressure.admit(false).unwrap();
        let _second = pressure.admit(false).unwrap();
        assert_eq!(pressure.admit(false).err(), Some(Bound::Requests));
        let third = pressure.admit(true).unwrap();
        assert_eq!(pressure.admit(true).err(), Some(Bound::Requests), "what is essential has a bound too");
        drop((first, third));
        assert!(pressure.admit(false).is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_room_goes_on_when_there_is_some() {
        let (pressure, health) = bounded(Bounds::new().outbox_rows(1));
        let stop = CancellationToken::new();
        assert!(!pressure.wait_for_room(&stop).await);
        pressure.look(pressure.begin_look(), &rows(1), &health);
        let waiting = pressure.wait_for_room(&stop);
        let waited = tokio::join!(waiting, async { pressure.look(pressure.begin_look(), &rows(0), &health) });
        assert!(waited.0);
    }

    #[test]
    fn figures_are_looked_at_before_a_bound_can_be_reached() {
        let (pressure, health) = bounded(Bounds::new());
        assert_eq!(pressure.next_look(&rows(0)), LOOK_MAX);
        assert_eq!(pressure.next_look(&rows(OUTBOX_ROWS_MAX - GROWTH_MAX)), Duration::from_secs(1));
        pressure.look(pressure.begin_look(), &rows(OUTBOX_ROWS_MAX), &health);
        assert_eq!(pressure.next_look(&rows(OUTBOX_ROWS_MAX)), LOOK_FULL);
        let (pressure, _) = bounded(Bounds::new().outbox_age(Duration::from_secs(5)));
        assert_eq!(pressure.next_look(&rows(0)), Duration::from_secs(5));
    }

    #[test]
    fn settings_come_before_what_the_service_says() {
        let said = Bounds::new().outbox_rows(7).effects(8);
        let bounds = Bounds::new().outbox_rows(3).or(said);
        assert_eq!(bounds.named().collect::<Vec<_>>(), [("outbox_rows_max", 3), ("effects_max", 8)]);
    }
}
