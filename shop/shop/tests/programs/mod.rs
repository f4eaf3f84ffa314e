//! The programs `order`, `payment`, `inventory`, `psp-sandbox` and `shop`, as their operator starts and
//! stops them, on the Kafka and the PostgreSQL that tests share.

#![allow(dead_code, reason = "each test program uses its own part of this")]

mod signals;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde_json::Value;
use tidings_servers::ProcessGuard;
use tidings_testkit::servers::{FreshDatabase, FreshTopics};

use crate::process::{Client, LOOK_EVERY, PATIENCE, eventually};

/// Log lines that a failed test shows of each program.
const LAST_WORDS: usize = 15;

/// The three services, each in a process of its own, on topics and in a database that nobody else has.
pub struct Services {
    pub order: Program,
    pub payment: Program,
    pub inventory: Program,
    pub backends: Backends,
}

/// Where services keep their state and send their events.
pub struct Backends {
    pub database: FreshDatabase,
    pub topics: FreshTopics,
}

/// A running program; it ends with the test, however that ends.
pub struct Program {
    name: &'static str,
    /// `127.0.0.1:41234`.
    pub address: String,
    child: Child,
    guard: ProcessGuard,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Services {
    /// Makes the topics, starts the services and waits until they are ready.
    #[track_caller]
    pub fn start() -> Self {
        let backends = Backends { database: FreshDatabase::new(), topics: FreshTopics::new() };
        let [order, payment, inventory] = ["order", "payment", "inventory"].map(|name| {
            let mut command = backends.command(name);
            Program::start(name, command.arg("--apply-topics"))
        });
        Self { order, payment, inventory, backends }
    }

    pub fn all(&self) -> [&Program; 3] {
        [&self.order, &self.payment, &self.inventory]
    }

    /// Waits until orders have ended, and nothing is left to be sent, read or done.
    pub async fn settled(&self, orders: &[String]) {
        let mut client = self.order.client();
        for id in orders {
            let id = segment(id);
            // It may not have been adopted yet.
            eventually(async || {
                let answer = client.get(&format!("/orders/{id}")).await;
                if answer.status.is_success() {
                    Ok(())
                } else {
                    Err(format!("no order {id}: {}", answer.text()))
                }
            })
            .await;
            client.ended(&id).await;
        }
        for program in self.all() {
            program.idle().await;
        }
    }

    /// Asks all three to stop, and requires that they do so in good order.
    pub fn stop(self) -> Backends {
        for program in self.all() {
            program.terminate();
        }
        for program in [self.order, self.payment, self.inventory] {
            program.ended();
        }
        self.backends
    }
}

impl Backends {
    /// A program that keeps its state here and takes any port that is free.
    pub fn command(&self, name: &str) -> Command {
        let mut command = command(name);
        command.envs([
            ("TIDINGS_STORE", &*self.database.url()),
            ("TIDINGS_BROKER", &self.topics.url()),
            ("TIDINGS_LISTEN", "127.0.0.1:0"),
        ]);
        command
    }

    /// What the cluster's names of our topics and groups begin with.
    pub fn prefix(&self) -> String {
        let url = self.topics.url();
        let (_, properties) = url.split_once("prefix=").expect("fresh topics have a prefix");
        properties.split('&').next().expect("splitting gives something").to_owned()
    }

    /// A topic's or group's name in the cluster.
    pub fn wire_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }
}

impl Program {
    /// Starts a program and waits until it says that it is ready.
    #[track_caller]
    pub fn start(name: &'static str, command: &mut Command) -> Self {
        Self::start_until(name, command, ready)
    }

    /// Starts a program that cannot be ready yet, and waits until it says what it waits for.
    #[track_caller]
    pub fn start_unready(name: &'static str, command: &mut Command) -> Self {
        Self::start_until(name, command, |line| {
            let address = line.split(' ').find_map(|word| word.strip_prefix("listen="));
            address.filter(|_| line.contains("not ready yet")).map(str::to_owned)
        })
    }

    #[track_caller]
    fn start_until(name: &'static str, command: &mut Command, said: fn(&str) -> Option<String>) -> Self {
        let (mut child, guard) =
            ProcessGuard::spawn(command.stdout(Stdio::piped())).expect("it can be started");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let lines = Arc::default();
        let reader = Some(read(output, Arc::clone(&lines)));
        let mut program = Self { name, address: String::new(), child, guard, lines, reader };
        program.address = program.until(said);
        program
    }

