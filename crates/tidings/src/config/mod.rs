//! Settings: flag before environment before file before default.

mod kinds;
mod sources;

use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, Parser};
use figment::Figment;
use figment::providers::Serialized;
use garde::Validate;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bounds::Bounds;
use crate::error::Error;
use crate::http::Manners;
pub use crate::redact::redacted;
use crate::schema;
pub use crate::telemetry::LogFormat;
use kinds::SettingKind;
use sources::Names;

/// Partitions of a topic; each costs its broker files and memory.
const PARTITIONS: RangeInclusive<u64> = 1..=1000;
/// Seconds of `--shutdown-delay`: a cluster waits 30 s for the whole stop, mostly.
const SHUTDOWN_DELAY_SECONDS: RangeInclusive<u64> = 0..=300;
/// The most that may wait, of whatever is counted.
const BOUND: RangeInclusive<u64> = 1..=1_000_000_000;
/// Threads of a process.
const THREADS: RangeInclusive<u64> = 1..=1024;
/// The longest time that a program waits at its end for threads that still wait for an answer.
const LAST_THREADS_MAX: Duration = Duration::from_millis(500);

/// The settings that every program has.
///
/// ```
/// use tidings::config::Settings;
///
/// let mut settings = Settings::default();
/// settings.store = "postgres://shop@localhost/shop".to_owned();
/// assert_eq!((&*settings.broker, settings.partitions), ("sqlite:data", 6));
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// URL of the store.
    pub store: String,
    /// URL of the broker.
    pub broker: String,
    /// Address of the HTTP server.
    pub listen: String,
    /// Partitions of topics that are made.
    pub partitions: u32,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// The log filter: a level, or directives like `info,tidings::path=warn`.
    pub log: String,
    /// True if `run` makes and changes topics before it starts.
    pub apply_topics: bool,
    /// URL of a schema registry, where what is published is registered.
    pub schema_registry: Option<String>,
    /// The number of seconds for which requests are served on after SIGTERM, with `/readyz` 503.
    pub shutdown_delay: u64,
    /// Names by which clients may call the HTTP server, separated by commas.
    pub allowed_hosts: Option<String>,
    /// Origins whose pages may ask, separated by commas.
    pub cors_origins: Option<String>,
    /// The header in which a proxy that has authenticated the caller names it.
    pub caller_header: Option<String>,
    /// An address at which only probes and metrics are answered.
    pub probe_listen: Option<String>,
    /// True if everybody who reaches the HTTP server may act as an operator.
    pub insecure_admin: bool,
    /// The most that may wait in each service.
    #[serde(flatten)]
    pub bounds: Bounds,
    /// The command that the program is to run.
    #[serde(skip)]
    pub command: Command,
}

/// A task of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Run until told to stop (the default)
    #[default]
    Run,
    /// Bring the tables of the store up to date, and end
    Migrate,
    /// Compare the topics with what they should be, or make them so
    #[command(subcommand)]
    Topics(Topics),
    /// `openapi`, `asyncapi`, `schemas`: print what is said about the services
    #[command(flatten)]
    Document(Document),
    /// Look at settings, store, broker, topics and schema registry; the exit code says which is wrong: 1 to 5
    Check,
}

/// A description of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Document {
    /// Print the HTTP routes as OpenAPI 3.1
    Openapi,
    /// Print topics and events as AsyncAPI 3.0
    Asyncapi,
    /// Print every event's schema, who writes it and who reads it
    Schemas,
}

/// What to do about topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Topics {
    /// Show how they differ from what they should be
    Plan,
    /// Make those that are missing and set what differs; never deletes one, nor changes its partitions
    Apply,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: "sqlite:data".to_owned(),
            broker: "sqlite:data".to_owned(),
            listen: "127.0.0.1:8080".to_owned(),
            partitions: 6,
            log_format: LogFormat::Text,
            log: "info".to_owned(),
            apply_topics: false,
            schema_registry: None,
            shutdown_delay: 0,
            allowed_hosts: None,
            cors_origins: None,
            caller_header: None,
            probe_listen: None,
            insecure_admin: false,
            bounds: Bounds::default(),
            command: Command::Run,
        }
    }
}

