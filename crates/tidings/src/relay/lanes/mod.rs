//! Many writers, many relays: the set of pending rows is scanned, no cursor is trusted; each relay has lanes.
//!
//! | Module | Is |
//! |---|---|
//! | `admission` | whether an event follows (pure) |
//! | `scan_plan` | when the table is read, and how much of it (pure) |
//! | `acks` | acknowledged rows, on their way out |
//! | `lease` | the lanes that this process holds |

mod acks;
mod admission;
mod lease;
mod scan_plan;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, OptionFuture};
use tokio::time::{Instant, sleep_until};

use self::acks::{Acks, Deleted, LastNumbers};
use self::admission::{Last, Origin, Ruling, admit};
use self::lease::{LeaseEnded, Leases};
use self::scan_plan::{SCAN_MAX, ScanPlan};
use super::Queues;
use crate::error::Error;
use crate::health::{Health, Loop};
use crate::panic::lock;
use crate::store::outbox::Pending;
use crate::store::postgres::lanes::{Lease, lane_of};
use crate::store::postgres::{Database, outbox};

type Scanned = (Origin, Result<Vec<Pending>, Error>);

/// The pending events of the lanes that this process has leased.
pub(super) struct Lanes {
    database: Arc<Database>,
    health: Health,
    leases: Leases,
    /// Rows in memory, in flight, being deleted, or behind a blocked one: not to be taken again.
    known: Arc<Mutex<HashSet<i64>>>,
    /// Rows whose deletion is committed, but that a scan under way may still show.
    deleted: Vec<i64>,
    acks: Acks,
    last: LastNumbers,
    plan: ScanPlan,
    scanning: Option<BoxFuture<'static, Scanned>>,
}

impl Lanes {
    pub(super) fn new(database: Arc<Database>, owner: i64, health: Health) -> Self {
        let now = Instant::now();
        Self {
            leases: Leases::new(database.clone(), owner, now),
            database,
            health,
            known: Arc::default(),
            deleted: Vec::new(),
            acks: Acks::new(now),
            last: LastNumbers::default(),
            plan: ScanPlan::new(now),
            scanning: None,
        }
    }

    pub(super) fn may_send(&self) -> bool {
        self.leases.are_valid(Instant::now())
    }

    /// Takes what was handed over, and starts what is due.
    pub(super) fn take_in(&mut self, queues: &mut Queues) {
        let now = Instant::now();
        if !self.leases.are_valid(now) && !self.leases.held().lanes.is_empty() {
            tracing::warn!(
                "this process was paused or cut off for longer than its lease; its lanes may be others' by now"
            );
            let none = Lease::of(self.leases.held().owner);
            self.hold(queues, none);
        }
        self.leases.start(now, queues.store.clock());
        let store = queues.store.clone();
        let committed = &store.outbox().committed;
        if committed.take_overflowed() {
            self.plan.scan_now(now);
        }
        if queues.has_room() {
            for event in committed.take(SCAN_MAX) {
                self.take(queues, event, Origin::HandedOver);
            }
        }
        self.acks.start(&self.database, self.leases.held());
        if self.may_scan(queues)
            && let Some(origin) = self.plan.next(now)
        {
            let (database, known) = (self.database.clone(), self.known.clone());
            self.scanning = Some(Box::pin(scan(database, self.leases.to_take(), known, origin)));
        }
    }

    fn may_scan(&self, queues: &Queues) -> bool {
        queues.has_room() && self.scanning.is_none() && !self.leases.held().lanes.is_empty()
    }

    /// Waits for whatever is under way here, and takes in what comes of it.
    pub(super) async fn wait(&mut self, queues: &mut Queues) {
        let next_lease = self.leases.next_at();
        let mut wake = next_lease;
        if self.may_scan(queues) {
            wake = wake.min(self.plan.at());
        }
        if let Some(at) = self.acks.next_at() {
            wake = wake.min(at);
        }
        tokio::select! {
            ended = self.leases.ended() => self.lease_ended(queues, ended),
            Some((origin, found)) = OptionFuture::from(self.scanning.as_mut()) => {
                self.scanning = None;
                self.scanned(queues, origin, found);
            }
            Some(deleted) = self.acks.ended(), if self.acks.are_under_way() => {
                self.deleted(deleted);
                self.give_back_empty(queues);
            }
            () = sleep_until(wake), if self.leases.are_at_rest() || wake < next_lease => {}
        }
    }

    fn take(&mut self, queues: &mut Queues, event: Pending, origin: Origin) {
        let lane = lane_of(&event.stream);
        if !self.leases.takes(lane) {
            return;
        }
        let in_memory = queues.streams.get(&event.stream).and_then(|queue| queue.events.back());
        let last = match in_memory {
            Some(event) => Last::InMemory(event.seq),
            None => self.last.get(&event.stream).map_or(Last::Unknown, Last::Acknowledged),
        };
        let mut known = lock(&self.known);
        let is_new = known.insert(event.id);
        let verdict = admit(event.seq, origin, last, !is_new);
        if is_new && !matches!(verdict, Ruling::Take | Ruling::DeleteAgain) {
            known.remove(&event.id);
        }
        drop(known);
        match verdict {
            Ruling::Take => {
                queues.admit(event);
            }
            Ruling::DeleteAgain => self.acks.push(event.id, lane),
            Ruling::Known => {}
            Ruling::Missed => self.plan.missed(Instant::now(), origin),
        }
    }