    /// Talks to it.
    pub fn client(&self) -> Client {
        Client::to(&self.address)
    }

    /// What it says about itself.
    pub async fn status(&self) -> Value {
        self.client().json("/statusz").await[self.name].clone()
    }

    /// Waits until it has sent, read and done everything.
    pub async fn idle(&self) {
        eventually(async || {
            let status = self.status().await;
            let left =
                [&status["outbox"]["pending"], &status["consumer"]["lag"], &status["parked"]["waiting"]];
            let is_idle = left.iter().all(|count| **count == 0);
            if is_idle { Ok(()) } else { Err(format!("{} is not idle: {status}", self.name)) }
        })
        .await;
    }

    /// Asks it to stop: SIGTERM.
    pub fn terminate(&self) {
        terminate(&self.child);
    }

    /// Waits for its end, which must be in good order.
    pub fn ended(mut self) {
        let status = wait(&mut self.child);
        assert!(status.success(), "{} ended with {status}", self.name);
        self.guard.release();
    }

    #[track_caller]
    fn until(&mut self, said: fn(&str) -> Option<String>) -> String {
        let begun = Instant::now();
        loop {
            let found = self.log().iter().find_map(|line| said(line));
            if let Some(address) = found {
                return address;
            }
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{} ended before it was ready: {ended:?}; {:?}", self.name, self.log());
            assert!(begun.elapsed() < PATIENCE, "{} is not ready", self.name);
            thread::sleep(LOOK_EVERY);
        }
    }

    fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            println!("the last words of {}:", self.name);
            self.log().iter().rev().take(LAST_WORDS).rev().for_each(|line| println!("{line}"));
        }
    }
}

/// A program as it stands beside the test. What this process was set to does not count.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(directory().join(name));
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy();
        if variable.starts_with("TIDINGS_") || variable.starts_with("STRIPE_") {
            command.env_remove(&*variable);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let (child, mut guard) = ProcessGuard::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        .expect("it can be started");
    let (ended, output) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    let output = output.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{command:?} does not end"));
    guard.release();
    output.expect("it is ours")
}

/// The standard output of a program that must succeed.
#[track_caller]
pub fn said(command: &mut Command) -> String {
    let output = run(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {error}", output.status);
    String::from_utf8(output.stdout).expect("it says text")
}

/// Any text as a segment of a path.
pub fn segment(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Asks a process to stop: SIGTERM.
pub fn terminate(child: &Child) {
    // A shell has `kill` built in; the program of that name is not on every machine.
    let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", child.id())).status();
    assert!(sent.expect("there is a shell").success());
}

/// Waits for the end of a process.
pub fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "process {} does not end", child.id());
        thread::sleep(LOOK_EVERY);
    }
}

/// Where the programs are, once they are built: cargo builds those of other packages for no test.
fn directory() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows where it is");
        let directory = test.ancestors().nth(2).expect("tests lie in PROFILE/deps");
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let mut cargo = Command::new(env!("CARGO"));
        // With a test of the workspace among them, dependencies have the features that they have in
        // `cargo test --workspace`: none is compiled twice.
        cargo.args(["build", "--quiet", "--workspace", "--features", "kafka,registry", "--test", "crash"]);
        cargo.args(["--bin", "order", "--bin", "payment", "--bin", "inventory"]);
        cargo.args(["--bin", "psp-sandbox", "--bin", "shop", "--bin", "tidings", "--profile", profile]);
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        assert!(cargo.status().expect("there is a cargo").success(), "the programs cannot be built");
        directory.to_owned()
    })
}

/// The address in a line that says that a program is ready, as text or as JSON.
fn ready(line: &str) -> Option<String> {
    let fields: Value = serde_json::from_str(line).unwrap_or_default();
    if fields["message"] == "ready" {
        return fields["listen"].as_str().map(str::to_owned);
    }
    let is_ready = line.starts_with("ready ") || line.contains(" ready ");
    let address = line.split(' ').find_map(|word| word.strip_prefix("listen="));
    address.filter(|_| is_ready).map(str::to_owned)
}

/// A program whose output nobody reads would stop.
fn read(output: BufReader<ChildStdout>, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}
