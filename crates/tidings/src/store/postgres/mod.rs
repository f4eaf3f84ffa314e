//! A service's schema in a PostgreSQL database: a pool of connections, units of work, set-based statements.
//!
//! Round trips and commits are the cost, not rows. So a unit's `BEGIN` travels with its first statement,
//! and [`PostgresTransaction::execute_many`] makes one statement of many.

pub(crate) mod lanes;
mod many;
mod open;
pub(crate) mod outbox;
mod value;

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Timeouts};
use futures_util::future::{BoxFuture, join};
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Statement};

use self::many::{Changed, RowsStatement};
pub(crate) use self::open::check;
use crate::error::Error;
use crate::panic::lock;
use crate::redact::redacted;
use crate::store::value::{Param, Row};

/// Connections of one service in one process, at most: its consumer, relay, executor and write batcher use one
/// each, queries of its clients the rest.
const CONNECTIONS_MAX: usize = 16;
/// The longest wait for a connection; a store that has none by then is away.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The second: what held the numbers of streams once. A program that still counts there must not run.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    "DROP TABLE IF EXISTS stream_head",
    include_str!("schema_3_identity.sql"),
    include_str!("schema_4_store.sql"),
    include_str!("schema_5_operator.sql"),
    include_str!("schema_6_conflict.sql"),
    include_str!("schema_7_parked.sql"),
];

/// An answer that has not come by then will not come: longer than the server works on a statement.
const ANSWER_MAX: Duration = Duration::from_secs(12);

/// The settings of every connection.
///
/// A statement or a lock that takes ten seconds has failed. A process that was paused in a transaction loses it, so
/// that its locks hold up no other. A transaction that counts a stream again must see what was committed since,
/// whatever the server's default is. Everything here is looked up by key: a plan that was made while a table was
/// empty must not go on scanning when it has grown.
const SETTINGS: &str = "SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '15s';
    SET default_transaction_isolation = 'read committed'; SET synchronous_commit = on;
    SET plan_cache_mode = force_generic_plan; SET jit = off;
    SET enable_seqscan = off; SET enable_mergejoin = off; SET enable_bitmapscan = off;";

/// Work that is done once a unit has ended: with a commit that is known good, or with one that is not.
pub(crate) type AfterEnd = Box<dyn FnOnce(bool) + Send>;

/// A schema of a database, by way of a pool.
pub(crate) struct Database {
    pool: Pool,
    /// For logs: where it is, without secrets.
    place: String,
    schema: String,
    /// Statements for many rows, by the statement for one.
    many: Mutex<HashMap<String, Option<Arc<RowsStatement>>>>,
}