    fn scanned(&mut self, queues: &mut Queues, origin: Origin, found: Result<Vec<Pending>, Error>) {
        let now = Instant::now();
        let found = match found {
            Ok(found) => {
                queues.health.goes_on(Loop::Scan);
                found
            }
            Err(e) => {
                queues.health.failed(Loop::Scan, &e);
                return self.plan.failed(now);
            }
        };
        self.plan.found(now, found.len(), found.last().map(|event| event.id));
        for event in found {
            self.take(queues, event, origin);
        }
        let mut known = lock(&self.known);
        for id in self.deleted.drain(..) {
            known.remove(&id);
        }
    }

    pub(super) fn acknowledged(&mut self, events: Vec<Pending>) {
        for event in events {
            self.acks.push(event.id, lane_of(&event.stream));
            self.last.put(event.stream, event.seq);
        }
        self.acks.start(&self.database, self.leases.held());
    }

    fn deleted(&mut self, (rows, deleted): Deleted) {
        match deleted {
            Ok(count) => {
                self.health.goes_on(Loop::Acknowledge);
                self.acks.are_deleted(&rows);
                if count < rows.len() as u64 {
                    // Another process has one of the lanes, or an operator was quicker: find out.
                    self.leases.renew_now();
                }
                let ids = rows.iter().map(|(id, _)| *id);
                if self.scanning.is_some() {
                    self.deleted.extend(ids);
                } else {
                    let mut known = lock(&self.known);
                    for id in ids {
                        known.remove(&id);
                    }
                }
            }
            Err(e) => {
                self.health.failed(Loop::Acknowledge, &e);
                self.acks.try_again(rows);
            }
        }
    }

    fn lease_ended(&mut self, queues: &mut Queues, ended: LeaseEnded) {
        match ended {
            LeaseEnded::Renewed(asked, Ok(None)) => self.leases.looked(asked),
            LeaseEnded::Renewed(asked, Ok(Some(renewed))) => {
                queues.health.goes_on(Loop::Lease);
                self.leases.renewed(asked, &renewed);
                self.plan.set_alone(self.leases.is_alone());
                self.hold(queues, renewed.lease);
                self.give_back_empty(queues);
            }
            LeaseEnded::Renewed(asked, Err(e)) => {
                queues.health.failed(Loop::Lease, &e);
                self.leases.not_renewed(asked);
            }
            LeaseEnded::GivenBack(lanes, Ok(_)) => {
                self.leases.given_back(&lanes);
                self.last = LastNumbers::default();
            }
            LeaseEnded::GivenBack(_, Err(e)) => self.health.failed(Loop::Lease, &e),
        }
    }

    /// Has these lanes from now on; drops what is in memory of others.
    fn hold(&mut self, queues: &mut Queues, lease: Lease) {
        if lease.lanes != self.leases.held().lanes {
            // What was committed before they were ours is for a scan to find.
            self.plan.begin_anew(Instant::now());
        }
        let lost = self.leases.lost(&lease);
        if !lost.is_empty() {
            queues.counts.lanes_lost.fetch_add(lost.len() as u64, Ordering::Relaxed);
            let streams = queues.streams.keys().filter(|stream| lost.contains(&lane_of(stream)));
            for stream in streams.cloned().collect::<Vec<_>>() {
                for event in &queues.streams[&stream].events {
                    lock(&self.known).remove(&event.id);
                }
                queues.drop_stream(&stream);
            }
            // What was true under the former epoch says nothing now.
            self.last = LastNumbers::default();
            self.scanning = None;
        }
        queues.counts.lanes.store(lease.lanes.len() as u64, Ordering::Relaxed);
        self.leases.hold(lease);
    }

    /// Gives lanes above our share back, each as soon as nothing of it is under way.
    fn give_back_empty(&mut self, queues: &Queues) {
        if !self.leases.has_to_give() {
            return;
        }
        let busy: HashSet<i16> = queues.streams.keys().map(|stream| lane_of(stream)).collect();
        let acks = &self.acks;
        self.leases.give_back(|lane| !busy.contains(&lane) && acks.is_done(lane));
    }

    /// Has everything that is not in memory found again.
    pub(super) fn forget_blocked(&mut self, queues: &Queues) {
        let mut known = lock(&self.known);
        known.clear();
        known.extend(queues.streams.values().flat_map(|queue| &queue.events).map(|event| event.id));
        // What is being deleted may be seen once more: its numbers are remembered.
        known.extend(self.acks.waiting());
        self.plan.begin_anew(Instant::now());
    }

    /// Deletes what is acknowledged and gives the lanes back.
    pub(super) async fn leave(&mut self) {
        self.acks.hurry();
        self.acks.start(&self.database, self.leases.held());
        while let Some(deleted) = self.acks.ended().await {
            self.deleted(deleted);
            self.acks.start(&self.database, self.leases.held());
        }
        self.leases.leave().await;
    }
}

/// Pending events of these lanes, lowest first: those behind an id, or those of the whole set that are not
/// known yet.
async fn scan(
    database: Arc<Database>,
    lanes: Vec<i16>,
    known: Arc<Mutex<HashSet<i64>>>,
    origin: Origin,
) -> Scanned {
    let found = match origin {
        Origin::Behind(id) => outbox::pending_behind(&database, &lanes, id, SCAN_MAX).await,
        _ => unknown(&database, &lanes, &known).await,
    };
    (origin, found)
}

async fn unknown(
    database: &Database,
    lanes: &[i16],
    known: &Mutex<HashSet<i64>>,
) -> Result<Vec<Pending>, Error> {
    let limit = lock(known).len() + SCAN_MAX;
    let mut ids = outbox::pending(database, lanes, limit).await?;
    {
        let known = lock(known);
        ids.retain(|id| !known.contains(id));
    }
    ids.truncate(SCAN_MAX);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    outbox::load(database, &ids).await
}
