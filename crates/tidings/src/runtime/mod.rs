//! A service that runs: started, watched, asked, stopped in order.
//!
//! | Module | Is |
//! |---|---|
//! | `supervisor` | its tasks |
//! | `topics` | whether its topics are what it was written for, at the start and from time to time |
//! | `figures` | what it counts, for `/statusz` and `/metrics` |
//! | `intake` | whether there is room for more |
//! | `lag` | its consumer's lag, as it was last seen |
//! | `replay` | topics read again for it: seek, replay, shadows |

mod figures;
mod intake;
mod lag;
mod replay;
mod supervisor;
pub(crate) mod topics;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) use self::figures::TimedFigure;
use self::lag::LagCache;
pub(crate) use self::replay::{Move, Place, Span};
use self::supervisor::{ANSWER_MAX, Supervisor, Tasks};
use crate::broker::{Broker, Position, Record};
use crate::consumer::Engine;
use crate::error::Error;
use crate::executor::{EffectCounts, Executor};
use crate::failure::WaitReason;
use crate::handler::HandlerFigures;
use crate::health::{Health, Loop};
use crate::pipeline::{Counts, Pipeline};
use crate::relay::{Relay, RelayCounts};
use crate::service::{Extra, Service};
use crate::status::Stopped;
use crate::stopping::unless_stopped;
use crate::store::audit::Operator;
use crate::store::{Declared, Store, effects, outbox, parked, retention};
use crate::subscription::Subscription;

impl Service {
    /// Opens the store and starts everything but the HTTP server. The topics must exist.
    ///
    /// ```
    /// # use tidings::{Broker, prelude::*};
    /// # #[tokio::main] async fn main() -> Result<(), Error> {
    /// # let scratch = tidings_testkit::Scratch::new();
    /// # let url = scratch.url();
    /// let running = Service::new("shipping").start(&url, &Broker::open(&url)?).await?;
    /// assert_eq!(running.name(), "shipping");
    /// running.stop().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store cannot be opened.
    pub async fn start(self, store_url: &str, broker: &Broker) -> Result<RunningService, Error> {
        let store = self.open(store_url).await?;
        self.start_on(store, broker).await
    }

    /// Opens its store, and brings its tables up to date.
    pub(crate) async fn open(&self, store_url: &str) -> Result<Store, Error> {
        self.check()?;
        Store::open(store_url, &self.name, self.tables).await
    }

    pub(crate) async fn start_on(self, store: Store, broker: &Broker) -> Result<RunningService, Error> {
        let topics: Vec<String> = self.topic_names().collect();
        self.look_at_topics(&store, broker, &topics).await?;
        self.look_at_effects(&store).await?;
        self.intakes.heed(store.pressure());
        let health = store.health().clone();
        let mut written = self.written.clone();
        written.extend(self.published.iter().map(|spec| spec.topic.to_owned()));
        store.declare(Declared {
            events: self.published.iter().map(|spec| spec.event_type).collect(),
            topics: self.written,
            kinds: self.effect_handlers.iter().map(|(kind, _)| *kind).collect(),
        });
        // Before any task here can ask for an effect: what is claimed now was claimed by a former process.
        effects::reclaim(&store).await?;
        if let Some(work) = self.on_start {
            let failed = |e| Error::unavailable(format!("{} cannot start: {e}", self.name));
            work(store.clone()).await.map_err(failed)?;
        }
        let counts = Counters::of(&written, &self.subscription);
        let subscription = Arc::new(self.subscription);
        let executor = Executor {
            store: store.clone(),
            effect_handlers: Arc::new(self.effect_handlers.into_iter().collect()),
            counts: counts.effects.clone(),
        };
        let pipeline = Pipeline {
            store: store.clone(),
            subscription: subscription.clone(),
            counts: counts.pipeline.clone(),
            dependencies: Arc::default(),
            flood: Arc::default(),
            budget: Arc::default(),
            health: health.clone(),
        };
        store.refresh_pauses().await?;
        store.allow_lanes(subscription.lanes());
        // Who knew that a dependency was away has ended; so may have who resumed something.
        for reason in [WaitReason::Dependency, WaitReason::Paused] {
            parked::release_all(&store, reason).await?;
        }
        let tasks = tasks(&self.name, &pipeline, broker, &topics, executor.clone(), &counts);
        let router =
            self.routes.into_iter().fold(Router::new(), |router, routes| router.merge(routes(&store)));
        Ok(RunningService {
            name: self.name,
            store,
            broker: broker.clone(),
            topics,
            lag: LagCache::new(broker.clone(), subscription.clone()),
            subscription,
            pipeline,
            executor,
            written,
            counts,
            extras: self.extras,
            router,
            leaving: CancellationToken::new(),
            health,
            tasks,
        })
    }

