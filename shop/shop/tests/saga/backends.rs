//! Where a script is played: on the embedded pair, or on PostgreSQL and Kafka.

use std::path::PathBuf;

use tempfile::TempDir;
use tidings_testkit::servers::{FreshDatabase, FreshTopics};

/// The programs that play every script on the real servers; any other plays them on the embedded pair.
const ON_REAL_PARTS: [&str; 2] = ["scenarios_real", TWO_INSTANCES];
/// The one that does so with two instances of each service.
const TWO_INSTANCES: &str = "scenarios_two";

/// Nobody else's, and empty.
pub struct Backends {
    directory: TempDir,
    real: Option<(FreshDatabase, FreshTopics)>,
}

impl Backends {
    pub fn new(catalogue: &str) -> Self {
        let is_real = ON_REAL_PARTS.contains(&env!("CARGO_CRATE_NAME"));
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let backends = Self { directory, real: is_real.then(|| (FreshDatabase::new(), FreshTopics::new())) };
        std::fs::write(backends.catalogue(), catalogue).expect("the directory is writable");
        backends
    }

    /// Whether each service has two instances.
    #[allow(clippy::unused_self, reason = "a backends is asked, whatever decides it")]
    pub fn has_two_instances(&self) -> bool {
        env!("CARGO_CRATE_NAME") == TWO_INSTANCES
    }

    /// The file with the products.
    pub fn catalogue(&self) -> PathBuf {
        self.directory.path().join("catalogue.json")
    }

    /// The URL of the stores.
    pub fn store(&self) -> String {
        self.real.as_ref().map_or_else(|| self.embedded(), |(database, _)| database.url())
    }

    /// The URL of the broker.
    pub fn broker(&self) -> String {
        self.real.as_ref().map_or_else(|| self.embedded(), |(_, topics)| topics.url())
    }

    fn embedded(&self) -> String {
        format!("sqlite:{}", self.directory.path().display())
    }
}
