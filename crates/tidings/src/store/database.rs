//! The two databases a store can be in, behind the few things that a store does with one.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use smallvec::SmallVec;

use super::postgres;
use super::value::{Param, Row, Value, first_words};
use crate::error::Error;
use crate::redact::redacted;
use crate::sqlite;

/// Picked by URL.
#[derive(Clone)]
pub(crate) enum Engine {
    Sqlite(Arc<sqlite::SqliteFile>),
    Postgres(Arc<postgres::Database>),
}

/// The tables of a service, each engine's in its own words; each text is run once, in order.
///
/// ```
/// use tidings::{Service, store::Tables};
///
/// let tables = Tables {
///     sqlite: &["CREATE TABLE parcel (id TEXT PRIMARY KEY, photo BLOB)"],
///     postgres: &["CREATE TABLE parcel (id TEXT PRIMARY KEY, photo BYTEA)"],
/// };
/// let service = Service::new("shipping").tables(tables);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables<'a> {
    /// For `sqlite:` stores.
    pub sqlite: &'a [&'a str],
    /// For `postgres:` stores.
    pub postgres: &'a [&'a str],
}

impl<'a> From<&'a [&'a str]> for Tables<'a> {
    /// Statements that both engines understand.
    fn from(both: &'a [&'a str]) -> Self {
        Self { sqlite: both, postgres: both }
    }
}

pub(super) const SQLITE: &[&str] = &[
    include_str!("sqlite.sql"),
    // The process that called it; and how many partitions topics had when they were first seen.
    "ALTER TABLE effect ADD COLUMN owner INTEGER;
     CREATE TABLE topic (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL) WITHOUT ROWID",
    include_str!("sqlite_3_identity.sql"),
    include_str!("sqlite_4_store.sql"),
    include_str!("sqlite_5_operator.sql"),
    include_str!("sqlite_6_conflict.sql"),
    include_str!("sqlite_7_parked.sql"),
];

impl<'a, const N: usize> From<&'a [&'a str; N]> for Tables<'a> {
    fn from(both: &'a [&'a str; N]) -> Self {
        Self::from(&both[..])
    }
}

impl Engine {
    pub(super) async fn open(url: &str, service: &str, tables: Tables<'_>) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("sqlite", directory)) if !directory.is_empty() => {
                let database = sqlite::SqliteFile::open(Path::new(directory), service)?;
                database.set_up(|connection| {
                    sqlite::migrate(connection, "tidings", SQLITE)?;
                    sqlite::migrate(connection, service, tables.sqlite)
                })?;
                Ok(Self::Sqlite(database))
            }
            Some(("postgres" | "postgresql", _)) => {
                postgres::Database::open(url, service, tables.postgres).await.map(Self::Postgres)
            }
            _ => Err(unknown(url)),
        }
    }

    /// Returns the migrations that opening the database would run, without changing anything.
    pub(super) async fn check(url: &str, service: &str, tables: Tables<'_>) -> Result<Vec<String>, Error> {
        match url.split_once(':') {
            Some(("sqlite", directory)) if !directory.is_empty() => {
                let known = [("tidings", SQLITE.len()), (service, tables.sqlite.len())];
                sqlite::steps(Path::new(directory), service, &known)
            }
            Some(("postgres" | "postgresql", _)) => {
                postgres::check(url, service, tables.postgres.len()).await
            }
            _ => Err(unknown(url)),
        }
    }

    pub(super) async fn begin(&self) -> Result<Transaction, Error> {
        match self {
            Self::Sqlite(database) => database.begin().await.map(Transaction::Sqlite),
            Self::Postgres(database) => database.begin().await.map(Box::new).map(Transaction::Postgres),
        }
    }

    /// A transaction that excludes others of its name; SQLite has one writer anyway.
    pub(super) async fn begin_exclusive(&self, name: &str) -> Result<Transaction, Error> {
        match self {
            Self::Sqlite(_) => self.begin().await,
            Self::Postgres(database) => {
                database.begin_exclusive(name).await.map(Box::new).map(Transaction::Postgres)
            }
        }
    }

    pub(super) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        match self {
            Self::Sqlite(database) => database.read(|connection| rows(connection, sql, params)).await,
            Self::Postgres(database) => database.query(sql, params).await,
        }
    }

    /// Writes what is still deferred and leaves short files behind: a clean stop.
    pub(super) async fn close(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(database) => {
                database.flush().await?;
                database.checkpoint().await
            }
            Self::Postgres(_) => Ok(()),
        }
    }

    pub(super) fn place(&self) -> String {
        match self {
            Self::Sqlite(database) => database.path().display().to_string(),
            Self::Postgres(database) => database.place().to_owned(),
        }
    }
}

