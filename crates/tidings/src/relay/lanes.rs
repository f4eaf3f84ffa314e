//! Many writers, many relays: the set of pending rows is scanned, no cursor is trusted; each relay has lanes.
//!
//! Numbers in a stream come in commit order: n is given only by who sees n - 1 committed. So what shows
//! number n in one snapshot shows every pending number before it. In memory stands, of each stream, exactly
//! what follows the last acknowledged number:
//!
//! | handed over, or found by a scan | is |
//! |---|---|
//! | a number at or below the last one in memory | known: ignored |
//! | the next number | taken |
//! | another number, or the first of an unknown stream that is not 1 | found by a scan of the whole set: taken; else left to one |
//!
//! While there is more than a scan finds, the next one goes on behind it, and need not read again what is in
//! memory. It may miss what was committed late, with a lower id; so it is trusted no more than what is
//! handed over, and every now and then the whole set is scanned all the same.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::Queues;
use crate::error::Error;
use crate::health::{Health, Loop};
use crate::panic::lock;
use crate::store::outbox::Pending;
use crate::store::postgres::lanes::{self, LANES, LEASE, Lease, Renewed, lane_of};
use crate::store::postgres::{Database, outbox};

/// Pause before a statement that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Rows read from the table at once: half of what may be in memory, so that they come while others go.
const SCAN_MAX: usize = super::IN_MEMORY_MAX / 2;
/// How often the whole set is scanned, however much there is.
const SCAN_WHOLE_EVERY: Duration = Duration::from_secs(5);
/// How long nothing else is done after a scan that missed something: there may be more of that kind.
const SCAN_WHOLE_FOR: Duration = Duration::from_secs(1);
/// How often the table is scanned while other processes write too: often while scans find what was not
/// handed over here, less and less while they do not. A process that is alone scans for safety only.
const SCAN_EVERY_MIN: Duration = Duration::from_millis(10);
const SCAN_EVERY_MAX: Duration = Duration::from_millis(500);
/// Leases are renewed this often: three times before one expires.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Who has not all lanes looks this often whether there are free ones: an instance that stops gives its own back.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Who has no lanes asks this often: others may have given some back.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Deletes under way at once.
const DELETES_MAX: usize = 2;
/// Streams whose last acknowledged number is remembered, twice over.
const REMEMBERED_MAX: usize = 20_000;

/// A row that the broker has acknowledged, and its lane.
type Acknowledged = (i64, i16);
type Deleted = (Vec<Acknowledged>, Result<u64, Error>);
type Scanned = (Found, Result<Vec<Pending>, Error>);
/// When it was asked, and what came of it; nothing, if there was nothing to take.
type Renewing = (Instant, Result<Option<Renewed>, Error>);
type GivenBack = (Vec<i16>, Result<u64, Error>);

/// Where an event was found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    HandedOver,
    /// A scan of what is behind this id.
    Behind(i64),
    InWholeSet,
}

pub(super) struct Lanes {
    database: Arc<Database>,
    health: Health,
    lease: Lease,
    /// By our own clock, which goes on while the process is paused: nothing is sent after it.
    lease_until: Instant,
    /// Lanes above our share: nothing more is taken, they are given back once empty.
    leaving: HashSet<i16>,
    giving_back: Option<BoxFuture<'static, GivenBack>>,
    renewing: Option<BoxFuture<'static, Renewing>>,
    renew_at: Instant,
    /// Between two renewals it is only looked whether others have given lanes back.
    look_at: Instant,
    /// Rows in memory, in flight, being deleted, or behind a blocked one: not to be taken again.
    known: Arc<Mutex<HashSet<i64>>>,
    /// Rows whose deletion is committed, but that a scan under way may still show.
    deleted: Vec<i64>,
    /// Acknowledged rows that wait for their deletion.
    acknowledged: Vec<Acknowledged>,
    deleting: FuturesUnordered<BoxFuture<'static, Deleted>>,
    /// How many acknowledged rows of each lane are not deleted yet.
    undeleted: [usize; LANES],
    delete_at: Instant,
    last: LastNumbers,
    scanning: Option<BoxFuture<'static, Scanned>>,
    scan_at: Instant,
    /// The highest id of a scan that did not find everything.
    behind: Option<i64>,
    /// From here on, and until here, nothing less than the whole set is scanned.
    scan_whole_at: Instant,
    scan_whole_until: Instant,
    scan_every: Duration,
    is_alone: bool,
}

