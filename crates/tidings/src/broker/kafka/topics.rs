//! Making topics and looking at them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::settings::Settings;
use super::{ANSWER_MAX, Kafka, Topic, failed};
use crate::error::Error;

/// A topic that was made is known everywhere after this.
const KNOWN_MAX: Duration = Duration::from_secs(10);

impl Kafka {
    pub(in crate::broker) async fn topics(self: &Arc<Self>) -> Result<Vec<Topic>, Error> {
        self.ask("", |settings, client| {
            let metadata = client
                .fetch_metadata(None, ANSWER_MAX)
                .map_err(|e| failed("cannot list the topics", &e))?;
            let ours = |topic: &rdkafka::metadata::MetadataTopic| {
                let name = settings.here(topic.name()).filter(|name| !name.starts_with("__"))?;
                let partitions = u32::try_from(topic.partitions().len()).ok()?;
                Some(Topic { name: name.to_owned().into(), partitions })
            };
            Ok(metadata.topics().iter().filter_map(ours).collect())
        })
        .await
    }

    pub(in crate::broker) async fn apply_topics(self: &Arc<Self>, topics: &[Topic]) -> Result<(), Error> {
        let found = self.topics().await?;
        let mut missing = Vec::new();
        for topic in topics {
            match found.iter().find(|found| found.name == topic.name) {
                None => missing.push(topic.clone()),
                Some(found) if found.partitions == topic.partitions => {}
                Some(found) => {
                    let (name, count) = (&topic.name, found.partitions);
                    return Err(Error::config(format!(
                        "topic {name} has {count} partitions, not {}: changing that would move keys; keep --partitions {count}",
                        topic.partitions
                    )));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.create(&missing).await?;
        self.wait_until_known(missing).await
    }

    async fn create(&self, topics: &[Topic]) -> Result<(), Error> {
        let attempted = "cannot make topics";
        let admin: AdminClient<DefaultClientContext> =
            self.settings.client(&[]).create().map_err(|e| failed(attempted, &e))?;
        let names: Vec<String> = topics.iter().map(|topic| self.settings.on_wire(&topic.name)).collect();
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .zip(&names)
            .map(|(topic, name)| {
                // The cluster's own default.
                NewTopic::new(name, topic.partitions.cast_signed(), TopicReplication::Fixed(-1))
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX));
        let results = admin.create_topics(&new, &options).await.map_err(|e| failed(attempted, &e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(Error::config(format!("cannot make topic {name}: {code}"))),
            }
        }
        Ok(())
    }

    async fn wait_until_known(self: &Arc<Self>, topics: Vec<Topic>) -> Result<(), Error> {
        self.ask("", move |settings, client| {
            let begun = Instant::now();
            for topic in topics {
                while partitions(settings, client, &topic.name) .ok() != Some(topic.partitions) {
                    if begun.elapsed() > KNOWN_MAX {
                        return Err(Error::unavailable(format!("topic {} was made but is not known yet", topic.name)));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(())
        })
        .await
    }
}

/// How many partitions a topic has.
pub(super) fn partitions<C: rdkafka::consumer::ConsumerContext>(
    settings: &Settings,
    client: &BaseConsumer<C>,
    topic: &str,
) -> Result<u32, Error> {
    let attempted = format!("cannot look at topic {topic}");
    let metadata = client
        .fetch_metadata(Some(&settings.on_wire(topic)), ANSWER_MAX)
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