fn unknown(url: &str) -> Error {
    Error::config(format!(
        "{:?} is not a store this program knows; use --store sqlite:DIRECTORY or --store postgres://USER@HOST/DATABASE",
        redacted(url)
    ))
}

/// A transaction in progress. The futures of PostgreSQL's driver are large, and each handler's would hold them:
/// they are boxed, which is nothing beside a round trip.
pub(crate) enum Transaction {
    Sqlite(sqlite::SqliteTransaction),
    Postgres(Box<postgres::PostgresTransaction>),
}

/// Statements of a transaction on PostgreSQL, as boxes that functions return: a future that is boxed where it is awaited is
/// compiled there, again for each place and each number of parameters.
mod on_postgres {
    use futures_util::future::BoxFuture;

    use super::{Error, Param, Row};
    use crate::store::postgres::PostgresTransaction;

    type Boxed<'a, T> = BoxFuture<'a, Result<T, Error>>;
    type Rows<'a> = &'a [&'a [Param<'a>]];

    pub(super) fn execute<'a>(
        unit: &'a mut PostgresTransaction,
        sql: &'a str,
        params: &'a [Param<'a>],
    ) -> Boxed<'a, u64> {
        Box::pin(unit.execute(sql, params))
    }

    pub(super) fn execute_many<'a>(
        unit: &'a mut PostgresTransaction,
        sql: &'a str,
        rows: Rows<'a>,
    ) -> Boxed<'a, Vec<u64>> {
        Box::pin(unit.execute_many(sql, rows))
    }

    pub(super) fn query<'a>(
        unit: &'a mut PostgresTransaction,
        sql: &'a str,
        params: &'a [Param<'a>],
    ) -> Boxed<'a, Vec<Row>> {
        Box::pin(unit.query(sql, params))
    }

    pub(super) fn query_many<'a>(
        unit: &'a mut PostgresTransaction,
        sql: &'a str,
        params: Rows<'a>,
    ) -> Boxed<'a, Vec<Vec<Row>>> {
        Box::pin(unit.query_many(sql, params))
    }

    pub(super) fn control<'a>(unit: &'a mut PostgresTransaction, sql: &'a str) -> Boxed<'a, ()> {
        Box::pin(unit.control(sql))
    }
}

impl Transaction {
    pub(super) async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        match self {
            Self::Sqlite(unit) => execute(unit.connection(), sql, params),
            Self::Postgres(unit) => on_postgres::execute(unit, sql, params).await,
        }
    }

    pub(super) async fn execute_many<'p, const N: usize>(
        &mut self,
        sql: &str,
        rows: impl IntoIterator<Item = [Param<'p>; N]>,
    ) -> Result<Vec<u64>, Error> {
        match self {
            Self::Sqlite(unit) => execute_many(unit.connection(), sql, rows),
            Self::Postgres(unit) => {
                let rows: Vec<_> = rows.into_iter().collect();
                let rows: Vec<&[Param<'_>]> = rows.iter().map(|row| &row[..]).collect();
                on_postgres::execute_many(unit, sql, &rows).await
            }
        }
    }

    pub(super) async fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        match self {
            Self::Sqlite(unit) => rows(unit.connection(), sql, params),
            Self::Postgres(unit) => on_postgres::query(unit, sql, params).await,
        }
    }

    pub(super) async fn query_many<'p, const N: usize>(
        &mut self,
        sql: &str,
        params: impl IntoIterator<Item = [Param<'p>; N]>,
    ) -> Result<Vec<Vec<Row>>, Error> {
        match self {
            Self::Sqlite(unit) => params.into_iter().map(|row| rows(unit.connection(), sql, &row)).collect(),
            Self::Postgres(unit) => {
                let params: Vec<_> = params.into_iter().collect();
                let params: Vec<&[Param<'_>]> = params.iter().map(|row| &row[..]).collect();
                on_postgres::query_many(unit, sql, &params).await
            }
        }
    }

    /// `SAVEPOINT`, `RELEASE`, `ROLLBACK TO`.
    pub(super) async fn control(&mut self, sql: &str) -> Result<(), Error> {
        match self {
            Self::Sqlite(unit) => execute(unit.connection(), sql, &[]).map(|_| ()),
            Self::Postgres(unit) => on_postgres::control(unit, sql).await,
        }
    }

    /// Ends it; dropping what is returned changes nothing. `ended` hears whether the commit is known good;
    /// nothing, if it is known bad.
    pub(super) async fn commit(self, ended: postgres::AfterEnd) -> Result<(), Error> {
        match self {
            Self::Sqlite(unit) => unit.commit(Box::new(|| ended(true))).await,
            Self::Postgres(unit) => unit.commit(ended).await,
        }
    }
}