impl Lanes {
    pub(super) fn new(database: Arc<Database>, owner: i64, health: Health) -> Self {
        let now = Instant::now();
        Self {
            database,
            health,
            lease: Lease::of(owner),
            lease_until: now,
            leaving: HashSet::new(),
            giving_back: None,
            renewing: None,
            renew_at: now,
            look_at: now,
            known: Arc::default(),
            deleted: Vec::new(),
            acknowledged: Vec::new(),
            deleting: FuturesUnordered::new(),
            undeleted: [0; LANES],
            delete_at: now,
            last: LastNumbers::default(),
            scanning: None,
            scan_at: now,
            behind: None,
            scan_whole_at: now,
            scan_whole_until: now,
            scan_every: SCAN_EVERY_MIN,
            is_alone: false,
        }
    }

    pub(super) fn may_send(&self) -> bool {
        Instant::now() < self.lease_until
    }

    /// Takes what was handed over, and starts what is due.
    pub(super) fn take_in(&mut self, queues: &mut Queues) {
        let now = Instant::now();
        if now >= self.lease_until && !self.lease.lanes.is_empty() {
            tracing::warn!(
                "this process was paused or cut off for longer than its lease; its lanes may be others' by now"
            );
            self.hold(queues, Lease::of(self.lease.owner));
        }
        if now >= self.next_lease() && self.leases_at_rest() {
            let (database, owner, is_due) = (self.database.clone(), self.lease.owner, now >= self.renew_at);
            let clock = queues.store.clock().clone();
            self.renewing = Some(Box::pin(async move {
                let renewed = async {
                    if is_due || lanes::any_free(&database).await? {
                        return lanes::renew(&database, owner, &clock).await.map(Some);
                    }
                    Ok(None)
                };
                (now, renewed.await)
            }));
        }
        let store = queues.store.clone();
        let committed = &store.outbox().committed;
        if committed.take_overflowed() {
            self.scan_at = now;
        }
        if queues.has_room() {
            for event in committed.take(SCAN_MAX) {
                self.take(queues, event, Found::HandedOver);
            }
        }
        self.start_deleting();
        if now >= self.scan_at && self.scanning.is_none() && queues.has_room() && !self.lease.lanes.is_empty()
        {
            let how = match self.behind {
                Some(id) if (self.scan_whole_until..self.scan_whole_at).contains(&now) => Found::Behind(id),
                _ => Found::InWholeSet,
            };
            if how == Found::InWholeSet {
                self.scan_whole_at = now + SCAN_WHOLE_EVERY;
            }
            let (database, known) = (self.database.clone(), self.known.clone());
            self.scanning = Some(Box::pin(scan(database, self.ours(), known, how)));
        }
    }

    /// Waits for whatever is under way here, and takes in what comes of it.
    pub(super) async fn go_on(&mut self, queues: &mut Queues) {
        let mut wake = self.next_lease();
        if queues.has_room() && self.scanning.is_none() && !self.lease.lanes.is_empty() {
            wake = wake.min(self.scan_at);
        }
        if !self.acknowledged.is_empty() && self.deleting.is_empty() {
            wake = wake.min(self.delete_at);
        }
        tokio::select! {
            Some((asked, renewed)) = OptionFuture::from(self.renewing.as_mut()) => {
                self.renewing = None;
                self.renewed(queues, asked, renewed);
            }
            Some((lanes, given)) = OptionFuture::from(self.giving_back.as_mut()) => {
                self.giving_back = None;
                self.given_back(&lanes, given);
            }
            Some((how, found)) = OptionFuture::from(self.scanning.as_mut()) => {
                self.scanning = None;
                self.scanned(queues, how, found);
            }
            Some(deleted) = self.deleting.next(), if !self.deleting.is_empty() => {
                self.deleted(deleted);
                self.give_back_empty(queues);
            }
            () = sleep_until(wake), if self.leases_at_rest() || wake < self.next_lease() => {}
        }
    }

    /// When leases are to be looked at next.
    fn next_lease(&self) -> Instant {
        if self.is_alone { self.renew_at } else { self.renew_at.min(self.look_at) }
    }

    /// Leases are renewed and given back one statement after the other.
    fn leases_at_rest(&self) -> bool {
        self.renewing.is_none() && self.giving_back.is_none()
    }

