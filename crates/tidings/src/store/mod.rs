//! A service's own database: its truth. State, events, effects and retries commit together.
//!
//! [`Store`] is picked by URL (`sqlite:DIRECTORY`), [`Tx`] is the unit of work in it.

mod database;
mod hand_over;
pub(crate) mod idempotency;
pub(crate) mod inbox;
mod intake;
pub(crate) mod outbox;
pub(crate) mod parked;
pub(crate) mod postgres;
pub(crate) mod retention;
mod value;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::Clock;
use crate::effect::{Asked, Claimed, Effect};
use crate::envelope::{Causal, Cause};
use crate::error::{Error, HandlerError};
use crate::event::Event;
use crate::health::Health;
use crate::message::Draft;

pub use database::Tables;
pub(crate) use database::{Database, Unit};
pub(crate) use hand_over::HandOver;
pub use intake::{Batch, Intake};
use outbox::Pending;
pub use value::{FromValue, Param, Row};

/// A store that has not answered a question by then counts as away.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// A service's database. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    service: String,
    database: Database,
    clock: Clock,
    /// This process, to others that share the database.
    instance: i64,
    outbox: outbox::Outbox,
    effects: HandOver<Asked>,
    health: Health,
    /// Set when a service starts on it.
    declared: OnceLock<Declared>,
}

/// What a service has said that it does.
pub(crate) struct Declared {
    /// Topics it may publish to.
    pub(crate) topics: Vec<String>,
    /// Kinds of effects that it has a performer for.
    pub(crate) kinds: Vec<&'static str>,
}