impl Database {
    /// Connects, and brings the schema of `service` up to date.
    pub(crate) async fn open(url: &str, service: &str, migrations: &[&str]) -> Result<Arc<Self>, Error> {
        let config = open::parse(url, service)?;
        let place = redacted(url);
        let manager = Manager::from_config(
            config.clone(),
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let schema = quoted(service);
        let settings = format!("{SETTINGS} SET search_path = {schema}");
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS_MAX)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(WAIT_MAX), create: Some(WAIT_MAX), recycle: Some(WAIT_MAX) })
            .post_create(Hook::async_fn(move |client, _| {
                let settings = settings.clone();
                Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|e| Error::config(format!("cannot use {place}: {e}")))?;
        let mut client = open::connect(&config, &place).await?;
        open::refuse_pooler(&config, &place, &client).await?;
        open::migrate(&mut client, service, migrations).await?;
        Ok(Arc::new(Self { pool, place, schema: service.to_owned(), many: Mutex::default() }))
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Takes a connection for a unit of work; it begins with the first statement.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<PostgresTransaction, Error> {
        let client = self.client().await?;
        Ok(PostgresTransaction {
            database: self.clone(),
            client: Some(client),
            begin: "BEGIN".into(),
            begun: false,
            lost: false,
        })
    }

    /// Begins a unit. Of all units that begin under this name, in whatever process, one runs at a time: a lock that
    /// is taken before every other one travels with `BEGIN`.
    pub(crate) async fn begin_exclusive(self: &Arc<Self>, name: &str) -> Result<PostgresTransaction, Error> {
        let name = format!("{} {name}", self.schema).replace('\'', "''");
        let begin = format!("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('tidings {name}', 1))");
        let mut unit = self.begin().await?;
        unit.begin = begin.into();
        Ok(unit)
    }

    /// One query outside a transaction.
    pub(crate) fn query<'a>(
        &'a self,
        sql: &'a str,
        params: &'a [Param<'a>],
    ) -> BoxFuture<'a, Result<Vec<Row>, Error>> {
        Box::pin(self.ask(sql, params))
    }

    async fn ask(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let client = self.client().await?;
        let Some(found) = answered(query(&client, sql, params)).await else {
            drop(Object::take(client));
            return Err(no_answer(sql));
        };
        found.map_err(|e| failed("query", sql, e))?.iter().map(|r| value::row(r, 0)).collect()
    }

    /// A query whose parameters are arrays.
    pub(crate) async fn query_arrays(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        let client = self.client().await?;
        let work = async { client.query(&client.prepare_cached(sql).await?, params).await };
        let Some(result) = answered(work).await else {
            drop(Object::take(client));
            return Err(no_answer(sql));
        };
        result.map_err(|e| failed("query", sql, e))
    }

    /// A statement whose parameters are arrays, in a transaction of its own.
    pub(crate) async fn execute_arrays(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        let client = self.client().await?;
        let work = async { client.execute(&client.prepare_cached(sql).await?, params).await };
        let Some(result) = answered(work).await else {
            drop(Object::take(client));
            return Err(no_answer(sql));
        };
        result.map_err(|e| failed("execute", sql, e))
    }

    /// A connection. Boxed, since many futures hold this one.
    fn client(&self) -> BoxFuture<'_, Result<Object, Error>> {
        Box::pin(async {
            self.pool.get().await.map_err(|e| {
                Error::unavailable(format!("cannot connect to {}: {}", self.place, open::pool_cause(&e)))
            })
        })
    }
}

/// A unit of work in progress: holds a connection until it is committed or dropped.
pub(crate) struct PostgresTransaction {
    database: Arc<Database>,
    client: Option<Object>,
    /// Sent with the first statement.
    begin: Cow<'static, str>,
    begun: bool,
    /// The server has not answered in time: no other unit should get this connection.
    lost: bool,
}

