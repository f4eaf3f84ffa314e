//! The runner of effects: takes them up, does them, settles them in batches.
//!
//! | Module | Is |
//! |---|---|
//! | `breakers` | which providers are down |
//! | `resolve` | outcomes that an operator knows |
//! | `settle` | outcomes, recorded |

mod breakers;
mod resolve;
mod settle;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::breakers::Breakers;
use crate::breaker::{Gate, Probe};
use crate::effect::{EffectError, EffectRequest};
use crate::error::Error;
use crate::handler::{AnyEffectHandler, Ended, ExternalCall};
use crate::health::{Loop, Reason};
use crate::pace::Pace;
use crate::panic::lock;
use crate::retry::jitter;
use crate::store::Store;
use crate::store::effects::{self, Which};

/// External calls under way at once.
const IN_FLIGHT_MAX: usize = 1024;
/// Outcomes settled in one transaction.
const BATCH_MAX: usize = 512;
/// The interval at which the table is asked for effects that have come due: the resolution of timers.
const TICK: Duration = Duration::from_millis(250);

/// Counts of the executor's work, for metrics.
#[derive(Debug, Default)]
pub(crate) struct EffectCounts {
    /// Under way in this process.
    pub(crate) in_flight: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Providers that count as down.
    down: Mutex<BTreeSet<&'static str>>,
}

/// Takes effects up, does them, settles them in batches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) store: Store,
    pub(crate) effect_handlers: Arc<HashMap<&'static str, Arc<dyn AnyEffectHandler>>>,
    pub(crate) counts: Arc<EffectCounts>,
}

/// External calls under way, and the time of the next look for more.
struct EffectsUnderWay {
    in_flight: FuturesUnordered<ExternalCall>,
    breakers: Breakers,
    is_due: bool,
    /// A moment, not a pause: effects that arrive and end all the time must not put it off.
    look_at: Instant,
}

impl EffectsUnderWay {
    /// External calls that may begin.
    fn room(&self) -> usize {
        IN_FLIGHT_MAX.saturating_sub(self.in_flight.len())
    }
}

impl Executor {
    pub(crate) async fn run(self, stop: CancellationToken) {
        self.mend_due(&stop).await;
        let clock = self.store.clock().clone();
        let mut pace = Pace::of(&self.store);
        let mut work = EffectsUnderWay {
            in_flight: FuturesUnordered::new(),
            breakers: Breakers::default(),
            is_due: true,
            look_at: Instant::now(),
        };
        while !stop.is_cancelled() {
            self.claim(&mut work).await;
            self.take_handed_over(&mut work);
            tokio::select! {
                () = pace.pause(), if pace.is_pausing() => {}
                Some(first) = work.in_flight.next(), if !pace.is_pausing() => {
                    let began = Instant::now();
                    self.end(first, &mut work, &stop).await;
                    pace.ended(began);
                }
                () = self.store.effects().changed() => {}
                () = clock.pass(work.look_at - Instant::now()) => {
                    work.is_due = true;
                    work.look_at = Instant::now() + TICK;
                }
                () = stop.cancelled() => {}
            }
        }
    }

    /// Begins what has come due in the table, if it is time to look there.
    async fn claim(&self, work: &mut EffectsUnderWay) {
        work.is_due |= self.store.effects().take_overflowed();
        if !work.is_due || work.room() == 0 {
            return;
        }
        work.look_at = Instant::now() + TICK;
        match self.claim_open(work.room().min(BATCH_MAX), &mut work.breakers).await {
            Ok(claimed) => {
                self.store.health().goes_on(Loop::Claim);
                work.is_due = claimed.len() >= BATCH_MAX;
                work.in_flight.extend(claimed.into_iter().filter_map(|asked| self.start(asked)));
            }
            Err(e) => {
                self.store.health().failed(Loop::Claim, &e);
                work.is_due = false;
            }
        }
    }

    /// Begins what was handed over; what has to wait for its provider is left to the table.
    fn take_handed_over(&self, work: &mut EffectsUnderWay) {
        let handed_over = self.store.effects().take_and(work.room(), |taken| {
            let under_way = work.in_flight.len() + taken;
            self.counts.in_flight.store(under_way as u64, Ordering::Relaxed);
        });
        let now = Instant::now();
        let pauses = self.store.pauses();
        let is_shut = |asked: &EffectRequest| {
            work.breakers.gate(self.provider(&asked.kind), now) != Gate::Open
                || pauses.of_effects(&asked.kind).is_some()
        };
        let (waiting, begun): (Vec<_>, Vec<_>) = handed_over.into_iter().partition(is_shut);
        effects::leave_to_table(&self.store, waiting);
        work.in_flight.extend(begun.into_iter().filter_map(|asked| self.start(asked)));
    }