impl Store {
    /// Opens the database of `service` at `url` and brings its tables up to date.
    ///
    /// # Errors
    /// In one line that says what to do: an unknown URL, an unwritable directory, a directory in use,
    /// a server that cannot be reached, data of a newer release.
    pub async fn open(url: &str, service: &str, tables: impl Into<Tables<'_>>) -> Result<Self, Error> {
        let database = Database::open(url, service, tables.into()).await?;
        let outbox = outbox::Outbox::of(&database)?;
        let clock = Clock::default();
        let instance = match &database {
            Database::Sqlite(_) => 0,
            Database::Postgres(database) => {
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
            effects: HandOver::new(crate::effect::HAND_OVER_MAX),
            health: Health::default(),
            declared: OnceLock::new(),
        })))
    }

    /// What opening it would migrate. Changes nothing.
    pub(crate) async fn check(
        url: &str,
        service: &str,
        tables: impl Into<Tables<'_>>,
    ) -> Result<Vec<String>, Error> {
        Database::check(url, service, tables.into()).await
    }

    /// Asks one of our tables for something, and whether it can be written: whether the store can be used, and not
    /// only reached.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        let asked = async {
            let sql = match self.database() {
                Database::Sqlite(_) => "SELECT 'off' FROM migration LIMIT 1",
                Database::Postgres(_) => {
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

    /// The name of this store, which nobody else has.
    pub(crate) async fn id(&self) -> Result<String, Error> {
        self.query("SELECT id FROM store", &[]).await?[0].get(0)
    }

    pub(crate) fn declare(&self, declared: Declared) {
        let _ = self.0.declared.set(declared);
    }

    /// Runs `work` in a transaction; what it returned is durable when this returns `Ok`.
    ///
    /// Events published and effects asked for in it leave only after the commit. An error or a panic
    /// undoes everything `work` did.
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
    /// # Errors
    /// A wrong statement, or an unusable database.
    pub async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.0.database.query(sql, params).await
    }

    /// A bounded queue in front of `handler`, which gets all requests that wait, in one transaction.
    pub fn intake<Q, A, H>(&self, handler: H) -> Intake<Q, A>
    where
        Q: Send + Sync + 'static,
        A: Send + 'static,
        H: intake::Batch<Q, A>,
    {
        Intake::start(self.clone(), handler)
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
        Ok(self.tx(self.0.database.begin().await?))
    }

    /// The same for one at a time of all transactions, of whatever instance, that begin under this name.
    pub(crate) async fn begin_exclusive(&self, name: &str) -> Result<Tx, Error> {
        Ok(self.tx(self.0.database.begin_exclusive(name).await?))
    }

    fn tx(&self, unit: Unit) -> Tx {
        Tx {
            store: self.clone(),
            unit: Some(unit),
            now: self.0.clock.now(),
            cause: Cause::default(),
            drafts: Vec::new(),
            asked: Vec::new(),
            withdrawn: Vec::new(),
            done: Done::default(),
            trouble: None,
            broken: false,
        }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// The state of the loops that work on this database.
    pub(crate) fn health(&self) -> &Health {
        &self.0.health
    }

    pub(crate) fn instance(&self) -> i64 {
        self.0.instance
    }

    pub(crate) fn outbox(&self) -> &outbox::Outbox {
        &self.0.outbox
    }

    pub(crate) fn effects(&self) -> &HandOver<Asked> {
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
    /// What it returns.
    type Future: Future<Output = Result<T, HandlerError>> + Send;
}

impl<'a, T, F, Fut> Work<'a, T> for F
where
    F: FnOnce(&'a mut Tx) -> Fut,
    Fut: Future<Output = Result<T, HandlerError>> + Send,
{
    type Future = Fut;
}

/// A unit of work: SQL, [`publish`](Tx::publish), [`perform`](Tx::perform). All of it commits, or none.
pub struct Tx {
    store: Store,
    unit: Option<Unit>,
    now: Timestamp,
    cause: Cause,
    drafts: Vec<Draft>,
    asked: Vec<Asked>,
    withdrawn: Vec<String>,
    done: Done,
    trouble: Option<Error>,
    /// A statement failed: nothing is left but to go back to a savepoint, or to give up.
    broken: bool,
}

/// What happens once the commit is known good.
#[derive(Default)]
pub(crate) struct Done {
    published: Vec<Pending>,
    asked: Vec<Asked>,
    after: Vec<Box<dyn FnOnce() + Send>>,
}

impl Tx {
    /// Publishes an event: it is numbered, kept and sent if and only if this transaction commits.
    ///
    /// # Errors
    /// `Fatal` when the event breaks its own validation rules or is too large.
    // Async although nothing is awaited: the signature is the same for every database.
    #[allow(clippy::unused_async)]
    pub async fn publish<E: Event>(&mut self, event: E) -> Result<(), HandlerError> {
        if let Some(declared) = self.store.0.declared.get()
            && !declared.topics.iter().any(|topic| topic == E::TOPIC)
        {
            let (service, event, topic) = (self.store.service(), E::TYPE, E::TOPIC);
            return Err(HandlerError::fatal(
                "undeclared_event",
                format!(
                    "{service} publishes {event} and has not declared it, so nobody made its topic {topic}: add .publishes::<…>() to the service"
                ),
            ));
        }
        self.drafts.push(Draft::new(&event, &self.cause, self.now)?);
        Ok(())
    }

    /// Asks for a deed in the outside world: done after the commit, once, under its permanent key.
    ///
    /// # Errors
    /// `Fatal` when the request cannot be written as JSON.
    pub async fn perform<F: Effect>(&mut self, effect: F) -> Result<(), HandlerError> {
        self.perform_at(effect, self.now).await
    }

    /// The same, not before `due`: a timer.
    ///
    /// # Errors
    /// As [`perform`](Tx::perform).
    #[allow(clippy::unused_async)] // as `publish`
    pub async fn perform_at<F: Effect>(&mut self, effect: F, due: Timestamp) -> Result<(), HandlerError> {
        if let Some(declared) = self.store.0.declared.get()
            && !declared.kinds.contains(&F::KIND)
        {
            let (service, kind) = (self.store.service(), F::KIND);
            return Err(HandlerError::fatal(
                "undeclared_effect",
                format!(
                    "{service} asks for {kind} and has nobody to perform it: add .effect::<…>(…) to the service"
                ),
            ));
        }
        self.asked.push(Asked::new(&effect, &self.cause, due)?);
        Ok(())
    }

    /// Takes back an effect that nobody has begun; without effect on one that was.
    ///
    /// # Errors
    /// An unusable database.
    #[allow(clippy::unused_async)] // as `publish`
    pub async fn withdraw<F: Effect>(&mut self, effect: &F) -> Result<(), HandlerError> {
        let key = effect.key();
        self.asked.retain(|asked| asked.key != key);
        self.withdrawn.push(key);
        Ok(())
    }

    /// Attributes what is published and asked for from here on to `cause`.
    pub fn caused_by(&mut self, cause: &impl Causal) -> &mut Self {
        self.cause = cause.cause();
        self
    }

    /// The time of this transaction.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Runs a statement; returns how many rows it changed. After one that failed, the transaction cannot
    /// be committed any more.
    ///
    /// # Errors
    /// A wrong statement, a broken constraint, or an unusable database.
    pub async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        let result = self.unit().execute(sql, params).await;
        self.note(result)
    }

    /// Runs a statement once for each row of parameters; returns how many rows each changed.
    ///
    /// On PostgreSQL it is rewritten into one statement for all of them: `INSERT … VALUES (…) [ON CONFLICT
    /// (…) …]`, `UPDATE … WHERE …` and `DELETE … WHERE …` are. The rows must concern different rows of the
    /// table; give them in the order of their key where others lock the same ones.
    ///
    /// # Errors
    /// As [`execute`](Tx::execute), at the first row that fails.
    pub async fn execute_many<'p, const N: usize>(
        &mut self,
        sql: &str,
        rows: impl IntoIterator<Item = [Param<'p>; N]>,
    ) -> Result<Vec<u64>, Error> {
        let result = self.unit().execute_many(sql, rows).await;
        self.note(result)
    }

    /// Runs a query, or a statement with `RETURNING`.
    ///
    /// `FOR UPDATE [SKIP LOCKED]` at its end locks the rows to the commit, where others could write them
    /// meanwhile; SQLite, which has one writer, goes without.
    ///
    /// # Errors
    /// As [`execute`](Tx::execute).
    pub async fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let result = self.unit().query(sql, params).await;
        self.note(result)
    }

    /// Runs a query once for each row of parameters; returns what each found. One round trip for all.
    ///
    /// # Errors
    /// As [`query`](Tx::query).
    pub async fn query_many<'p, const N: usize>(
        &mut self,
        sql: &str,
        params: impl IntoIterator<Item = [Param<'p>; N]>,
    ) -> Result<Vec<Vec<Row>>, Error> {
        let result = self.unit().query_many(sql, params).await;
        self.note(result)
    }

    /// Runs `action` right after the commit; never if there is none. It must not block.
    pub fn after_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.done.after.push(Box::new(action));
    }

    /// The store this transaction belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn unit(&mut self) -> &mut Unit {
        self.unit.as_mut().expect("a transaction holds its unit until it is committed")
    }

    pub(crate) fn draft(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }

    /// Machine trouble met on the way, even if the handler swallowed the error.
    pub(crate) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// Writes what was published and asked for since the last call.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        if !self.drafts.is_empty() {
            let drafts = std::mem::take(&mut self.drafts);
            let result = outbox::write(self, drafts).await;
            let pending = self.note(result)?;
            self.done.published.extend(pending);
        }
        if !self.withdrawn.is_empty() {
            let keys = std::mem::take(&mut self.withdrawn);
            let result = crate::effect::withdraw(self, &keys).await;
            self.note(result)?;
        }
        if !self.asked.is_empty() {
            let asked = std::mem::take(&mut self.asked);
            let result = crate::effect::write(self, asked).await;
            let ready = self.note(result)?;
            self.done.asked.extend(ready);
        }
        Ok(())
    }

    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        self.flush().await?;
        if self.broken {
            return Err(Error::statement("cannot commit: a statement of the transaction failed"));
        }
        let unit = self.unit.take().expect("a transaction holds its unit until it is committed");
        let done = std::mem::take(&mut self.done);
        let (store, now) = (self.store.clone(), self.now);
        drop(self);
        let ended = move |is_committed| match is_committed {
            true => done.happen(&store),
            false => crate::effect::in_doubt(&store, &done.asked, Claimed::At(now)),
        };
        unit.commit(Box::new(ended)).await
    }

    /// A point to come back to within the transaction.
    pub(crate) async fn savepoint(&mut self) -> Result<Savepoint, Error> {
        // What was published before it is not undone with what comes after it.
        self.flush().await?;
        self.control("SAVEPOINT event").await?;
        Ok(Savepoint {
            published: self.done.published.len(),
            asked: self.done.asked.len(),
            after: self.done.after.len(),
        })
    }

    pub(crate) async fn release(&mut self, _: Savepoint) -> Result<(), Error> {
        self.control("RELEASE event").await
    }

    /// Undoes everything since the savepoint.
    pub(crate) async fn roll_back(&mut self, to: Savepoint) -> Result<(), Error> {
        self.drafts.clear();
        self.asked.clear();
        self.withdrawn.clear();
        self.done.published.truncate(to.published);
        self.done.asked.truncate(to.asked);
        self.done.after.truncate(to.after);
        self.control("ROLLBACK TO event").await?;
        self.broken = false;
        self.control("RELEASE event").await
    }

    async fn control(&mut self, sql: &str) -> Result<(), Error> {
        let result = self.unit().control(sql).await;
        self.note(result)
    }

    fn note<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(e) = &result {
            self.broken = true;
            if e.is_unavailable() || e.is_conflict() {
                self.trouble = Some(e.clone());
            }
        }
        result
    }
}

/// What a transaction had come to when the savepoint was set.
pub(crate) struct Savepoint {
    published: usize,
    asked: usize,
    after: usize,
}

impl Done {
    fn happen(self, store: &Store) {
        if !self.published.is_empty() {
            store.outbox().committed.push(self.published);
        }
        if !self.asked.is_empty() {
            let left = store.effects().push(self.asked);
            crate::effect::leave_to_table(store, left);
        }
        for action in self.after {
            action();
        }
    }
}

/// JSON as it is stored in a text column.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::invalid(format!("cannot be written as JSON: {e}")))
}
