//! Real Apache Kafka and PostgreSQL for tests: installed, started, killed and started again.
//!
//! `cargo xtask test` starts one of each and names them in the environment; a test asks for their
//! addresses. A test that kills servers starts its own, so that it disturbs no other test:
//!
//! ```no_run
//! use tidings_servers::{Kafka, Postgres, kafka, postgres};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (shared_broker, shared_database) = (kafka(), postgres());
//!
//! let dir = std::env::temp_dir().join("chaos");
//! let mut database = Postgres::start(&dir.join("postgres"))?;
//! let mut broker = Kafka::start(&dir.join("kafka"))?;
//! database.kill()?; // a crash: the server and everything it was doing
//! broker.pause()?; // it hangs
//! database.start_again()?; // same port, same data
//! broker.resume()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! | Module | Is |
//! |---|---|
//! | `install` | what makes sure that the programs are there |
//! | `postgres`, `kafka` | what each is started with, when it is ready, how it stops |
//! | `server` | a server process: its log, its end |
//! | [`ProcessGuard`] | why nothing is left behind, however a test ends |
//! | `process`, `port` | signals to processes, and ports that are still free after a crash |
//!
//! # What it does not do
//!
//! It knows Linux, and installs on Debian only. Several nodes, TLS and passwords are not here.

mod install;
mod postgres;
mod kafka;
mod server;
mod process_guard;
mod process;
mod port;
mod error;

pub use error::{Error, Result};
pub use install::{chromium, compilers, promtool, target_dir};
pub use kafka::Kafka;
pub use postgres::Postgres;
pub use process_guard::ProcessGuard;

use std::env;

/// The variable that names the Kafka that tests use, as `host:port`.
pub const KAFKA_VARIABLE: &str = "TIDINGS_TEST_KAFKA";

/// The variable that names the PostgreSQL that tests use, as a URL.
pub const POSTGRES_VARIABLE: &str = "TIDINGS_TEST_POSTGRES";

/// The address of the Kafka that tests share, `host:port`.
///
/// # Panics
///
/// Where none is named, with what to do about it.
#[must_use]
#[track_caller]
pub fn kafka() -> String {
    named_by(KAFKA_VARIABLE, "host:port of an Apache Kafka")
}

/// The URL of the PostgreSQL that tests share; its user may create databases and schemas.
///
/// # Panics
///
/// Where none is named, with what to do about it.
#[must_use]
#[track_caller]
pub fn postgres() -> String {
    named_by(POSTGRES_VARIABLE, "the URL of a PostgreSQL")
}

#[track_caller]
fn named_by(variable: &str, what: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("run `cargo xtask test`, or set {variable} to {what}"))
}
