//! Sources of settings, and the check that none is misspelt: a setting that is silently ignored runs the wrong
//! program.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use figment::Provider as _;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Value};

use super::kinds::{SettingKind, quoted, shown};
use crate::environment::is_service_link;
use crate::error::Error;

/// The prefix of our variables.
const PREFIX: &str = "TIDINGS_";
/// The prefix, after [`PREFIX`], of the variables of Kafka's client; the client knows which there are.
const OF_KAFKA: &str = "BROKER_";
/// Variables of the other programs of this workspace and of its tests, after [`PREFIX`]. One that ends with `_`
/// stands for all that begin with it.
const OF_OTHERS: [&str; 7] = ["BENCH_", "DATA", "KAFKA_LIBS", "PICTURES", "SCHEMAS", "TEST_", "URL"];
/// A name that is not further from a known one is taken for it, misspelt.
const MISSPELT_MAX: usize = 4;

/// That distance for names of variables that name files: `…_URL` is nearer to `…_FILE` than it looks.
const MISSPELT_FILE_MAX: usize = 2;

/// The setting that names the file of the others.
const CONFIG: &str = "config";

/// Settings that were found, by name.
type Found = Serialized<BTreeMap<String, Value>>;

/// The names of settings.
pub(super) struct Names {
    /// Those of this program, and the values that they may have.
    pub(super) own: Vec<(String, SettingKind)>,
    /// Those of programs that may share its file and environment.
    pub(super) siblings: Vec<String>,
}

impl Names {
    fn is_known(&self, name: &str) -> bool {
        self.all().any(|known| known == name)
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.own.iter().map(|(name, _)| name).chain(&self.siblings).map(String::as_str)
    }

    fn kind(&self, name: &str) -> Option<&SettingKind> {
        self.own.iter().find_map(|(own, kind)| (own == name).then_some(kind))
    }

