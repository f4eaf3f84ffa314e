//! The real parts, for as long as a chore needs them.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use tidings_parts::{Error, KAFKA_VARIABLE, Kafka, POSTGRES_VARIABLE, Postgres};

use crate::Failed;

/// The parts that were started, killed when dropped. Where the environment names a part, that one is used.
#[derive(Default)]
pub(crate) struct Parts {
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
    data: PathBuf,
}

impl Parts {
    /// Starts what the environment does not name, on fresh data.
    pub(crate) fn start() -> Result<Self, Failed> {
        tidings_parts::compilers().map_err(said)?;
        let mut parts = Self { data: fresh_directory(), ..Self::default() };
        if needed(POSTGRES_VARIABLE, Postgres::install())? {
            parts.postgres = Some(Postgres::start(&parts.data.join("postgres")).map_err(said)?);
        }
        if needed(KAFKA_VARIABLE, Kafka::install())? {
            parts.kafka = Some(Kafka::start(&parts.data.join("kafka")).map_err(said)?);
        }
        Ok(parts)
    }

    /// Ends them and removes their data, which else the next chore does.
    pub(crate) fn remove(self) {
        let data = self.data;
        drop((self.kafka, self.postgres));
        let _ = fs::remove_dir_all(data);
    }

    /// The environment variables that name the parts to tests.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        let kafka = self.kafka.as_ref().map(|kafka| (KAFKA_VARIABLE, kafka.bootstrap()));
        let postgres = self.postgres.as_ref().map(|postgres| (POSTGRES_VARIABLE, postgres.url()));
        kafka.into_iter().chain(postgres)
    }
}

/// Tells whether a part is to be started. Where the environment names one, tests still start more of their own,
/// but most do without what could not be installed.
fn needed(variable: &str, installed: Result<(), Error>) -> Result<bool, Failed> {
    let is_named = env::var_os(variable).is_some();
    match installed {
        Err(e) if is_named => eprintln!("tests that start their own will fail: {e}"),
        installed => installed.map_err(said)?,
    }
    Ok(!is_named)
}

/// Starts both, names them, and keeps them until this process is ended.
pub(crate) fn lend(data: Option<PathBuf>) -> Result<(), Failed> {
    Postgres::install().and_then(|()| Kafka::install()).map_err(said)?;
    let data = data.unwrap_or_else(fresh_directory);
    let postgres = Some(Postgres::start(&data.join("postgres")).map_err(said)?);
    let kafka = Some(Kafka::start(&data.join("kafka")).map_err(said)?);
    let parts = Parts { kafka, postgres, data };
    for (variable, address) in parts.variables() {
        println!("export {variable}={address}");
    }
    let _ = io::stdout().flush();
    eprintln!("until Ctrl-C; data and logs are in {}", parts.data.display());
    loop {
        thread::park();
    }
}

/// A directory of this process. Those of processes that were ended before they could are removed.
fn fresh_directory() -> PathBuf {
    let parts = tidings_parts::target_dir().join("parts");
    for dir in fs::read_dir(&parts).into_iter().flatten().flatten() {
        let name = dir.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("run-"));
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(dir.path());
        }
    }
    parts.join(format!("run-{}", process::id()))
}

fn said(e: Error) -> Failed {
    eprintln!("{e}");
    Failed
}