impl PostgresTransaction {
    pub(crate) async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.run("execute", sql, async |client| {
            let statement = client.prepare_cached(sql).await?;
            client.execute_raw(&statement, parameters(params)).await
        })
        .await
    }

    pub(crate) async fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let rows = self.run("query", sql, async |client| query(client, sql, params).await).await?;
        rows.iter().map(|row| value::row(row, 0)).collect()
    }

    /// Runs a statement for each row of parameters, in one round trip if it has a known form.
    pub(crate) async fn execute_many<'p>(
        &mut self,
        sql: &str,
        rows: &[impl AsRef<[Param<'p>]>],
    ) -> Result<Vec<u64>, Error> {
        if rows.len() > 1
            && let Some(many) = self.many(sql, many::rewrite).await?
        {
            return self.at_once(&many, rows).await;
        }
        let mut changed = Vec::with_capacity(rows.len());
        for row in rows {
            changed.push(self.execute(sql, row.as_ref()).await?);
        }
        Ok(changed)
    }

    /// Runs a query for each row of parameters, in one round trip.
    pub(crate) async fn query_many<'p>(
        &mut self,
        sql: &str,
        rows: &[impl AsRef<[Param<'p>]>],
    ) -> Result<Vec<Vec<Row>>, Error> {
        if let [only] = rows {
            return Ok(vec![self.query(sql, only.as_ref()).await?]);
        }
        let mut answers = vec![Vec::new(); rows.len()];
        if rows.is_empty() {
            return Ok(answers);
        }
        let known = |sql: &str, types: &[_]| Some(many::rewrite_query(sql, types));
        let many = self.many(sql, known).await?.expect("every query can be asked for many rows");
        let columns = columns(rows);
        for row in &self.query_arrays(&many.sql, &arrays(&columns)).await? {
            answers[place(row)?].push(value::row(row, 1)?);
        }
        Ok(answers)
    }

    /// The rewritten form of a statement, made once; the types of its parameters are the server's to say.
    async fn many(
        &mut self,
        sql: &str,
        rewrite: impl Fn(&str, &[tokio_postgres::types::Type]) -> Option<RowsStatement>,
    ) -> Result<Option<Arc<RowsStatement>>, Error> {
        if let Some(known) = lock(&self.database.many).get(sql) {
            return Ok(known.clone());
        }
        let statement = self.run("prepare", sql, async |client| client.prepare_cached(sql).await).await?;
        let many = rewrite(sql, statement.params()).map(Arc::new);
        lock(&self.database.many).insert(sql.to_owned(), many.clone());
        Ok(many)
    }

    async fn at_once<'p>(
        &mut self,
        many: &RowsStatement,
        rows: &[impl AsRef<[Param<'p>]>],
    ) -> Result<Vec<u64>, Error> {
        let columns = columns(rows);
        let arrays = arrays(&columns);
        if let Some(plain) = many.plain(rows.len()) {
            if self.attempt(plain, &arrays, None).await?.is_some() {
                return Ok(vec![1; rows.len()]);
            }
            many.be_careful();
        }
        let returned = self.query_arrays(&many.sql, &arrays).await?;
        let mut changed = vec![0; rows.len()];
        match &many.changed {
            Changed::All => changed.fill(1),
            Changed::Places => {
                for row in &returned {
                    changed[place(row)?] += 1;
                }
            }
            Changed::Keys(_) if returned.len() == rows.len() => changed.fill(1),
            Changed::Keys(parameters) => {
                let mut keys: HashMap<Vec<String>, u64> = HashMap::with_capacity(returned.len());
                for row in &returned {
                    let key = (0..parameters.len()).map(|column| row.try_get(column));
                    let key = key.collect::<Result<Vec<String>, _>>();
                    *keys.entry(key.map_err(|e| failed("read", &many.sql, e))?).or_default() += 1;
                }
                for (row, changed) in rows.iter().zip(&mut changed) {
                    let key: Vec<String> = parameters.iter().map(|&p| text(row.as_ref()[p])).collect();
                    if let Some(left) = keys.get_mut(&key).filter(|left| **left > 0) {
                        *left -= 1;
                        *changed = 1;
                    }
                }
            }
        }
        Ok(changed)
    }

    /// Runs a statement whose parameters are arrays.
    pub(crate) async fn query_arrays(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        self.run("execute", sql, async |client| {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        })
        .await
    }

    /// Runs a statement that may meet rows with the same keys: `None` if it did, and then nothing of it stays.
    /// With `index`, only keys of that one are meant.
    pub(crate) async fn attempt(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        index: Option<&str>,
    ) -> Result<Option<Vec<tokio_postgres::Row>>, Error> {
        let begun = std::mem::replace(&mut self.begun, true);
        let client = self.client();
        let savepoint: Cow<'_, str> = match begun {
            true => "SAVEPOINT attempt".into(),
            false => format!("{}; SAVEPOINT attempt", self.begin).into(),
        };
        let work = async { client.query(&client.prepare_cached(sql).await?, params).await };
        let Some((set, result)) = answered(join(client.batch_execute(&savepoint), work)).await else {
            return Err(self.lose(sql));
        };
        match set.and(result) {
            Ok(rows) => Ok(Some(rows)),
            Err(e) if is_taken(&e, index) => {
                let undone = client.batch_execute("ROLLBACK TO attempt").await;
                undone.map(|()| None).map_err(|e| failed("execute", "ROLLBACK TO", e))
            }
            Err(e) => Err(failed("execute", sql, e)),
        }
    }

    /// Runs a statement, the first together with `BEGIN`.
    async fn run<T>(
        &mut self,
        verb: &str,
        sql: &str,
        work: impl AsyncFnOnce(&deadpool_postgres::ClientWrapper) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let begun = std::mem::replace(&mut self.begun, true);
        let client = self.client();
        let result = if begun {
            answered(work(client)).await
        } else {
            let both = answered(join(client.batch_execute(&self.begin), work(client))).await;
            both.map(|(begun, result)| begun.and(result))
        };
        match result {
            Some(result) => result.map_err(|e| failed(verb, sql, e)),
            None => Err(self.lose(sql)),
        }
    }

    fn lose(&mut self, sql: &str) -> Error {
        self.lost = true;
        no_answer(sql)
    }

    fn client(&self) -> &deadpool_postgres::ClientWrapper {
        self.client.as_ref().expect("a unit holds its connection until it is consumed")
    }

    /// Goes back to a savepoint, or ends it.
    pub(crate) async fn control(&mut self, sql: &str) -> Result<(), Error> {
        self.run("execute", sql, async |client| client.batch_execute(sql).await).await
    }

    /// Ends the unit and resolves once it is durable. `ended` has run by then, and knows whether it is.
    ///
    /// Dropping the returned future changes nothing: the commit happens all the same. A connection that
    /// dies in the commit leaves its outcome unknown: the error says that the store is away, and the caller
    /// does the work again; the locks and keys of the first time decide.
    pub(crate) fn commit(
        mut self,
        ended: AfterEnd,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        type Committing = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;
        let client = self.client.take().expect("a unit holds its connection until it is consumed");
        if !self.begun {
            ended(true);
            return Box::pin(async { Ok(()) }) as Committing;
        }
        let (done, committed) = oneshot::channel();
        tokio::spawn(async move {
            let result = match answered(client.batch_execute("COMMIT")).await {
                Some(result) => result.map_err(|e| failed("execute", "COMMIT", e)),
                None => Err(no_answer("COMMIT")),
            };
            ended(result.is_ok());
            // What the server itself refuses it has not done.
            let result = result.map_err(|e| if e.is_unavailable() { e.in_doubt() } else { e });
            if result.is_err() {
                // Whatever state it is in, no other unit should get it.
                drop(Object::take(client));
            }
            let _ = done.send(result);
        });
        Box::pin(async move {
            committed.await.unwrap_or_else(|_| Err(Error::unavailable("the commit was given up")))
        })
    }
}

impl Drop for PostgresTransaction {
    /// A unit that was not committed leaves no trace.
    fn drop(&mut self) {
        let Some(client) = self.client.take().filter(|_| self.begun) else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.lost => drop(runtime.spawn(async move {
                if !matches!(answered(client.batch_execute("ROLLBACK")).await, Some(Ok(()))) {
                    drop(Object::take(client));
                }
            })),
            _ => drop(Object::take(client)),
        }
    }
}