    /// Returns advice on a name that is unknown; `shown` gives a known name as it is written in that place.
    fn advice(&self, name: &str, shown: impl Fn(&str) -> String) -> String {
        let nearest = self.all().map(|known| (distance(known, name), known)).min();
        match nearest {
            Some((distance, known)) if distance <= MISSPELT_MAX.min(name.len() / 2) => {
                format!("is {} meant?", shown(known))
            }
            _ => format!(
                "there are {}",
                self.own.iter().map(|(known, _)| shown(known)).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// The settings in a TOML file.
    pub(super) fn file(&self, file: &Path) -> Result<Serialized<Dict>, Error> {
        let place = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|e| Error::config(format!("cannot read the settings in {place}: {e}")))?;
        let profiles = Toml::string(&text)
            .data()
            .map_err(|e| Error::config(format!("{place} is no TOML: {}", without_source(&e.to_string()))))?;
        let mut settings: Dict = profiles.into_values().flatten().collect();
        for (name, value) in &mut settings {
            if let Value::Dict(_, inner) = value {
                let inner = inner.keys().next().map_or("listen", String::as_str);
                return Err(Error::config(format!(
                    "{place} has a section [{name}]: settings stand in none, as {inner} = …"
                )));
            }
            if !self.is_known(name) {
                let advice = self.advice(name, str::to_owned);
                return Err(Error::config(format!("{place} sets {name}, which is no setting: {advice}")));
            }
            if name == CONFIG {
                return Err(Error::config(format!(
                    "{place} sets {CONFIG}: no file names another; use --{CONFIG} FILE or {PREFIX}CONFIG"
                )));
            }
            if let Some(kind) = self.kind(name) {
                *value = kind.take(value).ok_or_else(|| {
                    let found = shown(value);
                    Error::config(format!("{place} sets {name} = {found}: {}", kind.wanted(&found)))
                })?;
            }
        }
        Ok(Serialized::defaults(settings))
    }

    /// The settings in variables, and those in files that variables name: `TIDINGS_STORE_FILE` names one that
    /// holds the URL, password and all. An empty variable is none. Text may be a secret, so none is told.
    pub(super) fn environment(&self, variables: &[(String, String)]) -> Result<[Found; 2], Error> {
        let (mut named, mut in_files) = (BTreeMap::new(), BTreeMap::new());
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else { continue };
            let name = rest.to_ascii_lowercase();
            let of_file = name.strip_suffix("_file").filter(|name| *name != CONFIG);
            if let Some((name, kind)) = of_file.and_then(|name| Some((name, self.kind(name)?))) {
                let text = std::fs::read_to_string(value).map_err(|e| {
                    Error::config(format!("cannot read {value}, which {variable} names: {e}"))
                })?;
                let text = text.trim_end();
                let read = kind.read(text).ok_or_else(|| {
                    Error::config(format!("in {value}, which {variable} names, {}", kind.wanted(text)))
                })?;
                in_files.insert(name.to_owned(), read);
            } else if let Some(kind) = self.kind(&name) {
                let read = kind.read(value).ok_or_else(|| {
                    Error::config(format!("{variable} is {}: {}", quoted(value), kind.wanted(value)))
                })?;
                named.insert(name, read);
            } else if self.is_known(of_file.unwrap_or(&name)) {
                // A sibling's.
            } else if !is_of_others(rest) && !is_service_link(rest, value) {
                let shown = |known: &str| format!("{PREFIX}{}", known.to_ascii_uppercase());
                let mut files = self.own.iter().map(|(known, _)| format!("{known}_file"));
                let is_meant = |known: &String| (1..=MISSPELT_FILE_MAX).contains(&distance(known, &name));
                let advice = match files.find(is_meant) {
                    Some(file) => format!("is {} meant?", shown(&file)),
                    None => self.advice(&name, shown),
                };
                return Err(Error::config(format!("{variable} is set, which is no setting: {advice}")));
            }
        }
        Ok([in_files, named].map(Serialized::defaults))
    }
}

/// Refuses properties of Kafka's client where the broker is another: one of them may be meant to name it.
pub(super) fn check_properties(variables: &[(String, String)], broker: &str) -> Result<(), Error> {
    if !broker.starts_with("sqlite:") {
        return Ok(());
    }
    let of_kafka = |(variable, value): &&(String, String)| {
        variable.strip_prefix(PREFIX).is_some_and(|name| {
            name.starts_with(OF_KAFKA)
                && name != "BROKER_FILE"
                && !value.is_empty()
                && !is_service_link(name, value)
        })
    };
    match variables.iter().find(of_kafka) {
        None => Ok(()),
        Some((variable, _)) => Err(Error::config(format!(
            "{variable} is a property of Kafka's client, and the broker is {broker}; did you mean {PREFIX}BROKER?"
        ))),
    }
}

/// A variable, if it is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The file that holds settings, by flag or by variable.
pub(super) fn config_file(flag: Option<&PathBuf>) -> Option<PathBuf> {
    flag.cloned().or_else(|| variable("TIDINGS_CONFIG").map(PathBuf::from))
}

/// Refuses a settings file that is none, and says what it is.
pub(super) fn check_file(file: &Path) -> Result<(), Error> {
    let place = file.display();
    match std::fs::metadata(file) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) => {
            Err(Error::config(format!("{place} is {}, not a file of settings", word(found.file_type()))))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::config(format!("there is no file {place}")))
        }
        Err(e) => Err(Error::config(format!("cannot read the settings in {place}: {e}"))),
    }
}

fn word(file_type: FileType) -> &'static str {
    match file_type {
        it if it.is_dir() => "a directory",
        it if it.is_fifo() => "a pipe",
        it if it.is_socket() => "a socket",
        _ => "a device",
    }
}

fn is_of_others(name: &str) -> bool {
    name.starts_with(OF_KAFKA)
        || OF_OTHERS.iter().any(|known| name == *known || (known.ends_with('_') && name.starts_with(known)))
}