    /// The lanes of which events may be taken.
    fn ours(&self) -> Vec<i16> {
        self.lease.lanes.keys().copied().filter(|lane| !self.leaving.contains(lane)).collect()
    }

    fn take(&mut self, queues: &mut Queues, event: Pending, how: Found) {
        let lane = lane_of(&event.stream);
        if !self.lease.lanes.contains_key(&lane) || self.leaving.contains(&lane) {
            return;
        }
        let in_memory =
            queues.streams.get(&event.stream).and_then(|queue| queue.events.back()).map(|e| e.seq);
        let last = in_memory.or_else(|| self.last.get(&event.stream));
        let mut known = lock(&self.known);
        if last.is_some_and(|last| event.seq <= last) {
            if how != Found::HandedOver && in_memory.is_none() && known.insert(event.id) {
                drop(known);
                // Acknowledged, and not deleted after all.
                self.gone(event.id, lane);
            }
        } else if how == Found::InWholeSet || event.seq == last.unwrap_or(0) + 1 {
            if known.insert(event.id) {
                drop(known);
                queues.admit(event);
            }
        } else if !known.contains(&event.id) {
            // Something before it was missed.
            self.scan_at = Instant::now();
            if how != Found::HandedOver {
                self.scan_whole_until = self.scan_at + SCAN_WHOLE_FOR;
            }
        }
    }

    fn scanned(&mut self, queues: &mut Queues, how: Found, found: Result<Vec<Pending>, Error>) {
        let now = Instant::now();
        let found = match found {
            Ok(found) => {
                queues.health.goes_on(Loop::Scan);
                found
            }
            Err(e) => {
                queues.health.failed(Loop::Scan, &e);
                self.scan_at = now + TRY_AGAIN;
                return;
            }
        };
        self.scan_every = match found.len() {
            _ if self.is_alone => SCAN_EVERY_MAX,
            0 => (self.scan_every * 2).min(SCAN_EVERY_MAX),
            _ => SCAN_EVERY_MIN,
        };
        let is_all = found.len() < SCAN_MAX;
        self.scan_at = if is_all { now + self.scan_every } else { now };
        self.behind = found.last().map(|event| event.id).filter(|_| !is_all);
        for event in found {
            self.take(queues, event, how);
        }
        let mut known = lock(&self.known);
        for id in self.deleted.drain(..) {
            known.remove(&id);
        }
    }

    pub(super) fn acknowledged(&mut self, events: Vec<Pending>) {
        for event in events {
            self.gone(event.id, lane_of(&event.stream));
            self.last.put(event.stream, event.seq);
        }
        self.start_deleting();
    }

    fn gone(&mut self, id: i64, lane: i16) {
        self.acknowledged.push((id, lane));
        self.undeleted[lane as usize] += 1;
    }

    fn start_deleting(&mut self) {
        if self.acknowledged.is_empty()
            || self.deleting.len() >= DELETES_MAX
            || Instant::now() < self.delete_at
        {
            return;
        }
        let rows = std::mem::take(&mut self.acknowledged);
        let (database, lease) = (self.database.clone(), self.lease.clone());
        self.deleting.push(Box::pin(async move {
            let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
            let deleted = outbox::delete(&database, &ids, &lease).await;
            (rows, deleted)
        }));
    }

    fn deleted(&mut self, (rows, deleted): Deleted) {
        match deleted {
            Ok(count) => {
                self.health.goes_on(Loop::Acknowledge);
                for (_, lane) in &rows {
                    self.undeleted[*lane as usize] -= 1;
                }
                let ids = rows.iter().map(|(id, _)| *id);
                if count < rows.len() as u64 {
                    // Somebody else has one of the lanes, or an operator was quicker: find out.
                    self.renew_at = Instant::now();
                }
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
                self.acknowledged.extend(rows);
                self.delete_at = Instant::now() + TRY_AGAIN;
            }
        }
    }

    fn renewed(&mut self, queues: &mut Queues, asked: Instant, renewed: Result<Option<Renewed>, Error>) {
        self.look_at = asked + LOOK_EVERY;
        match renewed {
            Ok(None) => {}
            Ok(Some(Renewed { lease, share })) => {
                self.health.goes_on(Loop::Lease);
                self.renew_at = asked + if lease.lanes.is_empty() { ASK_EVERY } else { RENEW_EVERY };
                self.lease_until = asked + LEASE;
                self.is_alone = share == LANES;
                self.leaving = lease.lanes.keys().copied().skip(share).collect();
                self.hold(queues, lease);
                self.give_back_empty(queues);
            }
            Err(e) => {
                self.health.failed(Loop::Lease, &e);
                self.renew_at = Instant::now() + TRY_AGAIN;
            }
        }
    }

