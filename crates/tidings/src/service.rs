//! A service: its name, its store, its handlers, effects and routes; and the process that runs it.

use std::marker::PhantomData;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use futures_util::future::BoxFuture;
use garde::Validate;
use metrics::with_local_recorder;
use metrics_exporter_prometheus::PrometheusRecorder;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, TopicSpec};
use crate::config::Settings;
use crate::consumer::Engine;
use crate::documents::EventSpec;
use crate::effect::Effect;
use crate::error::{Error, HandlerError};
use crate::event::Event;
use crate::executor::{EffectCounts, Executor};
use crate::handler::{AnyPerformer, BatchHandler, Handler, Many, One, Performer, Performing};
use crate::health::{Health, Loop, Stopped};
use crate::http::{self, Api, Operation, Post};
use crate::lag::LagCache;
use crate::pipeline::{Counts, Pipeline};
use crate::process;
use crate::relay::{Relay, RelayCounts};
use crate::retry::RetryPolicy;
use crate::store::outbox::Backlog;
use crate::store::{Declared, Store, Tables, effects, outbox, parked, retention};
use crate::subscription::{Handled, Subscription};
use crate::topics;

/// What is under way when a service is told to stop may take so long to end: a batch, a deed's outcome, the
/// leaving of a group.
const TASKS_MAX: Duration = Duration::from_secs(8);
/// A database that does not answer within this is not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The relay waits so long for what is in flight and gives back what it has leased; more is a hang.
const RELAY_MAX: Duration = Duration::from_secs(6);
/// So long may it take to write down what is still deferred.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The longest name of a service or a group, in bytes: PostgreSQL cuts off longer ones of schemas, and topics
/// add to it.
const NAME_MAX: usize = 60;

type Routes = Box<dyn FnOnce(&Store) -> Router + Send>;
type OnStart = Box<dyn FnOnce(Store) -> BoxFuture<'static, Result<(), HandlerError>> + Send>;
type Extra = Arc<dyn Fn(Store) -> BoxFuture<'static, Result<Value, Error>> + Send + Sync>;

/// A service, described. [`main`](Service::main) runs it alone, [`run`](crate::run) several in one process.
///
/// ```no_run
/// # use tidings::{Envelope, Event, HandlerError, Service, Tx};
/// # async fn hello<E: Event>(mut service: Service, print: fn()) {
/// # }
/// ```
pub struct Service {
    name: String,
    tables: Tables<'static>,
    topics: Vec<TopicSpec>,
    subscription: Subscription,
    performers: Vec<(&'static str, Arc<dyn AnyPerformer>)>,
    on_start: Option<OnStart>,
    routes: Vec<Routes>,
    operations: Vec<Operation>,
    published: Vec<EventSpec>,
    handled: Vec<EventSpec>,
    about: &'static str,
    version: &'static str,
    extras: Vec<(&'static str, Extra)>,
}

impl Service {
    /// A service of this name: it names its database, its consumer group and its dead letters.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tables: Tables::default(),
            topics: Vec::new(),
            subscription: Subscription { group: name.into(), ..Subscription::default() },
            performers: Vec::new(),
            on_start: None,
            routes: Vec::new(),
            operations: Vec::new(),
            published: Vec::new(),
            handled: Vec::new(),
            about: "",
            version: env!("CARGO_PKG_VERSION"),
            extras: Vec::new(),
        }
    }

    /// What it is for, and its version: the head of its documents.
    #[must_use]
    pub fn about(mut self, about: &'static str, version: &'static str) -> Self {
        (self.about, self.version) = (about, version);
        self
    }

    /// The consumer group, where it is not called like the service. Dead letters go to `<group>_dlq`.
    #[must_use]
    pub fn group(mut self, group: &str) -> Self {
        self.subscription.group = group.into();
        self
    }

    /// The service's own tables: each text is run once, in order; released texts never change.
    ///
    /// A list of statements that both engines understand, or [`Tables`] with each engine's own.
    #[must_use]
    pub fn tables(mut self, tables: impl Into<Tables<'static>>) -> Self {
        self.tables = tables.into();
        self
    }