/// Waits for an answer, but not for ever: a link may hang without an error.
async fn answered<T>(asked: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(ANSWER_MAX, asked).await.ok()
}

fn no_answer(sql: &str) -> Error {
    let sql = super::value::first_words(sql);
    Error::unavailable(format!("cannot execute {sql}: no answer within {ANSWER_MAX:?}"))
}

async fn query(
    client: &deadpool_postgres::ClientWrapper,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    let statement: Statement = client.prepare_cached(sql).await?;
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
    client.query(&statement, &params).await
}

fn parameters<'a>(params: &'a [Param<'a>]) -> impl ExactSizeIterator<Item = &'a (dyn ToSql + Sync)> {
    params.iter().map(|p| p as &(dyn ToSql + Sync))
}

/// The parameters of many rows, by column.
fn columns<'p>(rows: &[impl AsRef<[Param<'p>]>]) -> Vec<Vec<Param<'p>>> {
    let width = rows.first().map_or(0, |row| row.as_ref().len());
    (0..width).map(|column| rows.iter().map(|row| row.as_ref()[column]).collect()).collect()
}

fn arrays<'a>(columns: &'a [Vec<Param<'_>>]) -> Vec<&'a (dyn ToSql + Sync)> {
    columns.iter().map(|column| column as _).collect()
}

/// The place of a row that says so in its first column, counted from 0.
fn place(row: &tokio_postgres::Row) -> Result<usize, Error> {
    let place: i64 = row.try_get(0).map_err(|e| Error::postgres("cannot read an answer", e))?;
    Ok(usize::try_from(place - 1).expect("places count from 1"))
}

fn text(param: Param<'_>) -> String {
    match param {
        Param::Text(text) => text.to_owned(),
        Param::Integer(number) => number.to_string(),
        Param::Null | Param::Blob(_) => String::new(),
    }
}

/// Tells whether a statement failed because there is a row with the same key (of this index, if one is named).
fn is_taken(e: &tokio_postgres::Error, index: Option<&str>) -> bool {
    e.as_db_error().is_some_and(|e| {
        *e.code() == SqlState::UNIQUE_VIOLATION && (index.is_none() || e.constraint() == index)
    })
}

fn failed(verb: &str, sql: &str, e: tokio_postgres::Error) -> Error {
    Error::postgres(format!("cannot {verb} {}", super::value::first_words(sql)), e)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
