//! Bursts on their way out. Only the relay sends, so only what is committed leaves.
//!
//! Idempotent, `acks=all`, and Java's partitioner, so that every client agrees where a key lives. Nothing
//! is retried here beyond what librdkafka does by itself: what fails stays in the outbox. A fatal error
//! (the broker has lost track of this producer), or a client that is cut off, means a new producer; the relay
//! sends again what was not acknowledged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer};
use tokio_util::sync::CancellationToken;

use super::broker_loss::{BrokerLossDetector, REPORT_EVERY_MS};
use super::outage::Outage;
use super::settings::{KafkaSettings, without_value};
use super::{Outgoing, reason};
use crate::error::Error;
use crate::message::MESSAGE_BYTES_MAX;
use crate::message::frame::Frames;
use crate::panic::lock;

type ProducerClient = ThreadedProducer<Deliveries>;
/// A message's burst in the upper half, its index there in the lower.
type BurstIndex = usize;

const INDEX_BITS: u32 = 32;
pub(super) struct Producer {
    client: Mutex<Arc<ProducerClient>>,
    bursts: AtomicU32,
    /// For those whose readers have a schema registry.
    frames: OnceLock<Frames>,
}

/// Bursts that are not wholly delivered.
#[derive(Default)]
struct Deliveries {
    bursts: Mutex<HashMap<u32, Burst>>,
    outage: Arc<Outage>,
    broker_loss: BrokerLossDetector,
    broken: CancellationToken,
}

struct Burst {
    results: Vec<Result<(), Undelivered>>,
    left: usize,
    done: tokio::sync::oneshot::Sender<Vec<Result<(), Undelivered>>>,
}

/// The reason that a message was not delivered.
#[derive(Clone)]
struct Undelivered {
    error: Error,
    /// The batch it was in, or the message itself, is too large.
    for_size: bool,
}

impl From<Error> for Undelivered {
    fn from(error: Error) -> Self {
        Self { error, for_size: false }
    }
}

impl Producer {
    pub(super) fn new(settings: &KafkaSettings) -> Result<Self, Error> {
        let client = Mutex::new(Arc::new(connect(settings)?));
        Ok(Self { client, bursts: AtomicU32::new(0), frames: OnceLock::new() })
    }

    /// Has values framed from now on: said once, before anything is sent.
    pub(super) fn frame(&self, frames: Frames) {
        let _ = self.frames.set(frames);
    }

    /// Kafka refuses a whole batch for its size. Whether a message alone is too large shows only when it is
    /// alone.
    pub(super) async fn send(
        &self,
        settings: &KafkaSettings,
        burst: Vec<Outgoing>,
    ) -> Vec<Result<(), Error>> {
        let mut results = self.send_together(settings, &burst).await;
        if burst.len() > 1 {
            for (result, outgoing) in results.iter_mut().zip(&burst) {
                if result.as_ref().is_err_and(|undelivered| undelivered.for_size) {
                    *result = self.send_together(settings, std::slice::from_ref(outgoing)).await.remove(0);
                }
            }
        }
        results.into_iter().map(|result| result.map_err(|undelivered| undelivered.error)).collect()
    }

    async fn send_together(
        &self,
        settings: &KafkaSettings,
        burst: &[Outgoing],
    ) -> Vec<Result<(), Undelivered>> {
        let count = burst.len();
        let client = match self.client(settings) {
            Ok(client) => client,
            Err(e) => return vec![Err(e.into()); count],
        };
        if count == 0 {
            return Vec::new();
        }
        let number = self.bursts.fetch_add(1, Ordering::Relaxed);
        let (done, delivered) = tokio::sync::oneshot::channel();
        let deliveries = client.context();
        let results = vec![Ok(()); count];
        lock(&deliveries.bursts).insert(number, Burst { results, left: count, done });
        for (index, outgoing) in burst.iter().enumerate() {
            let framed = self.frames.get().and_then(|frames| {
                let message = &outgoing.message;
                frames.framed(&outgoing.topic, message.header("ce_type"), &message.value)
            });
            let value = framed.as_deref().unwrap_or(&outgoing.message.value);
            let number_and_index = (number as usize) << INDEX_BITS | index;
            if let Err(e) = enqueue(&client, settings, outgoing, value, number_and_index) {
                deliveries.resolve(number, index, Err(undelivered(&outgoing.topic, &e)));
            }
        }
        tokio::pin!(delivered);
        let delivered = tokio::select! {
            delivered = &mut delivered => delivered,
            () = deliveries.broken.cancelled() => {
                // Its own thread tells the bursts that wait for it.
                client.purge(PurgeConfig::default().queue().inflight());
                delivered.await
            }
        };
        // Without an answer the client is gone, and with it what it had not delivered.
        delivered.unwrap_or_else(|_| vec![Err(Error::unavailable("the producer was closed").into()); count])
    }