    /// Declares a topic: one that the service writes to, or a [`TopicSpec`] that says how one should be.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<TopicSpec>) -> Self {
        let topic = topic.into();
        self.topics.retain(|known| known.name != topic.name);
        self.topics.push(topic);
        self
    }

    /// Says that it states events of this type, for its documents and the gate; declares their topic.
    #[must_use]
    pub fn publishes<E: Event>(mut self) -> Self {
        self.published.push(EventSpec::of::<E>());
        self.knows(E::TOPIC);
        self
    }

    /// Has the transactions of its handlers, of all instances, exclude each other.
    ///
    /// For handlers that change rows which many keys share, such as the stock of a product: whatever order two
    /// instances lock them in, they cannot get into each other's way. One after the other they are as fast as
    /// the row that all of them wait for allows. Without it they deadlock now and then, which costs a second and
    /// harms nobody: the transaction is done again.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.subscription.is_exclusive = true;
        self
    }

    /// How often a failing event is tried again.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.subscription.retry = policy;
        self
    }

    /// Handles events one by one.
    #[must_use]
    pub fn on<E: Event, H: Handler<E>>(mut self, handler: H) -> Self {
        self.subscribe::<E>(Arc::new(One::<E, H>(Arc::new(handler), PhantomData)));
        self
    }

    /// Handles events many at a time.
    #[must_use]
    pub fn on_batch<E: Event, H: BatchHandler<E>>(mut self, handler: H) -> Self {
        self.subscribe::<E>(Arc::new(Many::<E, H>(Arc::new(handler), PhantomData)));
        self
    }

    /// Handles, many at a time, only those events that other programs put on our own topic.
    #[must_use]
    pub fn on_foreign_batch<E: Event, H: BatchHandler<E>>(mut self, handler: H) -> Self {
        self.subscription.external_only.insert(E::TOPIC.to_owned());
        self.takes_external::<E>().on_batch::<E, H>(handler)
    }

    /// Takes events of this type from programs outside too: from any source but the topic's own, without a
    /// number. Without this they are dead letters (`wrong_source`), so that nobody outside can make facts up.
    #[must_use]
    pub fn takes_external<E: Event>(mut self) -> Self {
        self.subscription.external.insert(E::TYPE);
        self
    }

    fn subscribe<E: Event>(&mut self, handler: Arc<dyn crate::handler::AnyHandler>) {
        let place = self.subscription.handlers.len();
        self.subscription.handlers.push(handler);
        for name in std::iter::once(&E::TYPE).chain(E::ALIASES) {
            let handled = Handled { handler: place, topic: E::TOPIC };
            let before = self.subscription.types.insert(name, handled);
            assert!(before.is_none(), "two handlers for {name} in one service");
        }
        self.handled.push(EventSpec::of::<E>());
        self.reads_topic(E::TOPIC);
        for former in E::upcasts() {
            let handled = Handled { handler: place, topic: former.topic };
            self.subscription.former.entry(former.event_type).or_insert(handled);
            self.reads_topic(former.topic);
        }
    }

    fn reads_topic(&mut self, topic: &'static str) {
        if !self.subscription.topics.iter().any(|known| known == topic) {
            self.subscription.topics.push(topic.to_owned());
        }
        self.knows(topic);
    }

    fn knows(&mut self, topic: &'static str) {
        if !self.topics.iter().any(|known| known.name == topic) {
            self.topics.push(TopicSpec::new(topic));
        }
    }

    /// Performs effects of a kind.
    #[must_use]
    pub fn effect<F: Effect, P: Performer<F>>(mut self, performer: P) -> Self {
        let performer = Performing::<F, P>(Arc::new(performer), PhantomData);
        self.performers.push((F::KIND, Arc::new(performer)));
        self
    }

    /// Runs once the store is open, before anything else: opening balances, seeds.
    #[must_use]
    pub fn on_start<Fut>(mut self, work: impl FnOnce(Store) -> Fut + Send + 'static) -> Self
    where
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.on_start = Some(Box::new(move |store| Box::pin(work(store))));
        self
    }

    /// HTTP routes that describe themselves, over a state that is made once there is a store.
    #[must_use]
    pub fn api<S: Clone + Send + Sync + 'static>(
        mut self,
        api: Api<S>,
        state: impl FnOnce(&Store) -> S + Send + 'static,
    ) -> Self {
        let (router, operations) = api.into_parts();
        self.operations.extend(operations);
        self.routes(move |store| router.with_state(state(store)))
    }

    /// HTTP routes over the service's store that are nobody else's business: no document names them.
    #[must_use]
    pub fn routes(mut self, routes: impl FnOnce(&Store) -> Router + Send + 'static) -> Self {
        self.routes.push(Box::new(routes));
        self
    }

    /// A `POST` route handled in one transaction; 201 with what it returns, 202 if that is nothing.
    #[must_use]
    pub fn post<T, R, H>(self, path: &'static str, handler: H) -> Self
    where
        T: DeserializeOwned + JsonSchema + Validate<Context = ()> + Clone + Send + Sync + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        H: Post<T, R>,
    {
        let (api, state) = http::post_route(path, handler);
        self.api(api, state)
    }

    /// A part of `/statusz` under `name`.
    #[must_use]
    pub fn status<Fut>(
        mut self,
        name: &'static str,
        read: impl Fn(Store) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.extras.push((name, Arc::new(move |store| Box::pin(read(store)))));
        self
    }

    /// The topics it writes to or reads from, its dead letters included.
    #[must_use]
    pub fn topic_specs(&self) -> Vec<TopicSpec> {
        let mut specs = self.topics.clone();
        if !self.subscription.handlers.is_empty() {
            specs.push(TopicSpec::dead_letters(&self.subscription.group));
        }
        specs
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn own_tables(&self) -> Tables<'static> {
        self.tables
    }

    /// Whether it reads anything.
    pub(crate) fn reads(&self) -> bool {
        !self.subscription.handlers.is_empty()
    }

    pub(crate) fn group_name(&self) -> &str {
        &self.subscription.group
    }

    pub(crate) fn about_text(&self) -> &'static str {
        self.about
    }

    pub(crate) fn version_text(&self) -> &'static str {
        self.version
    }

    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(crate) fn published(&self) -> &[EventSpec] {
        &self.published
    }

    pub(crate) fn handled(&self) -> &[EventSpec] {
        &self.handled
    }

    pub(crate) fn reads_foreign_only(&self, topic: &str) -> bool {
        self.subscription.external_only.contains(topic)
    }

    /// Their names.
    pub fn topic_names(&self) -> impl Iterator<Item = String> {
        self.topic_specs().into_iter().map(|spec| spec.name.into_owned())
    }

    /// Whether its names can be those of files, schemas, groups and topics.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, name) in [("service", &*self.name), ("group", &*self.subscription.group)] {
            let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
            if !starts_well || !is_plain || name.len() > NAME_MAX {
                return Err(Error::config(format!(
                    "{name:?} cannot be the name of a {what}: it names files, tables, groups and topics; use 1 to {NAME_MAX} letters, digits, _, - and ."
                )));
            }
        }
        Ok(())
    }

    /// Runs the service alone, with the settings of the command line, until it is told to stop.
    pub async fn main(self) -> ExitCode {
        let settings = Settings::from_command_line();
        crate::config::exit(async { process::run(vec![self], settings?).await }.await)
    }

    /// Opens the store and starts everything but the HTTP server. The topics must exist.
    ///
    /// # Errors
    /// The store cannot be opened.
    pub async fn start(self, store_url: &str, broker: &Broker) -> Result<Running, Error> {
        let store = self.open(store_url).await?;
        self.start_on(store, broker).await
    }

    /// Opens its store, and brings its tables up to date.
    pub(crate) async fn open(&self, store_url: &str) -> Result<Store, Error> {
        self.check()?;
        Store::open(store_url, &self.name, self.tables).await
    }

    pub(crate) async fn start_on(self, store: Store, broker: &Broker) -> Result<Running, Error> {
        let topics: Vec<String> = self.topic_names().collect();
        match topics::verify(&store, broker, &topics).await {
            Err(e) if e.is_unavailable() => {
                tracing::warn!(error = %e, "the broker is away; what happens meanwhile waits for it");
            }
            verified => {
                verified?;
                topics::tell_lost(&store, broker, &self.subscription.group, &self.subscription.topics)
                    .await?;
            }
        }
        let health = store.health().clone();
        store.declare(Declared {
            topics: topics.clone(),
            kinds: self.performers.iter().map(|(kind, _)| *kind).collect(),
        });
        let effect_counts = Arc::new(EffectCounts::default());
        let executor = Executor {
            store: store.clone(),
            performers: self.performers.into_iter().collect(),
            counts: effect_counts.clone(),
        };
        // Before anybody here can ask for an effect: what is claimed now was claimed by a former process.
        effects::reclaim(&store).await?;
        if let Some(work) = self.on_start {
            let failed = |e| Error::unavailable(format!("{} cannot start: {e}", self.name));
            work(store.clone()).await.map_err(failed)?;
        }
        let stop = CancellationToken::new();
        let reading = stop.child_token();
        let refusal: Arc<OnceLock<Error>> = Arc::default();
        let mut tasks = JoinSet::new();
        let relay_counts = Arc::new(RelayCounts::default());
        let relay = Relay::new(store.clone(), broker.clone(), relay_counts.clone(), health.clone());
        let relaying = CancellationToken::new();
        let mut relays = JoinSet::new();
        relays.spawn(health.clone().watch(Loop::Send, relaying.clone(), relay.run(relaying.clone())));
        let counts = Arc::new(Counts::default());
        let subscription = Arc::new(self.subscription);
        if !subscription.handlers.is_empty() {
            let pipeline = Pipeline {
                store: store.clone(),
                subscription: subscription.clone(),
                counts: counts.clone(),
                health: health.clone(),
            };
            let engine = Engine { pipeline, broker: broker.clone() };
            let (stopping, refusal) = (reading.clone(), refusal.clone());
            tasks.spawn(health.clone().watch(Loop::Consume, reading.clone(), async move {
                if let Err(e) = engine.run(stopping).await {
                    tracing::error!(error = %e, "the consumer stopped");
                    let _ = refusal.set(e);
                }
            }));
        }
        tasks.spawn(health.clone().watch(Loop::Topics, stop.clone(), {
            let (store, broker, refusal) = (store.clone(), broker.clone(), refusal.clone());
            let (stop, reading, relaying) = (stop.clone(), reading, relaying.clone());
            let (topics, group) = (topics.clone(), subscription.group.clone());
            let health = health.clone();
            async move {
                if let Some(e) = topics::watch(&store, &broker, &group, &topics, &health, &stop).await {
                    // Keys may live elsewhere by now: what is read or sent would be out of order.
                    tracing::error!(error = %e, "nothing is read or sent any more");
                    let _ = refusal.set(e);
                    reading.cancel();
                    relaying.cancel();
                }
            }
        }));
        tasks.spawn(health.clone().watch(Loop::Perform, stop.clone(), executor.run(stop.clone())));
        let cleaning_up = retention::run(store.clone(), health.clone(), stop.clone());
        tasks.spawn(health.clone().watch(Loop::CleanUp, stop.clone(), cleaning_up));
        let router =
            self.routes.into_iter().fold(Router::new(), |router, routes| router.merge(routes(&store)));
        Ok(Running {
            name: self.name,
            store,
            broker: broker.clone(),
            topics,
            lag: LagCache::new(broker.clone(), subscription.clone()),
            subscription,
            counts,
            relay_counts,
            effect_counts,
            extras: self.extras,
            router,
            leaving: CancellationToken::new(),
            stop,
            relaying,
            refusal,
            health,
            tasks: tokio::sync::Mutex::new(tasks),
            relays: tokio::sync::Mutex::new(relays),
        })
    }
}

