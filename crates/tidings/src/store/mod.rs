//! A service's own database: its truth. State, events, effects and retries commit together.
//!
//! [`Store`] is picked by URL (`sqlite:DIRECTORY`), [`Tx`] is the unit of work in it.

pub(crate) mod audit;
mod condition;
mod database;
pub(crate) mod deeds;
pub(crate) mod dead_letters;
pub(crate) mod deferred;
pub(crate) mod effect_book;
pub(crate) mod effects;
pub(crate) mod gaps;
mod hand_over;
pub(crate) mod idempotency;
pub(crate) mod inbox;
mod write_batcher;
pub(crate) mod outbox;
pub(crate) mod parked;
pub(crate) mod pauses;
mod pending;
pub(crate) mod postgres;
pub(crate) mod refused;
pub(crate) mod retention;
pub(crate) mod trail;
mod tx;
mod value;
pub(crate) mod waiting;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::bounds::Pressure;
use crate::clock::Clock;
use crate::effect::EffectRequest;
use crate::error::{Error, HandlerError};
use crate::health::Health;

use tokio::sync::{Notify, watch};

use self::pauses::Pauses;
use database::Engine;
pub use database::Tables;
use hand_over::HandOver;
pub use tx::Tx;
pub use value::{FromValue, Param, Row};
pub use write_batcher::{BatchWork, WriteBatcher};

/// A store that has not answered a question by then counts as away.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// A service's database. Cheap to clone.
///
/// ```
/// # use tidings::prelude::*;
/// # #[tokio::main] async fn main() -> Result<(), Error> {
/// # let scratch = tidings_testkit::Scratch::new();
/// # let url = scratch.url();
/// let tables = &["CREATE TABLE parcel (id TEXT PRIMARY KEY)"];
/// let store = Store::open(&url, "shipping", tables).await?; // sqlite:DIRECTORY or postgres://…
/// assert!(store.query("SELECT id FROM parcel", &[]).await?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    service: String,
    database: Engine,
    clock: Clock,
    /// This process, to others that share the database.
    instance: i64,
    outbox: outbox::Outbox,
    effects: HandOver<EffectRequest>,
    health: Health,
    /// What may wait, and whether it is too much.
    pressure: Arc<Pressure>,
    /// Told when an operator has made parked events due.
    parked: Notify,
    /// Told when an operator has freed refused events.
    refused: Notify,
    /// The pauses, as they were last read.
    pauses: watch::Sender<Arc<Pauses>>,
    /// Set when a service starts on it.
    declared: OnceLock<Declared>,
}

/// The topics and effects that a service has declared.
pub(crate) struct Declared {
    /// Types of events that it publishes.
    pub(crate) events: Vec<&'static str>,
    /// Topics that it may publish any type to.
    pub(crate) topics: Vec<String>,
    /// Kinds of effects that it has a handler for.
    pub(crate) kinds: Vec<&'static str>,
}

/// Lanes for which there is room beside what else a service does.
const LANES_MIN: usize = 8;

impl Store {
    /// Opens the database of `service` at `url` and brings its tables up to date.
    ///
    /// # Errors
    /// In one line that says what to do: an unknown URL, an unwritable directory, a directory in use,
    /// a server that cannot be reached, data of a newer release.
    pub async fn open(url: &str, service: &str, tables: impl Into<Tables<'_>>) -> Result<Self, Error> {
        let database = Engine::open(url, service, tables.into()).await?;
        let outbox = outbox::Outbox::of(&database)?;
        let clock = Clock::default();
        let instance = match &database {
            Engine::Sqlite(_) => 0,
            Engine::Postgres(database) => {
                postgres::lanes::read_clock(database, &clock).await?;
                postgres::lanes::register(database).await?
            }
        };
        Ok(Self(Arc::new(Inner {
            service: service.to_owned(),
            database,
            clock,
            instance,
            outbox,
            effects: HandOver::new(effects::HAND_OVER_MAX),
            health: Health::default(),
            pressure: Arc::default(),
            parked: Notify::new(),
            refused: Notify::new(),
            pauses: watch::Sender::default(),
            declared: OnceLock::new(),
        })))
    }

