//! A corner of a real PostgreSQL or Kafka for one test alone.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::NoTls;

/// A name that nothing else has had, also in earlier runs against the same servers.
fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let micros = jiff::Timestamp::now().as_microsecond();
    format!("t{micros:x}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An empty database; dropped with it.
#[derive(Debug)]
pub struct FreshDatabase {
    server: String,
    name: String,
}

impl FreshDatabase {
    /// Makes one on the PostgreSQL that tests share.
    ///
    /// # Panics
    /// When there is none, or it cannot be used.
    #[must_use]
    #[allow(clippy::new_without_default)] // it makes something
    pub fn new() -> Self {
        Self::on(&tidings_servers::postgres())
    }

    /// Makes one on the server of this URL.
    ///
    /// # Panics
    /// When it cannot be used.
    #[must_use]
    pub fn on(server: &str) -> Self {
        let database = Self { server: server.to_owned(), name: fresh_name() };
        execute(server, &format!("CREATE DATABASE {}", database.name));
        database
    }

    /// Its URL, for a store.
    ///
    /// # Panics
    /// When the server's URL names no database.
    #[must_use]
    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("the server's URL names a database");
        format!("{server}/{}", self.name)
    }
}

impl Drop for FreshDatabase {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            execute(&self.server, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// Runs statements in the database at a URL.
///
/// # Panics
/// When one fails.
pub fn execute(url: &str, sql: &str) {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    // Called from tests and from drops: a thread of its own may block anywhere.
    let done = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(&sql).await
        })
    });
    done.join().expect("the thread ends").expect("the statements can be run");
}

/// Topics and groups that no other test sees, in the Kafka that tests share.
#[derive(Debug)]
pub struct FreshTopics {
    url: String,
}

impl FreshTopics {
    /// Makes a name for them.
    ///
    /// # Panics
    /// When no Kafka is named.
    #[must_use]
    #[allow(clippy::new_without_default)] // as above
    pub fn new() -> Self {
        Self::with("")
    }

    /// Makes a name for them, with properties of the client: `&group.protocol=consumer`.
    ///
    /// # Panics
    /// When no Kafka is named.
    #[must_use]
    pub fn with(properties: &str) -> Self {
        Self::on(&tidings_servers::kafka(), properties)
    }

    /// Makes a name for them in the Kafka at `HOST:PORT`, with properties of the client.
    #[must_use]
    pub fn on(bootstrap: &str, properties: &str) -> Self {
        Self { url: format!("kafka://{bootstrap}?prefix={}.{properties}", fresh_name()) }
    }

    /// Their URL, for a broker.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }
}
