//! One SQLite file: one writer with group commit, a few readers, one owner process.
//!
//! Units of work run one after the other on the write connection and share one durable `COMMIT`:
//! a unit that ends while others wait leaves the commit to them, and the one that ends last commits for
//! all. A unit learns that it is durable only from that commit.
//!
//! ```text
//! unit A  BEGIN ─ statements ─┐
//! unit B          SAVEPOINT ─ statements ─ RELEASE ─┐
//! unit C                      SAVEPOINT ─ … ─ RELEASE ─ yield, nobody waits ─ deferred writes ─ COMMIT → A, B, C
//! ```

mod place;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, oneshot};

use crate::error::Error;
use crate::panic::lock;
use place::{cannot_create, cannot_write, check_writable};

/// Units that may share one commit; beyond it the wait of the first outweighs the saved syncs.
const UNITS_PER_COMMIT_MAX: usize = 512;
/// The longest time that a deferred write waits for another commit before it gets one of its own.
const DEFERRED_WAIT: Duration = Duration::from_millis(100);
/// Concurrent readers; each holds a page cache.
const READERS_MAX: usize = 4;
/// Prepared statements kept per connection: more than the framework and one service use together.
const STATEMENTS_MAX: usize = 128;

/// Work that runs, in commit order, right after the commit that made a unit durable.
pub(crate) type AfterCommit = Box<dyn FnOnce() + Send>;
/// A statement that no caller waits for: it joins the next commit.
type DeferredWrite = Box<dyn Fn(&Connection) -> rusqlite::Result<()> + Send>;

pub(crate) struct SqliteFile {
    path: PathBuf,
    writer: Arc<Mutex<Writer>>,
    waiting: AtomicUsize,
    deferred: SyncMutex<Vec<DeferredWrite>>,
    flushing: AtomicBool,
    readers: SyncMutex<Vec<Connection>>,
    reader_permits: Semaphore,
    _owner: File,
}

/// The write connection and the group of units that wait for its next commit.
struct Writer {
    connection: Connection,
    open: bool,
    units: Vec<Finished>,
    count: usize,
}

struct Finished {
    done: oneshot::Sender<Result<(), Error>>,
    after: AfterCommit,
}

impl SqliteFile {
    /// Opens (or makes) `directory/name.db`, owned by this process alone until it is dropped.
    pub(crate) fn open(directory: &Path, name: &str) -> Result<Arc<Self>, Error> {
        fs::create_dir_all(directory).map_err(|e| cannot_create(directory, &e))?;
        let owner = own(directory, name)?;
        let path = directory.join(format!("{name}.db"));
        let connection = Connection::open(&path).map_err(|e| unusable(&path, &e))?;
        is_safe(&connection)?;
        prepare(&connection).map_err(|e| unusable(&path, &e))?;
        Ok(Arc::new(Self {
            path,
            writer: Arc::new(Mutex::new(Writer { connection, open: false, units: Vec::new(), count: 0 })),
            waiting: AtomicUsize::new(0),
            deferred: SyncMutex::new(Vec::new()),
            flushing: AtomicBool::new(false),
            readers: SyncMutex::new(Vec::new()),
            reader_permits: Semaphore::new(READERS_MAX),
            _owner: owner,
        }))
    }

