use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::Attempt as _;
use crate::process::{Signal, eventually, is_root, works_in};
use crate::server::{Server, directory};
use crate::{Error, Result, install, port};

/// Three services with their pools, in a few instances, and the tests beside them.
const CONNECTIONS_MAX: u16 = 200;

/// The longest that a killed server takes to die. One that is not dead by then is alive, and PostgreSQL itself
/// refuses to disturb it.
const DYING_MAX: Duration = Duration::from_secs(5);

/// A PostgreSQL server of one's own. Dropped, it is killed; its data stays.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    server: Server,
}

impl Postgres {
    /// Makes sure that there is a PostgreSQL to start.
    ///
    /// # Errors
    ///
    /// One line that says what to install, where it cannot.
    pub fn install() -> Result<()> {
        install::postgres()
    }

    /// Starts a server on a free port of 127.0.0.1, on the data in `dir` or on fresh data there.
    ///
    /// Every connection is trusted, there is no Unix socket, and every commit is on disk (`fsync=on`).
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not become ready; the log is in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let dir = directory(dir)?;
        let server = Server {
            name: "PostgreSQL",
            log: dir.join("postgres.log"),
            ready: "database system is ready to accept connections",
            stop: Signal::Interrupt,
            running: None,
        };
        let programs = install::postgres_programs()?;
        let mut postgres = Self { programs, data: dir.join("data"), port: port::free()?, server };
        if postgres.data.join("PG_VERSION").exists() {
            postgres.forget_the_dead();
        } else {
            postgres.make_data()?;
        }
        postgres.start_again()?;
        Ok(postgres)
    }

    /// The server's URL, as its superuser.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// A crash: the server and everything it is doing end at once (SIGKILL).
    ///
    /// # Errors
    ///
    /// When something of it is left.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    /// Stops it in good order; open transactions are rolled back.
    ///
    /// # Errors
    ///
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    /// Starts it after [`Postgres::kill`] or [`Postgres::stop`], on the same port and the same data.
    ///
    /// # Errors
    ///
    /// When it runs, or does not become ready.
    pub fn start_again(&mut self) -> Result<()> {
        let mut postgres = self.program("postgres");
        postgres.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        let max_connections = format!("max_connections={CONNECTIONS_MAX}");
        for setting in
            ["listen_addresses=127.0.0.1", "unix_socket_directories=", &max_connections, "fsync=on"]
        {
            postgres.args(["-c", setting]);
        }
        self.server.start(postgres)
    }

    /// Halts it: connections stay open and nothing answers (SIGSTOP).
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.server.pause()
    }

    /// Lets it go on after [`Postgres::pause`].
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.server.resume()
    }

    /// Another server that was killed may still be dying; then its number lingers where the system's first
    /// process is slow to collect the dead, as in many containers, and PostgreSQL takes that for life.
    fn forget_the_dead(&self) {
        // Wherever a server was started, it works in its data.
        if eventually(DYING_MAX, || !works_in(&self.data)) {
            let _ = fs::remove_file(self.data.join("postmaster.pid"));
        }
    }

    fn make_data(&self) -> Result<()> {
        let mut initdb = self.program("initdb");
        initdb.arg("-D").arg(&self.data);
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.stdin(Stdio::null()).output().attempt(|| "cannot run initdb".to_owned())?;
        if made.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&made.stderr);
        Err(Error::new(format!("cannot make {}: {}", self.data.display(), why.trim().replace('\n', "; "))))
    }

    /// PostgreSQL refuses to run as root. Then it runs as the user its package has made, who may still
    /// reach a directory that only root can, such as one below /root.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]).arg(program);
        command
    }
}
