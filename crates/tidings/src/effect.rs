//! Deeds in the outside world: recorded in a transaction, done after the commit under one permanent
//! key, their outcome handled in another transaction.
//!
//! ```text
//! tx: row «called» ── commit ── perform(key) ── tx: row «done», settle ── commit
//!                       └ crash: look_up(key) first; perform again, under the same key, if absent
//! ```
//!
//! An unknown outcome is looked up, never guessed, and never tried again under a new key.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::{Breaker, Gate, Probe};
use crate::envelope::{Causal, Cause};
use crate::error::{Error, HandlerError};
use crate::handler::Handling;
use crate::health::{Loop, Reason};
use crate::pace::Pace;
use crate::panic::catch_panic;
use crate::params;
use crate::retry::jitter;
use crate::store::{Database, Param, Row, Store, Tx, json};

/// Effects on their way from commit to their performer; beyond it the table is read.
pub(crate) const HAND_OVER_MAX: usize = 8192;
/// Deeds under way at once.
const IN_FLIGHT_MAX: usize = 1024;
/// Outcomes settled in one transaction.
const BATCH_MAX: usize = 512;
/// Who took an effect up is given this long before somebody else may: far longer than any deed.
const CLAIM: Duration = Duration::from_secs(300);
/// A deed that has not ended after this has an unknown outcome.
const DEED_MAX: Duration = Duration::from_secs(30);
/// How often the table is asked for what has come due: the resolution of timers.
const TICK: Duration = Duration::from_millis(250);
/// Pauses before each look for what a lost commit has claimed: the server may be at it for as long as a
/// statement may take.
const DOUBTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// Clocks may differ by so much.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// Shortest pause after the first failure; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The same for effects whose provider is down.
const DOWN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// From here on a failing effect is reported as an error: somebody should look.
const ATTEMPTS_ALARM: u32 = 10;

/// A request for a deed in the outside world: charge this card, or (a timer) nothing at all.
pub trait Effect: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What kind of deed it is: `authorize`.
    const KIND: &'static str;
    /// The provider that does it. When one is down, all effects that need it wait together, and one at a time
    /// asks whether it is back.
    const PROVIDER: &'static str = Self::KIND;
    /// What it can lead to.
    type Outcome: Send + Sync + 'static;

    /// The permanent operation key: the same deed has the same key, for ever.
    fn key(&self) -> String;
}

/// Does deeds of one kind.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not perform `{F}`",
    note = "implement `Performer<{F}>` for it: `perform`, `look_up` and `settle`"
)]
pub trait Performer<F: Effect>: Send + Sync + 'static {
    /// Does it, passing `key` on as the idempotency key.
    fn perform(&self, key: &str, effect: &F) -> impl Future<Output = Result<F::Outcome, EffectError>> + Send;

    /// Finds out whether it was done: `None` only if it certainly was not.
    fn look_up(
        &self,
        key: &str,
        effect: &F,
    ) -> impl Future<Output = Result<Option<F::Outcome>, EffectError>> + Send;

    /// Records what the outcomes mean, in a transaction. Name each one as the cause of what it leads
    /// to: [`Tx::caused_by`].
    fn settle(
        &self,
        done: &[Settled<F>],
        tx: &mut Tx,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// An effect whose outcome is known.
#[derive(Debug)]
pub struct Settled<F: Effect> {
    /// What was asked for.
    pub effect: F,
    /// What came of it.
    pub outcome: F::Outcome,
    cause: Cause,
}

impl<F: Effect> Causal for Settled<F> {
    fn cause(&self) -> Cause {
        self.cause.clone()
    }
}

/// Why a deed has no outcome yet. It is tried again, later and later, for as long as it takes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EffectError {
    /// Certainly not done: try again under the same key.
    #[error("not done: {0}")]
    NotDone(String),
    /// Perhaps done: look it up before anything else.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Nobody was asked: too many others were before it. No attempt is charged.
    #[error("not its turn: {0}")]
    NoTurn(String),
}

/// An effect as it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) key: String,
    kind: String,
    request: String,
    cause: Cause,
    due: Timestamp,
    attempts: u32,
    /// It may have been done already: by a process that died.
    look_up: bool,
}