    /// Waits for the write connection and begins a unit of work on it.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<SqliteTransaction, Error> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut waiting = Waiting { database: self, served: false };
        let mut guard = self.writer.clone().lock_owned().await;
        waiting.served = true;
        drop(waiting);
        let nested = guard.count > 0 && guard.open;
        let begun = guard.begin(nested);
        match begun {
            Ok(()) => Ok(SqliteTransaction { database: self.clone(), guard: Some(guard), nested }),
            Err(e) => {
                tokio::spawn(self.clone().hand_on(guard));
                Err(Error::store("cannot begin a transaction", e))
            }
        }
    }

    /// Runs one query on a read connection; sees everything committed before the call.
    pub(crate) async fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _permit = self.reader_permits.acquire().await.expect("the semaphore is never closed");
        let pooled = lock(&self.readers).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => self.reader()?,
        };
        let answer = query(&connection);
        lock(&self.readers).push(connection);
        answer
    }

    /// Queues a statement for the next commit, whichever unit makes it. A crash before that commit loses it,
    /// so it must only save work (an outbox row already acknowledged, an offset already handled).
    pub(crate) fn defer(
        self: &Arc<Self>,
        write: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) {
        // The flag is looked at under the lock, where the flusher lowers it.
        let mut deferred = lock(&self.deferred);
        deferred.push(Box::new(write));
        if !self.flushing.swap(true, Ordering::SeqCst) {
            tokio::spawn(self.clone().flush_until_empty());
        }
    }

    async fn flush_until_empty(self: Arc<Self>) {
        loop {
            tokio::time::sleep(DEFERRED_WAIT).await;
            if let Err(e) = self.flush().await {
                tracing::warn!(error = %e, "deferred statements wait for the next commit");
            }
            let deferred = lock(&self.deferred);
            if deferred.is_empty() {
                // Under the lock, so that a write pushed now finds the flag down.
                self.flushing.store(false, Ordering::SeqCst);
                return;
            }
        }
    }

    /// Commits what rides, if anything does.
    pub(crate) async fn flush(self: &Arc<Self>) -> Result<(), Error> {
        if lock(&self.deferred).is_empty() {
            return Ok(());
        }
        self.begin().await?.commit(Box::new(|| ())).await
    }

    /// Moves the write-ahead log into the file and makes it short again: at a clean stop.
    pub(crate) async fn checkpoint(&self) -> Result<(), Error> {
        let guard = self.writer.lock().await;
        guard
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|e| Error::store("cannot checkpoint", e))
    }

    /// Runs set-up statements, before any other task uses the file.
    pub(crate) fn set_up<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let guard = self.writer.try_lock().expect("nobody else has the database while it is set up");
        work(&guard.connection)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn reader(&self) -> Result<Connection, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)
            .map_err(|e| Error::store("cannot open a read connection", e))?;
        configure(&connection).map_err(|e| Error::store("cannot open a read connection", e))?;
        Ok(connection)
    }

    /// Leaves the group to the next waiter or, when none waits, commits it off the async workers.
    async fn hand_on(self: Arc<Self>, mut guard: OwnedMutexGuard<Writer>) {
        // One turn of the scheduler lets work that is ready join this commit instead of the next.
        tokio::task::yield_now().await;
        if guard.count < UNITS_PER_COMMIT_MAX && self.waiting.load(Ordering::SeqCst) > 0 {
            return;
        }
        let committed = tokio::task::spawn_blocking(move || {
            let deferred = std::mem::take(&mut *lock(&self.deferred));
            if let Err(deferred) = guard.commit(deferred) {
                lock(&self.deferred).extend(deferred);
            }
        });
        // A panic there poisons nothing: the units' senders are dropped and their owners see an error.
        let _ = committed.await;
    }
}

impl Writer {
    fn begin(&mut self, nested: bool) -> rusqlite::Result<()> {
        if nested {
            self.run("SAVEPOINT unit")?;
        } else if !self.open {
            self.run("BEGIN IMMEDIATE")?;
            self.open = true;
        }
        self.count += 1;
        Ok(())
    }

    /// Undoes the unit in progress, and only it.
    fn undo(&mut self, nested: bool) {
        let undone = if nested {
            self.run("ROLLBACK TO unit").and_then(|()| self.run("RELEASE unit"))
        } else {
            self.open = false;
            self.count = 0;
            self.run("ROLLBACK")
        };
        if undone.is_err() {
            self.fail_if_rolled_back();
        }
    }

