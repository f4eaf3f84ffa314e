//! The URL of a cluster, and what librdkafka is told.
//!
//! `kafka://host:port[,host:port…][?property=value&…]`: properties are librdkafka's, for security and
//! tuning. Secrets come from the environment: `TIDINGS_BROKER_SASL_PASSWORD` is `sasl.password`, and
//! `…_FILE` names a file that holds it. `prefix=P` is our own: topics and groups get it in the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;

use super::outage::{Outage, Reporting};
use crate::environment::is_service_link;
use crate::error::Error;

/// Properties that the guarantees rest on: a user cannot set them.
const OURS: [&str; 13] = [
    "topic.blacklist",
    "bootstrap.servers",
    "metadata.broker.list",
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "partitioner",
    "transactional.id",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "allow.auto.create.topics",
];

#[derive(Clone, Debug)]
pub(super) struct KafkaSettings {
    servers: String,
    prefix: String,
    properties: BTreeMap<String, String>,
    /// The reports of all clients of this cluster.
    pub(super) outage: Arc<Outage>,
}

impl KafkaSettings {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |what: &str| {
            Error::config(format!(
                "{what} in the broker URL; use --broker kafka://HOST:PORT[,HOST:PORT…][?PROPERTY=VALUE&…]"
            ))
        };
        let rest = url.strip_prefix("kafka://").ok_or_else(|| wrong("there are no slashes"))?;
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let servers = servers.trim_end_matches('/');
        if servers.is_empty() || servers.split(',').any(|server| !server.contains(':')) {
            return Err(wrong("there is no HOST:PORT"));
        }
        if servers.contains('@') {
            return Err(Error::config(
                "a user and a password cannot stand in the broker URL: use ?sasl.username=USER, and TIDINGS_BROKER_SASL_PASSWORD or a file that TIDINGS_BROKER_SASL_PASSWORD_FILE names",
            ));
        }
        let mut properties = environment(std::env::vars())?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| wrong("a property has no value"))?;
            properties.insert(name.to_owned(), value.to_owned());
        }
        let prefix = properties.remove("prefix").unwrap_or_default();
        if let Some(ours) = OURS.iter().find(|ours| properties.contains_key(**ours)) {
            return Err(Error::config(format!(
                "the Kafka property {ours} cannot be set: the promises of this program rest on it; leave it out"
            )));
        }
        let settings = Self { servers: servers.to_owned(), prefix, properties, outage: Arc::default() };
        // An unknown property, or one that this build of librdkafka does not have, is told at once.
        settings
            .client(&[])
            .create_native_config()
            .map_err(|e| Error::config(format!("a Kafka property is wrong: {}", without_value(&e))))?;
        Ok(settings)
    }

    /// The addresses that were given.
    pub(super) fn servers(&self) -> &str {
        &self.servers
    }

    /// A client that asks or reads, or administers.
    pub(super) fn asking<T: FromClientConfigAndContext<Reporting>>(
        &self,
        config: &ClientConfig,
    ) -> Result<T, Error> {
        let reporting = Reporting(self.outage.clone());
        let made = config.create_with_context(reporting);
        made.map_err(|e| Error::config(format!("cannot make a Kafka client: {}", without_value(&e))))
    }

    /// Returns the name in the cluster of a topic or group.
    pub(super) fn wire_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Returns our name of a topic of the cluster, if it is one of ours.
    pub(super) fn local_name<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.prefix)
    }

    /// A client's configuration: ours, what the operator set, and what cannot be otherwise.
    pub(super) fn client(&self, fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "tidings")
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.servers);
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config
    }

    /// The configuration of a kind of client, whose defaults the operator may overrule.
    pub(super) fn client_of(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.client(&[]);
        for (name, value) in defaults {
            if !self.properties.contains_key(*name) {
                config.set(*name, *value);
            }
        }
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config
    }

    pub(super) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }
}

/// Returns librdkafka's message about a setting, without the setting's value: it may be a secret.
pub(super) fn without_value(e: &KafkaError) -> String {
    match e {
        KafkaError::ClientConfig(_, what, name, _) if what.contains("No such configuration") => {
            let variable = name.to_ascii_uppercase().replace('.', "_");
            format!(
                "there is no {name} (in the URL, or as TIDINGS_BROKER_{variable}), or this build of librdkafka has it not"
            )
        }
        KafkaError::ClientConfig(_, _, name, _) => format!("{name} cannot have the value that it was given"),
        other => other.to_string(),
    }
}

/// `TIDINGS_BROKER_SASL_PASSWORD[_FILE]` and the like.
fn environment(variables: impl Iterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, Error> {
    let mut properties = BTreeMap::new();
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix("TIDINGS_BROKER_") else { continue };
        if value.is_empty() || is_service_link(&format!("BROKER_{name}"), &value) {
            continue;
        }
        let (name, value) = match name.strip_suffix("_FILE") {
            None => (name, value),
            Some(name) => {
                let secret = std::fs::read_to_string(&value).map_err(|e| {
                    Error::config(format!("cannot read {value}, which {variable} names: {e}"))
                })?;
                (name, secret.trim_end().to_owned())
            }
        };
        properties.insert(name.to_ascii_lowercase().replace('_', "."), value);
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        KafkaSettings::parse(url).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_url_names_brokers_properties_and_a_prefix() {
        let settings = KafkaSettings::parse("kafka://a:9092,b:9092?group.protocol=consumer&prefix=test.")
            .expect("it is right");
        assert_eq!(settings.servers, "a:9092,b:9092");
        assert_eq!(settings.property("group.protocol"), Some("consumer"));
        assert_eq!(settings.wire_name("orders"), "test.orders");
        assert_eq!(settings.local_name("test.orders"), Some("orders"));
        assert_eq!(settings.local_name("orders"), None);
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        assert!(refusal("kafka://").contains("there is no HOST:PORT"));
        assert!(refusal("kafka://a:9092?acks=0").contains("the Kafka property acks cannot be set"));
        assert!(refusal("kafka://a:9092?no.such.thing=1").contains("no.such.thing"));
        assert!(refusal("kafka:a:9092").contains("kafka://HOST:PORT"));
        assert!(refusal("kafka://u:p4ss@a:9092").contains("TIDINGS_BROKER_SASL_PASSWORD"));
        for url in
            ["kafka://a:9092?sasl.passwort=p4ss", "kafka://a:9092?linger.ms=p4ss", "kafka://u:p4ss@a:9092"]
        {
            assert!(!refusal(url).contains("p4ss"), "{}", refusal(url));
        }
    }

    #[test]
    fn secrets_come_from_the_environment() {
        let vars = [
            ("TIDINGS_BROKER_SASL_PASSWORD", "secret"),
            ("TIDINGS_STORE", "x"),
            ("TIDINGS_BROKER_SASL_USERNAME", ""),
            ("TIDINGS_BROKER_SERVICE_HOST", "10.0.0.1"),
            ("TIDINGS_BROKER_SERVICE_PORT_PLAINTEXT", "9092"),
            ("TIDINGS_BROKER_PORT", "tcp://10.0.0.1:9092"),
            ("TIDINGS_BROKER_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ];
        let found =
            environment(vars.map(|(n, v)| (n.to_owned(), v.to_owned())).into_iter()).expect("it is right");
        assert_eq!(found, BTreeMap::from([("sasl.password".to_owned(), "secret".to_owned())]));
    }
}