impl Asked {
    pub(crate) fn new<F: Effect>(effect: &F, cause: &Cause, due: Timestamp) -> Result<Self, Error> {
        Ok(Self {
            key: effect.key(),
            kind: F::KIND.to_owned(),
            request: json(effect)?,
            cause: cause.clone(),
            due,
            attempts: 0,
            look_up: false,
        })
    }
}

/// Writes what was asked for; returns what is to be done right after the commit.
pub(crate) async fn write(tx: &mut Tx, mut asked: Vec<Asked>) -> Result<Vec<Asked>, Error> {
    let now = tx.now();
    let owner = tx.store().instance();
    // A file has one owner, who takes up again whatever is due. Where several share a database, a claim
    // holds for as long as its owner lives, and the row is updated in place when it is done.
    let claim = match tx.store().database() {
        Database::Sqlite(_) => Some(now + CLAIM),
        Database::Postgres(_) => None,
    };
    asked.sort_by(|a, b| a.key.cmp(&b.key));
    let rows = asked.iter().map(|effect| {
        let at_once = effect.due <= now;
        let (state, owner, due) =
            if at_once { ("called", Some(owner), claim) } else { ("new", None, Some(effect.due)) };
        [
            Param::from(&effect.key),
            Param::from(&effect.kind),
            Param::from(&effect.request),
            Param::from(state),
            Param::from(owner),
            Param::from(due),
            Param::from(effect.cause.correlation_id.as_ref()),
            Param::from(effect.cause.causation_id.as_ref()),
            Param::from(effect.cause.traceparent.as_ref()),
            Param::from(effect.cause.tracestate.as_ref()),
            Param::from(now),
        ]
    });
    let inserted = tx
        .execute_many(
            "INSERT INTO effect (key, kind, request, state, owner, due_us, correlation_id, causation_id, traceparent, tracestate,
                                 asked_us)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (key) DO NOTHING",
            rows,
        )
        .await?;
    let new =
        asked.into_iter().zip(inserted).filter(|(effect, inserted)| *inserted == 1 && effect.due <= now);
    Ok(new.map(|(effect, _)| effect).collect())
}

/// Takes back effects that nobody has begun.
pub(crate) async fn withdraw(tx: &mut Tx, keys: &[String]) -> Result<(), Error> {
    let rows = keys.iter().map(|key| [Param::from(key)]);
    tx.execute_many("DELETE FROM effect WHERE key = $1 AND state = 'new'", rows).await.map(|_| ())
}

/// What did not fit into the hand-over becomes due in the table.
pub(crate) fn leave_to_table(store: &Store, left: Vec<Asked>) {
    const DUE: &str =
        "UPDATE effect SET state = 'new', due_us = asked_us WHERE key = $1 AND state = 'called'";
    if left.is_empty() {
        return;
    }
    match store.database() {
        Database::Sqlite(database) => database.ride(move |connection| {
            let mut due = connection.prepare_cached(DUE)?;
            left.iter().try_for_each(|effect| due.execute([&effect.key]).map(|_| ()))
        }),
        Database::Postgres(_) => {
            let (store, health) = (store.clone(), store.health().clone());
            let due = async move |left: &[Asked]| {
                let mut tx = store.begin().await?;
                tx.execute_many(DUE, left.iter().map(|effect| [Param::from(&effect.key)])).await?;
                tx.commit().await
            };
            tokio::spawn(async move {
                while let Err(e) = due(&left).await {
                    health.failed(Loop::HandOver, &e);
                    tokio::time::sleep(DOUBTS[0]).await;
                }
                health.goes_on(Loop::HandOver);
            });
        }
    }
}

/// How a transaction claimed effects: when it asked for them, or until when.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claimed {
    At(Timestamp),
    Until(Timestamp),
}

