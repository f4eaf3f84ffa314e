//! Opening a schema: the URL, the first connection, what a server must be like, migrations.

use std::time::{Duration, Instant};

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::{CONNECTIONS_MAX, MIGRATIONS, WAIT_MAX, quoted};
use crate::error::Error;
use crate::redact::redacted;
use crate::sqlite::step;

/// The longest wait for a server that is starting up, or recovering from a crash, and the pause between tries.
const READY_MAX: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(250);
/// The number of times that two connections are compared: others that use the same pooler may come in between.
const COMPARISONS: usize = 5;

impl super::Database {
    /// Makes room for as many connections beside those that a service needs anyway.
    pub(crate) fn allow_connections(&self, more: usize) {
        self.pool.resize(CONNECTIONS_MAX + more);
    }
}

pub(super) fn parse(url: &str, service: &str) -> Result<Config, Error> {
    let wrong = |what: &str| Error::config(format!("{:?} cannot be used: {what}", redacted(url)));
    let mode = url.split(['?', '&']).find_map(|part| part.strip_prefix("sslmode="));
    if mode.is_some_and(|mode| !matches!(mode, "disable" | "prefer")) {
        return Err(wrong(
            "this program speaks no TLS to PostgreSQL: leave sslmode out and let a proxy or the network see to that",
        ));
    }
    let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
        let what = cause(&e);
        wrong(&format!("it is no PostgreSQL URL ({what}); use --store postgres://USER@HOST/DATABASE"))
    })?;
    if config.get_application_name().is_none() {
        config.application_name(format!("tidings {service}"));
    }
    config.connect_timeout(WAIT_MAX).keepalives_idle(Duration::from_secs(10));
    config.tcp_user_timeout(Duration::from_secs(15));
    Ok(config)
}

/// The first connection, to a server that can keep what we write. One that says that it is not ready yet is
/// waited for; one that is not there is not.
pub(super) async fn connect(config: &Config, place: &str) -> Result<Client, Error> {
    let begun = Instant::now();
    loop {
        let attempt = tokio::time::timeout(WAIT_MAX, config.connect(NoTls)).await;
        let Ok(attempt) = attempt else {
            let seconds = WAIT_MAX.as_secs();
            return Err(Error::unavailable(format!(
                "cannot connect to {place}: no answer within {seconds} s"
            )));
        };
        match attempt {
            Ok((client, connection)) => {
                let encoding = connection.parameter("server_encoding").unwrap_or_default().to_owned();
                tokio::spawn(connection);
                // What a pooler stands in front of may not be told.
                if !matches!(&*encoding, "UTF8" | "") {
                    return Err(Error::config(format!(
                        "the database of {place} is encoded in {encoding}, which cannot hold every text: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
                    )));
                }
                return Ok(client);
            }
            Err(e) if e.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && begun.elapsed() < READY_MAX => {
                tracing::info!(store = place, "waiting: {}", cause(&e));
                tokio::time::sleep(READY_PAUSE).await;
            }
            Err(e) => return Err(refusal(place, &e)),
        }
    }
}

/// Returns the reason that there is no connection, and what to do. A failure that may pass by itself is unavailable.
fn refusal(place: &str, e: &tokio_postgres::Error) -> Error {
    let what = format!("cannot connect to {place}: {}", cause(e));
    let Some(code) = e.code() else {
        return Error::unavailable(format!("{what}; is it running, and can it be reached from here?"));
    };
    match code.code() {
        "28P01" | "28000" => Error::config(format!(
            "{what}; look at user and password in the URL (a file of TIDINGS_STORE_FILE can hold it), and at pg_hba.conf"
        )),
        "3D000" => Error::config(format!("{what}; make the database with CREATE DATABASE … ENCODING 'UTF8'")),
        "53300" => Error::unavailable(format!(
            "{what}; a service takes up to {CONNECTIONS_MAX} connections: raise the limit of the role, the database or the server"
        )),
        code if ["08", "53", "57P", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
            Error::unavailable(what)
        }
        _ => Error::config(what),
    }
}

/// Refuses a pooler that gives each transaction another connection: what a connection is set to would be
/// lost, or be another's. Behind such a one two connections of ours share what is set.
pub(super) async fn refuse_pooler(config: &Config, place: &str, client: &Client) -> Result<(), Error> {
    let failed = |e| Error::postgres(format!("cannot use {place}"), e);
    let other = connect(config, place).await?;
    let is_shared = async |set: &Client, read: &Client| {
        set.simple_query("SET tidings.connection = 'ours'").await.map_err(failed)?;
        let rows =
            read.simple_query("SELECT current_setting('tidings.connection', true)").await.map_err(failed)?;
        set.simple_query("SET tidings.connection = ''").await.map_err(failed)?;
        let value = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok::<_, Error>(value.as_deref() == Some("ours"))
    };
    for _ in 0..COMPARISONS {
        if is_shared(client, &other).await? || is_shared(&other, client).await? {
            return Err(Error::config(format!(
                "{place} is a pooler that lends connections by transaction (PgBouncer's pool_mode=transaction), which loses what a connection is set to: use pool_mode=session, or connect to PostgreSQL itself"
            )));
        }
    }
    Ok(())
}

