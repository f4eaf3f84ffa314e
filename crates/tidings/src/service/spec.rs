//! The contents of a description: its event types, its topics, its contradictions.

use std::sync::Arc;

use serde_json::Value;

use super::Service;
use crate::broker::TopicSpec;
use crate::error::Error;
use crate::event::{Event, OlderVersion};
use crate::schema;
use crate::store::Store;

/// The longest name of a service or a group, in bytes: PostgreSQL cuts off longer ones of schemas, and topics
/// add to it.
const NAME_MAX: usize = 60;

impl Service {
    /// A part of `/statusz` under `name`.
    #[must_use]
    pub fn status<Fut>(
        mut self,
        name: &'static str,
        read: impl Fn(Store) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.extras.push((name, Arc::new(move |store| Box::pin(read(store)))));
        self
    }

    /// The topics it writes to or reads from, its dead letters included.
    #[must_use]
    pub fn topic_specs(&self) -> Vec<TopicSpec> {
        let mut specs = self.topics.clone();
        if !self.subscription.handlers.is_empty() {
            specs.push(TopicSpec::dead_letters(&self.subscription.group));
        }
        specs
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if the service reads anything.
    pub(crate) fn reads(&self) -> bool {
        !self.subscription.handlers.is_empty()
    }

    pub(crate) fn group_name(&self) -> &str {
        &self.subscription.group
    }

    pub(crate) fn reads_external_only(&self, topic: &str) -> bool {
        self.subscription.external_only.contains(topic)
    }

    /// Their names.
    pub fn topic_names(&self) -> impl Iterator<Item = String> {
        self.topic_specs().into_iter().map(|spec| spec.name.into_owned())
    }

    /// Refuses names that cannot be those of files, schemas, groups and topics, and contradictions.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, name) in [("service", &*self.name), ("group", &*self.subscription.group)] {
            let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
            if !starts_well || !is_plain || name.len() > NAME_MAX {
                return Err(Error::config(format!(
                    "{name:?} cannot be the name of a {what}: it names files, tables, groups and topics; use 1 to {NAME_MAX} letters, digits, _, - and ."
                )));
            }
        }
        match self.faults.first() {
            Some(fault) => Err(Error::config(format!("service {} has {fault}", self.name))),
            None => Ok(()),
        }
    }
}

/// An event type that a service publishes or handles.
#[derive(Clone)]
pub(crate) struct EventSpec {
    pub(crate) event_type: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) key_name: &'static str,
    pub(crate) superseded_by: Option<&'static str>,
    pub(crate) former: Vec<OlderVersion>,
    pub(crate) writer: fn() -> Value,
}

impl EventSpec {
    pub(crate) fn of<E: Event>() -> Self {
        Self {
            event_type: E::TYPE,
            topic: E::TOPIC,
            key_name: E::KEY_NAME,
            superseded_by: E::SUPERSEDED_BY,
            former: E::upcasts(),
            writer: schema::writer::<E>,
        }
    }
}

/// The topics of services, each once.
pub(crate) fn topic_specs(services: &[Service]) -> Vec<TopicSpec> {
    let mut specs: Vec<TopicSpec> = Vec::new();
    for spec in services.iter().flat_map(Service::topic_specs) {
        if !specs.iter().any(|known| known.name == spec.name) {
            specs.push(spec);
        }
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    specs
}
