//! Records to a batch: decoded, checked against what the service welcomes, grouped for its handlers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Resolution;
use crate::broker::Record;
use crate::envelope::{Delivery, Metadata};
use crate::failure::DeadReason;
use crate::handler::{Broken, EventList};
use crate::message::{self, Incoming};
use crate::panic::panic_message;
use crate::subscription::Subscription;

/// Delivered events, decoded, and grouped for their handlers.
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) lists: Vec<HandlerBatch>,
}

/// A delivered event.
pub(super) struct Item {
    pub(super) record: Record,
    pub(super) metadata: Option<Arc<Metadata>>,
    pub(super) task: Task,
    /// Another event was handled under its number or id; set in each attempt that comes to know it.
    pub(super) is_other: AtomicBool,
}

/// The work that a delivered event asks for when it is its turn.
pub(super) enum Task {
    /// None: our own event on a topic that is read for others' events.
    Skip,
    /// None: no handler here takes its type.
    Ignore,
    /// A call of a handler.
    Handle,
    /// A burial.
    Bury(Broken),
}

/// Events of one type and of different keys: one call of a handler.
pub(super) struct HandlerBatch {
    pub(super) handler: usize,
    round: usize,
    pub(super) events: Box<dyn EventList>,
    pub(super) items: Vec<usize>,
}

/// Decodes records, in the order of their keys; `attempt` tells how often each of them, in that order, is tried: 1 at
/// first.
pub(super) fn decode(
    subscription: &Subscription,
    mut records: Vec<Record>,
    attempt: impl Fn(usize) -> u32,
) -> Batch {
    // Everybody who handles batches locks what belongs to keys in the same order.
    records.sort_by(|a, b| a.message.key.cmp(&b.message.key));
    let mut batch = Batch { items: Vec::with_capacity(records.len()), lists: Vec::new() };
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(records.len());
    for (index, record) in records.into_iter().enumerate() {
        let one = || decode_one(subscription, &record, attempt(index), &mut batch, &mut seen);
        // What it reads comes from outside: a panic is this record's, not the consumer's.
        let (metadata, task) = catch_unwind(AssertUnwindSafe(one)).unwrap_or_else(|panic| {
            (
                None,
                bury(
                    DeadReason::PanickedWhileDecoding,
                    format!("decoding panicked: {}", panic_message(&*panic)),
                ),
            )
        });
        batch.items.push(Item { record, metadata, task, is_other: AtomicBool::new(false) });
    }
    // Earlier events of a key before later ones; otherwise a whole type at a time.
    batch.lists.sort_by_key(|list| list.round);
    batch
}

fn decode_one(
    subscription: &Subscription,
    record: &Record,
    attempt: u32,
    batch: &mut Batch,
    seen: &mut HashMap<String, usize>,
) -> (Option<Arc<Metadata>>, Task) {
    let message = &record.message;
    if subscription.external_only.contains(&*record.topic) && is_own(record) {
        return (None, Task::Skip);
    }
    if let Some(what) = &record.unreadable {
        return (None, bury(DeadReason::RecordUnreadable, what.clone()));
    }
    let mut incoming = match message::read(&record.topic, message) {
        Ok(incoming) => incoming,
        Err(what) => return (None, bury(DeadReason::EnvelopeUndecodable, what)),
    };
    incoming.metadata.delivery = Delivery {
        consumer: subscription.group.clone(),
        topic: record.topic.clone(),
        partition: record.partition,
        offset: record.offset,
        attempt,
        ..Delivery::default()
    };
    let handled = subscription.handled(&incoming.event_type, message);
    if let Some(handled) = handled {
        let delivery = &mut incoming.metadata.delivery;
        (delivery.event_type, delivery.key_name) = subscription.handlers[handled.handler].names();
        log_unreadable(&incoming);
    }
    let refused = handled.and_then(|handled| {
        let source = EventSource::of(&incoming.metadata, &record.topic);
        refusal(&record.topic, handled.topic, source, subscription.welcomes(handled.handler))
    });
    let mut metadata = Arc::new(incoming.metadata);
    if refused.is_some() || EventSource::of(&metadata, &record.topic) != EventSource::Owner {
        // Only the owner of a stream numbers its events.
        Arc::make_mut(&mut metadata).seq = None;
    }
    match (handled, refused) {
        (None, _) => (Some(metadata), Task::Ignore),
        (_, Some((reason, what))) => {
            let what = format!("{}: {what}", metadata.delivery.event_type);
            (Some(metadata), bury(reason, what))
        }
        (Some(handled), None) => {
            let payload = incoming.payload.bytes();
            let task =
                batch.add(subscription, handled.handler, &mut metadata, seen, &incoming.event_type, payload);
            (Some(metadata), task)
        }
    }
}