    /// Has these lanes from now on; drops what is in memory of others.
    fn hold(&mut self, queues: &mut Queues, lease: Lease) {
        use std::sync::atomic::Ordering::Relaxed;
        let lost: HashSet<i16> = self
            .lease
            .lanes
            .iter()
            .filter(|(lane, epoch)| lease.lanes.get(lane) != Some(epoch))
            .map(|(lane, _)| *lane)
            .collect();
        if lease.lanes != self.lease.lanes {
            // What was committed before they were ours is for a scan to find.
            self.scan_at = Instant::now();
            self.behind = None;
        }
        if !lost.is_empty() {
            queues.counts.lanes_lost.fetch_add(lost.len() as u64, Relaxed);
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
        queues.counts.lanes.store(lease.lanes.len() as u64, Relaxed);
        self.lease = lease;
    }

    /// Gives lanes above our share back, each as soon as nothing of it is under way.
    fn give_back_empty(&mut self, queues: &Queues) {
        if self.leaving.is_empty() || !self.leases_at_rest() {
            return;
        }
        let busy: HashSet<i16> = queues.streams.keys().map(|stream| lane_of(stream)).collect();
        let is_empty = |lane: &i16| !busy.contains(lane) && self.undeleted[*lane as usize] == 0;
        let empty: Vec<i16> = self.leaving.iter().copied().filter(is_empty).collect();
        if !empty.is_empty() {
            let (database, owner) = (self.database.clone(), self.lease.owner);
            self.giving_back = Some(Box::pin(async move {
                let given = lanes::give_back(&database, owner, &empty).await;
                (empty, given)
            }));
        }
    }

    fn given_back(&mut self, lanes: &[i16], given: Result<u64, Error>) {
        match given {
            Ok(_) => {
                for lane in lanes {
                    self.leaving.remove(lane);
                    self.lease.lanes.remove(lane);
                }
                self.last = LastNumbers::default();
            }
            Err(e) => self.health.failed(Loop::Lease, &e),
        }
    }

    /// Has everything that is not in memory found again.
    pub(super) fn forget_blocked(&mut self, queues: &Queues) {
        let mut known = lock(&self.known);
        known.clear();
        known.extend(queues.streams.values().flat_map(|queue| &queue.events).map(|event| event.id));
        known.extend(self.acknowledged.iter().map(|(id, _)| id));
        // What is being deleted may be seen once more: its numbers are remembered.
        self.scan_at = Instant::now();
        self.behind = None;
    }

    /// Deletes what is acknowledged and gives the lanes back.
    pub(super) async fn leave(&mut self) {
        self.delete_at = Instant::now();
        self.start_deleting();
        while let Some(deleted) = self.deleting.next().await {
            self.deleted(deleted);
            self.start_deleting();
        }
        self.renewing = None;
        if let Err(e) = lanes::leave(&self.database, self.lease.owner).await {
            tracing::warn!(error = %e, "the leases of the relay run out by themselves");
        }
    }
}

/// Pending events of these lanes, lowest first: those behind an id, or those of the whole set that are not
/// known yet.
async fn scan(
    database: Arc<Database>,
    lanes: Vec<i16>,
    known: Arc<Mutex<HashSet<i64>>>,
    how: Found,
) -> Scanned {
    let found = match how {
        Found::Behind(id) => outbox::pending_behind(&database, &lanes, id, SCAN_MAX).await,
        _ => unknown(&database, &lanes, &known).await,
    };
    (how, found)
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

/// The last acknowledged number of streams that were busy lately.
#[derive(Default)]
struct LastNumbers {
    recent: HashMap<Arc<str>, i64>,
    older: HashMap<Arc<str>, i64>,
}

impl LastNumbers {
    fn get(&self, stream: &str) -> Option<i64> {
        self.recent.get(stream).or_else(|| self.older.get(stream)).copied()
    }

    fn put(&mut self, stream: Arc<str>, seq: i64) {
        if self.recent.len() >= REMEMBERED_MAX {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(stream, seq);
    }
}