/// A commit has failed, and nobody knows whether it was done. If it was, it has claimed effects for this
/// process that are not on their way in it: they become due.
pub(crate) fn in_doubt(store: &Store, asked: &[Asked], claimed: Claimed) {
    if asked.is_empty() || matches!(store.database(), Database::Sqlite(_)) {
        return;
    }
    let (store, keys) = (store.clone(), asked.iter().map(|asked| asked.key.clone()).collect::<Vec<_>>());
    tokio::spawn(async move {
        for pause in DOUBTS {
            tokio::time::sleep(pause).await;
            while let Err(e) = make_due(&store, &keys, claimed).await {
                store.health().failed(Loop::HandOver, &e);
                tokio::time::sleep(pause).await;
            }
            store.health().goes_on(Loop::HandOver);
        }
    });
}

async fn make_due(store: &Store, keys: &[String], claimed: Claimed) -> Result<(), Error> {
    // Claimed by that transaction, and not by another one since.
    let (claim, sql) = match claimed {
        Claimed::At(asked) => (
            asked,
            "UPDATE effect SET due_us = $1 WHERE key = $2 AND asked_us = $3 AND state = 'called' AND due_us IS NULL",
        ),
        Claimed::Until(due) => {
            (due, "UPDATE effect SET due_us = $1 WHERE key = $2 AND due_us = $3 AND state = 'called'")
        }
    };
    let mut tx = store.begin().await?;
    let now = tx.now();
    let rows = keys.iter().map(|key| [Param::from(now), Param::from(key), Param::from(claim)]);
    tx.execute_many(sql, rows).await?;
    tx.commit().await
}

/// How many effects wait for their time or were claimed from the table, and how many of them have failed
/// at least once.
pub(crate) async fn counts(store: &Store) -> Result<(u64, u64), Error> {
    let rows = store.query("SELECT count(*), count(error) FROM effect WHERE due_us IS NOT NULL", &[]).await?;
    Ok((rows[0].get(0)?, rows[0].get(1)?))
}

/// Whether nothing is under way in this process, or due.
pub(crate) async fn is_idle(store: &Store, counts: &EffectCounts) -> Result<bool, Error> {
    let rows = store
        .query(
            "SELECT count(*) FROM effect WHERE due_us <= $1 OR (state = 'called' AND due_us IS NOT NULL)",
            params![store.clock().now()],
        )
        .await?;
    let under_way = counts.in_flight.load(Ordering::Relaxed) > 0 || !store.effects().is_empty();
    Ok(!under_way && rows[0].get::<i64>(0)? == 0)
}

/// A performer whose effect type is known only to itself.
pub(crate) trait AnyPerformer: Send + Sync {
    /// The provider that it asks.
    fn provider(&self) -> &'static str;
    fn perform(self: Arc<Self>, asked: Asked) -> Deed;
    fn list(self: Arc<Self>) -> Box<dyn SettledList>;
}

/// Settled effects of one kind, and how to settle them.
pub(crate) trait SettledList: Send + Sync {
    fn push(&mut self, settled: Box<dyn Any + Send>);
    fn len(&self) -> usize;
    fn settle<'a>(&'a self, range: Range<usize>, tx: &'a mut Tx) -> Handling<'a>;
}

type Deed = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// A deed that has ended, well or not.
pub(crate) struct Ended {
    asked: Asked,
    result: Result<Box<dyn Any + Send>, EffectError>,
}

pub(crate) struct Performing<F, P>(pub(crate) Arc<P>, pub(crate) std::marker::PhantomData<fn(F)>);

impl<F: Effect, P: Performer<F>> AnyPerformer for Performing<F, P> {
    fn provider(&self) -> &'static str {
        F::PROVIDER
    }

    fn perform(self: Arc<Self>, asked: Asked) -> Deed {
        Box::pin(async move {
            let result = match serde_json::from_str::<F>(&asked.request) {
                Ok(effect) => outcome(&*self.0, effect, &asked).await,
                Err(e) => Err(EffectError::NotDone(format!("the request cannot be read: {e}"))),
            };
            let result = result.map(|settled| Box::new(settled) as Box<dyn Any + Send>);
            Ended { asked, result }
        })
    }

    fn list(self: Arc<Self>) -> Box<dyn SettledList> {
        Box::new(List { performer: self.0.clone(), settled: Vec::new() })
    }
}