/// A service that has been started.
pub struct Running {
    name: String,
    store: Store,
    broker: Broker,
    topics: Vec<String>,
    lag: Arc<LagCache>,
    subscription: Arc<Subscription>,
    counts: Arc<Counts>,
    relay_counts: Arc<RelayCounts>,
    effect_counts: Arc<EffectCounts>,
    extras: Vec<(&'static str, Extra)>,
    router: Router,
    /// It goes on, but wants no new requests.
    leaving: CancellationToken,
    stop: CancellationToken,
    relaying: CancellationToken,
    refusal: Arc<OnceLock<Error>>,
    health: Health,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
    relays: tokio::sync::Mutex<JoinSet<()>>,
}

impl Running {
    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its routes, without the ones every process has.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Whether nothing is left to do: all published, all read, nothing due.
    ///
    /// # Errors
    /// An unusable database or broker.
    pub async fn is_idle(&self) -> Result<bool, Error> {
        let before = self.done();
        // In the direction in which work goes: what ends here goes on there.
        let idle = parked::due(&self.store, &self.subscription.group, 1).await?.is_empty()
            && effects::is_idle(&self.store).await?
            // After the hand-over was found empty: what is taken out of it is counted before.
            && self.effect_counts.in_flight.load(Ordering::Relaxed) == 0
            && outbox::backlog(&self.store).await?.pending == 0
            && self.lag.ask().await? == 0;
        // What was done meanwhile may have begun anew what was looked at first.
        Ok(idle && before == self.done())
    }