    /// Says that parked events have become due for another reason than time.
    pub(crate) fn parked_has_changed(&self) {
        self.0.parked.notify_one();
    }

    /// Ends when parked events have become due for another reason than time.
    pub(crate) async fn parked_changed(&self) {
        self.0.parked.notified().await;
    }

    /// The pauses, as they were last read.
    pub(crate) fn pauses(&self) -> Arc<Pauses> {
        self.0.pauses.borrow().clone()
    }

    /// Ends when the pauses have changed.
    pub(crate) fn watch_pauses(&self) -> watch::Receiver<Arc<Pauses>> {
        self.0.pauses.subscribe()
    }

    /// Reads the pauses.
    pub(crate) async fn refresh_pauses(&self) -> Result<(), Error> {
        let pauses = pauses::read(self).await?;
        self.0.pauses.send_if_modified(|known| {
            let is_new = !known.is_same(&pauses);
            if is_new {
                *known = Arc::new(pauses);
            }
            is_new
        });
        Ok(())
    }

    /// Says that an operator wants refused events to be sent again.
    pub(crate) fn refused_has_changed(&self) {
        self.0.refused.notify_one();
    }

    /// Ends when refused events are to be sent again.
    pub(crate) async fn refused_changed(&self) {
        self.0.refused.notified().await;
    }

    /// Returns the migrations that opening the database would run. Changes nothing.
    pub(crate) async fn check(
        url: &str,
        service: &str,
        tables: impl Into<Tables<'_>>,
    ) -> Result<Vec<String>, Error> {
        Engine::check(url, service, tables.into()).await
    }

