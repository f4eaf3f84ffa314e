//! Making topics and looking at them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::outage::Reporting;
use super::settings::KafkaSettings;
use super::{ANSWER_MAX, Kafka, Topic, failed};
use crate::broker::{Drift, TopicSpec, compare};
use crate::error::Error;

/// A topic that was made, or its changed settings, are known everywhere after this; and the pause between looks.
const KNOWN_MAX: Duration = Duration::from_secs(10);
const KNOWN_PAUSE: Duration = Duration::from_millis(100);
/// Records that are kept for less are lost to a consumer that is away for a night.
const RETENTION_MIN_MS: i64 = 24 * 3600 * 1000;

impl Kafka {
    pub(in crate::broker) async fn topics(self: &Arc<Self>) -> Result<Vec<Topic>, Error> {
        self.found().await.map(|(_, found)| found.into_iter().map(|found| found.topic).collect())
    }

    /// Returns the number of brokers, and all topics.
    async fn found(self: &Arc<Self>) -> Result<(usize, Vec<ExistingTopic>), Error> {
        self.ask("", |settings, client| {
            let metadata =
                client.fetch_metadata(None, ANSWER_MAX).map_err(|e| failed("cannot list the topics", &e))?;
            let ours = |topic: &rdkafka::metadata::MetadataTopic| {
                let name = settings.local_name(topic.name()).filter(|name| !name.starts_with("__"))?;
                let partitions = u32::try_from(topic.partitions().len()).ok()?;
                let replication = topic.partitions().first().map_or(0, |p| p.replicas().len());
                let topic = Topic { name: name.to_owned().into(), partitions };
                Some(ExistingTopic { topic, replication: u32::try_from(replication).ok()? })
            };
            Ok((metadata.brokers().len(), metadata.topics().iter().filter_map(ours).collect()))
        })
        .await
    }

    /// Makes the topics that are missing, with the cluster's own settings.
    pub(in crate::broker) async fn apply_topics(self: &Arc<Self>, topics: &[Topic]) -> Result<(), Error> {
        let found = self.topics().await?;
        let mut missing = Vec::new();
        for topic in topics {
            match compare(topic, &found) {
                None => {}
                Some(Drift::Missing { topic }) => missing.push((topic, -1, Vec::new())),
                Some(drift) => return Err(Error::config(drift.to_string())),
            }
        }
        self.create(missing).await
    }

    pub(in crate::broker) async fn plan_topics(
        self: &Arc<Self>,
        specs: &[TopicSpec],
        partitions: u32,
    ) -> Result<Vec<Drift>, Error> {
        let (brokers, found) = self.found().await?;
        let known: Vec<Topic> = found.iter().map(|found| found.topic.clone()).collect();
        let mut plan = Vec::new();
        let mut there = Vec::new();
        for spec in specs {
            plan.extend(compare(&spec.topic(partitions), &known));
            if let Some(found) = found.iter().find(|found| found.topic.name == spec.name) {
                there.push(spec);
                let wanted = copies(spec, brokers);
                if found.replication != wanted {
                    let (topic, found) = (spec.name.to_string(), found.replication);
                    plan.push(Drift::Replication { topic, found, wanted });
                }
            }
        }
        for (spec, values) in there.iter().zip(self.settings_of(&there).await?) {
            for (setting, wanted) in settings(spec, brokers) {
                let found = values.get(setting).cloned().unwrap_or_default();
                if found != wanted {
                    plan.push(Drift::Setting { topic: spec.name.to_string(), setting, found, wanted });
                }
            }
        }
        Ok(plan)
    }

    pub(in crate::broker) async fn apply_plan(
        self: &Arc<Self>,
        specs: &[TopicSpec],
        plan: &[Drift],
    ) -> Result<(), Error> {
        let (brokers, _) = self.found().await?;
        let spec_of = |name: &str| specs.iter().find(|spec| spec.name == name);
        let missing = plan.iter().filter_map(|drift| match drift {
            Drift::Missing { topic } => {
                let spec = spec_of(&topic.name)?;
                Some((topic.clone(), copies(spec, brokers).cast_signed(), settings(spec, brokers)))
            }
            _ => None,
        });
        self.create(missing.collect()).await?;
        let drifted: BTreeSet<&str> = plan
            .iter()
            .filter_map(|drift| match drift {
                Drift::Setting { topic, .. } => Some(&**topic),
                _ => None,
            })
            .collect();
        let drifted: Vec<&TopicSpec> = drifted.into_iter().filter_map(spec_of).collect();
        self.alter(&drifted, brokers).await
    }

