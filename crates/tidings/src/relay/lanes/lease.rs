//! The lanes that this process holds, renewed, looked for and given back, one statement after the other.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::Error;
use crate::store::postgres::Database;
use crate::store::postgres::lanes::{self, LANES, LEASE, Lease, Renewed};

/// Leases are renewed this often: three times before one expires.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// The pause between looks for free lanes by a process that does not hold all: an instance that
/// stops gives its own back.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause between requests by a process that has no lanes: others may have given some back.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Pause after a renewal that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A statement about leases that has ended.
pub(super) enum LeaseEnded {
    /// The time at which the renewal was asked for, and its result: nothing, if there was nothing to take.
    Renewed(Instant, Result<Option<Renewed>, Error>),
    /// The lanes that were to be given back.
    GivenBack(Vec<i16>, Result<u64, Error>),
}

/// The leases of this process.
pub(super) struct Leases {
    database: Arc<Database>,
    held: Lease,
    /// By our own clock, which goes on while the process is paused: nothing is sent after it.
    until: Instant,
    /// Lanes above our share: nothing more is taken, they are given back once empty.
    leaving: HashSet<i16>,
    under_way: Option<BoxFuture<'static, LeaseEnded>>,
    renew_at: Instant,
    /// Between two renewals it is only looked whether others have given lanes back.
    look_at: Instant,
    is_alone: bool,
}

impl Leases {
    pub(super) fn new(database: Arc<Database>, owner: i64, now: Instant) -> Self {
        Self {
            database,
            held: Lease::of(owner),
            until: now,
            leaving: HashSet::new(),
            under_way: None,
            renew_at: now,
            look_at: now,
            is_alone: false,
        }
    }

    /// The lanes that are held.
    pub(super) fn held(&self) -> &Lease {
        &self.held
    }

    /// True if the leases are still ours, by our own clock.
    pub(super) fn are_valid(&self, now: Instant) -> bool {
        now < self.until
    }

    /// True if no other process relays.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// True if events of a lane may be taken.
    pub(super) fn takes(&self, lane: i16) -> bool {
        self.held.lanes.contains_key(&lane) && !self.leaving.contains(&lane)
    }

    /// The lanes of which events may be taken.
    pub(super) fn to_take(&self) -> Vec<i16> {
        self.held.lanes.keys().copied().filter(|lane| !self.leaving.contains(lane)).collect()
    }

    /// The time at which leases are to be looked at next.
    pub(super) fn next_at(&self) -> Instant {
        if self.is_alone { self.renew_at } else { self.renew_at.min(self.look_at) }
    }

    /// True if no statement is under way.
    pub(super) fn are_at_rest(&self) -> bool {
        self.under_way.is_none()
    }

    /// Renews, or looks for free lanes, if it is time to.
    pub(super) fn start(&mut self, now: Instant, clock: &Clock) {
        if now < self.next_at() || !self.are_at_rest() {
            return;
        }
        let (database, owner, is_due) = (self.database.clone(), self.held.owner, now >= self.renew_at);
        let clock = clock.clone();
        self.under_way = Some(Box::pin(async move {
            let renewed = async {
                if is_due || lanes::any_free(&database).await? {
                    return lanes::renew(&database, owner, &clock).await.map(Some);
                }
                Ok(None)
            };
            LeaseEnded::Renewed(now, renewed.await)
        }));
    }

    /// The end of the statement under way; never, if there is none.
    pub(super) async fn ended(&mut self) -> LeaseEnded {
        let Some(under_way) = &mut self.under_way else { return pending().await };
        let ended = under_way.await;
        self.under_way = None;
        ended
    }

    /// Has them renewed as soon as possible.
    pub(super) fn renew_now(&mut self) {
        self.renew_at = Instant::now();
    }

    /// Takes note that there was nothing to take.
    pub(super) fn looked(&mut self, asked: Instant) {
        self.look_at = asked + LOOK_EVERY;
    }

    /// Takes note of a renewal; [`hold`](Self::hold) takes its lanes.
    pub(super) fn renewed(&mut self, asked: Instant, Renewed { lease, share }: &Renewed) {
        self.looked(asked);
        self.renew_at = asked + if lease.lanes.is_empty() { ASK_EVERY } else { RENEW_EVERY };
        self.until = asked + LEASE;
        self.is_alone = *share == LANES;
        self.leaving = lease.lanes.keys().copied().skip(*share).collect();
    }

    /// Takes note of a renewal that failed.
    pub(super) fn not_renewed(&mut self, asked: Instant) {
        self.looked(asked);
        self.renew_at = Instant::now() + TRY_AGAIN;
    }

    /// The lanes that are held and are not in a lease, or under another epoch.
    pub(super) fn lost(&self, lease: &Lease) -> HashSet<i16> {
        let lost = self.held.lanes.iter().filter(|(lane, epoch)| lease.lanes.get(lane) != Some(epoch));
        lost.map(|(lane, _)| *lane).collect()
    }

    /// Has these lanes from now on.
    pub(super) fn hold(&mut self, lease: Lease) {
        self.held = lease;
    }

    /// True if lanes above our share can be given back now.
    pub(super) fn has_to_give(&self) -> bool {
        !self.leaving.is_empty() && self.are_at_rest()
    }

    /// Gives lanes above our share back that are empty.
    pub(super) fn give_back(&mut self, is_empty: impl Fn(i16) -> bool) {
        let empty: Vec<i16> = self.leaving.iter().copied().filter(|lane| is_empty(*lane)).collect();
        if !empty.is_empty() {
            let (database, owner) = (self.database.clone(), self.held.owner);
            self.under_way = Some(Box::pin(async move {
                let given = lanes::give_back(&database, owner, &empty).await;
                LeaseEnded::GivenBack(empty, given)
            }));
        }
    }

    /// Takes note of lanes that are given back.
    pub(super) fn given_back(&mut self, lanes: &[i16]) {
        for lane in lanes {
            self.leaving.remove(lane);
            self.held.lanes.remove(lane);
        }
    }

    /// Gives everything back: a clean stop.
    pub(super) async fn leave(&mut self) {
        self.under_way = None;
        if let Err(e) = lanes::leave(&self.database, self.held.owner).await {
            tracing::warn!(error = %e, "the leases of the relay run out by themselves");
        }
    }
}