    /// Asks one of our tables for something, and whether it can be written: whether the store can be used, and not
    /// only reached.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        let asked = async {
            let sql = match self.database() {
                Engine::Sqlite(_) => "SELECT 'off' FROM migration LIMIT 1",
                Engine::Postgres(_) => {
                    "SELECT current_setting('transaction_read_only') FROM migration LIMIT 1"
                }
            };
            self.query(sql, &[]).await
        };
        let asked = tokio::time::timeout(PROBE_MAX, asked).await;
        let rows = asked.map_err(|_| Error::unavailable(format!("no answer within {PROBE_MAX:?}")))??;
        match rows.first().map(|row| row.get::<String>(0)).transpose()?.as_deref() {
            Some("on") => Err(Error::unavailable("the database takes no writes: is it a standby?")),
            _ => Ok(()),
        }
    }

    /// The name of this store, which no other store has.
    pub(crate) async fn id(&self) -> Result<String, Error> {
        self.query("SELECT id FROM store", &[]).await?[0].get(0)
    }

    pub(crate) fn declare(&self, declared: Declared) {
        let _ = self.0.declared.set(declared);
    }

    fn declared(&self) -> Option<&Declared> {
        self.0.declared.get()
    }

    /// Runs `work` in a transaction; what it returned is durable when this returns `Ok`.
    ///
    /// Events published and effects asked for in it leave only after the commit. An error or a panic
    /// undoes everything `work` did.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<(), HandlerError> {
    /// # let scratch = tidings_testkit::Scratch::new();
    /// # let tables = &["CREATE TABLE parcel (id TEXT PRIMARY KEY)"];
    /// # let store = Store::open(&scratch.url(), "shipping", tables).await?;
    /// let send = async |tx: &mut Tx| {
    ///     tx.execute("INSERT INTO parcel (id) VALUES ($1)", params!["p1"]).await?;
    ///     Ok(())
    /// };
    /// store.transaction(send).await?;
    /// assert!(store.transaction(send).await.is_err(), "p1 is there already");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `work` answered, or that the database could not commit.
    pub async fn transaction<T, F>(&self, work: F) -> Result<T, HandlerError>
    where
        F: for<'a> Work<'a, T>,
    {
        let mut tx = self.begin().await?;
        let value = work(&mut tx).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// One query outside a transaction; sees everything committed before the call.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<(), Error> {
    /// # let scratch = tidings_testkit::Scratch::new();
    /// # let store = Store::open(&scratch.url(), "shipping", &[]).await?;
    /// let rows = store.query("SELECT $1 + 1", params![41]).await?;
    /// assert_eq!(rows[0].get::<i64>(0)?, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A wrong statement, or an unusable database.
    pub async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.0.database.query(sql, params).await
    }

    /// Tells whether the provider contradicts the effect of this key, which then waits for an operator.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), tidings::Error> {
    /// let app = tidings_testkit::TestApp::start([tidings::Service::new("shipping")]).await;
    /// assert!(!app.service("shipping").store().is_effect_in_conflict("fetch/p1").await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// An unusable database.
    pub async fn is_effect_in_conflict(&self, key: &str) -> Result<bool, Error> {
        let effect = effect_book::show(self, key).await?;
        Ok(effect.is_some_and(|effect| effect.state == effect_book::EffectState::Conflict))
    }

    /// A bounded queue in front of `handler`, which gets all requests that wait, in one transaction.
    pub fn write_batcher<Q, A, H>(&self, handler: H) -> WriteBatcher<Q, A>
    where
        Q: Send + Sync + 'static,
        A: Send + 'static,
        H: BatchWork<Q, A>,
    {
        WriteBatcher::start(self.clone(), handler)
    }

    /// The service this database belongs to.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// The time this store goes by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) async fn begin(&self) -> Result<Tx, Error> {
        Ok(Tx::new(self.clone(), Some(self.0.database.begin().await?)))
    }

    /// Begins a transaction. Of all transactions that begin under this name, in whatever instance, one runs at a time.
    pub(crate) async fn begin_exclusive(&self, name: &str) -> Result<Tx, Error> {
        Ok(Tx::new(self.clone(), Some(self.0.database.begin_exclusive(name).await?)))
    }

    /// Makes room for as many transactions at once as a service has lanes.
    pub(crate) fn allow_lanes(&self, lanes: usize) {
        if let Engine::Postgres(database) = &self.0.database {
            database.allow_connections(lanes.saturating_sub(LANES_MIN));
        }
    }

    pub(super) fn database(&self) -> &Engine {
        &self.0.database
    }

    /// True if other processes may write to this database: then ids do not come in the order of commits, and what
    /// this process has begun is not all that is under way.
    pub(crate) fn has_other_writers(&self) -> bool {
        matches!(self.0.database, Engine::Postgres(_))
    }

    /// True if a commit can fail without a known outcome: over a connection that can die in it.
    pub(crate) fn commits_can_be_in_doubt(&self) -> bool {
        matches!(self.0.database, Engine::Postgres(_))
    }

    /// True if each statement is a trip to a server, so that few large transactions cost less than many small ones.
    pub(crate) fn has_round_trips(&self) -> bool {
        matches!(self.0.database, Engine::Postgres(_))
    }

    /// The state of the loops that work on this database.
    pub(crate) fn health(&self) -> &Health {
        &self.0.health
    }

    /// The bounds on what may wait, and which of them are reached.
    pub(crate) fn pressure(&self) -> &Arc<Pressure> {
        &self.0.pressure
    }

    pub(crate) fn instance(&self) -> i64 {
        self.0.instance
    }

    pub(crate) fn outbox(&self) -> &outbox::Outbox {
        &self.0.outbox
    }

    pub(crate) fn effects(&self) -> &HandOver<EffectRequest> {
        &self.0.effects
    }

    /// Writes what is still deferred: a clean stop.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.0.database.close().await
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.0.database.place())
    }
}

/// A function from a transaction to a result: `async |tx: &mut Tx| { … }`.
#[diagnostic::on_unimplemented(
    message = "this is no work for a transaction",
    note = "write an async closure with the type of its argument, `async |tx: &mut Tx|`, or `async move |tx: &mut Tx|` if it takes values along; not a closure that returns an `async move` block"
)]
pub trait Work<'a, T>: FnOnce(&'a mut Tx) -> Self::Future {
    /// The future of its result.
    type Future: Future<Output = Result<T, HandlerError>> + Send;
}

impl<'a, T, F, Fut> Work<'a, T> for F
where
    F: FnOnce(&'a mut Tx) -> Fut,
    Fut: Future<Output = Result<T, HandlerError>> + Send,
{
    type Future = Fut;
}
