//! `docs/walkthrough.md`, walked: every command of the page is run against the three services on real Kafka and
//! PostgreSQL, and must say what the page says. `UPDATE_EXPECT=1` writes the page anew.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod kafka_tools;
mod process;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use kafka_tools::{produce, tool};
use process::{LOOK_EVERY, PATIENCE};
use programs::{Backends, Program, run, said};
use tempfile::TempDir;
use tidings_testkit::servers::{FreshDatabase, FreshTopics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// An answer that has not changed for so long is written into the page.
const STABLE_AFTER: Duration = Duration::from_secs(4);
const SERVICES: [&str; 3] = ["order", "payment", "inventory"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_through_says_what_its_commands_say() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/walkthrough.md");
    let text = fs::read_to_string(&page).unwrap();
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut walk = Walk::start().await;
    let mut written = String::new();
    let mut in_console = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        written.push_str(line);
        written.push('\n');
        in_console = match line {
            "```console" => true,
            "```" => false,
            _ => in_console,
        };
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_console) else { continue };
        let mut expected = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ") && *line != "```") {
            expected.push_str(line);
            expected.push('\n');
        }
        let found = tokio::task::block_in_place(|| walk.does(command, (!is_update).then_some(&*expected)));
        written.push_str(&found);
        if !is_update {
            let (found, expected) = (walk.plain(&found), walk.plain(&expected));
            assert_eq!(found, expected, "$ {command}");
        }
    }
    if is_update {
        fs::write(&page, written).unwrap();
    }
}

/// A walk: the services, and a reader's shell.
struct Walk {
    backends: Backends,
    /// They run for as long as the walk does.
    _programs: Vec<Program>,
    provider: Provider,
    directory: TempDir,
    variables: Vec<(String, String)>,
}

impl Walk {
    async fn start() -> Self {
        let backends = Backends { database: FreshDatabase::new(), topics: FreshTopics::new() };
        let mut sandbox = programs::command("psp-sandbox");
        let sandbox = Program::start("psp-sandbox", sandbox.env("TIDINGS_LISTEN", "127.0.0.1:0"));
        let provider = Provider::before(&sandbox.address).await;
        let mut programs = vec![sandbox];
        for name in SERVICES {
            let mut command = backends.command(name);
            command.env("TIDINGS_PARTITIONS", "1").arg("--apply-topics");
            command.env("TIDINGS_GATEWAY", format!("stripe:http://{}", provider.address));
            command.env("STRIPE_API_KEY", "sk_test_walk");
            programs.push(Program::start(name, &mut command));
        }
        let urls = programs[1..].iter().map(|program| format!("http://{}", program.address));
        let urls: Vec<String> = urls.collect();
        let mut variables =
            vec![("TIDINGS_URL".to_owned(), urls.join(",")), ("USER".to_owned(), "ada".to_owned())];
        variables.push(("ORDERS".to_owned(), urls[0].clone()));
        Self { backends, _programs: programs, provider, directory: tempfile::tempdir().unwrap(), variables }
    }

    /// Does what a line says; a question is asked again and again, until the answer is what is expected or, where
    /// nothing is, stays the same for a while.
    fn does(&mut self, line: &str, expected: Option<&str>) -> String {
        if let Some(done) = self.acts(line) {
            return done;
        }
        let mut found = self.says(line);
        // What changes something is done once.
        if line.contains("--reason") {
            return found;
        }
        let wanted = expected.map(|expected| self.plain(expected));
        let (begun, mut since) = (Instant::now(), Instant::now());
        while begun.elapsed() < PATIENCE / 2 {
            match &wanted {
                Some(wanted) if self.plain(&found) == *wanted => break,
                None if since.elapsed() > STABLE_AFTER => break,
                _ => std::thread::sleep(LOOK_EVERY),
            }
            let next = self.says(line);
            if self.plain(&next) != self.plain(&found) {
                since = Instant::now();
            }
            found = next;
        }
        found
    }

    /// The acts of the page that are its reader's own scripts.
    fn acts(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["break_gateway"] => self.provider.becomes(Mode::Away),
            ["lose_answers"] => self.provider.becomes(Mode::Deaf),
            ["mend_gateway"] => self.provider.becomes(Mode::There),
            ["limit", topic, bytes] => self.limit(topic, bytes),
            ["forget", topic] => self.forget(topic),
            ["say", topic, ..] => {
                let event = line.splitn(3, ' ').nth(2).unwrap().trim_matches('\'');
                produce(&self.backends.wire_name(topic), &[], &format!("{event}\n"));
            }
            _ => {
                let (name, _) = line.split_once("=$(place ")?;
                let order = r#"{"items":[{"product_id":"tea","quantity":1}]}"#;
                let place =
                    format!("curl -s $ORDERS/orders -H 'content-type: application/json' -d '{order}'");
                let placed: serde_json::Value = serde_json::from_str(&self.says(&place)).unwrap();
                self.variables.push((name.to_owned(), placed["id"].as_str().unwrap().to_owned()));
            }
        }
        Some(String::new())
    }

    /// The answer to a line of the shell, and an exit code that is not 0.
    fn says(&self, line: &str) -> String {
        let path = programs::command("tidings").get_program().to_owned();
        let programs = PathBuf::from(path).parent().unwrap().to_owned();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{{ {line}; }} 2>&1")])
            .env("PATH", path)
            .current_dir(self.directory.path());
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = run(&mut shell);
        // The topics of a test have a prefix of their own.
        let mut said = String::from_utf8(output.stdout).unwrap().replace(&self.backends.prefix(), "");
        if !said.is_empty() && !said.ends_with('\n') {
            said.push('\n');
        }
        if let Some(code @ 1..) = output.status.code() {
            said.push_str(&format!("(exit code {code})\n"));
        }
        said
    }

    fn limit(&self, topic: &str, bytes: &str) {
        let mut command = tool("org.apache.kafka.tools.ConfigCommand");
        command.args([
            "--alter",
            "--entity-type",
            "topics",
            "--entity-name",
            &self.backends.wire_name(topic),
        ]);
        said(command.args(["--add-config", &format!("max.message.bytes={bytes}")]));
    }

    /// Deletes all that lies on a topic.
    fn forget(&self, topic: &str) {
        let file = self.directory.path().join("delete.json");
        let topic = self.backends.wire_name(topic);
        let all =
            serde_json::json!({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": -1}]});
        fs::write(&file, all.to_string()).unwrap();
        let mut command = tool("org.apache.kafka.tools.DeleteRecordsCommand");
        said(command.args(["--offset-json-file", file.to_str().unwrap()]));
    }

    /// A text without what is different each time: ids, times, ages, and how wide its columns are.
    fn plain(&self, text: &str) -> String {
        let text = text.replace(&self.backends.prefix(), "");
        let lines: Vec<String> = text.lines().map(plain).collect();
        lines.join("\n")
    }
}

/// A line without what is different each time. The words of an error of the network are not ours.
fn plain(line: &str) -> String {
    // Nor is where a table cuts it off, since topics of a test have longer names.
    let others = ["no answer from", "does not take a message"];
    let line = others.iter().find_map(|words| Some(line.split_once(words)?.0)).unwrap_or(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    let core = |word: &str| word.trim_matches(AROUND).to_owned();
    let is_number = |word: &str| core(word).parse::<u64>().is_ok();
    let mut plain: Vec<String> = Vec::new();
    for (index, found) in words.iter().enumerate() {
        let next = words.get(index + 1).map(|next| core(next)).unwrap_or_default();
        let before = if index == 0 { "" } else { words[index - 1] };
        let is_age = is_number(found) && ["ms", "s", "min", "h", "d"].contains(&&*next);
        let is_attempts = is_number(found) && ["unknown", "failing"].contains(&before);
        plain.push(if is_age || is_attempts { found.replace(&core(found), "N") } else { word(found) });
    }
    // When something is due may be ahead or past.
    let mut plain = plain.join(" ");
    for words in ["(in N s)", "(in N min)", "(N s ago)", "(N min ago)"] {
        plain = plain.replace(words, "(AGE)");
    }
    plain.replace("N min", "N s")
}

/// Marks around a word.
const AROUND: [char; 12] = ['(', ')', '[', ']', '{', '}', ',', '.', ':', ';', '\'', '"'];

/// A word in which ids of orders and effects are the same.
fn without_ids(word: &str) -> String {
    const LENGTH: usize = 36;
    let is_id = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && part.contains('-');
    let found = (0..word.len()).find(|at| word.get(*at..*at + LENGTH).is_some_and(is_id));
    found.map_or_else(|| word.to_owned(), |at| format!("{}ID{}", &word[..at], &word[at + LENGTH..]))
}

/// A word without what is different each time.
fn word(word: &str) -> String {
    let word = &without_ids(word);
    let core = word.trim_matches(AROUND);
    let is = |allowed: &str| core.chars().all(|c| c.is_ascii_hexdigit() || allowed.contains(c));
    let stands_for = if core.len() >= 19 && core.contains('T') && core.contains(':') && core.starts_with("20")
    {
        "TIME"
    } else if core.len() == 16 && is("") {
        "FINGERPRINT"
    } else if core.len() > 1
        && core.starts_with(|c: char| c.is_ascii_digit())
        && core.ends_with(['s', 'm', 'h'])
    {
        "AGE"
    } else if core
        .split_once(':')
        .is_some_and(|(service, row)| SERVICES.contains(&service) && row.parse::<u64>().is_ok())
    {
        "ROW"
    } else if !core.is_empty() && core.chars().all(|c| c == '-' || c == '─') {
        "-"
    } else if core.len() > 5 && core.parse::<f64>().is_ok() {
        "NUMBER"
    } else {
        return word.to_owned();
    };
    word.replace(core, stands_for)
}

/// The state of the way to the provider.
#[derive(Clone, Copy)]
enum Mode {
    There = 0,
    /// Nobody listens.
    Away = 1,
    /// It hears everything, and its answers are lost.
    Deaf = 2,
}

/// The way to the payment provider.
struct Provider {
    address: String,
    mode: Arc<AtomicU8>,
}

impl Provider {
    async fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mode = Arc::new(AtomicU8::new(Mode::There as u8));
        let (server, shared) = (server.to_owned(), mode.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), shared.clone()));
            }
        });
        Self { address, mode }
    }

    fn becomes(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

/// Passes a connection on for as long as the way is open.
async fn pass(mut client: TcpStream, server: String, mode: Arc<AtomicU8>) -> Option<()> {
    let is = |wanted: Mode| mode.load(Ordering::SeqCst) == wanted as u8;
    let mut server = TcpStream::connect(server).await.ok()?;
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    while !is(Mode::Away) {
        tokio::select! {
            length = client.read(&mut asked) => {
                let length = length.ok().filter(|length| *length > 0 && !is(Mode::Away))?;
                server.write_all(&asked[..length]).await.ok()?;
            }
            length = server.read(&mut answered) => {
                let length = length.ok().filter(|length| *length > 0 && is(Mode::There))?;
                client.write_all(&answered[..length]).await.ok()?;
            }
        }
    }
    None
}