/// Returns the steps that would bring the schema up to date. Changes nothing.
pub(crate) async fn check(url: &str, service: &str, migrations: usize) -> Result<Vec<String>, Error> {
    let (config, place) = (parse(url, service)?, redacted(url));
    let client = connect(&config, &place).await?;
    refuse_pooler(&config, &place, &client).await?;
    let failed = |e| Error::postgres(format!("cannot look at the schema of {service}"), e);
    let table = format!("{}.migration", quoted(service));
    let known = [("tidings".to_owned(), MIGRATIONS.len()), (format!("service {service}"), migrations)];
    let exists = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await.map_err(failed)?;
    let mut steps = Vec::new();
    for (component, known) in known {
        let (mut found, known) = (0, known as i64);
        if exists.get(0) {
            let sql = format!("SELECT coalesce(max(version), 0) FROM {table} WHERE component = $1");
            found = client.query_one(&sql, &[&component]).await.map_err(failed)?.get(0);
        }
        if found > known {
            return Err(newer(&component, found, known));
        }
        if found < known {
            steps.push(step(&component, found, known));
        }
    }
    Ok(steps)
}

/// Brings the schema up to date: the first process does it, the others wait.
pub(super) async fn migrate(client: &mut Client, service: &str, migrations: &[&str]) -> Result<(), Error> {
    let schema = quoted(service);
    let failed = |e: tokio_postgres::Error| match e.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Error::config(format!(
            "cannot migrate {service}: {}; make the schema for this role (CREATE SCHEMA {schema} AUTHORIZATION …), or let it: GRANT CREATE ON DATABASE …",
            cause(&e)
        )),
        _ => Error::postgres(format!("cannot migrate {service}"), e),
    };
    let tx = client.transaction().await.map_err(failed)?;
    tx.execute("SELECT pg_advisory_xact_lock(hashtextextended('tidings ' || $1, 0))", &[&service])
        .await
        .map_err(failed)?;
    // A role that may make nothing here can use what was made for it.
    let there = tx
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), to_regclass($2) IS NOT NULL",
            &[&service, &format!("{schema}.migration")],
        )
        .await
        .map_err(failed)?;
    if !there.get::<_, bool>(0) {
        tx.batch_execute(&format!("CREATE SCHEMA {schema}")).await.map_err(failed)?;
    }
    let mut begin = format!("SET LOCAL client_min_messages = warning; SET LOCAL search_path = {schema};");
    if !there.get::<_, bool>(1) {
        begin.push_str("CREATE TABLE migration (component TEXT PRIMARY KEY, version BIGINT NOT NULL)");
    }
    tx.batch_execute(&begin).await.map_err(failed)?;
    for (component, migrations) in [("tidings", MIGRATIONS), (service, migrations)] {
        let component =
            if component == "tidings" { component.to_owned() } else { format!("service {component}") };
        let row = tx
            .query_one("SELECT coalesce(max(version), 0) FROM migration WHERE component = $1", &[&component])
            .await
            .map_err(failed)?;
        let (found, known): (i64, i64) = (row.get(0), migrations.len() as i64);
        if found > known {
            return Err(newer(&component, found, known));
        }
        for (version, sql) in (found + 1..).zip(&migrations[found.unsigned_abs() as usize..]) {
            tx.batch_execute(sql).await.map_err(failed)?;
            tx.execute(
                "INSERT INTO migration VALUES ($1, $2) ON CONFLICT (component) DO UPDATE SET version = $2",
                &[&component, &version],
            )
            .await
            .map_err(failed)?;
        }
    }
    tx.commit().await.map_err(failed)
}

fn newer(component: &str, found: i64, known: i64) -> Error {
    Error::config(format!(
        "the data of {component} has version {found}, this program knows {known}: it was written by a newer release; run that release, or choose another database"
    ))
}

/// Returns the reason of a driver's error, on one line: the error's own text leaves the reason out.
pub(super) fn cause(e: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let mut message = e.source().map_or_else(|| e.to_string(), ToString::to_string);
    if let Some(deeper) = e.source().and_then(std::error::Error::source) {
        message = format!("{message}: {deeper}");
    }
    message.replace('\n', "; ")
}

/// Returns the reason that the pool has no connection.
pub(super) fn pool_cause(e: &PoolError) -> String {
    match e {
        PoolError::Backend(e) | PoolError::PostCreateHook(HookError::Backend(e)) => cause(e),
        PoolError::Timeout(TimeoutType::Wait) => {
            format!("all {CONNECTIONS_MAX} connections of this process are in use")
        }
        PoolError::Timeout(_) => format!("no answer within {} s", WAIT_MAX.as_secs()),
        other => other.to_string(),
    }
}
