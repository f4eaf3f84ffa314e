//! A service that reads notes and does with each what a test tells it to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use tidings::store::Tables;
use tidings::{
    BatchHandler, Envelope, Handler, HandlerError, RetryPolicy, RunningService, Service, Tx, params,
};
use tidings_testkit::event::NoteTaken;
use tidings_testkit::stage::manual_retries;

pub const TABLES: Tables = Tables {
    sqlite: &["CREATE TABLE journal (id INTEGER PRIMARY KEY, line TEXT NOT NULL)"],
    postgres: &[
        "CREATE TABLE journal (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, line TEXT NOT NULL)",
    ],
};

/// How handling an event goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Transient,
    Dependency,
    Fatal,
    Panic,
}

/// What a reader is told to do, and which events it was given.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    broken: HashMap<String, Trouble>,
    tried: Vec<String>,
    /// Calls whose events were not all of different keys.
    mixed: usize,
}

impl Script {
    /// Handling `event` (`KEY N`) goes wrong until it is mended.
    pub fn breaks(&self, event: &str, trouble: Trouble) {
        self.lines().broken.insert(event.to_owned(), trouble);
    }

    pub fn mend(&self, event: &str) {
        self.lines().broken.remove(event);
    }

    /// How often a handler was called with `event`.
    pub fn tries(&self, event: &str) -> usize {
        self.lines().tried.iter().filter(|tried| *tried == event).count()
    }

    pub fn mixed_batches(&self) -> usize {
        self.lines().mixed
    }

    /// Does what was planned for `event`.
    pub fn act(&self, event: &str) -> Result<(), HandlerError> {
        let trouble = {
            let mut lines = self.lines();
            lines.tried.push(event.to_owned());
            lines.broken.get(event).copied()
        };
        match trouble {
            None => Ok(()),
            Some(Trouble::Transient) => Err(HandlerError::Transient(format!("{event} fails"))),
            Some(Trouble::Dependency) => Err(HandlerError::Dependency("the printer")),
            Some(Trouble::Fatal) => Err(HandlerError::fatal("illegible", event)),
            Some(Trouble::Panic) => panic!("{event} makes the handler panic"),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

/// Writes each note into its journal, and only then does what the script says.
struct Reader(Script);

impl Handler<NoteTaken> for Reader {
    async fn handle(&self, event: &Envelope<NoteTaken>, tx: &mut Tx) -> Result<(), HandlerError> {
        let line = format!("{} {}", event.key(), event.payload().n);
        write_down(tx, &line).await?;
        self.0.act(&line)
    }
}

/// The same, many at a time.
pub struct BatchReader(pub Script);

impl BatchHandler<NoteTaken> for BatchReader {
    async fn handle(&self, events: &[Envelope<NoteTaken>], tx: &mut Tx) -> Result<(), HandlerError> {
        let mut keys: Vec<&str> = events.iter().map(Envelope::key).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.len() < events.len() {
            self.0.lines().mixed += 1;
        }
        for event in events {
            let line = format!("{} {}", event.key(), event.payload().n);
            write_down(tx, &line).await?;
            self.0.act(&line)?;
        }
        Ok(())
    }
}

pub async fn write_down(tx: &mut Tx, line: &str) -> Result<(), HandlerError> {
    tx.execute("INSERT INTO journal (line) VALUES ($1)", params![line]).await?;
    Ok(())
}

/// The service `readers`, whose retries come only by the clock.
pub fn readers(script: &Script) -> impl Fn() -> Service + use<> {
    readers_with(script, manual_retries(u32::MAX))
}

pub fn readers_with(script: &Script, retry: RetryPolicy) -> impl Fn() -> Service + use<> {
    let script = script.clone();
    move || readers_on(&script, TABLES).retry(retry)
}

/// The service `readers` with tables of which its journal is one.
pub fn readers_on(script: &Script, tables: Tables<'static>) -> Service {
    Service::new("readers").tables(tables).takes_external::<NoteTaken>().on(Reader(script.clone()))
}

pub fn batch_readers(script: &Script) -> impl Fn() -> Service + use<> {
    let script = script.clone();
    move || {
        Service::new("readers")
            .tables(TABLES)
            .takes_external::<NoteTaken>()
            .on_batch(BatchReader(script.clone()))
            .retry(manual_retries(u32::MAX))
    }
}

/// The journal, in the order it was written.
pub async fn journal(running: &RunningService) -> Vec<String> {
    let rows = running.store().query("SELECT line FROM journal ORDER BY id", &[]).await;
    let rows = rows.expect("the journal can be read");
    rows.iter().map(|row| row.get(0).expect("a line is text")).collect()
}

/// The journal by key: `a 1 2 3` a line. Order matters within a key, not between keys.
pub async fn journal_by_key(running: &RunningService) -> String {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in journal(running).await {
        let (key, n) = line.split_once(' ').expect("KEY N");
        keys.entry(key.to_owned()).or_default().push(n.to_owned());
    }
    let lines: Vec<String> = keys.iter().map(|(key, n)| format!("{key} {}", n.join(" "))).collect();
    lines.join("\n")
}
