//! An embedded broker or store that fails: a second connection to its file lays a tripwire.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

/// Makes inserts into one table fail for as long as it lives.
#[derive(Debug)]
pub struct Tripwire {
    file: PathBuf,
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
        let tripwire = Self { file: file.to_owned() };
        tripwire.run(&format!(
            "CREATE TRIGGER tripwire BEFORE INSERT ON {table} WHEN {condition}
             BEGIN SELECT RAISE(ABORT, 'tripped'); END"
        ));
        tripwire
    }

    fn run(&self, sql: &str) {
        let connection = Connection::open(&self.file).expect("the file can be opened");
        connection.busy_timeout(Duration::from_secs(5)).expect("a timeout can be set");
        connection.execute_batch(sql).expect("a tripwire can be laid and taken away");
    }
}

impl Drop for Tripwire {
    fn drop(&mut self) {
        self.run("DROP TRIGGER tripwire");
    }
}