    /// The client, or a new one if that one has broken.
    fn client(&self, settings: &KafkaSettings) -> Result<Arc<ProducerClient>, Error> {
        let mut client = lock(&self.client);
        let broken = &client.context().broken;
        if let Some((_, what)) = client.client().fatal_error() {
            tracing::warn!(error = what, "the producer met a fatal error");
            broken.cancel();
        }
        if broken.is_cancelled() {
            tracing::warn!("the producer is replaced; what it had not delivered is sent again");
            *client = Arc::new(connect(settings)?);
        }
        Ok(client.clone())
    }

    pub(super) fn close(&self) {
        lock(&self.client).purge(PurgeConfig::default().queue().inflight());
    }
}

fn connect(settings: &KafkaSettings) -> Result<ProducerClient, Error> {
    let bytes = (4 * MESSAGE_BYTES_MAX).to_string();
    let defaults = [
        ("linger.ms", "1"), // a burst is a batch already; this lets its messages find each other
        ("compression.type", "none"),
        ("message.timeout.ms", "30000"),
        ("message.max.bytes", &bytes),
        ("queue.buffering.max.messages", "100000"),
        ("queue.buffering.max.kbytes", "131072"),
        ("topic.metadata.propagation.max.ms", "5000"),
    ];
    let fixed = [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("partitioner", "murmur2_random"),
        ("statistics.interval.ms", REPORT_EVERY_MS),
    ];
    settings
        .client_of(&defaults, &fixed)
        .create_with_context(Deliveries { outage: settings.outage.clone(), ..Deliveries::default() })
        .map_err(|e| Error::config(format!("cannot make a Kafka producer: {}", without_value(&e))))
}

fn enqueue(
    client: &ProducerClient,
    settings: &KafkaSettings,
    outgoing: &Outgoing,
    value: &[u8],
    index: BurstIndex,
) -> Result<(), KafkaError> {
    let message = &*outgoing.message;
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
    for (name, value) in message.headers.values() {
        headers = headers.insert(Header { key: name.text(), value });
    }
    let topic = settings.wire_name(&outgoing.topic);
    let mut record: BaseRecord<'_, [u8], [u8], BurstIndex> =
        BaseRecord::with_opaque_to(&topic, index).headers(headers);
    if !message.is_tombstone {
        record = record.payload(value);
    }
    if let Some(key) = &message.key {
        record = record.key(&key[..]);
    }
    client.send(record).map_err(|(e, _)| e)
}

impl Deliveries {
    fn resolve(&self, burst: u32, index: usize, result: Result<(), Undelivered>) {
        let mut bursts = lock(&self.bursts);
        let Some(waiting) = bursts.get_mut(&burst) else { return };
        waiting.results[index] = result;
        waiting.left -= 1;
        if waiting.left == 0
            && let Some(Burst { results, done, .. }) = bursts.remove(&burst)
        {
            // No caller waits for it any more when the relay was stopped.
            let _ = done.send(results);
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, message: &str) {
        self.outage.report(level, kind, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the producer reports");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.outage.look(statistics);
        if self.broker_loss.look(statistics) {
            tracing::warn!("the producer knows no broker any more");
            self.broken.cancel();
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = BurstIndex;

    fn delivery(&self, delivered: &DeliveryResult<'_>, index: BurstIndex) {
        let (burst, index) = ((index >> INDEX_BITS) as u32, index & ((1 << INDEX_BITS) - 1));
        let result = match delivered {
            Ok(_) => Ok(()),
            Err((e, message)) => {
                use rdkafka::Message as _;
                Err(undelivered(message.topic(), e))
            }
        };
        self.resolve(burst, index, result);
    }
}

/// Tells a refusal, which a change of the cluster may lift, from what may go another time by itself.
fn undelivered(topic: &str, e: &KafkaError) -> Undelivered {
    use RDKafkaErrorCode as Code;
    let what = format!("{topic} does not take a message: {}", reason(e));
    let refused = [
        Code::TopicAuthorizationFailed,
        Code::UnknownTopic,
        Code::UnknownTopicOrPartition,
        Code::InvalidRecord,
        Code::PolicyViolation,
    ];
    let of_size = [Code::MessageSizeTooLarge, Code::InvalidMessageSize, Code::MessageBatchTooLarge];
    match e.rdkafka_error_code() {
        Some(code) if of_size.contains(&code) => {
            let error = Error::refused(format!("{what} (too large for this broker's limits)"));
            Undelivered { error, for_size: true }
        }
        Some(code) if refused.contains(&code) => Error::refused(what).into(),
        Some(Code::InvalidTopic) => Error::unacceptable(what).into(),
        _ => Error::unavailable(what).into(),
    }
}