    fn admin(&self) -> Result<AdminClient<Reporting>, Error> {
        self.settings.asking(&self.settings.client(&[]))
    }

    /// Returns the reasons for which existing topics lose events, a line each.
    pub(in crate::broker) async fn losses(
        self: &Arc<Self>,
        specs: &[TopicSpec],
    ) -> Result<Vec<String>, Error> {
        let (_, found) = self.found().await?;
        let there: Vec<&TopicSpec> =
            specs.iter().filter(|spec| found.iter().any(|found| found.topic.name == spec.name)).collect();
        let all = self.settings_of(&there).await?;
        Ok(there.iter().zip(all).flat_map(|(spec, values)| losses(spec, &values)).collect())
    }

    /// The settings that topics have of their own or by default.
    async fn settings_of(&self, specs: &[&TopicSpec]) -> Result<Vec<HashMap<String, String>>, Error> {
        Ok(self
            .describe(specs)
            .await?
            .into_iter()
            .map(|all| all.into_iter().map(|(n, (v, _))| (n, v)).collect())
            .collect())
    }

    /// Every setting of topics: its value, and whether the topic has it of its own.
    async fn describe(&self, specs: &[&TopicSpec]) -> Result<Vec<HashMap<String, (String, bool)>>, Error> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let attempted = "cannot read the settings of topics";
        let names: Vec<String> = specs.iter().map(|spec| self.settings.wire_name(&spec.name)).collect();
        let resources: Vec<ResourceSpecifier<'_>> =
            names.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
        let described = self.admin()?.describe_configs(&resources, &options()).await;
        let mut all = Vec::new();
        for described in described.map_err(|e| failed(attempted, &e))? {
            let described = described.map_err(|code| Error::unavailable(format!("{attempted}: {code}")))?;
            // The binding says that all is well whatever the broker answered.
            if described.entries.is_empty() {
                let topics = names.join(", ");
                return Err(Error::config(format!(
                    "{attempted}: the broker tells none of {topics}; grant DescribeConfigs on the topics"
                )));
            }
            let entry = |entry: rdkafka::admin::ConfigEntry| {
                let own = entry.source == ConfigSource::DynamicTopic;
                (entry.name, (entry.value.unwrap_or_default(), own))
            };
            all.push(described.entries.into_iter().map(entry).collect());
        }
        Ok(all)
    }

    /// Sets what differs, and sets again what the topics have of their own: Kafka forgets what is not said.
    async fn alter(&self, specs: &[&TopicSpec], brokers: usize) -> Result<(), Error> {
        let attempted = "cannot change the settings of topics";
        for (spec, mut values) in specs.iter().zip(self.describe(specs).await?) {
            values.retain(|_, (_, own)| *own);
            for (setting, wanted) in settings(spec, brokers) {
                values.insert(setting.to_owned(), (wanted, true));
            }
            let name = self.settings.wire_name(&spec.name);
            let mut change = AlterConfig::new(ResourceSpecifier::Topic(&name));
            for (setting, (value, _)) in &values {
                change = change.set(setting, value);
            }
            let altered = self.admin()?.alter_configs(&[change], &options()).await;
            for altered in altered.map_err(|e| failed(attempted, &e))? {
                altered.map_err(|(_, code)| Error::config(format!("{attempted}: {}: {code}", spec.name)))?;
            }
            self.verify_altered(spec, brokers).await?;
        }
        Ok(())
    }

    /// Reads back what was set: the binding says that all is well whatever the broker answered.
    async fn verify_altered(&self, spec: &TopicSpec, brokers: usize) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let values = self.settings_of(&[spec]).await?.pop().unwrap_or_default();
            let wrong =
                settings(spec, brokers).into_iter().find(|(name, wanted)| values.get(*name) != Some(wanted));
            let Some((setting, wanted)) = wrong else { return Ok(()) };
            if begun.elapsed() > KNOWN_MAX {
                let found = values.get(setting).map_or("unknown", String::as_str);
                return Err(Error::config(format!(
                    "topic {}: {setting} was to be set to {wanted} and is {found} still: the broker does not take it; grant AlterConfigs on the topic, or look for a policy (alter.config.policy.class.name) in its log",
                    spec.name
                )));
            }
            tokio::time::sleep(KNOWN_PAUSE).await;
        }
    }

    async fn create(self: &Arc<Self>, topics: Vec<(Topic, i32, TopicConfig)>) -> Result<(), Error> {
        if topics.is_empty() {
            return Ok(());
        }
        let names: Vec<String> =
            topics.iter().map(|(topic, ..)| self.settings.wire_name(&topic.name)).collect();
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .zip(&names)
            .map(|((topic, copies, settings), name)| {
                let new =
                    NewTopic::new(name, topic.partitions.cast_signed(), TopicReplication::Fixed(*copies));
                settings.iter().fold(new, |new, (setting, value)| new.set(setting, value))
            })
            .collect();
        let results = self.admin()?.create_topics(&new, &options()).await;
        for result in results.map_err(|e| failed("cannot make topics", &e))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let right = super::missing_right(code).map_or(String::new(), |_| {
                        "; grant Create on the topic or on the cluster".to_owned()
                    });
                    return Err(Error::config(format!("cannot make topic {name}: {code}{right}")));
                }
            }
        }
        self.wait_until_known(topics.into_iter().map(|(topic, ..)| topic).collect()).await
    }

    async fn wait_until_known(self: &Arc<Self>, topics: Vec<Topic>) -> Result<(), Error> {
        self.ask("", move |settings, client| {
            let begun = Instant::now();
            for topic in &topics {
                while partitions(settings, client, &topic.name).ok() != Some(topic.partitions) {
                    if begun.elapsed() > KNOWN_MAX {
                        return Err(Error::unavailable(format!(
                            "topic {} was made but is not known yet",
                            topic.name
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(())
        })
        .await
    }
}

/// A topic as the cluster has it.
struct ExistingTopic {
    topic: Topic,
    replication: u32,
}

type TopicConfig = Vec<(&'static str, String)>;

/// The settings a topic should have.
fn settings(spec: &TopicSpec, brokers: usize) -> TopicConfig {
    let insync = if copies(spec, brokers) == 1 { 1 } else { spec.min_insync_replicas };
    vec![
        ("cleanup.policy", if spec.is_compacted { "compact" } else { "delete" }.to_owned()),
        ("retention.ms", spec.retention.as_millis().to_string()),
        ("min.insync.replicas", insync.to_string()),
        ("max.message.bytes", spec.message_bytes_max.to_string()),
    ]
}

/// Returns the settings of a topic that lose events, a line each.
fn losses(spec: &TopicSpec, values: &HashMap<String, String>) -> Vec<String> {
    let value = |name: &str| values.get(name).map_or("", String::as_str);
    let number = |name: &str| value(name).parse::<i64>().ok();
    let mut losses = Vec::new();
    let mut lose = |why: String| losses.push(format!("topic {} loses events: {why}", spec.name));
    if value("cleanup.policy").contains("compact") && !spec.is_compacted {
        lose("cleanup.policy is compact, which keeps the last event of each key only".to_owned());
    }
    let retention =
        number("retention.ms").filter(|ms| value("cleanup.policy").contains("delete") && *ms >= 0);
    if let Some(ms) = retention.filter(|ms| *ms < RETENTION_MIN_MS) {
        lose(format!(
            "retention.ms is {ms}, so a consumer that is away for longer misses what was put there"
        ));
    }
    if let Some(bytes) = number("retention.bytes").filter(|bytes| *bytes >= 0) {
        lose(format!("retention.bytes is {bytes}, however old the events are"));
    }
    if value("unclean.leader.election.enable") == "true" {
        lose(
            "unclean.leader.election.enable is true, so acknowledged events vanish with their leader"
                .to_owned(),
        );
    }
    losses
}

/// As many copies as it should have, or as there are brokers.
fn copies(spec: &TopicSpec, brokers: usize) -> u32 {
    spec.replication.min(u32::try_from(brokers).unwrap_or(u32::MAX)).max(1)
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX))
}

/// Returns the number of partitions of a topic.
pub(super) fn partitions<C: rdkafka::consumer::ConsumerContext>(
    settings: &KafkaSettings,
    client: &BaseConsumer<C>,
    topic: &str,
) -> Result<u32, Error> {
    let attempted = format!("cannot look at topic {topic}");
    let metadata = client
        .fetch_metadata(Some(&settings.wire_name(topic)), ANSWER_MAX)
        .map_err(|e| failed(&attempted, &e))?;
    let found = metadata.topics().first();
    match found.map(|found| (found.error(), found.partitions().len())) {
        Some((None, count)) if count > 0 => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
        Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) | Some((None, _)) | None => {
            Err(Error::config(format!("there is no topic {topic}; make it with: topics apply")))
        }
        Some((Some(e), _)) => Err(Error::unavailable(format!("{attempted}: {}", RDKafkaErrorCode::from(e)))),
    }
}