    /// Refuses to leave effects undone that were asked for before.
    async fn look_at_effects(&self, store: &Store) -> Result<(), Error> {
        let is_handled = |kind: &String| self.effect_handlers.iter().any(|(known, _)| known == kind);
        match effects::open_kinds(store).await?.into_iter().find(|kind| !is_handled(kind)) {
            None => Ok(()),
            Some(kind) => Err(Error::config(format!(
                "service {} was asked for effects of kind {kind} that are not done, and has no handler for them: add .effect::<…>(…) or .on_timer(…)",
                self.name
            ))),
        }
    }

    /// Refuses topics that are not what they were; goes on without a broker that is away.
    async fn look_at_topics(&self, store: &Store, broker: &Broker, topics: &[String]) -> Result<(), Error> {
        match topics::verify(store, broker, topics).await {
            Err(e) if e.is_unavailable() => {
                tracing::warn!(error = %e, "the broker is away; what happens meanwhile waits for it");
                Ok(())
            }
            verified => {
                verified?;
                let Subscription { group, topics, .. } = &self.subscription;
                topics::tell_lost(store, broker, group, topics).await
            }
        }
    }
}

/// Starts the loops of a service.
fn tasks(
    service: &str,
    pipeline: &Pipeline,
    broker: &Broker,
    topics: &[String],
    executor: Executor,
    counts: &Counters,
) -> Tasks {
    let Pipeline { store, subscription, health, .. } = pipeline.clone();
    let mut supervisor = Supervisor::new(service, health.clone());
    let stop = supervisor.stop.clone();
    let relay = Relay::new(store.clone(), broker.clone(), counts.relay.clone(), health.clone());
    supervisor.relay(relay.run(supervisor.relaying.clone()));
    if !subscription.handlers.is_empty() {
        let engine = Engine { pipeline: pipeline.clone(), broker: broker.clone() };
        supervisor.consume(engine.run(supervisor.reading.clone()));
    }
    supervisor.watch_topics({
        let (store, broker, stop) = (store.clone(), broker.clone(), stop.clone());
        let (topics, group, health) = (topics.to_vec(), subscription.group.clone(), health.clone());
        async move { topics::watch(&store, &broker, &group, &topics, &health, &stop).await }
    });
    supervisor.spawn(Loop::Perform, executor.run(stop.clone()));
    supervisor.spawn(Loop::Intake, intake::watch(store.clone(), stop.clone()));
    supervisor.spawn(Loop::Pauses, watch_pauses(store.clone(), stop.clone()));
    supervisor.spawn(Loop::CleanUp, retention::run(store.clone(), health, stop));
    supervisor.running()
}

/// Between two looks at the pauses, which an operator may have made through another instance.
const PAUSES_EVERY: Duration = Duration::from_secs(1);

/// Reads the pauses that were made through other instances.
async fn watch_pauses(store: Store, stop: CancellationToken) {
    if !store.has_other_writers() {
        return stop.cancelled().await;
    }
    while !stop.is_cancelled() {
        match store.refresh_pauses().await {
            Ok(()) => store.health().goes_on(Loop::Pauses),
            Err(e) => store.health().failed(Loop::Pauses, &e),
        }
        unless_stopped(&stop, PAUSES_EVERY).await;
    }
}