    fn keep(&mut self, nested: bool, unit: Finished) {
        if nested && let Err(e) = self.run("RELEASE unit") {
            let _ = unit.done.send(Err(Error::store("cannot end a transaction", e)));
            return self.fail_if_rolled_back();
        }
        self.units.push(unit);
        self.fail_if_rolled_back();
    }

    /// SQLite rolls the whole transaction back on its own when the disk is full or fails: then every
    /// unit of the group has failed, also those that had finished.
    fn fail_if_rolled_back(&mut self) {
        if self.open && self.connection.is_autocommit() {
            self.open = false;
            self.count = 0;
            self.answer(Err(Error::unavailable(
                "the database rolled the transaction back (is the disk full?)",
            )));
        }
    }

    /// Commits the group with the deferred writes; gives them back if that fails.
    fn commit(&mut self, deferred: Vec<DeferredWrite>) -> Result<(), Vec<DeferredWrite>> {
        if !self.open {
            // Every unit of the group was undone. The deferred writes wait for the next one.
            return if deferred.is_empty() { Ok(()) } else { Err(deferred) };
        }
        self.open = false;
        self.count = 0;
        let result =
            deferred.iter().try_for_each(|write| write(&self.connection)).and_then(|()| self.run("COMMIT"));
        match result {
            Ok(()) => {
                self.answer(Ok(()));
                Ok(())
            }
            Err(e) => {
                if !self.connection.is_autocommit() {
                    // The disk may still be full; what matters is that nobody is told "committed".
                    let _ = self.run("ROLLBACK");
                }
                self.answer(Err(Error::store("cannot commit", e)));
                Err(deferred)
            }
        }
    }

    fn answer(&mut self, result: Result<(), Error>) {
        for unit in self.units.drain(..) {
            if result.is_ok() {
                (unit.after)();
            }
            // The owner may be gone (a client that hung up); the commit stands.
            let _ = unit.done.send(result.clone());
        }
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
    }
}

/// A unit of work in progress: holds the write connection until it is committed or dropped.
pub(crate) struct SqliteTransaction {
    database: Arc<SqliteFile>,
    guard: Option<OwnedMutexGuard<Writer>>,
    nested: bool,
}

impl SqliteTransaction {
    pub(crate) fn connection(&self) -> &Connection {
        &self.guard.as_ref().expect("a unit holds its connection until it is consumed").connection
    }

    /// Ends the unit and resolves once it is durable. `after` has run by then, in commit order.
    ///
    /// Dropping the returned future changes nothing: the commit happens all the same.
    pub(crate) fn commit(
        mut self,
        after: AfterCommit,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (done, committed) = oneshot::channel();
        if let Some(mut guard) = self.guard.take() {
            guard.keep(self.nested, Finished { done, after });
            tokio::spawn(self.database.clone().hand_on(guard));
        }
        async move { committed.await.unwrap_or_else(|_| Err(Error::unavailable("the commit was given up"))) }
    }
}

impl Drop for SqliteTransaction {
    /// A unit that was not committed (an error, a panic, a cancelled future) leaves no trace, and its
    /// companions go on.
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.undo(self.nested);
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(self.database.clone().hand_on(guard))),
                Err(_) => drop(guard.commit(Vec::new())),
            }
        }
    }
}

/// A place in the queue for the write connection.
struct Waiting<'a> {
    database: &'a Arc<SqliteFile>,
    served: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.database.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.served {
            return;
        }
        // Its owner has gone away (a client that hung up), but the group may have been left to it.
        let database = self.database.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let guard = database.writer.clone().lock_owned().await;
                database.hand_on(guard).await;
            });
        }
    }
}

