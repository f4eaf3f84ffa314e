//! The real servers, for as long as a chore needs them.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use tidings_servers::{Error, KAFKA_VARIABLE, Kafka, POSTGRES_VARIABLE, Postgres};

use crate::Failed;

/// The servers that were started, killed when dropped. Where the environment names one, that one is used.
#[derive(Default)]
pub(crate) struct Servers {
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
    data: PathBuf,
}

impl Servers {
    /// Starts what the environment does not name, on fresh data.
    pub(crate) fn start() -> Result<Self, Failed> {
        tidings_servers::compilers().map_err(report)?;
        let mut servers = Self { data: fresh_directory(), ..Self::default() };
        if needed(POSTGRES_VARIABLE, Postgres::install())? {
            servers.postgres = Some(Postgres::start(&servers.data.join("postgres")).map_err(report)?);
        }
        if needed(KAFKA_VARIABLE, Kafka::install())? {
            servers.kafka = Some(Kafka::start(&servers.data.join("kafka")).map_err(report)?);
        }
        Ok(servers)
    }

    /// Ends them and removes their data, which else the next chore does.
    pub(crate) fn remove(self) {
        let data = self.data;
        drop((self.kafka, self.postgres));
        let _ = fs::remove_dir_all(data);
    }

    /// The environment variables that name the servers to tests.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        let kafka = self.kafka.as_ref().map(|kafka| (KAFKA_VARIABLE, kafka.bootstrap()));
        let postgres = self.postgres.as_ref().map(|postgres| (POSTGRES_VARIABLE, postgres.url()));
        kafka.into_iter().chain(postgres)
    }
}

/// Tells whether a server is to be started. Where the environment names one, tests still start more of their own,
/// but most do without what could not be installed.
fn needed(variable: &str, installed: Result<(), Error>) -> Result<bool, Failed> {
    let is_named = env::var_os(variable).is_some();
    match installed {
        Err(e) if is_named => eprintln!("tests that start their own will fail: {e}"),
        installed => installed.map_err(report)?,
    }
    Ok(!is_named)
}

/// Starts both, names them, and keeps them until this process is ended.
pub(crate) fn lend(data: Option<PathBuf>) -> Result<(), Failed> {
    Postgres::install().and_then(|()| Kafka::install()).map_err(report)?;
    let data = data.unwrap_or_else(fresh_directory);
    let postgres = Some(Postgres::start(&data.join("postgres")).map_err(report)?);
    let kafka = Some(Kafka::start(&data.join("kafka")).map_err(report)?);
    let servers = Servers { kafka, postgres, data };
    for (variable, address) in servers.variables() {
        println!("export {variable}={address}");
    }
    let _ = io::stdout().flush();
    eprintln!("until Ctrl-C; data and logs are in {}", servers.data.display());
    loop {
        thread::park();
    }
}

/// A directory of this process. Those of processes that were ended before they could are removed.
fn fresh_directory() -> PathBuf {
    let servers = tidings_servers::target_dir().join("servers");
    for dir in fs::read_dir(&servers).into_iter().flatten().flatten() {
        let name = dir.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("run-"));
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(dir.path());
        }
    }
    servers.join(format!("run-{}", process::id()))
}

fn report(e: Error) -> Failed {
    eprintln!("{e}");
    Failed
}