fn execute(connection: &Connection, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
    let failed = |e| Error::store(format!("cannot execute {}", first_words(sql)), e);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let numbers = numbers(&statement, sql, params.len())?;
    bind(&mut statement, sql, &numbers, params)?;
    statement.raw_execute().map(|changed| changed as u64).map_err(failed)
}

fn execute_many<'p, const N: usize>(
    connection: &Connection,
    sql: &str,
    rows: impl IntoIterator<Item = [Param<'p>; N]>,
) -> Result<Vec<u64>, Error> {
    let failed = |e| Error::store(format!("cannot execute {}", first_words(sql)), e);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let numbers = numbers(&statement, sql, N)?;
    rows.into_iter()
        .map(|row| {
            bind(&mut statement, sql, &numbers, &row)?;
            statement.raw_execute().map(|changed| changed as u64).map_err(failed)
        })
        .collect()
}

fn rows(connection: &Connection, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
    let failed = |e| Error::store(format!("cannot query {}", first_words(sql)), e);
    let mut statement = connection.prepare_cached(without_locks(sql)).map_err(failed)?;
    let columns = statement.column_count();
    let numbers = numbers(&statement, sql, params.len())?;
    bind(&mut statement, sql, &numbers, params)?;
    let mut cursor = statement.raw_query();
    let mut rows = Vec::new();
    while let Some(row) = cursor.next().map_err(failed)? {
        let values = (0..columns).map(|i| row.get_ref(i).map(Value::from));
        rows.push(Row(values.collect::<Result<_, _>>().map_err(failed)?));
    }
    Ok(rows)
}

/// The n of each `$n`, in the order in which SQLite numbers them itself: by first use. Every parameter is named.
fn numbers(statement: &rusqlite::Statement<'_>, sql: &str, params: usize) -> Result<Numbers, Error> {
    let wrong = |what: String| Error::statement(format!("cannot execute {}: {what}", first_words(sql)));
    let mut numbers = Numbers::new();
    // Bit n: `$n` is named. More parameters than bits are counted by the highest number alone.
    let (mut named, mut highest) = (0_u128, 0);
    for index in 1..=statement.parameter_count() {
        let number = statement.parameter_name(index).and_then(|name| name.strip_prefix('$')?.parse().ok());
        let number: usize =
            number.filter(|n| *n > 0).ok_or_else(|| wrong("parameters are written $1, $2, …".to_owned()))?;
        if number > params {
            return Err(wrong(format!("it names ${number}, {params} parameters were given")));
        }
        numbers.push(number as u16);
        named |= 1_u128.checked_shl(number as u32).unwrap_or(0);
        highest = highest.max(number);
    }
    match (1..=params).find(|n| if *n < 128 { named & (1 << n) == 0 } else { highest < *n }) {
        None => Ok(numbers),
        Some(n) => Err(wrong(format!("{params} parameters were given, it does not name ${n}"))),
    }
}

/// Few statements have more parameters than have room here without an allocation.
type Numbers = SmallVec<[u16; 32]>;

/// Binds `$n` to the n-th parameter, as PostgreSQL does.
fn bind(
    statement: &mut rusqlite::Statement<'_>,
    sql: &str,
    numbers: &[u16],
    params: &[Param<'_>],
) -> Result<(), Error> {
    for (index, number) in (1..).zip(numbers) {
        statement
            .raw_bind_parameter(index, params[usize::from(*number) - 1])
            .map_err(|e| Error::store(format!("cannot bind ${number} of {}", first_words(sql)), e))?;
    }
    Ok(())
}

/// One writer holds every lock already.
fn without_locks(sql: &str) -> &str {
    let sql = sql.strip_suffix(" SKIP LOCKED").unwrap_or(sql);
    sql.strip_suffix(" FOR UPDATE").unwrap_or(sql)
}