/// Counts of everything that a service does.
struct Counters {
    pipeline: Arc<Counts>,
    relay: Arc<RelayCounts>,
    effects: Arc<EffectCounts>,
}

/// A service that has been started.
///
/// ```
/// # use tidings::prelude::*;
/// # #[tokio::main] async fn main() -> Result<(), Error> {
/// let app = tidings_testkit::TestApp::start([Service::new("shipping")]).await;
/// let running = app.service("shipping");
/// assert!(running.stopped_by().is_none());
/// assert_eq!(running.status().await?.outbox.published, 0);
/// # Ok(()) }
/// ```
pub struct RunningService {
    name: String,
    store: Store,
    broker: Broker,
    topics: Vec<String>,
    lag: LagCache,
    subscription: Arc<Subscription>,
    pipeline: Pipeline,
    executor: Executor,
    /// Topics that it writes to.
    written: Vec<String>,
    counts: Counters,
    extras: Vec<(&'static str, Extra)>,
    router: Router,
    /// Set when the service goes on, but wants no new requests.
    leaving: CancellationToken,
    health: Health,
    tasks: Tasks,
}

impl RunningService {
    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service's database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The service's routes, without the ones every process has.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Tells whether nothing is left to do: all published, all read, nothing due.
    ///
    /// # Errors
    /// An unusable database or broker.
    pub async fn is_idle(&self) -> Result<bool, Error> {
        let before = self.done();
        // In the direction in which work goes: what ends here goes on there.
        let idle = parked::due(&self.store, &self.subscription.group, 1).await?.is_empty()
            && effects::is_idle(&self.store).await?
            // After the hand-over was found empty: what is taken out of it is counted before.
            && self.counts.effects.in_flight.load(Ordering::Relaxed) == 0
            && outbox::backlog(&self.store).await?.pending == 0
            && self.lag.ask().await? == 0;
        // What was done meanwhile may have given new work to what was looked at first.
        Ok(idle && before == self.done())
    }

    /// The amount of work done so far, of whatever kind.
    fn done(&self) -> u64 {
        let Counters { pipeline, relay, effects } = &self.counts;
        [
            &pipeline.delivered,
            &pipeline.recovered,
            &pipeline.failed_again,
            &pipeline.given_up,
            &effects.done,
            &effects.failed,
            &relay.published,
        ]
        .iter()
        .map(|counter| counter.load(Ordering::Relaxed))
        .sum()
    }

    /// Stops reading, finishes what is under way, sends what is committed, gives back what others wait for,
    /// writes everything down. What hangs (a broker or database that is away) is left after a while: it is
    /// done at the next start, or by another instance.
    ///
    /// # Errors
    /// An unusable database; nothing is lost even then.
    pub async fn stop(&self) -> Result<(), Error> {
        self.stop_working().await;
        self.stop_relaying().await
    }

    /// Says so before anything is stopped.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }

    /// Stops reading and performing.
    pub(crate) async fn stop_working(&self) {
        self.tasks.stop_working(&self.store).await;
    }

    /// Sends what was committed on the way out, and gives back what others wait for.
    pub(crate) async fn stop_relaying(&self) -> Result<(), Error> {
        self.tasks.stop_relaying(&self.store).await
    }

    /// The error that stopped consuming and relaying, if any. Needs an operator.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&Error> {
        self.tasks.stopped_by()
    }

    /// The loops that do not go on at the moment.
    pub(crate) fn stopped_loops(&self) -> Vec<Stopped> {
        let mut stopped = self.health.stopped();
        if let Some(stopped) = stopped.iter_mut().find(|stopped| stopped.of == Loop::Consume)
            && let Some((event_type, seconds)) = self.longest_call().filter(|(_, seconds)| *seconds > 0)
        {
            let call = format!("; the handler of {event_type} has been running for {seconds} s");
            stopped.error.push_str(&call);
        }
        stopped
    }

