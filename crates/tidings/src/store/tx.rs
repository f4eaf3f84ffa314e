//! A transaction: state, events and effects that commit together, or not at all.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::database::Transaction;
use super::deeds::Deeds;
use super::deferred::NextEvent;
use super::effects::{self, Claimed};
use super::outbox::{self, Pending};
use super::{Param, Row, Store};
use crate::effect::{Effect, EffectRequest, Timer};
use crate::envelope::{Causal, Cause};
use crate::error::{Error, HandlerError, UNDECLARED_EFFECT, UNDECLARED_EVENT};
use crate::event::Event;
use crate::message::Draft;

/// A unit of work: SQL, [`publish`](Tx::publish), [`perform`](Tx::perform). All of it commits, or none.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::event::NoteTaken;
/// async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> {
///     tx.execute("INSERT INTO note (key, n) VALUES ($1, $2)", params![&note.key, note.n]).await?;
///     tx.publish(note).await
/// }
/// ```
pub struct Tx {
    pub(super) store: Store,
    pub(super) unit: Option<Transaction>,
    /// The event with which it begins, if it has not begun.
    pub(super) next: Option<Box<NextEvent>>,
    now: Timestamp,
    cause: Cause,
    drafts: Vec<Draft>,
    asked: Vec<EffectRequest>,
    cancelled: Vec<String>,
    done: AfterCommit,
    trouble: Option<Error>,
    /// A statement failed: nothing is left but to go back to a savepoint, or to give up.
    broken: bool,
}

/// Work that is done once the commit is known good.
#[derive(Default)]
struct AfterCommit {
    published: Vec<Pending>,
    asked: Vec<EffectRequest>,
    after: Vec<Box<dyn FnOnce() + Send>>,
}

impl Tx {
    pub(super) fn new(store: Store, unit: Option<Transaction>) -> Self {
        let now = store.clock().now();
        Self {
            store,
            unit,
            next: None,
            now,
            cause: Cause::default(),
            drafts: Vec::new(),
            asked: Vec::new(),
            cancelled: Vec::new(),
            done: AfterCommit::default(),
            trouble: None,
            broken: false,
        }
    }

    /// Publishes an event: it is numbered, kept and sent if and only if this transaction commits.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// # #[tokio::main] async fn main() -> Result<(), HandlerError> {
    /// # let scratch = tidings_testkit::Scratch::new();
    /// # let store = Store::open(&scratch.url(), "notes", &[]).await?;
    /// store.transaction(async |tx: &mut Tx| tx.publish(NoteTaken::new("k", 1)).await).await?;
    /// assert_eq!(store.published("notes/k").await?[0].seq, 1);
    /// let wrong = store.transaction(async |tx: &mut Tx| tx.publish(NoteTaken::new("k", 0)).await).await;
    /// assert!(wrong.unwrap_err().to_string().contains("/n"), "its rules are checked");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Fatal` when the event breaks its own validation rules or is too large.
    #[allow(clippy::unused_async)] // its signature is the same for every database
    pub async fn publish<E: Event>(&mut self, event: E) -> Result<(), HandlerError> {
        if let Some(declared) = self.store.declared()
            && !declared.events.contains(&E::TYPE)
            && !declared.topics.iter().any(|topic| topic == E::TOPIC)
        {
            let (service, event, topic) = (self.store.service(), E::TYPE, E::TOPIC);
            return Err(HandlerError::fatal(
                UNDECLARED_EVENT,
                format!(
                    "{service} publishes {event} on topic {topic} and has not declared it: add .publishes::<…>() to the service"
                ),
            ));
        }
        self.drafts.push(Draft::new(&event, &self.cause, self.now)?);
        Ok(())
    }

    /// Asks for an external call: made after the commit, once, under its permanent key.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// /// In the transaction of a request: whatever happens, the call is made once if this commits.
    /// async fn send<F: Effect>(tx: &mut Tx, id: &str, fetch: F) -> Result<(), HandlerError> {
    ///     tx.execute("INSERT INTO parcel (id, state) VALUES ($1, 'sent')", params![id]).await?;
    ///     tx.perform(fetch).await
    /// }
    /// ```
    ///
    /// # Errors
    /// `Fatal` when the request cannot be written as JSON.
    pub async fn perform<F: Effect>(&mut self, effect: F) -> Result<(), HandlerError> {
        self.perform_at(effect, self.now).await
    }