async fn outcome<F: Effect, P: Performer<F>>(
    performer: &P,
    effect: F,
    asked: &Asked,
) -> Result<Settled<F>, EffectError> {
    let deed = async {
        if asked.look_up
            && let Some(outcome) = performer.look_up(&asked.key, &effect).await?
        {
            return Ok(outcome);
        }
        performer.perform(&asked.key, &effect).await
    };
    let deed = std::panic::AssertUnwindSafe(deed).catch_unwind();
    let outcome = match tokio::time::timeout(DEED_MAX, deed).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(_)) => return Err(EffectError::Unknown("the performer panicked".into())),
        Err(_) => return Err(EffectError::Unknown(format!("no answer for {DEED_MAX:?}"))),
    };
    Ok(Settled { effect, outcome, cause: asked.cause.clone() })
}

struct List<F: Effect, P> {
    performer: Arc<P>,
    settled: Vec<Settled<F>>,
}

impl<F: Effect, P: Performer<F>> SettledList for List<F, P> {
    fn push(&mut self, settled: Box<dyn Any + Send>) {
        let settled = settled.downcast().expect("a performer settles what it performed");
        self.settled.push(*settled);
    }

    fn len(&self) -> usize {
        self.settled.len()
    }

    fn settle<'a>(&'a self, range: Range<usize>, tx: &'a mut Tx) -> Handling<'a> {
        let settled = &self.settled[range];
        if let [only] = settled {
            tx.caused_by(only);
        }
        Box::pin(self.performer.settle(settled, tx))
    }
}

/// What the executor has done, for metrics.
#[derive(Debug, Default)]
pub(crate) struct EffectCounts {
    /// Under way in this process.
    pub(crate) in_flight: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Takes effects up, does them, settles them in batches.
pub(crate) struct Executor {
    pub(crate) store: Store,
    pub(crate) performers: HashMap<&'static str, Arc<dyn AnyPerformer>>,
    pub(crate) counts: Arc<EffectCounts>,
}

impl Executor {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut in_flight: FuturesUnordered<Deed> = FuturesUnordered::new();
        let mut breakers = Breakers::default();
        self.mend_due_patiently(&stop).await;
        let clock = self.store.clock().clone();
        let mut look_at_table = true;
        // A moment, not a pause: effects that arrive and end all the time must not put it off.
        let mut looks_at = Instant::now();
        let mut pace = Pace::of(&self.store);
        while !stop.is_cancelled() {
            look_at_table |= self.store.effects().take_overflowed();
            let room = IN_FLIGHT_MAX.saturating_sub(in_flight.len());
            if look_at_table && room > 0 {
                looks_at = Instant::now() + TICK;
                match self.claim_open(room.min(BATCH_MAX), &mut breakers).await {
                    Ok(claimed) => {
                        self.store.health().goes_on(Loop::Claim);
                        look_at_table = claimed.len() >= BATCH_MAX;
                        in_flight.extend(claimed.into_iter().filter_map(|a| self.start(a)));
                    }
                    Err(e) => {
                        self.store.health().failed(Loop::Claim, &e);
                        look_at_table = false;
                    }
                }
            }
            let room = IN_FLIGHT_MAX.saturating_sub(in_flight.len());
            let handed_over = self.store.effects().take_and(room, |taken| {
                let under_way = in_flight.len() + taken;
                self.counts.in_flight.store(under_way as u64, Ordering::Relaxed);
            });
            let now = Instant::now();
            let is_shut = |asked: &Asked| breakers.gate(self.provider(&asked.kind), now) != Gate::Open;
            let (waiting, begun): (Vec<_>, Vec<_>) = handed_over.into_iter().partition(is_shut);
            leave_to_table(&self.store, waiting);
            in_flight.extend(begun.into_iter().filter_map(|a| self.start(a)));
            tokio::select! {
                () = pace.pause(), if pace.is_pausing() => {}
                Some(first) = in_flight.next(), if !pace.is_pausing() => {
                    let began = Instant::now();
                    let mut ended = vec![first];
                    while ended.len() < BATCH_MAX && let Some(Some(next)) = in_flight.next().now_or_never() {
                        ended.push(next);
                    }
                    let back = self.look(&ended, &mut breakers);
                    self.settle(ended, &breakers, &stop).await;
                    for provider in back {
                        self.store.health().goes_on(Loop::Perform);
                        if let Err(e) = self.make_failed_due(provider).await {
                            self.store.health().failed(Loop::Claim, &e);
                        }
                        look_at_table = true;
                    }
                    self.counts.in_flight.store(in_flight.len() as u64, Ordering::Relaxed);
                    pace.ended(began);
                }
                () = self.store.effects().changed() => {}
                () = clock.pass(looks_at - Instant::now()) => {
                    look_at_table = true;
                    looks_at = Instant::now() + TICK;
                }
                () = stop.cancelled() => {}
            }
        }
    }