#[derive(Parser, Serialize)]
#[command(version, about = None)]
struct CommandLine<X: Args + Serialize> {
    /// TOML file with any of these settings [env: TIDINGS_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where services keep their state: sqlite:DIRECTORY or postgres://…
    /// [env: TIDINGS_STORE] [default: sqlite:data]
    #[arg(long, value_name = "URL", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// Where events go: sqlite:DIRECTORY or kafka://HOST:PORT,…
    /// [env: TIDINGS_BROKER] [default: sqlite:data]
    #[arg(long, value_name = "URL", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    /// Address of the HTTP server [env: TIDINGS_LISTEN] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// Partitions of topics that are made [env: TIDINGS_PARTITIONS] [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<u32>,
    /// How log lines look [env: TIDINGS_LOG_FORMAT] [default: text]
    #[arg(long, value_enum, global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
    /// What is logged, e.g. warn, or info,tidings::path=off [env: TIDINGS_LOG] [default: info]
    #[arg(long, value_name = "FILTER", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// Make and change topics before starting [env: TIDINGS_APPLY_TOPICS]
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    apply_topics: bool,
    /// Register what is published, and frame it with the ids: http://[USER:PASSWORD@]HOST:PORT
    /// [env: TIDINGS_SCHEMA_REGISTRY]
    #[arg(long, value_name = "URL", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_registry: Option<String>,
    /// Serve on for so long after SIGTERM, while /readyz is 503 already [env: TIDINGS_SHUTDOWN_DELAY] [default: 0]
    #[arg(long, value_name = "SECONDS", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_delay: Option<u64>,
    /// Names by which clients may call us, or *; on a loopback address those of the machine, else any
    /// [env: TIDINGS_ALLOWED_HOSTS]
    #[arg(long, value_name = "NAME,…", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_hosts: Option<String>,
    /// Origins whose pages may ask us; else none but our own [env: TIDINGS_CORS_ORIGINS]
    #[arg(long, value_name = "ORIGIN,…", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    cors_origins: Option<String>,
    /// Header in which a proxy names who asks: an Idempotency-Key is the caller's own [env: TIDINGS_CALLER_HEADER]
    #[arg(long, value_name = "NAME", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    caller_header: Option<String>,
    /// Address at which only probes and metrics are answered, besides [env: TIDINGS_PROBE_LISTEN]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_listen: Option<String>,
    /// Listen beyond this machine although everybody who gets there may act as an operator, since no proxy names who
    /// asks (--caller-header) [env: TIDINGS_INSECURE_ADMIN]
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure_admin: bool,
    #[command(flatten)]
    #[serde(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    #[serde(flatten)]
    extra: X,
    #[command(subcommand)]
    #[serde(skip)]
    command: Option<Command>,
}

/// No settings of its own.
#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
struct NoExtra {}

impl Settings {
    /// Settings of this process.
    ///
    /// # Errors
    /// An unreadable file or a value of the wrong type, in one line.
    pub fn from_command_line() -> Result<Self, Error> {
        Self::with_extra::<NoExtra>("").map(|(settings, _)| settings)
    }