    /// Asks for an effect that is not done before `due`: a timer.
    ///
    /// # Errors
    /// As [`perform`](Tx::perform).
    #[allow(clippy::unused_async)] // as `publish`
    pub async fn perform_at<F: Effect>(&mut self, effect: F, due: Timestamp) -> Result<(), HandlerError> {
        if let Some(declared) = self.store.declared()
            && !declared.kinds.contains(&F::KIND)
        {
            let (service, kind) = (self.store.service(), F::KIND);
            return Err(HandlerError::fatal(
                UNDECLARED_EFFECT,
                format!(
                    "{service} asks for {kind} and has no handler for it: add .effect::<…>(…) or .on_timer(…) to the service"
                ),
            ));
        }
        self.asked.push(EffectRequest::new(&effect, &self.cause, due)?);
        Ok(())
    }

    /// Sets a timer: it is handled at its time, in a transaction of its own, if this one commits.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # #[timer(kind = "overdue", key = id)]
    /// # struct Overdue { id: String }
    /// async fn send(tx: &mut Tx, id: &str) -> Result<(), HandlerError> {
    ///     let tomorrow = tx.now() + std::time::Duration::from_secs(24 * 3600);
    ///     tx.schedule(tomorrow, Overdue { id: id.to_owned() }).await
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`perform`](Tx::perform).
    pub async fn schedule<T: Timer>(&mut self, at: Timestamp, timer: T) -> Result<(), HandlerError> {
        self.perform_at(timer, at).await
    }

    /// Takes back an effect that has not begun; does nothing to one that has.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # #[timer(kind = "overdue", key = id)]
    /// # struct Overdue { id: String }
    /// async fn seen<E: Event>(event: &Envelope<E>, tx: &mut Tx) -> Result<(), HandlerError> {
    ///     tx.cancel_effect(&Overdue { id: event.key().to_owned() }).await
    /// }
    /// ```
    ///
    /// # Errors
    /// An unusable database.
    #[allow(clippy::unused_async)] // as `publish`
    pub async fn cancel_effect<F: Effect>(&mut self, effect: &F) -> Result<(), HandlerError> {
        let key = effect.key();
        self.asked.retain(|asked| asked.key != key);
        self.cancelled.push(key);
        Ok(())
    }

    /// Attributes what is published and asked for from here on to `cause`.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// /// In a batch, each event is the cause of what is published for it.
    /// async fn copy(notes: &[Envelope<NoteTaken>], tx: &mut Tx) -> Result<(), HandlerError> {
    ///     for note in notes {
    ///         tx.caused_by(note).publish(NoteTaken::new(note.id(), 1)).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
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
    /// ```
    /// # use tidings::prelude::*;
    /// /// Takes one of a product, unless there is none left.
    /// async fn take(tx: &mut Tx, product: &str) -> Result<bool, HandlerError> {
    ///     let sql = "UPDATE stock SET amount = amount - 1 WHERE product = $1 AND amount > 0";
    ///     Ok(tx.execute(sql, params![product]).await? == 1)
    /// }
    /// # #[tokio::main] async fn main() -> Result<(), HandlerError> {
    /// # let scratch = tidings_testkit::Scratch::new();
    /// # let tables = &["CREATE TABLE stock (product TEXT, amount INTEGER)", "INSERT INTO stock VALUES ('tea', 1)"];
    /// # let store = Store::open(&scratch.url(), "notes", tables).await?;
    /// # let twice = async |tx: &mut Tx| Ok((take(tx, "tea").await?, take(tx, "tea").await?));
    /// # assert_eq!(store.transaction(twice).await?, (true, false));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A wrong statement, a broken constraint, or an unusable database.
    pub async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        let result = self.unit().await?.execute(sql, params).await;
        self.note(result)
    }

    /// Runs a statement once for each row of parameters; returns how many rows each changed.
    ///
    /// On PostgreSQL it is rewritten into one statement for all of them: `INSERT … VALUES (…) [ON CONFLICT
    /// (…) …]`, `UPDATE … WHERE …` and `DELETE … WHERE …` are. The rows must concern different rows of the
    /// table; give them in the order of their key where others lock the same ones.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::event::NoteTaken;
    /// async fn keep(notes: &[Envelope<NoteTaken>], tx: &mut Tx) -> Result<(), HandlerError> {
    ///     let rows = notes.iter().map(|note| [note.key().into(), note.payload().n.into()]);
    ///     tx.execute_many("INSERT INTO note (key, n) VALUES ($1, $2)", rows).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`execute`](Tx::execute), at the first row that fails.
    pub async fn execute_many<'p, const N: usize>(
        &mut self,
        sql: &str,
        rows: impl IntoIterator<Item = [Param<'p>; N]>,
    ) -> Result<Vec<u64>, Error> {
        let result = self.unit().await?.execute_many(sql, rows).await;
        self.note(result)
    }

    /// Runs a query, or a statement with `RETURNING`.
    ///
    /// `FOR UPDATE [SKIP LOCKED]` at its end locks the rows to the commit, where others could write them
    /// meanwhile; SQLite, which has one writer, goes without.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// async fn amount(tx: &mut Tx, product: &str) -> Result<Option<u64>, HandlerError> {
    ///     let rows = tx.query("SELECT amount FROM stock WHERE product = $1", params![product]).await?;
    ///     Ok(rows.first().map(|row| row.get(0)).transpose()?)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`execute`](Tx::execute).
    pub async fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let result = self.unit().await?.query(sql, params).await;
        self.note(result)
    }

    /// Runs a query once for each row of parameters; returns what each found. One round trip for all.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// async fn amounts(tx: &mut Tx, products: &[String]) -> Result<Vec<Option<u64>>, HandlerError> {
    ///     let keys = products.iter().map(|product| [product.into()]);
    ///     let found = tx.query_many("SELECT amount FROM stock WHERE product = $1", keys).await?;
    ///     let amount = |rows: &Vec<tidings::Row>| rows.first().map(|row| row.get(0)).transpose();
    ///     Ok(found.iter().map(amount).collect::<Result<_, _>>()?)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`query`](Tx::query).
    pub async fn query_many<'p, const N: usize>(
        &mut self,
        sql: &str,
        params: impl IntoIterator<Item = [Param<'p>; N]>,
    ) -> Result<Vec<Vec<Row>>, Error> {
        let result = self.unit().await?.query_many(sql, params).await;
        self.note(result)
    }

    /// Runs `action` right after the commit; never if there is none. It must not block.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// async fn close(tx: &mut Tx, changed: std::sync::Arc<tokio::sync::Notify>) -> Result<(), HandlerError> {
    ///     tx.execute("UPDATE shop SET is_open = $1", params![false]).await?;
    ///     tx.after_commit(move || changed.notify_waiters());
    ///     Ok(())
    /// }
    /// ```
    pub fn after_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.done.after.push(Box::new(action));
    }

    /// The store this transaction belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What was published and asked for since it was last written.
    pub(crate) fn deeds(&self) -> Deeds {
        Deeds::of(&self.drafts, &self.asked, &self.cancelled)
    }

    pub(crate) fn draft(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }

    /// Machine trouble met on the way, even if the handler swallowed the error.
    pub(crate) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// Writes what was published and asked for since the last call.
    ///
    /// Boxed, as other futures here that many others hold: each of those would be compiled with all of it inside.
    pub(crate) fn flush(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.write())
    }

    async fn write(&mut self) -> Result<(), Error> {
        if !self.drafts.is_empty() {
            let drafts = std::mem::take(&mut self.drafts);
            let result = outbox::write(self, drafts).await;
            let pending = self.note(result)?;
            self.done.published.extend(pending);
        }
        if !self.cancelled.is_empty() {
            let keys = std::mem::take(&mut self.cancelled);
            let result = effects::cancel(self, &keys).await;
            self.note(result)?;
        }
        if !self.asked.is_empty() {
            let asked = std::mem::take(&mut self.asked);
            let result = effects::write(self, asked).await;
            let ready = self.note(result)?;
            self.done.asked.extend(ready);
        }
        Ok(())
    }

    pub(crate) fn commit(mut self) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            self.flush().await?;
            self.unit().await?;
            if self.broken {
                return Err(Error::statement("cannot commit: a statement of the transaction failed"));
            }
            let Some(unit) = self.unit.take() else { return Ok(()) };
            let done = std::mem::take(&mut self.done);
            let (store, now) = (self.store.clone(), self.now);
            drop(self);
            let ended = move |is_committed| match is_committed {
                true => done.run(&store),
                false => effects::in_doubt(&store, &done.asked, Claimed::At(now)),
            };
            unit.commit(Box::new(ended)).await
        })
    }

    /// Runs `work` behind a savepoint: it is done and flushed, or it failed and is undone, as if it had never begun.
    /// The only place that sets, releases and rolls back one.
    ///
    /// # Errors
    /// The database is in trouble, whatever `work` made of that: the transaction cannot go on.
    pub(crate) async fn attempt<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, HandlerError>,
    ) -> Result<Result<T, HandlerError>, Error> {
        // What was published before it is not undone with it.
        self.flush().await?;
        self.control("SAVEPOINT event").await?;
        let (published, asked, after) =
            (self.done.published.len(), self.done.asked.len(), self.done.after.len());
        let worked = match work(self).await {
            Ok(value) => self.flush().await.map(|()| value).map_err(HandlerError::from),
            Err(e) => Err(e),
        };
        if let Some(trouble) = self.trouble() {
            return Err(trouble.clone());
        }
        if worked.is_err() {
            self.drafts.clear();
            self.asked.clear();
            self.cancelled.clear();
            self.done.published.truncate(published);
            self.done.asked.truncate(asked);
            self.done.after.truncate(after);
            self.control("ROLLBACK TO event").await?;
            self.broken = false;
        }
        self.control("RELEASE event").await?;
        Ok(worked)
    }

    async fn control(&mut self, sql: &str) -> Result<(), Error> {
        let result = self.unit().await?.control(sql).await;
        self.note(result)
    }

    pub(super) fn note<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(e) = &result {
            self.broken = true;
            if e.is_unavailable() || e.is_conflict() {
                self.trouble = Some(e.clone());
            }
        }
        result
    }
}