/// Says once of an event which of its optional attributes it has to do without.
fn log_unreadable(incoming: &Incoming<'_>) {
    if !incoming.unreadable.is_empty() {
        let left_out = incoming.unreadable.join(", ");
        incoming.metadata.warn_of(&left_out);
    }
}

/// The origin of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventSource {
    /// The service whose topic it lies on: its source is called like the topic, and it numbers its events.
    Owner,
    /// A program that claims to be the owner and does not number, or numbers and is not the owner.
    Pretender,
    /// A program outside, which does not number its events.
    External,
}

impl EventSource {
    fn of(metadata: &Metadata, topic: &str) -> Self {
        let is_owner = metadata.source.strip_prefix('/') == Some(topic);
        match (is_owner, metadata.seq) {
            (true, Some(_)) => Self::Owner,
            (false, None) => Self::External,
            _ => Self::Pretender,
        }
    }
}

/// Decides whether a type counts on this topic, from this source.
fn refusal(
    topic: &str,
    own_topic: &str,
    source: EventSource,
    welcomes_external: bool,
) -> Option<(DeadReason, String)> {
    if topic != own_topic {
        return Some((
            DeadReason::WrongTopic,
            format!("it counts on topic {own_topic} only, not on {topic}"),
        ));
    }
    match source {
        EventSource::Owner => None,
        EventSource::External if welcomes_external => None,
        EventSource::External => Some((
            DeadReason::WrongSource,
            format!("only the source /{topic} may state it, with a streamseq"),
        )),
        EventSource::Pretender => Some((
            DeadReason::WrongSource,
            format!("the source /{topic}, and no other, numbers its events with a streamseq"),
        )),
    }
}

fn bury(reason: DeadReason, message: String) -> Task {
    Task::Bury(Broken { reason, message })
}

/// Tells whether a record was published, with its number, by the service that the topic belongs to.
fn is_own(record: &Record) -> bool {
    let source = record.message.header("ce_source").unwrap_or_default();
    let seq = record.message.header("ce_streamseq");
    source.strip_prefix('/') == Some(&record.topic) && seq.is_some_and(|seq| message::positive(seq).is_ok())
}

impl Batch {
    fn add(
        &mut self,
        subscription: &Subscription,
        handler: usize,
        metadata: &mut Arc<Metadata>,
        seen: &mut HashMap<String, usize>,
        event_type: &str,
        payload: &[u8],
    ) -> Task {
        let round = match metadata.key.is_empty() {
            // Its key stands in its payload and may be anybody's: it goes after everything so far.
            true => self.lists.iter().map(|list| list.round + 1).max().unwrap_or(0),
            false => seen.get(&metadata.key).copied().unwrap_or(0),
        };
        let list = self.list(handler, round, subscription);
        let group = &mut self.lists[list];
        match group.events.push(metadata, event_type, payload) {
            Ok(()) => {
                seen.insert(metadata.key.clone(), round + 1);
                group.items.push(self.items.len());
                Task::Handle
            }
            Err(broken) => Task::Bury(broken),
        }
    }