    /// Settings of this process and those of its own: fields of `X` are `Option`s that are skipped
    /// when serialized as `None`. `about` is the first line of `--help`.
    ///
    /// # Errors
    /// As [`Settings::from_command_line`].
    pub fn with_extra<X>(about: &'static str) -> Result<(Self, X), Error>
    where
        X: Args + Serialize + DeserializeOwned,
    {
        Self::read(about, Self::default(), &[])
    }

    /// The schema registry, if one is named.
    pub(crate) fn schema_registry(&self) -> Option<&str> {
        self.schema_registry.as_deref().filter(|url| !url.is_empty())
    }

    /// The time for which requests are served on once the process is told to stop.
    pub(crate) fn shutdown_delay(&self) -> Duration {
        Duration::from_secs(self.shutdown_delay)
    }

    /// The manners of the HTTP server, bound to this address.
    pub(crate) fn manners(&self, bound: Option<SocketAddr>) -> Result<Manners, Error> {
        let [hosts, origins, caller] =
            [&self.allowed_hosts, &self.cors_origins, &self.caller_header].map(Option::as_deref);
        Manners::of(hosts, origins, caller, bound)
    }

    /// Refuses an address beyond this machine behind which nobody says who asks: operators' routes are there.
    pub(crate) fn check_admin(&self, bound: SocketAddr) -> Result<(), Error> {
        let names_callers = self.caller_header.as_ref().is_some_and(|header| !header.is_empty());
        if bound.ip().to_canonical().is_loopback() || names_callers || self.insecure_admin {
            return Ok(());
        }
        Err(Error::config(format!(
            "{} can be reached from other machines, and whoever reaches it may act as an operator: listen on 127.0.0.1, put a proxy before it that names who asks (--caller-header), or say --insecure-admin",
            self.listen
        )))
    }

    /// Refuses what has the right type and makes no sense.
    fn check(&self) -> Result<(), Error> {
        within("partitions", self.partitions.into(), PARTITIONS)?;
        within("shutdown_delay", self.shutdown_delay, SHUTDOWN_DELAY_SECONDS)?;
        for (name, bound) in self.bounds.named() {
            within(name, bound, BOUND)?;
        }
        self.manners(None)?;
        crate::telemetry::check(&self.log)
    }

    /// Reads the settings of a service that runs beside others: store, broker and address must be named. They may share
    /// a file and an environment with the service, and their settings (`siblings`) are none of its business.
    ///
    /// # Errors
    /// As [`Settings::from_command_line`]; one of the three is missing.
    pub fn of_service<X>(about: &'static str, siblings: &[&str]) -> Result<(Self, X), Error>
    where
        X: Args + Serialize + DeserializeOwned,
    {
        let nothing = String::new;
        let defaults = Self { store: nothing(), broker: nothing(), listen: nothing(), ..Self::default() };
        let (settings, extra) = Self::read(about, defaults, siblings)?;
        let needed = [
            ("--store", &settings.store, "sqlite:DIRECTORY or postgres://USER@HOST/DATABASE"),
            ("--broker", &settings.broker, "sqlite:DIRECTORY or kafka://HOST:PORT"),
            ("--listen", &settings.listen, "HOST:PORT"),
        ];
        for (flag, value, form) in needed {
            let is_idle = flag == "--listen" && settings.command != Command::Run;
            let is_all_idle = matches!(settings.command, Command::Document(_));
            if value.is_empty() && !is_idle && !is_all_idle {
                return Err(Error::config(format!("{flag} is missing: name it, as {flag} {form}")));
            }
        }
        Ok((settings, extra))
    }

    fn read<X>(about: &'static str, defaults: Self, siblings: &[&str]) -> Result<(Self, X), Error>
    where
        X: Args + Serialize + DeserializeOwned,
    {
        use clap::{CommandFactory as _, FromArgMatches as _};
        let program = std::env::args_os().next().unwrap_or_default();
        let program = Path::new(&program).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let command = CommandLine::<X>::command().about(about).display_name(program);
        let own = command.get_arguments().map(|flag| (flag.get_id().to_string(), SettingKind::of(flag)));
        let names =
            Names { own: own.collect(), siblings: siblings.iter().map(ToString::to_string).collect() };
        let line = CommandLine::<X>::from_arg_matches(&command.get_matches()).unwrap_or_else(|e| e.exit());
        let mut figment = Figment::from(Serialized::defaults(defaults));
        if let Some(file) = sources::config_file(line.config.as_ref()) {
            sources::check_file(&file)?;
            figment = figment.merge(names.file(&file)?);
        }
        let variables = variables()?;
        let [in_files, named] = names.environment(&variables)?;
        let figment = figment.merge(in_files).merge(named).merge(Serialized::defaults(&line));
        // Of a type of the program's own; where it stands, figment says in words of its own.
        let wrong =
            |e: figment::Error| Error::config(format!("a setting is wrong: {} {}", e.path.join("."), e.kind));
        let mut settings: Self = figment.extract().map_err(wrong)?;
        settings.command = line.command.unwrap_or_default();
        settings.check()?;
        sources::check_properties(&variables, &settings.broker)?;
        Ok((settings, figment.extract().map_err(wrong)?))
    }
}

/// The variables of this process that are ours to read. One that is no text is refused by its name.
fn variables() -> Result<Vec<(String, String)>, Error> {
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDINGS_"));
    ours.map(|(name, value)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (Ok(name), Err(_)) => Err(Error::config(format!("{name} is no text in UTF-8"))),
        (Err(name), _) => Err(Error::config(format!("the variable {name:?} is no text in UTF-8"))),
    })
    .collect()
}

/// Refuses a number that is out of its range; `name` is how the setting is called in a file.
///
/// ```
/// let told = tidings::config::within("deadline_seconds", 90, 1..=60).unwrap_err().to_string();
/// assert_eq!(told, "--deadline-seconds (TIDINGS_DEADLINE_SECONDS) is 90: it must be 1 to 60");
/// ```
///
/// # Errors
/// In one line, with the range.
pub fn within(name: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let flag = name.replace('_', "-");
    Err(Error::config(format!(
        "--{flag} (TIDINGS_{}) is {value}: it must be {} to {}",
        name.to_ascii_uppercase(),
        range.start(),
        range.end()
    )))
}

/// Reads a JSON file of a service, or the text that is built in, as strictly as what comes over HTTP, and checks the
/// rules of its type. `what` is its name (`catalogue`), `form` shows how it should look.
///
/// # Errors
/// The file cannot be read or breaks a rule, in one line that has every violation with its JSON pointer.
pub fn read_json<T: DeserializeOwned + JsonSchema + Validate<Context = ()>>(
    file: Option<&Path>,
    built_in: &str,
    what: &str,
    form: &str,
) -> Result<T, Error> {
    let (name, text) = match file {
        None => (format!("the built-in {what}"), built_in.to_owned()),
        Some(file) => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|e| Error::config(format!("cannot read {what} {name}: {e}")))?;
            (name, text)
        }
    };
    schema::read(text.as_bytes())
        .map_err(|report| Error::config(format!("{name} is not a {what} ({form}): {report}")))
}