    /// How much was done so far, of whatever kind.
    fn done(&self) -> u64 {
        let counts = &self.counts;
        [
            &counts.delivered,
            &counts.recovered,
            &counts.failed_again,
            &counts.given_up,
            &self.effect_counts.done,
            &self.effect_counts.failed,
            &self.relay_counts.published,
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
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        let all = async { while tasks.join_next().await.is_some() {} };
        let hangs = async {
            let answer = tokio::time::timeout(ANSWER_MAX, self.store.probe()).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                tokio::time::sleep(TASKS_MAX).await;
            }
        };
        let ended = tokio::select! {
            () = all => true,
            () = hangs => false,
        };
        if !ended {
            tracing::warn!(
                service = self.name,
                "what is under way does not end; it is done again elsewhere or later"
            );
            tasks.abort_all();
        }
    }

    /// Sends what was committed on the way out, gives back the lanes and the claim on deeds, writes down what
    /// is deferred.
    pub(crate) async fn stop_relaying(&self) -> Result<(), Error> {
        self.relaying.cancel();
        let mut relays = self.relays.lock().await;
        let all = async { while relays.join_next().await.is_some() {} };
        if tokio::time::timeout(RELAY_MAX, all).await.is_err() {
            tracing::warn!(service = self.name, "what the relay has leased runs out by itself");
            relays.abort_all();
        }
        let closed = tokio::time::timeout(CLOSE_MAX, self.store.close()).await;
        closed.unwrap_or_else(|_| Err(Error::unavailable("the database does not answer")))
    }