    fn handler_figures(&self) -> impl Iterator<Item = &HandlerFigures> {
        self.subscription.handlers.iter().map(|handler| handler.figures())
    }

    /// The type of the events of the handler whose call has been running for the longest time, and the seconds.
    fn longest_call(&self) -> Option<(&'static str, u64)> {
        let since =
            self.handler_figures().filter_map(|figures| Some((figures.running_since()?, figures.event_type)));
        since.min().map(|(since, event_type)| (event_type, since.elapsed().as_secs()))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.leaving.is_cancelled() || self.tasks.stop.is_cancelled()
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The topics it writes to or reads from, its dead letters included.
    pub(crate) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Tells whether the service reads anything.
    pub(crate) fn reads(&self) -> bool {
        !self.subscription.handlers.is_empty()
    }

    /// Its consumer group.
    pub(crate) fn group(&self) -> &str {
        &self.subscription.group
    }

    /// The topics that the service reads.
    pub(crate) fn read_topics(&self) -> &[String] {
        &self.subscription.topics
    }

    /// Tells whether the service reads a topic.
    pub(crate) fn reads_topic(&self, topic: &str) -> bool {
        self.subscription.topics.iter().any(|known| known == topic)
    }

    /// Tells whether only events of programs outside count on a topic.
    pub(crate) fn reads_external_only(&self, topic: &str) -> bool {
        self.subscription.external_only.contains(topic)
    }

    /// The name of a type that the service handles, of which `name` may be another one.
    pub(crate) fn canonical_type(&self, name: &str) -> Option<&'static str> {
        let handled = self.subscription.types.get(name).or_else(|| self.subscription.former.get(name))?;
        Some(self.subscription.handlers[handled.handler].names().0)
    }

    /// The progress of its group in each partition.
    pub(crate) async fn positions(&self) -> Result<Vec<Position>, Error> {
        match self.reads() {
            true => self.broker.positions(&self.subscription.group, &self.subscription.topics).await,
            false => Ok(Vec::new()),
        }
    }

    /// The times at which the broker took the records that are next at these positions, in microseconds.
    pub(crate) async fn oldest_unread(&self, positions: &[Position]) -> Result<Vec<Option<i64>>, Error> {
        lag::oldest(&self.broker, positions).await
    }

    /// The provider of effects of a kind; empty if it has none of this kind.
    pub(crate) fn provider(&self, kind: &str) -> &'static str {
        self.executor.provider(kind)
    }

    /// The number of effects that their providers contradict; unknown while the database does not answer.
    pub(crate) async fn effects_in_conflict(&self) -> Option<u64> {
        let counted = tokio::time::timeout(ANSWER_MAX, effects::conflicts(&self.store)).await;
        counted.ok()?.ok()
    }

    /// Settles an effect with the outcome that an operator states; says whether there was one.
    pub(crate) async fn resolve_effect(
        &self,
        key: &str,
        outcome: Value,
        by: &Operator,
    ) -> Result<bool, Error> {
        self.executor.resolve(key, outcome, by).await
    }

    /// Tells whether the service writes to a topic.
    pub(crate) fn publishes_to(&self, topic: &str) -> bool {
        self.written.iter().any(|written| written == topic)
    }

    /// Sees events through that an operator hands over past the broker; returns how many.
    pub(crate) async fn hand_over(
        &self,
        records: Vec<Record>,
        stream: &str,
        by: &Operator,
    ) -> Result<u64, Error> {
        let count = records.len() as u64;
        self.replay(records).await?;
        self.note(by, "gap.fill", stream, &json!({"events": count})).await?;
        Ok(count)
    }

    /// Tells whether the service handles both names as the same type: `order_created` is another name of
    /// `order.created.v1`.
    pub(crate) fn is_alias(&self, one: &str, other: &str) -> bool {
        let handler = |name| self.subscription.types.get(name).map(|handled| handled.handler);
        handler(one).is_some() && handler(one) == handler(other)
    }
}
