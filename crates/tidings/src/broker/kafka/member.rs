//! The client of a member of a group: set up, its reports kept for the owner, closed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use super::broker_loss::{BrokerLossDetector, REPORT_EVERY_MS};
use super::outage::Outage;
use super::progress::Progress;
use super::queue::Shared;
use super::settings::{KafkaSettings, without_value};
use super::{failed, reason};
use crate::error::Error;
use crate::panic::lock;

/// Reports of the client about our share of the partitions, in order; looked at outside its callback.
#[derive(Default)]
pub(super) struct Rebalances {
    pub(super) state: Mutex<RebalanceState>,
    outage: Arc<Outage>,
    progress: Arc<Progress>,
    pub(super) broker_loss: BrokerLossDetector,
    /// A commit has failed since the last one.
    pub(super) commit_failed: AtomicBool,
}

#[derive(Default)]
pub(super) struct RebalanceState {
    pub(super) events: VecDeque<Rebalance>,
    /// The client is being closed: whatever it gives or takes is given up at once.
    closing: bool,
}

pub(super) enum Rebalance {
    Assign(Vec<(String, i32)>),
    Revoke(Vec<(String, i32)>),
}

impl ClientContext for Rebalances {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the consumer reports");
    }

    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        self.outage.report(level, kind, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.outage.look(statistics);
        self.progress.look(statistics);
        self.broker_loss.look(statistics);
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, client: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let mut state = lock(&self.state);
        let partitions = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if !state.closing => {
                state.events.push_back(Rebalance::Assign(partitions));
            }
            _ if !state.closing => state.events.push_back(Rebalance::Revoke(partitions)),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {}
            _ => unassign(client, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(e) = result
            && e.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            tracing::warn!(error = %reason(&e), "progress was not committed; it will be with the next commit");
            self.commit_failed.store(true, Ordering::SeqCst);
        }
    }
}

/// A client that subscribes.
pub(super) fn connect(
    settings: &KafkaSettings,
    group: &str,
    topics: &[impl AsRef<str>],
    progress: &Arc<Progress>,
) -> Result<BaseConsumer<Rebalances>, Error> {
    let wire_group = settings.wire_name(group);
    let classic = settings.property("group.protocol") != Some("consumer");
    let mut defaults = vec![
        ("fetch.queue.backoff.ms", "2"), // 20 ms starve a fast consumer, the default of a second much more
        ("queued.min.messages", "5000"),
        ("queued.max.messages.kbytes", "4096"),
        ("fetch.max.bytes", "4194304"), // an answer; the default of 50 MiB would fill memory at once
        ("fetch.wait.max.ms", "100"),
        ("isolation.level", "read_committed"),
    ];
    if classic {
        defaults.push(("partition.assignment.strategy", "cooperative-sticky"));
        // A member that was killed is missed after this, and its partitions go to others.
        defaults.push(("session.timeout.ms", "10000"));
        // A member that has left in good order is heard of with the next beat: the others go on that soon.
        defaults.push(("heartbeat.interval.ms", "500"));
    }
    let fixed = [
        ("group.id", &*wire_group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
        ("enable.partition.eof", "false"),
        ("statistics.interval.ms", REPORT_EVERY_MS),
    ];
    let attempted = format!("cannot join group {group}");
    let client: BaseConsumer<Rebalances> = settings
        .client_of(&defaults, &fixed)
        .create_with_context(Rebalances {
            outage: settings.outage.clone(),
            progress: progress.clone(),
            ..Rebalances::default()
        })
        .map_err(|e| Error::config(format!("{attempted}: {}", without_value(&e))))?;
    let names: Vec<String> = topics.iter().map(|topic| settings.wire_name(topic.as_ref())).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.subscribe(&names).map_err(|e| failed(&attempted, &e))?;
    Ok(client)
}

/// Leaves the group at once.
pub(super) fn close(client: BaseConsumer<Rebalances>) {
    lock(&client.context().state).closing = true;
    unassign(&client, &client.assignment().unwrap_or_default());
}

pub(super) fn unassign(client: &BaseConsumer<Rebalances>, list: &TopicPartitionList) {
    let done = match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(list),
        _ => client.unassign(),
    };
    if let Err(e) = done {
        tracing::warn!(error = %reason(&e), "partitions could not be given up");
    }
}

/// Says what the client reports, and stops where going on would be a guess.
pub(super) fn on_client_error(shared: &Shared, group: &str, e: &KafkaError) {
    use RDKafkaErrorCode as Code;
    let code = e.rdkafka_error_code();
    let refusal = match code {
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Some(
            "what the group has yet to read is gone from the topic (retention, or a topic made anew): pause the service, set its offsets with `tidings seek … --to beginning`, resume it and start it again",
        ),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
            Some("a topic is gone; restore it, or make it with topics apply, and start again")
        }
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
            Some("reading is not allowed; grant Read on the topic and the group, and start again")
        }
        Some(Code::UnsupportedVersion | Code::UnsupportedFeature) => Some(
            "the broker has not switched on what group.protocol asks for (KIP-848): leave group.protocol out of the broker URL, or set group.coordinator.rebalance.protocols=classic,consumer at the broker",
        ),
        _ if matches!(e, KafkaError::MessageConsumptionFatal(_)) => {
            Some("the client has broken; start again")
        }
        _ => None,
    };
    match refusal {
        None => tracing::debug!(group, error = %reason(e), "the consumer reports"),
        Some(what) => {
            let message = format!("group {group} cannot read on: {}: {what}", reason(e));
            lock(&shared.queue).error = Some(Error::config(message));
            shared.arrived.notify_one();
        }
    }
}