    /// Why it does not go on reading or sending, if it does not: somebody has to look.
    #[must_use]
    pub fn refusal(&self) -> Option<&Error> {
        self.refusal.get()
    }

    /// The loops that do not go on at the moment.
    pub(crate) fn stopped_loops(&self) -> Vec<Stopped> {
        self.health.stopped()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.leaving.is_cancelled() || self.stop.is_cancelled()
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The topics it writes to or reads from, its dead letters included.
    pub(crate) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Whether it handles both as the same type: `order_created` is another name of `order.created.v1`.
    pub(crate) fn is_alias(&self, one: &str, other: &str) -> bool {
        let handler = |name| self.subscription.types.get(name).map(|handled| handled.handler);
        handler(one).is_some() && handler(one) == handler(other)
    }

    /// Its backlog, its lag and what became of every delivered event: its part of `/statusz`.
    ///
    /// # Errors
    /// An unusable database.
    pub async fn status(&self) -> Result<Value, Error> {
        let rows = self.rows().await?;
        let mut status = self.memory().await;
        rows.add_to(&mut status);
        for (name, read) in &self.extras {
            status[*name] = read(self.store.clone()).await?;
        }
        Ok(status)
    }

    /// The same, or what is in memory and why the rest is not known: never late.
    pub(crate) async fn glance(&self) -> Value {
        match in_time(self.status()).await {
            Ok(status) => status,
            Err(e) => {
                let mut status = self.memory().await;
                status["error"] = e.to_string().into();
                status
            }
        }
    }

    /// What is counted in the database.
    async fn rows(&self) -> Result<Rows, Error> {
        Ok(Rows {
            backlog: outbox::backlog(&self.store).await?,
            parked: parked::counts(&self.store, &self.subscription.group).await?,
            effects: effects::counts(&self.store).await?,
            now_us: self.store.clock().now().as_microsecond(),
        })
    }

    async fn memory(&self) -> Value {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "outbox": {
                "published": count(&self.relay_counts.published),
                "failed": count(&self.relay_counts.failed),
            },
            "consumer": {
                "group": &*self.subscription.group,
                // Unknown while the broker is away.
                "lag": self.lag.recent().await.map(|lag| lag.records),
                "delivered": count(&self.counts.delivered),
                "handled": count(&self.counts.handled),
                "duplicate": count(&self.counts.duplicate),
                "ignored": count(&self.counts.ignored),
                "parked": count(&self.counts.parked),
                "dead": count(&self.counts.dead),
                "recovered": count(&self.counts.recovered),
                "given_up": count(&self.counts.given_up),
                "differing": count(&self.counts.differing),
                "conflicts": count(&self.counts.conflicts),
            },
            "waiting": self.stopped_loops(),
            "refusal": self.refusal().map(ToString::to_string),
            "effects": { "done": count(&self.effect_counts.done) },
        })
    }