    /// Sees to the external calls that have ended.
    async fn end(&self, first: Ended, work: &mut EffectsUnderWay, stop: &CancellationToken) {
        let mut ended = vec![first];
        while ended.len() < BATCH_MAX
            && let Some(Some(next)) = work.in_flight.next().now_or_never()
        {
            ended.push(next);
        }
        let back = self.look(&ended, &mut work.breakers);
        self.settle(ended, &work.breakers, stop).await;
        for provider in back {
            self.store.health().goes_on(Loop::Perform);
            tracing::info!(provider, "the provider is back; effects that waited for it go on");
            if let Err(e) = effects::make_failed_due(&self.store, &self.kinds_of(provider)).await {
                self.store.health().failed(Loop::Claim, &e);
            }
            work.is_due = true;
        }
        self.counts.in_flight.store(work.in_flight.len() as u64, Ordering::Relaxed);
    }

    fn start(&self, asked: EffectRequest) -> Option<ExternalCall> {
        let handler = self.effect_handlers.get(&*asked.kind);
        if handler.is_none() {
            tracing::error!(key = asked.key, kind = asked.kind, "nobody performs effects of this kind");
        }
        handler.map(|p| p.clone().perform(asked))
    }

    pub(crate) fn provider(&self, kind: &str) -> &'static str {
        self.effect_handlers.get(kind).map_or("", |handler| handler.provider())
    }

    /// Each provider, and whether it counts as down.
    pub(crate) fn providers_down(&self) -> Vec<(&'static str, bool)> {
        let down = lock(&self.counts.down);
        let providers = self.effect_handlers.values().map(|handler| handler.provider());
        let named = providers.filter(|provider| !provider.is_empty());
        let states: BTreeMap<&str, bool> = named.map(|name| (name, down.contains(name))).collect();
        states.into_iter().collect()
    }

    /// The kinds of effects that need a provider.
    fn kinds_of(&self, provider: &str) -> Vec<&'static str> {
        let of = self.effect_handlers.iter().filter(|(_, handler)| handler.provider() == provider);
        of.map(|(kind, _)| *kind).collect()
    }

    /// Takes note of what the ends of effects say about their providers; returns those that are back.
    fn look(&self, ended: &[Ended], breakers: &mut Breakers) -> Vec<&'static str> {
        let now = Instant::now();
        let mut back = Vec::new();
        for Ended { asked, result } in ended {
            let provider = self.provider(&asked.kind);
            match result {
                // To contradict, a provider has to be there.
                Ok(_) | Err(EffectError::Conflict(_)) if breakers.of(provider).succeeded() => {
                    lock(&self.counts.down).remove(provider);
                    back.push(provider);
                }
                Err(EffectError::NoTurn(_)) => breakers.of(provider).asked_nobody(now),
                Ok(_) | Err(EffectError::Conflict(_)) => {}
                Err(e) => {
                    if breakers.of(provider).failed(&asked.key, now, jitter()) {
                        lock(&self.counts.down).insert(provider);
                        let down = format!("{provider} is down; its effects wait, one at a time asks: {e}");
                        self.store.health().waits(Loop::Perform, Reason::Away, &down);
                    }
                }
            }
        }
        back
    }

    /// Claims due effects whose providers are not down, and one for each provider that may be back.
    async fn claim_open(&self, limit: usize, breakers: &mut Breakers) -> Result<Vec<EffectRequest>, Error> {
        let now = Instant::now();
        let pauses = self.store.pauses();
        if breakers.all_are_open(now) && !pauses.hold_effects() {
            return effects::claim_due(&self.store, limit, Which::All).await;
        }
        let is_open = |handler: &dyn AnyEffectHandler| breakers.gate(handler.provider(), now) == Gate::Open;
        let open: Vec<&str> =
            self.effect_handlers.iter().filter(|(_, p)| is_open(&***p)).map(|(kind, _)| *kind).collect();
        let is_paused = |kind: &&str| pauses.of_effects(kind).is_some();
        let open: Vec<&str> = open.into_iter().filter(|kind| !is_paused(kind)).collect();
        let mut claimed = match open.is_empty() {
            true => Vec::new(),
            false => effects::claim_due(&self.store, limit, Which::Kinds(&open)).await?,
        };
        for provider in breakers.that_probe(now) {
            let mut kinds = self.kinds_of(provider);
            kinds.retain(|kind| !is_paused(kind));
            if kinds.is_empty() {
                continue;
            }
            let which = match breakers.of(provider).next_probe() {
                Probe::TriedMost => Which::TriedMost(&kinds),
                Probe::WaitedLongest => Which::Kinds(&kinds),
            };
            let probe = effects::claim_due(&self.store, 1, which).await?;
            if !probe.is_empty() {
                breakers.of(provider).probes();
            }
            claimed.extend(probe);
        }
        Ok(claimed)
    }

    async fn mend_due(&self, stop: &CancellationToken) {
        while let Err(e) = effects::mend_due(&self.store).await
            && !stop.is_cancelled()
        {
            self.store.health().failed(Loop::Claim, &e);
            tokio::time::sleep(TICK).await;
        }
    }
}