    fn start(&self, asked: Asked) -> Option<Deed> {
        let performer = self.performers.get(&*asked.kind);
        if performer.is_none() {
            tracing::error!(key = asked.key, kind = asked.kind, "nobody performs effects of this kind");
        }
        performer.map(|p| p.clone().perform(asked))
    }

    /// What a former process had taken up is taken up again at once, looked up first. Not for use once
    /// effects can be asked for: it would take up what is on its way already. Where several processes share
    /// the database, those that are alive notice who is not.
    pub(crate) async fn reclaim(&self) -> Result<(), Error> {
        if let Database::Postgres(_) = self.store.database() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        tx.execute(
            "UPDATE effect SET due_us = $1 WHERE due_us IS NOT NULL AND state = 'called'",
            params![tx.now()],
        )
        .await?;
        tx.commit().await
    }

    fn provider(&self, kind: &str) -> &'static str {
        self.performers.get(kind).map_or("", |performer| performer.provider())
    }

    /// Takes note of what the ends of effects say about their providers; returns those that are back.
    fn look(&self, ended: &[Ended], breakers: &mut Breakers) -> Vec<&'static str> {
        let now = Instant::now();
        let mut back = Vec::new();
        for Ended { asked, result } in ended {
            let provider = self.provider(&asked.kind);
            match result {
                Ok(_) if breakers.of(provider).succeeded() => back.push(provider),
                Err(EffectError::NoTurn(_)) => breakers.of(provider).asked_nobody(now),
                Ok(_) => {}
                Err(e) => {
                    if breakers.of(provider).failed(&asked.key, now, jitter()) {
                        let down = format!("{provider} is down; its effects wait, one at a time asks: {e}");
                        self.store.health().waits(Loop::Perform, Reason::Away, &down);
                    }
                }
            }
        }
        back
    }

    /// Kinds of effects of which the provider says this at the moment.
    fn kinds(&self, breakers: &Breakers, gate: Gate, now: Instant) -> Vec<&'static str> {
        let of = self.performers.iter().filter(|(_, p)| breakers.gate(p.provider(), now) == gate);
        of.map(|(kind, _)| *kind).collect()
    }

    /// Claims due effects whose providers are not down, and one for each provider that may be back.
    async fn claim_open(&self, limit: usize, breakers: &mut Breakers) -> Result<Vec<Asked>, Error> {
        let now = Instant::now();
        if breakers.all_are_open(now) {
            return self.claim_due(limit, "", "due_us").await;
        }
        let listed = |kinds: &[&str]| kinds.iter().map(|kind| quoted(kind)).collect::<Vec<_>>().join(", ");
        let open = self.kinds(breakers, Gate::Open, now);
        let mut claimed = match open.is_empty() {
            true => Vec::new(),
            false => self.claim_due(limit, &format!("AND kind IN ({})", listed(&open)), "due_us").await?,
        };
        for provider in breakers.that_probe(now) {
            let kinds: Vec<&str> = self
                .performers
                .iter()
                .filter(|(_, p)| p.provider() == provider)
                .map(|(kind, _)| *kind)
                .collect();
            let order = match breakers.of(provider).next_probe() {
                Probe::TriedMost => "attempts DESC, due_us",
                Probe::WaitedLongest => "due_us",
            };
            let probe = self.claim_due(1, &format!("AND kind IN ({})", listed(&kinds)), order).await?;
            if !probe.is_empty() {
                breakers.of(provider).probes();
            }
            claimed.extend(probe);
        }
        Ok(claimed)
    }

    /// Has everything that failed while a provider was down tried again at once.
    async fn make_failed_due(&self, provider: &str) -> Result<(), Error> {
        let kinds = self.performers.iter().filter(|(_, p)| p.provider() == provider);
        let kinds: Vec<String> = kinds.map(|(kind, _)| quoted(kind)).collect();
        let sql = format!(
            "UPDATE effect SET due_us = $1 WHERE due_us > $1 AND attempts > 0 AND state <> 'done' AND kind IN ({})",
            kinds.join(", ")
        );
        tracing::info!(provider, "the provider is back; effects that waited for it go on");
        let mut tx = self.store.begin().await?;
        let now = tx.now();
        tx.execute(&sql, params![now]).await?;
        tx.commit().await
    }

    async fn mend_due_patiently(&self, stop: &CancellationToken) {
        while let Err(e) = self.mend_due().await
            && !stop.is_cancelled()
        {
            self.store.health().failed(Loop::Claim, &e);
            tokio::time::sleep(TICK).await;
        }
    }

    /// Mends due times of a clock that was ahead: a failed effect never waits for longer than its longest pause,
    /// and a timer runs for as long as was asked for.
    async fn mend_due(&self) -> Result<(), Error> {
        let now = self.store.clock().now();
        let latest = now + (2 * PAUSE_MAX).max(CLAIM) + CLOCK_SLACK;
        let mut tx = self.store.begin().await?;
        let failed = tx
            .execute(
                "UPDATE effect SET due_us = $1 WHERE due_us > $2 AND (attempts > 0 OR state = 'called')",
                params![now, latest],
            )
            .await?;
        let timers = tx
            .execute(
                "UPDATE effect SET due_us = $1 + (due_us - asked_us), asked_us = $1
                 WHERE due_us > $1 AND attempts = 0 AND state = 'new' AND asked_us > $2",
                params![now, now + CLOCK_SLACK],
            )
            .await?;
        tx.commit().await?;
        if failed + timers > 0 {
            tracing::warn!(
                failed,
                timers,
                "effects were due too far in the future: the clock was set; mended"
            );
        }
        Ok(())
    }

    async fn claim_due(&self, limit: usize, and: &str, order: &str) -> Result<Vec<Asked>, Error> {
        let now = self.store.clock().now();
        // Asked outside a transaction, since mostly nothing is due.
        let due = format!("SELECT due_us FROM effect WHERE due_us <= $1 {and} LIMIT 1");
        if self.store.query(&due, params![now]).await?.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.store.begin().await?;
        let due = tx
            .query(
                &format!(
                    "SELECT key, kind, request, correlation_id, causation_id, traceparent, attempts, state, due_us,
                            tracestate
                     FROM effect WHERE due_us <= $1 {and} ORDER BY {order} LIMIT $2 FOR UPDATE SKIP LOCKED"
                ),
                params![now, limit as u64],
            )
            .await?;
        let claimed = due.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let owner = self.store.instance();
        let rows =
            claimed.iter().map(|asked| [Param::from(now + CLAIM), owner.into(), Param::from(&asked.key)]);
        tx.execute_many("UPDATE effect SET state = 'called', due_us = $1, owner = $2 WHERE key = $3", rows)
            .await?;
        if let Err(e) = tx.commit().await {
            in_doubt(&self.store, &claimed, Claimed::Until(now + CLAIM));
            return Err(e);
        }
        Ok(claimed)
    }

    /// Records what came of the deeds; does not give up before it is recorded or the process stops.
    async fn settle(&self, mut ended: Vec<Ended>, breakers: &Breakers, stop: &CancellationToken) {
        ended.sort_by(|a, b| a.asked.key.cmp(&b.asked.key));
        let mut kinds: HashMap<String, (Box<dyn SettledList>, Vec<Asked>)> = HashMap::new();
        let mut failed = Vec::new();
        for Ended { asked, result } in ended {
            match result {
                Ok(settled) => {
                    let (list, all) = kinds
                        .entry(asked.kind.clone())
                        .or_insert_with(|| (self.performers[&*asked.kind].clone().list(), Vec::new()));
                    list.push(settled);
                    all.push(asked);
                }
                Err(error) => {
                    let is_down = breakers.gate(self.provider(&asked.kind), Instant::now()) != Gate::Open;
                    failed.push(Failed { asked, error, is_down });
                }
            }
        }
        for (list, all) in kinds.values() {
            let mut recorded = self.settle_together(&**list, all).await;
            if recorded.is_err() {
                recorded = self.settle_one_by_one(&**list, all).await;
            }
            while let Err(e) = recorded
                && !stop.is_cancelled()
            {
                self.store.health().waits(Loop::Settle, reason(&e), &e);
                tokio::time::sleep(TICK).await;
                recorded = self.settle_one_by_one(&**list, all).await;
            }
        }
        while !failed.is_empty()
            && let Err(e) = self.postpone(&failed).await
            && !stop.is_cancelled()
        {
            // Given up here, they would stay claimed for minutes after the database is back.
            self.store.health().failed(Loop::Settle, &e);
            tokio::time::sleep(TICK).await;
        }
        self.store.health().goes_on(Loop::Settle);
    }

    async fn settle_together(&self, list: &dyn SettledList, all: &[Asked]) -> Result<(), HandlerError> {
        let mut tx = self.store.begin().await?;
        let marked = mark_done(&mut tx, all).await?;
        if let Some(place) = marked.iter().position(|marked| *marked == 0) {
            return Err(HandlerError::Transient(format!("{} was settled before", all[place].key)));
        }
        catch_panic(list.settle(0..list.len(), &mut tx)).await?;
        tx.commit().await?;
        self.counts.done.fetch_add(all.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn settle_one_by_one(&self, list: &dyn SettledList, all: &[Asked]) -> Result<(), HandlerError> {
        let mut tx = self.store.begin().await?;
        let mut done = 0;
        for (i, asked) in all.iter().enumerate() {
            let savepoint = tx.savepoint().await?;
            if mark_done(&mut tx, std::slice::from_ref(asked)).await? == [0] {
                tx.release(savepoint).await?;
                continue;
            }
            let mut settled = catch_panic(list.settle(i..i + 1, &mut tx)).await;
            if settled.is_ok() {
                settled = tx.flush().await.map_err(Into::into);
            }
            if let Some(trouble) = tx.trouble() {
                return Err(trouble.clone().into());
            }
            match settled {
                Ok(()) => {
                    tx.release(savepoint).await?;
                    done += 1;
                }
                Err(e) => {
                    tx.roll_back(savepoint).await?;
                    let e = EffectError::Unknown(format!("its outcome could not be recorded: {e}"));
                    record_failure(&mut tx, asked, &e, false).await?;
                    log_failure(asked, &e);
                }
            }
        }
        tx.commit().await?;
        self.counts.done.fetch_add(done, Ordering::Relaxed);
        Ok(())
    }

    async fn postpone(&self, failed: &[Failed]) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        for Failed { asked, error, is_down } in failed {
            record_failure(&mut tx, asked, error, *is_down).await?;
        }
        tx.commit().await?;
        for Failed { asked, error, .. } in failed {
            log_failure(asked, error);
        }
        self.counts.failed.fetch_add(failed.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// An effect that failed, and whether its provider is down.
struct Failed {
    asked: Asked,
    error: EffectError,
    is_down: bool,
}

/// The reason that outcomes are not recorded.
fn reason(e: &HandlerError) -> Reason {
    match e {
        HandlerError::Dependency(_) | HandlerError::InDoubt(_) => Reason::Away,
        HandlerError::Conflict(_) => Reason::InTheWay,
        _ => Reason::Event,
    }
}

/// Marks effects as done; 1 for each that was not before.
async fn mark_done(tx: &mut Tx, all: &[Asked]) -> Result<Vec<u64>, Error> {
    let now = tx.now();
    tx.execute_many(
        "UPDATE effect SET state = 'done', due_us = NULL, done_us = $1, error = NULL
         WHERE key = $2 AND state <> 'done'",
        all.iter().map(|asked| [Param::from(now), Param::from(&asked.key)]),
    )
    .await
}

async fn record_failure(tx: &mut Tx, asked: &Asked, e: &EffectError, is_down: bool) -> Result<(), Error> {
    let (attempts, state) = match e {
        EffectError::NotDone(_) => (asked.attempts + 1, "new"),
        EffectError::Unknown(_) => (asked.attempts + 1, "called"),
        // It is as it was: never tried, or to be looked up.
        EffectError::NoTurn(_) => (asked.attempts, if asked.look_up { "called" } else { "new" }),
    };
    let pause = next_pause(e, asked.attempts, is_down);
    let now = tx.now();
    tx.execute(
        "UPDATE effect SET state = $1, attempts = $2, due_us = $3, error = $4 WHERE key = $5 AND state <> 'done'",
        params![
            state,
            attempts,
            now + pause.mul_f64(1.0 + jitter()),
            &e.to_string().replace('\0', "\u{fffd}"),
            &asked.key
        ],
    )
    .await
    .map(|_| ())
}

/// The shortest pause before the next try. While a provider is down one effect at a time asks, and there has to be
/// one that is due: then none waits for long, however often it failed.
fn next_pause(e: &EffectError, failures: u32, is_down: bool) -> Duration {
    match e {
        EffectError::NoTurn(_) => PAUSE_MIN,
        _ if is_down => pause(failures).min(DOWN_PAUSE_MAX),
        _ => pause(failures),
    }
}

/// The shortest pause after so many failures; the real one is up to twice as long, so that effects that failed
/// together do not come back together.
fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.min(20)).min(PAUSE_MAX)
}

/// The breakers of all providers.
#[derive(Default)]
struct Breakers(BTreeMap<&'static str, Breaker>);

impl Breakers {
    fn of(&mut self, provider: &'static str) -> &mut Breaker {
        self.0.entry(provider).or_default()
    }

    fn gate(&self, provider: &str, now: Instant) -> Gate {
        self.0.get(provider).map_or(Gate::Open, |breaker| breaker.gate(now))
    }

    fn all_are_open(&self, now: Instant) -> bool {
        self.0.values().all(|breaker| breaker.gate(now) == Gate::Open)
    }

    fn that_probe(&self, now: Instant) -> Vec<&'static str> {
        self.0.iter().filter(|(_, breaker)| breaker.gate(now) == Gate::Probe).map(|(p, _)| *p).collect()
    }
}

/// A kind as SQL has it: kinds are constants of the program.
fn quoted(kind: &str) -> String {
    format!("'{}'", kind.replace('\'', "''"))
}

fn log_failure(asked: &Asked, e: &EffectError) {
    if matches!(e, EffectError::NoTurn(_)) {
        return;
    }
    let (key, attempts) = (&asked.key, asked.attempts + 1);
    if attempts >= ATTEMPTS_ALARM {
        tracing::error!(key, attempts, error = %e, "an effect keeps failing");
    } else {
        tracing::warn!(key, attempts, error = %e, "an effect failed and will be tried again");
    }
}

fn read(row: &Row) -> Result<Asked, Error> {
    let state: String = row.get(7)?;
    Ok(Asked {
        key: row.get(0)?,
        kind: row.get(1)?,
        request: row.get(2)?,
        cause: Cause {
            correlation_id: row.get(3)?,
            causation_id: row.get(4)?,
            traceparent: row.get(5)?,
            tracestate: row.get(9)?,
        },
        attempts: row.get(6)?,
        look_up: state == "called",
        due: row.get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_provider_is_down_no_effect_waits_for_long() {
        let (failed, unasked) = (EffectError::NotDone("no".into()), EffectError::NoTurn("later".into()));
        let seconds = |e, failures, is_down| next_pause(e, failures, is_down).as_secs_f64();
        assert_eq!([0, 1, 2, 30].map(|n| seconds(&failed, n, false)), [0.25, 0.5, 1.0, 300.0]);
        assert_eq!([0, 1, 2, 30].map(|n| seconds(&failed, n, true)), [0.25, 0.5, 1.0, 1.0]);
        assert_eq!([0, 30].map(|n| seconds(&unasked, n, true)), [0.25, 0.25]);
    }
}