/// Brings `component` of this file to the last of `migrations`, or refuses a file from the future.
pub(crate) fn migrate(connection: &Connection, component: &str, migrations: &[&str]) -> Result<(), Error> {
    let failed = |e| Error::store(format!("cannot migrate {component}"), e);
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS migration (component TEXT PRIMARY KEY, version INTEGER NOT NULL)",
        )
        .map_err(failed)?;
    let found: i64 = connection
        .query_row(
            "SELECT coalesce(max(version), 0) FROM migration WHERE component = ?1",
            [component],
            |row| row.get(0),
        )
        .map_err(failed)?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(newer(component, found, known));
    }
    for (version, sql) in (found + 1..).zip(&migrations[found as usize..]) {
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {sql}; INSERT INTO migration VALUES ('{component}', {version}) ON CONFLICT (component) DO UPDATE SET version = {version}; COMMIT"
            ))
            .map_err(failed)?;
    }
    Ok(())
}

/// The migrations that opening `directory/name.db` would run, without opening it for writing.
pub(crate) fn steps(
    directory: &Path,
    name: &str,
    components: &[(&str, usize)],
) -> Result<Vec<String>, Error> {
    let path = directory.join(format!("{name}.db"));
    check_writable(directory, name)?;
    let known = components.iter().map(|(component, known)| (*component, *known as i64));
    if !path.exists() {
        return Ok(known.map(|(component, known)| step(component, 0, known)).collect());
    }
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|e| unusable(&path, &e))?;
    let mut steps = Vec::new();
    for (component, known) in known {
        let found = connection
            .query_row(
                "SELECT coalesce(max(version), 0) FROM migration WHERE component = ?1",
                [component],
                |row| row.get::<_, i64>(0),
            )
            .map_err(|e| unusable(&path, &e))?;
        if found > known {
            return Err(newer(component, found, known));
        }
        if found < known {
            steps.push(step(component, found, known));
        }
    }
    Ok(steps)
}

/// A migration in words.
pub(crate) fn step(component: &str, found: i64, known: i64) -> String {
    format!("{component} from version {found} to {known}")
}

fn newer(component: &str, found: i64, known: i64) -> Error {
    Error::config(format!(
        "the data of {component} has version {found}, this program knows {known}: it was written by a newer release; run that release, or choose another data directory"
    ))
}

/// Checks that SQLite was compiled so that its connections may be used by several threads. Everything else that
/// `.cargo/config.toml` sets only makes SQLite faster.
fn is_safe(connection: &Connection) -> Result<(), Error> {
    let compiled = |e| Error::store("cannot read how SQLite was compiled", e);
    let mut options = connection.prepare("PRAGMA compile_options").map_err(compiled)?;
    let options = options.query_map([], |row| row.get::<_, String>(0)).map_err(compiled)?;
    let options = options.collect::<Result<Vec<_>, _>>().map_err(compiled)?;
    refuse_unsafe(options.iter().map(String::as_str))
}

fn refuse_unsafe<'a>(mut options: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    if options.any(|option| option == "THREADSAFE=0") {
        return Err(Error::config(
            "SQLite was compiled for one thread (SQLITE_THREADSAFE=0), which would break data here: take that out of LIBSQLITE3_FLAGS, or set it to 1 or 2, and build again",
        ));
    }
    Ok(())
}

fn own(directory: &Path, name: &str) -> Result<File, Error> {
    let path = directory.join(format!("{name}.lock"));
    let file = File::create(&path).map_err(|e| cannot_write(directory, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::config(format!(
            "data directory {} is in use by another process; stop that one or choose another directory",
            directory.display()
        ))),
        Err(TryLockError::Error(e)) => Err(Error::config(format!("cannot lock {}: {e}", path.display()))),
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    configure(connection)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 4000; -- 16 MiB: a page that is written often is copied back less often
         PRAGMA cache_size = -8192;
         PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 67108864;",
    )
}

/// Settings of every connection, that of the writer and those of readers.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A prepared statement keeps its plan whatever is bound to it. Else SQLite prepares some anew in each transaction, such
    // as `SELECT max(seq) … WHERE stream = ?1`, which numbers events: a twentieth of the shop's CPU.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(Duration::from_secs(5))
}

fn unusable(path: &Path, e: &rusqlite::Error) -> Error {
    Error::config(format!("cannot use {}: {e}", path.display()))
}
