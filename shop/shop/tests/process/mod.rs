//! The real `shop` program, as its operator starts and ends it, on a free port and a directory of its own.

#![allow(dead_code, unused_imports, reason = "each test program uses its own part of this")]

mod client;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use client::{Answer, Client, eventually, request};

/// Nothing here takes longer unless it has got stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
pub const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Log lines that a failed test shows.
const LAST_WORDS: usize = 40;

/// A running shop; it is killed when dropped.
pub struct Shop {
    child: Child,
    /// `127.0.0.1:41234`.
    pub address: String,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Shop {
    /// Starts a shop on `directory` and waits until it is ready; `more` are further flags.
    #[track_caller]
    pub fn start(directory: &Path, more: &[&str]) -> Self {
        let mut command = command(directory);
        command.args(["--log-format", "json"]).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the shop program can be started");
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let address = until_ready(&mut output, &lines);
        let reader = Some(read_on(output, lines.clone()));
        Self { child, address, lines, reader }
    }

    /// Talks to it.
    pub fn client(&self) -> Client {
        Client::to(&self.address)
    }

    /// Ends it as a power cut would: SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Asks it to stop: SIGTERM.
    pub fn terminate(&self) {
        // A shell has `kill` built in; the program of that name is not on every machine.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        assert!(sent.expect("there is a shell").success());
    }

    /// Waits for its end; `None` if it does not come within `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        ended(&mut self.child, patience)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().expect("readers do not panic").clone()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            println!("the shop's last words:");
            lines.iter().rev().take(LAST_WORDS).rev().for_each(|line| println!("{}", line.trim_end()));
        }
    }
}

/// Runs a shop that must give up at once, with further settings (`LISTEN`, …).
pub fn refused(directory: &Path, settings: &[(&str, &str)]) -> Output {
    let mut command = command(directory);
    command.envs(settings.iter().map(|(name, value)| (format!("TIDINGS_{name}"), value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the shop program can be started");
    if ended(&mut child, PATIENCE).is_none() {
        let _ = child.kill();
        panic!("the shop runs, where it should have given up: {:?}", child.wait_with_output());
    }
    child.wait_with_output().expect("it is ours")
}

fn ended(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return Some(status);
        }
        thread::sleep(LOOK_EVERY);
    }
    None
}

/// A shop that takes any port that is free. What this process was set to does not count.
pub fn command(directory: &Path) -> Command {
    let url = format!("sqlite:{}", directory.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
    command.envs([("TIDINGS_LISTEN", "127.0.0.1:0"), ("TIDINGS_STORE", &url), ("TIDINGS_BROKER", &url)]);
    command.stdin(Stdio::null());
    command
}

/// Reads up to the line that says where it listens.
#[track_caller]
pub fn until_ready(output: &mut BufReader<ChildStdout>, lines: &Mutex<Vec<String>>) -> String {
    loop {
        let mut line = String::new();
        let length = output.read_line(&mut line).expect("its output can be read");
        assert_ne!(length, 0, "the shop ended before it was ready");
        let fields: Value = serde_json::from_str(&line).unwrap_or_default();
        lines.lock().expect("readers do not panic").push(line);
        if fields["message"] == "ready" {
            return fields["listen"].as_str().expect("it says where it listens").to_owned();
        }
    }
}

/// A program whose output nobody reads would stop.
fn read_on(mut output: BufReader<ChildStdout>, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in output.by_ref().lines().map_while(Result::ok) {
            lines.lock().expect("readers do not panic").push(line);
        }
    })
}
