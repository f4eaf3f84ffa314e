//! Directories that vanish with their test.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// An empty directory, for one test alone; removed when dropped.
///
/// ```
/// use tidings::Broker;
/// use tidings_testkit::Scratch;
///
/// # #[tokio::main] async fn main() -> Result<(), tidings::Error> {
/// let scratch = Scratch::new();
/// let broker = Broker::open(&scratch.url())?;
/// assert!(scratch.path().join("log.db").exists());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// Makes one.
    ///
    /// # Panics
    /// When there is nowhere to make it.
    #[must_use]
    #[allow(clippy::new_without_default)] // it makes something on disk
    pub fn new() -> Self {
        Self(TempDir::new().expect("a temporary directory can be made"))
    }

    /// Its URL, for a store or a broker.
    #[must_use]
    pub fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    /// The directory's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns what a crash would leave of the directory at this moment: a copy of every file, as it is on disk.
    ///
    /// Take it while nothing is being written.
    ///
    /// # Panics
    /// When a file cannot be copied.
    #[must_use]
    pub fn after_a_crash(&self) -> Self {
        let copy = Self::new();
        for entry in fs::read_dir(self.path()).expect("the directory can be read") {
            let entry = entry.expect("the directory can be read");
            let name = entry.file_name();
            // Shared memory does not survive a crash, and is rebuilt.
            if !name.to_string_lossy().ends_with("-shm") {
                fs::copy(entry.path(), copy.path().join(name)).expect("a file can be copied");
            }
        }
        copy
    }
}
