//! A service, described: its name, tables, topics, handlers, effects and routes.

mod handling;
mod intake;
mod spec;

use std::marker::PhantomData;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::broker::TopicSpec;
use crate::effect::{Effect, Timer};
use crate::error::{Error, HandlerError};
use crate::event::Event;
use crate::handler::{
    AnyEffectHandler, AnyHandler, BatchHandler, EffectHandler, Handler, Many, One, TimerEffect, TimerHandler,
    TypedEffectHandler,
};
use crate::http::{self, Api, Arguments, Operation, ReadHandler, RouteHandler, Verb};
use crate::store::{Store, Tables};
use crate::subscription::{Dispatch, Subscription};

pub(crate) use intake::Intakes;
pub(crate) use spec::{EventSpec, topic_specs};

pub(crate) type Routes = Box<dyn FnOnce(&Store) -> Router + Send>;
pub(crate) type OnStart = Box<dyn FnOnce(Store) -> BoxFuture<'static, Result<(), HandlerError>> + Send>;
pub(crate) type Extra = Arc<dyn Fn(Store) -> BoxFuture<'static, Result<Value, Error>> + Send + Sync>;

/// A service, described. [`main`](Service::main) runs it alone, [`run`](crate::run) several in one process.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::event::NoteTaken;
/// # async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> { tx.publish(note).await }
/// # async fn count(_: &Envelope<NoteTaken>, _: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
/// let service = Service::new("notes")
///     .tables(&["CREATE TABLE note (key TEXT PRIMARY KEY)"])
///     .publishes::<NoteTaken>()
///     .post("/notes", take)
///     .on(count);
/// assert_eq!(service.topic_names().collect::<Vec<_>>(), ["notes", "notes_dlq"]);
/// ```
pub struct Service {
    pub(crate) name: String,
    pub(crate) tables: Tables<'static>,
    pub(crate) topics: Vec<TopicSpec>,
    /// Topics that it may publish any type to.
    pub(crate) written: Vec<String>,
    pub(crate) subscription: Subscription,
    pub(crate) effect_handlers: Vec<(&'static str, Arc<dyn AnyEffectHandler>)>,
    pub(crate) on_start: Option<OnStart>,
    pub(crate) routes: Vec<Routes>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) published: Vec<EventSpec>,
    pub(crate) handled: Vec<EventSpec>,
    pub(crate) about: &'static str,
    pub(crate) version: &'static str,
    pub(crate) extras: Vec<(&'static str, Extra)>,
    pub(crate) intakes: Intakes,
    /// Contradictions in the description, told when it is checked.
    faults: Vec<String>,
}

impl Service {
    /// A service of this name: it names its database, its consumer group and its dead letters.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tables: Tables::default(),
            topics: Vec::new(),
            written: Vec::new(),
            subscription: Subscription::new(name),
            effect_handlers: Vec::new(),
            on_start: None,
            routes: Vec::new(),
            operations: Vec::new(),
            published: Vec::new(),
            handled: Vec::new(),
            about: "",
            version: env!("CARGO_PKG_VERSION"),
            extras: Vec::new(),
            intakes: Intakes::default(),
            faults: Vec::new(),
        }
    }

    /// Sets the purpose of the service, and its version: the head of its documents.
    #[must_use]
    pub fn describe(mut self, about: &'static str, version: &'static str) -> Self {
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
    ///
    /// ```
    /// # use tidings::Service;
    /// let service = Service::new("shipping").tables(&[
    ///     "CREATE TABLE parcel (id TEXT PRIMARY KEY)",
    ///     "ALTER TABLE parcel ADD COLUMN grams INTEGER", // came with a later release
    /// ]);
    /// ```
    #[must_use]
    pub fn tables(mut self, tables: impl Into<Tables<'static>>) -> Self {
        if !(self.tables.sqlite.is_empty() && self.tables.postgres.is_empty()) {
            self.faults.push("its tables are said twice: say `.tables(…)` once, with all of them".to_owned());
        }
        self.tables = tables.into();
        self
    }

    /// Declares a topic: one that the service writes to, or a [`TopicSpec`] that says how one should be.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<TopicSpec>) -> Self {
        let topic = topic.into();
        self.written.push(topic.name.to_string());
        self.topics.retain(|known| known.name != topic.name);
        self.topics.push(topic);
        self
    }

    /// Says that it states events of this type, for its documents and the gate; declares their topic.
    ///
    /// ```
    /// # use tidings::{Service, contract};
    /// # use tidings_testkit::event::NoteTaken;
    /// let service = Service::new("notes").publishes::<NoteTaken>();
    /// assert!(contract(&[service])["note.taken.v1"].written_by.contains("notes"));
    /// ```
    #[must_use]
    pub fn publishes<E: Event>(mut self) -> Self {
        self.published.push(EventSpec::of::<E>());
        self.knows(E::TOPIC);
        self
    }

    /// Handles events one by one.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// async fn count(note: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
    ///     tx.execute("UPDATE page SET notes = notes + 1 WHERE key = $1", params![note.key()]).await?;
    ///     Ok(())
    /// }
    /// let service = Service::new("pages").on(count);
    /// ```
    #[must_use]
    pub fn on<E: Event, H: Handler<E>>(mut self, handler: H) -> Self {
        self.subscribe::<E>(Arc::new(One::<E, H>::new(handler)));
        self
    }

    /// Handles events many at a time.
    ///
    /// ```
    /// # use tidings::{BatchHandler, Service};
    /// # use tidings_testkit::event::NoteTaken;
    /// fn pages(count: impl BatchHandler<NoteTaken>) -> Service {
    ///     Service::new("pages").on_batch(count)
    /// }
    /// ```
    #[must_use]
    pub fn on_batch<E: Event, H: BatchHandler<E>>(mut self, handler: H) -> Self {
        self.subscribe::<E>(Arc::new(Many::<E, H>::new(handler)));
        self
    }

    /// Handles, many at a time, only those events that other programs put on our own topic.
    #[must_use]
    pub fn on_external_batch<E: Event, H: BatchHandler<E>>(mut self, handler: H) -> Self {
        self.subscription.external_only.insert(E::TOPIC.to_owned());
        self.takes_external::<E>().on_batch::<E, H>(handler)
    }

    /// Takes events of this type from programs outside too: from any source but the topic's own, without a
    /// number. Without this they are dead letters (`wrong_source`), so that no program outside can make facts up.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// # async fn count(_: &Envelope<NoteTaken>, _: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
    /// let service = Service::new("pages").takes_external::<NoteTaken>().on(count);
    /// ```
    #[must_use]
    pub fn takes_external<E: Event>(mut self) -> Self {
        self.subscription.external.insert(E::TYPE);
        self
    }

    fn subscribe<E: Event>(&mut self, handler: Arc<dyn AnyHandler>) {
        let index = self.subscription.handlers.len();
        self.subscription.handlers.push(handler);
        self.subscription.options.push(None);
        for name in std::iter::once(&E::TYPE).chain(E::ALIASES) {
            let handled = Dispatch { handler: index, topic: E::TOPIC };
            let before = self.subscription.types.insert(name, handled);
            if before.is_some() {
                self.faults.push(format!("two handlers of {name}: an event has one; call both from it"));
            }
        }
        self.handled.push(EventSpec::of::<E>());
        self.reads_topic(E::TOPIC);
        for former in E::upcasts() {
            let handled = Dispatch { handler: index, topic: former.topic };
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
    ///
    /// ```
    /// # use tidings::{Effect, EffectHandler, Service};
    /// fn shipping<Fetch: Effect>(carrier: impl EffectHandler<Fetch>) -> Service {
    ///     Service::new("shipping").effect(carrier)
    /// }
    /// ```
    #[must_use]
    pub fn effect<F: Effect, P: EffectHandler<F>>(mut self, handler: P) -> Self {
        if self.effect_handlers.iter().any(|(kind, _)| *kind == F::KIND) {
            self.faults.push(format!("two handlers of the effect {}: an effect has one", F::KIND));
        }
        let handler = TypedEffectHandler::<F, P>(Arc::new(handler), PhantomData);
        self.effect_handlers.push((F::KIND, Arc::new(handler)));
        self
    }

    /// Handles timers of a kind: `async fn(&T, &mut Tx) -> Result<(), HandlerError>`. One that fails is handled again, later
    /// and later, for as long as it takes.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # #[timer(kind = "overdue", key = id)]
    /// # struct Overdue { id: String }
    /// async fn overdue(timer: &Overdue, tx: &mut Tx) -> Result<(), HandlerError> {
    ///     tx.execute("UPDATE parcel SET state = 'overdue' WHERE id = $1", params![&timer.id]).await?;
    ///     Ok(())
    /// }
    /// let service = Service::new("shipping").on_timer(overdue);
    /// ```
    #[must_use]
    pub fn on_timer<T: Timer, H: TimerHandler<T>>(self, handler: H) -> Self {
        self.effect::<T, _>(TimerEffect::<T, H>(handler, PhantomData))
    }

    /// Runs once the store is open, before anything else: opening balances, seeds.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// let service = Service::new("stock").on_start(async |store: Store| {
    ///     let seed = "INSERT INTO stock (product, amount) VALUES ('tea', 100) ON CONFLICT DO NOTHING";
    ///     store.transaction(async |tx: &mut Tx| tx.execute(seed, &[]).await.map(drop).map_err(Into::into)).await
    /// });
    /// ```
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
        let (router, mut operations) = api.into_parts();
        self.intakes.of(&mut operations);
        self.operations.extend(operations);
        self.routes.push(Box::new(move |store| router.with_state(state(store))));
        self
    }

    /// HTTP routes over the service's store that are the service's own business: no document names them.
    #[must_use]
    pub fn routes(mut self, routes: impl FnOnce(&Store) -> Router + Send + 'static) -> Self {
        let intake = self.intakes.more();
        self.routes.push(Box::new(move |store| http::bounded(routes(store), intake)));
        self
    }

    /// A `GET` route that reads from the store: `async fn(&Store, Path(id): Path<String>) -> Result<R, Problem>`. Answers
    /// 200 with what the handler returns.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// async fn parcel(store: &Store, Path(id): Path<String>) -> Result<Option<u32>, Problem> {
    ///     let rows = store.query("SELECT grams FROM parcel WHERE id = $1", params![&id]).await?;
    ///     Ok(rows.first().map(|row| row.get(0)).transpose()?)
    /// }
    /// let service = Service::new("shipping").get("/parcels/{id}", parcel);
    /// ```
    #[must_use]
    pub fn get<A, R, E, H>(self, path: &'static str, handler: H) -> Self
    where
        A: Arguments + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: 'static,
        H: ReadHandler<A, R, E>,
    {
        let (api, state) = http::reading(path, handler);
        self.api(api, state)
    }

    /// A `POST` route, handled in one transaction: `async fn(&mut Tx, Path(id): Path<String>, body: T) -> Result<R, E>`.
    /// The path and the query come before the body; each is left out where it is not needed.
    ///
    /// Answers 201 with what the handler returns, 202 if that is nothing. A request with an `Idempotency-Key` that was
    /// handled before gets the same answer again, and nothing is done twice.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::{TestApp, event::NoteTaken};
    /// async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> { tx.publish(note).await }
    /// # #[tokio::main] async fn main() {
    /// let app = TestApp::start([Service::new("notes").publishes::<NoteTaken>().post("/notes", take)]).await;
    /// for _ in ["first", "again"] {
    ///     assert_eq!(app.post_with_key("/notes", "key-1", &NoteTaken::new("k", 1)).await.status, 202);
    /// }
    /// app.idle().await;
    /// assert_eq!(app.events::<NoteTaken>().await.len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn post<A, R, E, H>(self, path: &'static str, handler: H) -> Self
    where
        A: Arguments + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: 'static,
        H: RouteHandler<A, R, E>,
    {
        self.changing::<http::Post, A, R, E, H>(path, handler)
    }

    /// A `PUT` route, as [`post`](Service::post); answers 200 with what the handler returns, 204 if that is nothing.
    #[must_use]
    pub fn put<A, R, E, H>(self, path: &'static str, handler: H) -> Self
    where
        A: Arguments + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: 'static,
        H: RouteHandler<A, R, E>,
    {
        self.changing::<http::Put, A, R, E, H>(path, handler)
    }

    /// A `DELETE` route, as [`put`](Service::put).
    #[must_use]
    pub fn delete<A, R, E, H>(self, path: &'static str, handler: H) -> Self
    where
        A: Arguments + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: 'static,
        H: RouteHandler<A, R, E>,
    {
        self.changing::<http::Delete, A, R, E, H>(path, handler)
    }

    /// Sets the summary of the last route in the service's OpenAPI document, in a line.
    #[must_use]
    pub fn summary(mut self, summary: &'static str) -> Self {
        match self.operations.last_mut() {
            Some(operation) => operation.summary = summary,
            None => {
                self.faults.push("a summary without a route: say `.summary(…)` after the route".to_owned())
            }
        }
        self
    }

    /// Adds a problem that the last route may answer with to the service's OpenAPI document.
    ///
    /// ```
    /// # use tidings::axum::http::StatusCode;
    /// # use tidings::prelude::*;
    /// async fn tea(_: &Store, Path(name): Path<String>) -> Result<String, Problem> {
    ///     Err(Problem::not_found(format!("{name} is all gone")))
    /// }
    ///
    /// let service = Service::new("teas")
    ///     .get("/teas/{name}", tea)
    ///     .summary("A tea by its name")
    ///     .problem(StatusCode::NOT_FOUND, "not-found");
    /// ```
    #[must_use]
    pub fn problem(mut self, status: StatusCode, kind: &'static str) -> Self {
        match self.operations.last_mut() {
            Some(operation) => operation.may_refuse(status, kind),
            None => {
                self.faults.push("a problem without a route: say `.problem(…)` after the route".to_owned())
            }
        }
        self
    }

    fn changing<V, A, R, E, H>(self, path: &'static str, handler: H) -> Self
    where
        V: Verb,
        A: Arguments + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: 'static,
        H: RouteHandler<A, R, E>,
    {
        let (api, state) = http::changing::<V, A, R, E, H>(path, handler);
        self.api(api, state)
    }
}
