//! A schema registry that others read by (Confluent's API): what is published is registered at the start, and
//! framed with the ids that the registry gave out.
//!
//! Nothing else rests on it: a reader needs no registry, and once a service runs, the registry may be away.

#[cfg(feature = "registry")]
mod client;

use serde_json::Value;

use crate::broker::Broker;
use crate::error::Error;
use crate::message::frame::Frames;
use crate::service::Service;
#[cfg(feature = "registry")]
use client::RegistryClient;

/// Something that is published.
pub(crate) struct Subject {
    topic: &'static str,
    event_type: &'static str,
    schema: Value,
}

/// Returns the subjects of what services publish, each type once.
pub(crate) fn subjects(services: &[Service]) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    for spec in services.iter().flat_map(|service| &service.published) {
        if !subjects.iter().any(|known| known.event_type == spec.event_type) {
            let schema = (spec.writer)();
            subjects.push(Subject { topic: spec.topic, event_type: spec.event_type, schema });
        }
    }
    subjects
}

impl Subject {
    /// Returns the registry's name of the subject: Confluent's `TopicRecordNameStrategy`, by the topic's name in the
    /// cluster.
    fn name(&self, broker: &Broker) -> String {
        format!("{}-{}", broker.wire_name(self.topic), self.event_type)
    }
}

/// The registry at this address, for a broker at that one.
///
/// # Errors
/// The registry cannot be used: the broker is not Kafka, the program was built without, it is no URL.
pub(crate) fn named(url: Option<&str>, broker: &str) -> Result<Option<RegistryClient>, Error> {
    let Some(url) = url else { return Ok(None) };
    if broker.starts_with("sqlite:") {
        return Err(Error::config(
            "--schema-registry is for Kafka, whose topics others read; leave it out, or use --broker kafka://HOST:PORT",
        ));
    }
    RegistryClient::new(url).map(Some)
}

/// Registers what is published, and has the broker frame it from now on.
///
/// # Errors
/// In one line: the registry cannot be reached, or refuses.
pub(crate) async fn register(
    client: &RegistryClient,
    subjects: Vec<Subject>,
    broker: &Broker,
) -> Result<(), Error> {
    let mut frames = Frames::default();
    for subject in subjects {
        let id = client.register(&subject.name(broker), &subject.schema).await?;
        frames.insert(subject.topic, subject.event_type, id);
    }
    broker.frame(frames);
    Ok(())
}

/// Checks that the registry would take what is published. Registers nothing.
///
/// # Errors
/// As [`register`].
pub(crate) async fn check(
    client: &RegistryClient,
    subjects: &[Subject],
    broker: &Broker,
) -> Result<(), Error> {
    for subject in subjects {
        client.check(&subject.name(broker), &subject.schema).await?;
    }
    Ok(())
}

/// A program that was built without has none.
#[cfg(not(feature = "registry"))]
pub(crate) enum RegistryClient {}

#[cfg(not(feature = "registry"))]
impl RegistryClient {
    fn new(_: &str) -> Result<Self, Error> {
        Err(Error::config(
            "this program was built without a schema registry; build one that has it: cargo build --release --features kafka,registry",
        ))
    }

    async fn register(&self, _: &str, _: &Value) -> Result<u32, Error> {
        match *self {}
    }

    async fn check(&self, _: &str, _: &Value) -> Result<(), Error> {
        match *self {}
    }
}

#[cfg(all(test, not(feature = "registry")))]
mod tests {
    use super::*;

    fn refusal(broker: &str) -> String {
        named(Some("http://127.0.0.1:8081"), broker).err().expect("it is refused").to_string()
    }

    #[test]
    fn a_program_without_says_how_to_build_one_that_has_it() {
        assert!(
            refusal("kafka://127.0.0.1:9092").contains("cargo build --release --features kafka,registry")
        );
        assert!(refusal("sqlite:data").contains("--schema-registry is for Kafka"));
        assert!(named(None, "sqlite:data").is_ok_and(|registry| registry.is_none()));
    }
}