    fn list(&mut self, handler: usize, round: usize, subscription: &Subscription) -> usize {
        let found = self.lists.iter().position(|l| l.handler == handler && l.round == round);
        found.unwrap_or_else(|| {
            self.lists.push(HandlerBatch {
                handler,
                round,
                events: subscription.handlers[handler].list(&subscription.options(handler)),
                items: Vec::new(),
            });
            self.lists.len() - 1
        })
    }
}

impl Item {
    /// The type of its event, as its handler has it.
    pub(super) fn handled_type(&self) -> Option<&'static str> {
        self.metadata.as_ref().map(|metadata| metadata.delivery.event_type)
    }

    pub(super) fn log(&self, resolution: &'static str) {
        if let Some(metadata) = &self.metadata {
            metadata.log(resolution);
        }
    }

    pub(super) fn warn_of_another(&self, consumer: &str) {
        let Some(metadata) = &self.metadata else { return };
        let (event_id, stream, seq) = (&*metadata.id, &*metadata.stream, metadata.seq);
        tracing::warn!(
            consumer,
            event_id,
            stream,
            seq,
            "this is not the event that was handled under its number or id"
        );
    }
}

impl HandlerBatch {
    /// Ranges of its events that are to be handled: duplicates, parked ones and those of another part of the
    /// batch are left out.
    pub(super) fn runs(&self, resolutions: &[Option<Resolution>]) -> Vec<std::ops::Range<usize>> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for (place, &item) in self.items.iter().enumerate() {
            if resolutions[item] != Some(Resolution::Handled) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == place => run.end += 1,
                _ => runs.push(place..place + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::handler::{AnyHandler, HandlerFigures, Handling};
    use crate::message::{Headers, Message};
    use crate::store::Tx;
    use crate::subscription::Dispatch;

    #[test]
    fn a_type_counts_from_its_own_topic_and_source() {
        let verdict =
            |topic, own, source, welcomes| refusal(topic, own, source, welcomes).map(|(reason, _)| reason);
        assert_eq!(verdict("orders", "orders", EventSource::Owner, false), None);
        assert_eq!(verdict("orders", "orders", EventSource::External, true), None);
        assert_eq!(verdict("orders", "orders", EventSource::External, false), Some(DeadReason::WrongSource));
        assert_eq!(verdict("orders", "orders", EventSource::Pretender, true), Some(DeadReason::WrongSource));
        for source in [EventSource::Owner, EventSource::External, EventSource::Pretender] {
            assert_eq!(verdict("orders", "payments", source, true), Some(DeadReason::WrongTopic));
        }
    }

    #[test]
    fn only_the_owner_of_a_topic_numbers_its_events() {
        let of = |source: &str, seq| {
            EventSource::of(&Metadata { source: source.to_owned(), seq, ..Metadata::default() }, "orders")
        };
        assert_eq!(of("/orders", Some(1)), EventSource::Owner);
        assert_eq!(of("/orders", None), EventSource::Pretender);
        assert_eq!(of("/elsewhere", Some(1)), EventSource::Pretender);
        assert_eq!(of("orders", Some(1)), EventSource::Pretender);
        assert_eq!(of("plain:orders", None), EventSource::External);
    }

    /// Takes every payload but `broken`.
    #[derive(Default)]
    struct Notes(HandlerFigures);
    struct NoteList;

    impl AnyHandler for Notes {
        fn names(&self) -> (&'static str, &'static str) {
            ("note.taken.v1", "note_id")
        }

        fn figures(&self) -> &HandlerFigures {
            &self.0
        }

        fn list(&self, _: &crate::retry::HandlerOptions) -> Box<dyn EventList> {
            Box::new(NoteList)
        }
    }

    impl EventList for NoteList {
        fn push(&mut self, _: &mut Arc<Metadata>, _: &str, payload: &[u8]) -> Result<(), Broken> {
            match payload {
                b"broken" => {
                    Err(Broken { reason: DeadReason::PayloadUndecodable, message: "no note".to_owned() })
                }
                b"panics" => panic!("in the decoder"),
                _ => Ok(()),
            }
        }

        fn handle<'a>(&'a self, _: std::ops::Range<usize>, _: &'a mut Tx) -> Handling<'a> {
            unreachable!("nothing is handled here")
        }
    }

    fn notes() -> Subscription {
        let mut subscription = Subscription::new("readers");
        subscription.handlers.push(Arc::new(Notes::default()));
        subscription.types.insert("note.taken.v1", Dispatch { handler: 0, topic: "notes" });
        subscription.external_only.insert("others".to_owned());
        subscription
    }

    /// A record written as `topic type source key/number payload`; `-` for a key or number that is not there.
    fn record(text: &str) -> Record {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [topic, event_type, source, key, payload] = words[..] else { panic!("five words: {text}") };
        let (key, seq) = key.split_once('/').expect("a key and a number");
        let mut headers = Headers::from([
            ("ce_specversion", "1.0"),
            ("ce_id", "e1"),
            ("ce_type", event_type),
            ("ce_source", source),
        ]);
        if key != "-" {
            headers.push("ce_subject", key.as_bytes());
        }
        if seq != "-" {
            headers.push("ce_streamseq", seq.as_bytes());
        }
        let message = Message { headers, value: payload.to_owned().into(), ..Message::default() };
        let unreadable = (payload == "unreadable").then(|| "a header".to_owned());
        let (partition, offset, timestamp_us) = (0, 0, 0);
        Record { topic: topic.into(), partition, offset, timestamp_us, message: message.into(), unreadable }
    }

    fn task(text: &str) -> String {
        let batch = decode(&notes(), vec![record(text)], |_| 1);
        match &batch.items[0].task {
            Task::Skip => "skip".to_owned(),
            Task::Ignore => "ignore".to_owned(),
            Task::Handle => "handle".to_owned(),
            Task::Bury(broken) => broken.reason.to_string(),
        }
    }

    #[test]
    fn a_record_is_handled_ignored_skipped_or_dead() {
        let table = [
            ("notes note.taken.v1 /notes a/1 {}", "handle"),
            ("notes note.torn.v1 /notes a/1 {}", "ignore"),
            ("notes note.taken.v1 /notes a/1 broken", "payload_undecodable"),
            ("notes note.taken.v1 /notes a/1 panics", "panicked_while_decoding"),
            ("notes note.taken.v1 /notes a/01 {}", "envelope_undecodable"),
            ("notes note.taken.v1 /notes -/1 {}", "envelope_undecodable"),
            ("notes note.taken.v1 /notes a/- {}", "wrong_source"),
            ("notes note.taken.v1 /elsewhere a/1 {}", "wrong_source"),
            ("notes note.taken.v1 /elsewhere a/- {}", "wrong_source"),
            ("sheets note.taken.v1 /sheets a/1 {}", "wrong_topic"),
            ("notes note.taken.v1 /notes a/1 unreadable", "record_unreadable"),
            ("others other.v1 /others a/1 {}", "skip"),
            ("others other.v1 /elsewhere a/- {}", "ignore"),
        ];
        for (text, expected) in table {
            assert_eq!(task(text), expected, "{text}");
        }
    }

    #[test]
    fn events_of_a_key_come_in_rounds_and_a_call_has_different_keys() {
        let records = ["a/1", "b/1", "a/2", "b/2", "a/3", "c/1"]
            .map(|key| record(&format!("notes note.taken.v1 /notes {key} {{}}")));
        let batch = decode(&notes(), records.to_vec(), |_| 1);
        let key = |item: &usize| batch.items[*item].metadata.as_ref().map(|event| event.key.clone());
        let calls: Vec<Vec<String>> =
            batch.lists.iter().map(|list| list.items.iter().filter_map(key).collect()).collect();
        assert_eq!(calls, [vec!["a", "b", "c"], vec!["a", "b"], vec!["a"]]);
    }
}