/// Runs a program that has its machine not for itself: on half of the cores, or on as many threads as
/// `TOKIO_WORKER_THREADS` says. Ends as [`exit`] does.
///
/// A thread too many costs: tasks wander between them, and what one has allocated another frees.
pub fn program(run: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    on_threads(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)), run)
}

/// Runs a program that has its machine for itself: on all cores, or on as many threads as
/// `TOKIO_WORKER_THREADS` says. Ends as [`exit`] does.
///
/// ```no_run
/// use tidings::config::{Settings, program_alone};
/// use tidings::prelude::*;
///
/// fn main() -> ExitCode {
///     let services = vec![Service::new("shipping"), Service::new("tracking")];
///     program_alone(async { tidings::run(services, Settings::from_command_line()?).await })
/// }
/// ```
pub fn program_alone(run: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    on_threads(available_parallelism().map_or(1, std::num::NonZero::get), run)
}

fn on_threads(threads: usize, run: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    let threads = match sources::variable("TOKIO_WORKER_THREADS").map(|threads| threads.parse::<u64>()) {
        None => threads,
        Some(Ok(threads)) if THREADS.contains(&threads) => threads as usize,
        Some(_) => {
            let (least, most) = (THREADS.start(), THREADS.end());
            return exit(Err(Error::config(format!("TOKIO_WORKER_THREADS must be {least} to {most}"))));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let ended = exit(runtime.block_on(run));
            // A thread that still waits for an answer must not keep a process that has stopped.
            runtime.shutdown_timeout(LAST_THREADS_MAX);
            ended
        }
        Err(e) => exit(Err(Error::config(format!("cannot start threads: {e}")))),
    }
}

/// The exit code of a program: what it ended with, or 1 after one line that says what to do.
pub fn exit(result: Result<ExitCode, Error>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "{e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_its_range_is_refused_by_name() {
        let report = within("deadline_seconds", u64::MAX, 1..=60).unwrap_err().to_string();
        assert_eq!(
            report,
            "--deadline-seconds (TIDINGS_DEADLINE_SECONDS) is 18446744073709551615: it must be 1 to 60"
        );
        assert!(within("deadline_seconds", 60, 1..=60).is_ok());
    }
}
