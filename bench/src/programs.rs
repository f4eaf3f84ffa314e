//! The programs of a build, each of which runs as it would in a shop, and `shopctl load` against them.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

/// Orders that warm the programs up before anything is measured.
const WARM_UP: &str = "--orders 5000";

/// The directory that holds the programs of one build.
#[derive(Clone, Debug)]
pub struct Build(PathBuf);

impl Build {
    /// The build that this program belongs to.
    ///
    /// # Errors
    ///
    /// The path of this program is not known.
    pub fn own() -> io::Result<Self> {
        let program = env::current_exe()?;
        Ok(Self(program.parent().unwrap_or(Path::new("/")).to_owned()))
    }

    /// The build in a directory, such as `target/release`.
    pub fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The first of the programs that is not there.
    pub fn lacks<'a>(&self, programs: &[&'a str]) -> Option<&'a str> {
        programs.iter().find(|program| !self.program(program).is_file()).copied()
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Starts a program on a free port and waits until it says which.
    ///
    /// # Panics
    ///
    /// If it does not get ready.
    pub fn start<S: AsRef<OsStr>>(&self, name: &str, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut child = Command::new(self.program(name))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let output = child.stdout.take().expect("its output is piped");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let ready = lines.find(|line| line.contains("\"ready\""));
        let ready = ready.unwrap_or_else(|| panic!("{name} does not get ready"));
        let listen = ready.split("\"listen\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let url = format!("http://{}", listen.expect("the line names the address"));
        // Somebody has to read the log, or the program would wait for room in the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Running { child, url }
    }
}

/// A program that runs until this is dropped, which stops it as an operator would.
pub struct Running {
    child: Child,
    /// The URL it listens at.
    pub url: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// The report of `shopctl load --json`, as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Orders that were accepted.
    pub accepted: f64,
    /// Orders that have settled.
    pub settled: f64,
    /// Orders a minute, from the first request to the last that settled.
    pub settled_per_minute: f64,
    /// Seconds from the first request to the last acceptance.
    pub accept_seconds: f64,
    /// Seconds from the first request to the end of the last order.
    pub duration_seconds: f64,
    /// Milliseconds from request to answer.
    pub post_ms: Percentiles,
    /// Milliseconds from request to the end of the order.
    pub settle_ms: Percentiles,
}

/// Milliseconds that half, and 99 in a hundred, needed at most.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// Loads a shop with the load generator of this build; nothing is returned when an order was lost or is left open.
pub fn load(url: &str, arguments: &str) -> Option<Report> {
    let generator = Build::own().ok()?.program("shopctl");
    let mut load = Command::new(generator);
    load.args(["--url", url, "load", "--json"]).args(arguments.split(' ')).stderr(Stdio::null());
    let output = load.output().ok()?;
    if !output.status.success() {
        eprintln!("shopctl load {arguments} failed: {}", String::from_utf8_lossy(&output.stdout));
        return None;
    }
    serde_json::from_slice(&output.stdout).ok()
}

/// Loads a shop until its plans are made and its pages are in memory.
pub fn warm_up(url: &str) {
    let _ = load(url, WARM_UP);
}

/// The number of orders that arguments of `shopctl load` name.
pub fn orders(arguments: &str) -> f64 {
    arguments.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(1.0)
}