/// Returns a TOML parser's message without the line that it quotes: that line may hold a password.
fn without_source(message: &str) -> String {
    let lines = message.lines().filter(|line| !line.contains('|') && !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(": ")
}

/// Letters to be put in, left out, exchanged or swapped.
fn distance(a: &str, b: &str) -> usize {
    strsim::osa_distance(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let texts = ["config", "store", "broker", "listen", "log", "schema_registry"];
        let formats = SettingKind::OneOf(vec!["text".to_owned(), "json".to_owned()]);
        let others = [
            ("log_format", formats),
            ("partitions", SettingKind::Whole { max: u32::MAX.into() }),
            ("apply_topics", SettingKind::Switch),
        ];
        let own = texts.map(|name| (name, SettingKind::Text)).into_iter().chain(others);
        Names {
            own: own.map(|(name, kind)| (name.to_owned(), kind)).collect(),
            siblings: vec!["catalogue".to_owned()],
        }
    }

    fn environment(variable: &str, value: &str) -> Result<(), String> {
        let variables = [(variable.to_owned(), value.to_owned())];
        names().environment(&variables).map(drop).map_err(|e| e.to_string())
    }

    fn file(text: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tidings.toml");
        std::fs::write(&file, text).unwrap();
        let read = names().file(&file).map(drop);
        read.map_err(|e| e.to_string().replace(&*directory.path().to_string_lossy(), "…"))
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_the_nearest_and_without_its_value() {
        for (wrong, meant) in [
            ("TIDINGS_BROKERS", "TIDINGS_BROKER"),
            ("TIDINGS_STORE_URL", "TIDINGS_STORE"),
            ("TIDINGS_LOGFORMAT", "TIDINGS_LOG_FORMAT"),
            ("TIDINGS_SCHEMA_REGISTRY_FIEL", "TIDINGS_SCHEMA_REGISTRY_FILE"),
            ("TIDINGS_CATALOG", "TIDINGS_CATALOGUE"),
            ("TIDINGS_STOER_FILE", "TIDINGS_STORE_FILE"),
        ] {
            let message = environment(wrong, "p4ssword").unwrap_err();
            assert!(message.contains(wrong) && message.contains(&format!("is {meant} meant?")), "{message}");
            assert!(!message.contains("p4ssword"), "{message}");
        }
        assert!(
            environment("TIDINGS_QUITE_ANOTHER", "1").unwrap_err().contains("there are TIDINGS_CONFIG, ")
        );
    }

    #[test]
    fn what_others_set_is_left_out_by_its_name_or_form() {
        for (variable, value) in [
            ("TIDINGS_STORE", "x"),
            ("TIDINGS_CATALOGUE", "of a sibling"),
            ("TIDINGS_NO_SUCH", ""),
            ("TIDINGS_TEST_KAFKA", "a:1"),
            ("TIDINGS_BENCH_BROKER", "a:1"),
            ("TIDINGS_URL", "http://a"),
            ("TIDINGS_BROKER_SASL_PASSWORD", "x"),
            ("TIDINGS_ORDER_SERVICE_HOST", "10.0.0.1"),
            ("TIDINGS_ORDER_SERVICE_PORT", "8080"),
            ("TIDINGS_ORDER_SERVICE_PORT_HTTP", "8080"),
            ("TIDINGS_ORDER_PORT", "tcp://10.0.0.1:8080"),
            ("TIDINGS_PORT", "tcp://10.0.0.1:8080"),
            ("TIDINGS_ORDER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("TIDINGS_ORDER_PORT_8080_TCP_PROTO", "tcp"),
            ("TIDINGS_ORDER_PORT_8080_UDP_ADDR", "10.0.0.1"),
            ("OTHER", "x"),
        ] {
            assert_eq!(environment(variable, value), Ok(()), "{variable}");
        }
        assert!(environment("TIDINGS_PORT", "8080").is_err(), "no link, but a setting that there is not");
    }

    #[test]
    fn a_value_is_read_as_what_the_setting_is() {
        let value = |variable: &str, text: &str| {
            let [_, named] = names().environment(&[(variable.to_owned(), text.to_owned())]).unwrap();
            let found: BTreeMap<String, Value> = figment::Figment::from(named).extract().unwrap();
            shown(found.values().next().unwrap())
        };
        for (variable, text, expected) in [
            ("TIDINGS_LOG", "5", "\"5\""),
            ("TIDINGS_STORE", "true", "\"true\""),
            ("TIDINGS_LISTEN", "[::1]:80", "\"[::1]:80\""),
            ("TIDINGS_STORE", "\"sqlite:a\"", "\"sqlite:a\""),
            ("TIDINGS_PARTITIONS", "6", "6"),
            ("TIDINGS_APPLY_TOPICS", "1", "true"),
            ("TIDINGS_APPLY_TOPICS", "YES", "true"),
            ("TIDINGS_APPLY_TOPICS", "on", "true"),
            ("TIDINGS_APPLY_TOPICS", "True", "true"),
            ("TIDINGS_APPLY_TOPICS", "0", "false"),
            ("TIDINGS_APPLY_TOPICS", "no", "false"),
            ("TIDINGS_APPLY_TOPICS", "off", "false"),
        ] {
            assert_eq!(value(variable, text), expected, "{variable}={text}");
        }
        for (variable, text, expected) in [
            ("TIDINGS_PARTITIONS", "6m", "TIDINGS_PARTITIONS is \"6m\": a whole number is wanted"),
            ("TIDINGS_PARTITIONS", "-1", "TIDINGS_PARTITIONS is \"-1\": 0 to 4294967295 is wanted"),
            ("TIDINGS_APPLY_TOPICS", "maybe", "TIDINGS_APPLY_TOPICS is \"maybe\": true or false is wanted"),
            ("TIDINGS_LOG_FORMAT", "xml", "TIDINGS_LOG_FORMAT is \"xml\": text or json is wanted"),
        ] {
            assert_eq!(environment(variable, text).unwrap_err(), expected);
        }
        for (text, expected) in [
            ("log = 5", "…/tidings.toml sets log = 5: text in quotes is wanted"),
            ("log = ['a']", "…/tidings.toml sets log = […]: text in quotes is wanted"),
            ("partitions = 'six'", "…/tidings.toml sets partitions = \"six\": a whole number is wanted"),
            ("partitions = 6.5", "…/tidings.toml sets partitions = 6.5: a whole number is wanted"),
            ("partitions = -1", "…/tidings.toml sets partitions = -1: 0 to 4294967295 is wanted"),
            ("apply_topics = 3", "…/tidings.toml sets apply_topics = 3: true or false is wanted"),
        ] {
            assert_eq!(file(text).unwrap_err(), expected);
        }
        assert_eq!(file("log = 'info'\npartitions = 6\napply_topics = true\nlog_format = 'json'"), Ok(()));
    }

    #[test]
    fn no_file_names_another_and_none_is_silently_left_out() {
        assert_eq!(
            file("config = 'other.toml'").unwrap_err(),
            "…/tidings.toml sets config: no file names another; use --config FILE or TIDINGS_CONFIG"
        );
        assert!(environment("TIDINGS_CONFIG_FILE", "a").unwrap_err().contains("TIDINGS_CONFIG_FILE is set"));
        let directory = tempfile::tempdir().unwrap();
        let message = |path: &Path| {
            let message = check_file(path).unwrap_err().to_string();
            message.replace(&*directory.path().to_string_lossy(), "…")
        };
        assert_eq!(message(directory.path()), "… is a directory, not a file of settings");
        assert_eq!(message(Path::new("/dev/null")), "/dev/null is a device, not a file of settings");
        assert_eq!(message(&directory.path().join("x")), "there is no file …/x");
    }

    #[test]
    fn properties_of_kafka_are_refused_where_the_broker_is_another() {
        let check = |variable: &str, value: &str, broker: &str| {
            let variables = [(variable.to_owned(), value.to_owned())];
            check_properties(&variables, broker).map_err(|e| e.to_string())
        };
        assert_eq!(
            check("TIDINGS_BROKER_URL", "kafka://h:9092", "sqlite:data").unwrap_err(),
            "TIDINGS_BROKER_URL is a property of Kafka's client, and the broker is sqlite:data; did you mean TIDINGS_BROKER?"
        );
        assert!(check("TIDINGS_BROKER_SASL_PASSWORD_FILE", "/run/p", "sqlite:data").is_err());
        for (variable, value, broker) in [
            ("TIDINGS_BROKER_SASL_PASSWORD", "x", "kafka://h:9092"),
            ("TIDINGS_BROKER", "sqlite:data", "sqlite:data"),
            ("TIDINGS_BROKER_FILE", "/run/broker", "sqlite:data"),
            ("TIDINGS_BROKER_URL", "", "sqlite:data"),
            ("TIDINGS_BROKER_PORT", "tcp://10.0.0.1:9092", "sqlite:data"),
            ("TIDINGS_BROKER_SERVICE_HOST", "10.0.0.1", "sqlite:data"),
            ("TIDINGS_BROKER_SERVICE_PORT_PLAINTEXT", "9092", "sqlite:data"),
            ("TIDINGS_BROKER_PORT_9092_TCP_ADDR", "10.0.0.1", "sqlite:data"),
        ] {
            assert_eq!(check(variable, value, broker), Ok(()), "{variable}");
        }
    }

    #[test]
    fn a_file_has_no_unknown_setting_and_no_section() {
        assert_eq!(file("store = 'x'\ncatalogue = 'c'"), Ok(()));
        assert_eq!(
            file("brokers = 'x'").unwrap_err(),
            "…/tidings.toml sets brokers, which is no setting: is broker meant?"
        );
        assert_eq!(
            file("[server]\nlisten = 'x'").unwrap_err(),
            "…/tidings.toml has a section [server]: settings stand in none, as listen = …"
        );
        let message = file("store = postgres://u:p4ssword@h").unwrap_err();
        assert!(
            message.contains("is no TOML: TOML parse error at line 1") && !message.contains("p4ss"),
            "{message}"
        );
    }
}
