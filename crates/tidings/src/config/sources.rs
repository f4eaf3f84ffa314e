//! Where settings come from, and that none is misspelt: a setting that is silently ignored runs the wrong program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Provider as _;
use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::{Dict, Value};

use crate::error::Error;

/// What our variables begin with.
const PREFIX: &str = "TIDINGS_";
/// What those of Kafka's client begin with, after [`PREFIX`]; the client knows which there are.
const OF_KAFKA: &str = "BROKER_";
/// Variables of the other programs of this workspace and of its tests, after [`PREFIX`]. One that ends with `_`
/// stands for all that begin with it.
const OF_OTHERS: [&str; 7] = ["BENCH_", "DATA", "KAFKA_LIBS", "PICTURES", "SCHEMAS", "TEST_", "URL"];
/// A name that is not further from a known one is taken for it, misspelt.
const MISSPELT_MAX: usize = 4;

/// The same for names of variables that name files: `…_URL` is nearer to `…_FILE` than it looks.
const MISSPELT_FILE_MAX: usize = 2;

/// The names of settings.
pub(super) struct Names {
    /// Those of this program.
    pub(super) own: Vec<String>,
    /// Those of programs that may share its file and environment.
    pub(super) siblings: Vec<String>,
}

impl Names {
    fn is_known(&self, name: &str) -> bool {
        self.all().any(|known| known == name)
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.own.iter().chain(&self.siblings).map(String::as_str)
    }

    /// What to do about a name that is unknown; `shown` says how a known one is written there.
    fn advice(&self, name: &str, shown: impl Fn(&str) -> String) -> String {
        let nearest = self.all().map(|known| (distance(known, name), known)).min();
        match nearest {
            Some((distance, known)) if distance <= MISSPELT_MAX.min(name.len() / 2) => {
                format!("is {} meant?", shown(known))
            }
            _ => format!(
                "there are {}",
                self.own.iter().map(|known| shown(known)).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// The settings in a TOML file.
    pub(super) fn file(&self, file: &Path) -> Result<Serialized<Dict>, Error> {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|e| Error::config(format!("cannot read the settings in {shown}: {e}")))?;
        let profiles = Toml::string(&text)
            .data()
            .map_err(|e| Error::config(format!("{shown} is no TOML: {}", without_source(&e.to_string()))))?;
        let settings: Dict = profiles.into_values().flatten().collect();
        for (name, value) in &settings {
            if let Value::Dict(_, inner) = value {
                let inner = inner.keys().next().map_or("listen", String::as_str);
                return Err(Error::config(format!(
                    "{shown} has a section [{name}]: settings stand in none, as {inner} = …"
                )));
            }
            if !self.is_known(name) {
                let advice = self.advice(name, str::to_owned);
                return Err(Error::config(format!("{shown} sets {name}, which is no setting: {advice}")));
            }
        }
        Ok(Serialized::defaults(settings))
    }

    /// The settings in variables, and those in files that variables name: `TIDINGS_STORE_FILE` names one that
    /// holds the URL, password and all. An empty variable is none. Values may be secrets, so none is told.
    pub(super) fn environment(
        &self,
        variables: &[(String, String)],
    ) -> Result<(Serialized<BTreeMap<String, String>>, Env), Error> {
        let (mut named, mut in_files) = (Vec::new(), BTreeMap::new());
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else { continue };
            let name = rest.to_ascii_lowercase();
            let file = name.strip_suffix("_file").filter(|name| self.own.iter().any(|own| own == name));
            if let Some(name) = file {
                let text = std::fs::read_to_string(value).map_err(|e| {
                    Error::config(format!("cannot read {value}, which {variable} names: {e}"))
                })?;
                in_files.insert(name.to_owned(), text.trim_end().to_owned());
            } else if self.is_known(&name) || self.is_known(name.strip_suffix("_file").unwrap_or(&name)) {
                named.push(name);
            } else if !is_of_others(rest) && !is_service_link(rest, value) {
                let shown = |known: &str| format!("{PREFIX}{}", known.to_ascii_uppercase());
                let mut files = self.own.iter().map(|known| format!("{known}_file"));
                let advice = match files.find(|known| distance(known, &name) <= MISSPELT_FILE_MAX) {
                    Some(file) => format!("is {} meant?", shown(&file)),
                    None => self.advice(&name, shown),
                };
                return Err(Error::config(format!("{variable} is set, which is no setting: {advice}")));
            }
        }
        let own = self.own.clone();
        let variables = Env::prefixed(PREFIX).filter(move |name| {
            let name = name.as_str().to_ascii_lowercase();
            named.contains(&name) && own.contains(&name)
        });
        Ok((Serialized::defaults(in_files), variables))
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

fn is_of_others(name: &str) -> bool {
    name.starts_with(OF_KAFKA)
        || OF_OTHERS.iter().any(|known| name == *known || (known.ends_with('_') && name.starts_with(known)))
}

/// Whether it is a variable by which Kubernetes and Docker tell where another service is: a service called
/// `tidings-broker` makes `TIDINGS_BROKER_SERVICE_HOST`, `TIDINGS_BROKER_PORT=tcp://10.0.0.1:9092`,
/// `TIDINGS_BROKER_PORT_9092_TCP_ADDR` and more in each container.
pub(crate) fn is_service_link(name: &str, value: &str) -> bool {
    let is_protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let words: Vec<&str> = name.split('_').collect();
    match words.as_slice() {
        [.., "SERVICE", "HOST"] | [.., "SERVICE", "PORT"] => true,
        [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"]
            if is_number(number) && is_protocol(protocol) =>
        {
            true
        }
        [.., "PORT", number, protocol] if is_number(number) && is_protocol(protocol) => is_address,
        [.., "PORT"] => is_address,
        // A named port: TIDINGS_BROKER_SERVICE_PORT_PLAINTEXT.
        words => words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) && is_number(value),
    }
}

/// What a TOML parser says, without the line that it quotes: it may hold a password.
fn without_source(told: &str) -> String {
    let lines = told.lines().filter(|line| !line.contains('|') && !line.trim().is_empty());
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
        let own = ["store", "broker", "listen", "log", "log_format", "schema_registry"];
        Names { own: own.map(str::to_owned).to_vec(), siblings: vec!["catalogue".to_owned()] }
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
            let told = environment(wrong, "p4ssword").unwrap_err();
            assert!(told.contains(wrong) && told.contains(&format!("is {meant} meant?")), "{told}");
            assert!(!told.contains("p4ssword"), "{told}");
        }
        assert!(environment("TIDINGS_QUITE_ANOTHER", "1").unwrap_err().contains("there are TIDINGS_STORE, "));
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
        let told = file("store = postgres://u:p4ssword@h").unwrap_err();
        assert!(told.contains("is no TOML: TOML parse error at line 1") && !told.contains("p4ss"), "{told}");
    }
}