    /// Gathers its metrics; without what is counted in the database, if that does not answer.
    pub(crate) async fn gather(&self, recorder: &PrometheusRecorder) {
        let rows = in_time(self.rows()).await;
        let lag = self.lag.recent().await;
        let service = self.name.clone();
        with_local_recorder(recorder, || {
            let gauge = |name: &'static str, value: u64| {
                metrics::gauge!(name, "service" => service.clone()).set(value as f64);
            };
            let counter = |name: &'static str, value: &std::sync::atomic::AtomicU64| {
                let value = value.load(Ordering::Relaxed);
                metrics::counter!(name, "service" => service.clone()).absolute(value);
            };
            gauge("store_up", rows.is_ok().into());
            if let Ok(rows) = &rows {
                let ((waiting, dead), (open, failing)) = (rows.parked, rows.effects);
                gauge("outbox_pending_rows", rows.backlog.pending);
                gauge("outbox_blocked_rows", rows.backlog.blocked);
                gauge("outbox_oldest_pending_seconds", rows.oldest_us().unsigned_abs() / 1_000_000);
                gauge("parked_rows", waiting);
                gauge("dead_rows", dead);
                gauge("effects_open", open);
                gauge("effects_failing", failing);
            }
            if let Some(lag) = lag {
                gauge("consumer_lag_records", lag.records);
            }
            gauge("relay_lanes", self.relay_counts.lanes.load(Ordering::Relaxed));
            counter("outbox_lane_lease_lost_total", &self.relay_counts.lanes_lost);
            counter("outbox_published_total", &self.relay_counts.published);
            counter("outbox_send_failures_total", &self.relay_counts.failed);
            counter("outbox_blocked_total", &self.relay_counts.blocked);
            counter("inbox_delivered_total", &self.counts.delivered);
            counter("inbox_gaps_total", &self.counts.gaps);
            counter("inbox_differing_total", &self.counts.differing);
            counter("consumer_conflicts_total", &self.counts.conflicts);
            counter("parked_unstorable_total", &self.counts.narrowly_buried);
            let (mut paused, mut stalled) = (0, 0);
            for stopped in self.stopped_loops() {
                let (name, reason) = stopped.names();
                let gauge = |metric: &'static str, value: u64| {
                    metrics::gauge!(metric, "service" => service.clone(), "loop" => name, "reason" => reason)
                        .set(value as f64);
                };
                gauge("loop_waiting_seconds", stopped.seconds);
                gauge("loop_tries", stopped.tries);
                if stopped.of == Loop::Consume {
                    paused = stopped.seconds;
                    stalled = if stopped.is_unready() { stopped.seconds } else { 0 };
                }
            }
            gauge("consumer_paused_seconds", paused);
            gauge("consumer_stalled_seconds", stalled);
            counter("parked_recovered_total", &self.counts.recovered);
            counter("parked_given_up_total", &self.counts.given_up);
            counter("effects_done_total", &self.effect_counts.done);
            counter("effects_failed_total", &self.effect_counts.failed);
            for (result, value) in [
                ("handled", &self.counts.handled),
                ("duplicate", &self.counts.duplicate),
                ("ignored", &self.counts.ignored),
                ("parked", &self.counts.parked),
                ("dead", &self.counts.dead),
            ] {
                let value = value.load(Ordering::Relaxed);
                metrics::counter!("inbox_records_total", "service" => service.clone(), "result" => result)
                    .absolute(value);
            }
        });
    }
}

/// Numbers of rows, for who looks.
struct Rows {
    backlog: Backlog,
    /// Waiting and dead.
    parked: (u64, u64),
    /// Open, and those of them that failed.
    effects: (u64, u64),
    now_us: i64,
}

impl Rows {
    /// The age of the oldest event that waits for the broker.
    fn oldest_us(&self) -> i64 {
        self.backlog.oldest_us.map_or(0, |us| self.now_us.saturating_sub(us).max(0))
    }

    fn add_to(&self, status: &mut Value) {
        let Backlog { pending, oldest_us, blocked } = self.backlog;
        let ((waiting, dead), (open, failing)) = (self.parked, self.effects);
        status["outbox"]["pending"] = pending.into();
        status["outbox"]["blocked"] = blocked.into();
        status["outbox"]["oldest_seconds"] = oldest_us.map(|_| self.oldest_us() / 1_000_000).into();
        status["parked"] = json!({ "waiting": waiting, "dead": dead });
        status["effects"]["open"] = open.into();
        status["effects"]["failing"] = failing.into();
    }
}

/// Waits for the database, but not for long: a page for operators is never late.
async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
    answer.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("the database has not answered within {ANSWER_MAX:?}")))
    })
}
