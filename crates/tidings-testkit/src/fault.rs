//! A store or an embedded broker that fails: a second connection lays a tripwire.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::servers::execute;

/// Makes inserts into one table fail for as long as it lives.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::{TestApp, event::NoteTaken};
/// # async fn take(tx: &mut Tx, note: NoteTaken) -> Result<(), HandlerError> { tx.publish(note).await }
/// # #[tokio::main] async fn main() {
/// let app = TestApp::start([Service::new("notes").publishes::<NoteTaken>().post("/notes", take)]).await;
/// let tripwire = app.stage().refusing("notes", "event_log");
/// assert!(app.post("/notes", &NoteTaken::new("k", 1)).await.status.is_server_error());
/// drop(tripwire);
/// assert_eq!(app.post("/notes", &NoteTaken::new("k", 1)).await.status, 202);
/// # }
/// ```
#[derive(Debug)]
pub struct Tripwire {
    target: Target,
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    /// URL of the database, and the service whose schema it is.
    Schema(String, String),
}

impl Tripwire {
    /// The embedded log in `directory` takes nothing: every send fails.
    #[must_use]
    pub fn broker_away(directory: &Path) -> Self {
        Self::lay(&directory.join("log.db"), "record_batch", "1")
    }

    /// Every send that begins at an even offset fails. A failed send uses its offsets up, so the next
    /// one may succeed; other sends pass it meanwhile.
    #[must_use]
    pub fn every_other_send_fails(directory: &Path) -> Self {
        Self::lay(&directory.join("log.db"), "record_batch", "new.id % 2 = 0")
    }

    /// Inserts into `table` of `file` fail when `condition` holds, which may name columns of `new`.
    ///
    /// # Panics
    /// When the file cannot be opened, or has a tripwire.
    #[must_use]
    pub fn lay(file: &Path, table: &str, condition: &str) -> Self {
        run(
            file,
            &format!(
                "CREATE TRIGGER tripwire BEFORE INSERT ON {table} WHEN {condition}
                 BEGIN SELECT RAISE(ABORT, 'tripped'); END"
            ),
        );
        Self { target: Target::File(file.to_owned()) }
    }

    /// All inserts into `table` of a service in PostgreSQL fail.
    ///
    /// # Panics
    /// When the database cannot be used, or there is a tripwire in the service's schema.
    #[must_use]
    pub fn lay_in_postgres(url: &str, service: &str, table: &str) -> Self {
        execute(
            url,
            &format!(
                "CREATE FUNCTION {service}.tripwire() RETURNS trigger LANGUAGE plpgsql
                     AS $$BEGIN RAISE EXCEPTION 'tripped'; END$$;
                 CREATE TRIGGER tripwire BEFORE INSERT ON {service}.{table}
                     EXECUTE FUNCTION {service}.tripwire()"
            ),
        );
        Self { target: Target::Schema(url.to_owned(), service.to_owned()) }
    }
}

impl Drop for Tripwire {
    fn drop(&mut self) {
        match &self.target {
            Target::File(file) => run(file, "DROP TRIGGER tripwire"),
            Target::Schema(url, service) => {
                execute(url, &format!("DROP FUNCTION {service}.tripwire() CASCADE"));
            }
        }
    }
}

fn run(file: &Path, sql: &str) {
    let connection = Connection::open(file).expect("the file can be opened");
    connection.busy_timeout(Duration::from_secs(5)).expect("a timeout can be set");
    connection.execute_batch(sql).expect("a tripwire can be laid and taken away");
}