impl AfterCommit {
    fn run(self, store: &Store) {
        if !self.published.is_empty() {
            store.outbox().committed.push(self.published);
        }
        if !self.asked.is_empty() {
            let left = store.effects().push(self.asked);
            effects::leave_to_table(store, left);
        }
        for action in self.after {
            action();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    #[event(name = "step.taken", version = 1, topic = "steps", key = key)]
    struct StepTaken {
        #[garde(length(min = 1))]
        key: String,
    }

    fn step(key: &str) -> StepTaken {
        StepTaken { key: key.to_owned() }
    }

    #[tokio::test]
    async fn an_attempt_that_fails_undoes_itself_and_nothing_before_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}", directory.path().display());
        let tables: &[&str] = &["CREATE TABLE step (key TEXT NOT NULL)"];
        let store = Store::open(&url, "steps", tables).await.expect("it opens");
        let mut tx = store.begin().await.expect("it begins");
        tx.publish(step("before")).await.expect("it is published");
        let failed = tx
            .attempt(async |tx| {
                tx.publish(step("within")).await?;
                tx.execute("INSERT INTO step (key) VALUES ('within')", &[]).await?;
                Err::<(), _>(HandlerError::Transient("no".to_owned()))
            })
            .await;
        assert!(failed.expect("the database is fine").is_err());
        let nested = tx
            .attempt(async |tx| {
                tx.publish(step("outer")).await?;
                let inner = tx.attempt(async |tx| {
                    tx.publish(step("inner")).await?;
                    tx.execute("no SQL", &[]).await?;
                    Ok(())
                });
                assert!(inner.await?.is_err());
                Ok(())
            })
            .await;
        nested.expect("the database is fine").expect("the outer one is done");
        tx.commit().await.expect("it commits");
        for (key, count) in [("before", 1), ("within", 0), ("outer", 1), ("inner", 0)] {
            let published = store.published(&format!("steps/{key}")).await.expect("the log can be read");
            assert_eq!(published.len(), count, "{key}");
        }
        assert_eq!(store.query("SELECT key FROM step", &[]).await.expect("a table").len(), 0);
    }
}
