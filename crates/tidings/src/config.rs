//! Settings: flag before environment before file before default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{Args, Parser};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::documents::Document;
use crate::error::Error;

/// What every program has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// What is logged: a level, or directives like `info,tidings::path=warn`.
    pub log: String,
    /// Whether `run` makes and changes topics before it starts.
    pub apply_topics: bool,
    /// URL of a schema registry, where what is published is registered.
    pub schema_registry: Option<String>,
    /// What the program is to do.
    #[serde(skip)]
    pub command: Command,
}

/// What a program is to do.
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

/// What to do about topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Topics {
    /// Show how they differ from what they should be
    Plan,
    /// Make those that are missing and set what differs; never deletes one, nor changes its partitions
    Apply,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
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
            command: Command::Run,
        }
    }
}

#[derive(Parser, Serialize)]
#[command(version, about = None)]
struct CommandLine<X: Args + Serialize> {
    /// TOML file with any of these settings.
    #[arg(long, env = "TIDINGS_CONFIG", value_name = "FILE", global = true)]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where services keep their state: sqlite:DIRECTORY or postgres://… [env: TIDINGS_STORE]
    #[arg(long, value_name = "URL", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// Where events go: sqlite:DIRECTORY or kafka://HOST:PORT,… [env: TIDINGS_BROKER]
    #[arg(long, value_name = "URL", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    /// Address of the HTTP server [env: TIDINGS_LISTEN]
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
        Self::read(about, Self::default())
    }

    /// The schema registry, if one is named.
    pub(crate) fn schema_registry(&self) -> Option<&str> {
        self.schema_registry.as_deref().filter(|url| !url.is_empty())
    }

    /// The same for a service that runs beside others: store, broker and address must be named.
    ///
    /// # Errors
    /// As [`Settings::from_command_line`]; one of the three is missing.
    pub fn of_service<X>(about: &'static str) -> Result<(Self, X), Error>
    where
        X: Args + Serialize + DeserializeOwned,
    {
        let nothing = String::new;
        let defaults = Self { store: nothing(), broker: nothing(), listen: nothing(), ..Self::default() };
        let (settings, extra) = Self::read(about, defaults)?;
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

    fn read<X>(about: &'static str, defaults: Self) -> Result<(Self, X), Error>
    where
        X: Args + Serialize + DeserializeOwned,
    {
        use clap::{CommandFactory as _, FromArgMatches as _};
        let program = std::env::args_os().next().unwrap_or_default();
        let program = Path::new(&program).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let matches = CommandLine::<X>::command().about(about).display_name(program).get_matches();
        let line = CommandLine::<X>::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        let mut figment = Figment::from(Serialized::defaults(defaults));
        if let Some(file) = &line.config {
            if !file.is_file() {
                return Err(Error::config(format!("there is no file {}", file.display())));
            }
            figment = figment.merge(Toml::file(file));
        }
        let figment = figment
            .merge(Serialized::defaults(secrets(std::env::vars())?))
            .merge(Env::prefixed("TIDINGS_"))
            .merge(Serialized::defaults(&line));
        let wrong = |e: figment::Error| Error::config(format!("a setting is wrong: {e}"));
        let mut settings: Self = figment.extract().map_err(wrong)?;
        settings.command = line.command.unwrap_or_default();
        Ok((settings, figment.extract().map_err(wrong)?))
    }
}

/// Settings that stand in files: `TIDINGS_STORE_FILE` names one that holds the URL, password and all.
fn secrets(variables: impl Iterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, Error> {
    let mut settings = BTreeMap::new();
    for (variable, file) in variables {
        let name = variable.strip_prefix("TIDINGS_").and_then(|name| name.strip_suffix("_FILE"));
        if let Some(name) = name {
            let value = std::fs::read_to_string(&file)
                .map_err(|e| Error::config(format!("cannot read {file}, which {variable} names: {e}")))?;
            settings.insert(name.to_ascii_lowercase(), value.trim_end().to_owned());
        }
    }
    Ok(settings)
}

/// Reads a JSON file of a service, or the text that is built in. `what` is its name (`catalogue`), `form`
/// shows how it should look.
///
/// # Errors
/// The file cannot be read or looks otherwise, in one line.
pub fn read_json<T: DeserializeOwned>(
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
    serde_json::from_str(&text).map_err(|e| Error::config(format!("{name} is not a {what} ({form}): {e}")))
}

/// A URL as it may be logged: without a password, and without properties, which may hold one.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, host)) => format!("{scheme}://{}@{host}", user.split(':').next().unwrap_or_default()),
        None => url.to_owned(),
    }
}

/// Runs a program that has its machine not for itself: on half of the cores, or on as many threads as
/// `TOKIO_WORKER_THREADS` says. Ends as [`exit`] does.
///
/// A thread too many costs: tasks wander between them, and what one has allocated another frees.
pub fn program(run: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)));
    }
    let runtime = runtime.enable_all().build();
    exit(match runtime {
        Ok(runtime) => runtime.block_on(run),
        Err(e) => Err(Error::config(format!("cannot start threads: {e}"))),
    })
}

/// The exit code of a program: what it ended with, or 1 after one line that says what to do.
pub fn exit(result: Result<ExitCode, Error>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
