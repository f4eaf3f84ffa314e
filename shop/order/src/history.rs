//! The history of an order: what we stated and what we learned about it, in one order.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tidings::{Error, Row, Store, StoredEvent, params};

/// An event in an order's history.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HistoryEntry {
    /// Its place in this history, from 1, which it keeps: what `Last-Event-ID` counts.
    pub n: u64,
    /// `order.created.v1`.
    pub event_type: String,
    /// The event's id.
    pub event_id: String,
    /// `orders/0192…`.
    pub stream: String,
    /// Its number in its stream.
    pub seq: Option<u64>,
    /// When it happened, by its source's clock.
    pub time: Option<Timestamp>,
    /// When this service stated or handled it, by the clock of then: for people, not for sorting.
    pub recorded_at: Timestamp,
    /// The event that led to it.
    pub causation_id: Option<String>,
    /// What happened.
    pub payload: Value,
    /// Who handled it, and what followed from that.
    pub handled_by: Vec<HandledBy>,
}

/// A consumer that handled an event.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HandledBy {
    /// The consumer group.
    pub consumer: String,
    /// What it stated in turn, if it stated anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub led_to: Option<String>,
}

/// Every event of an order, in the order in which this service stated or handled them.
///
/// Places are taken under the lock of the order's row and become visible in this order. Facts know theirs; our own
/// events, which are numbered under the same lock, fill those between. So what was shown once stays where it is.
pub async fn history(store: &Store, id: &str) -> Result<Vec<HistoryEntry>, Error> {
    let stream = format!("orders/{id}");
    // First our own, then the facts: of what happens in between only facts are seen, and these are cut off.
    let own = stated(store, &stream).await?;
    let facts = learned(store, id).await?;
    let mut entries = placed(own, facts);
    attribute(&mut entries);
    Ok(entries)
}

/// Returns the events that we published about an order, in the order of their numbers.
async fn stated(store: &Store, stream: &str) -> Result<Vec<HistoryEntry>, Error> {
    let published = store.published(stream).await?;
    let entry = |published: StoredEvent| {
        let header = |name| published.message.header(name).map(str::to_owned);
        HistoryEntry {
            n: 0,
            event_type: header("ce_type").unwrap_or_default(),
            event_id: header("ce_id").unwrap_or_default(),
            stream: stream.to_owned(),
            seq: Some(published.seq),
            time: header("ce_time").and_then(|t| t.parse().ok()),
            recorded_at: Timestamp::from_microsecond(published.recorded_us).unwrap_or_default(),
            causation_id: header("ce_causationid"),
            payload: serde_json::from_slice(&published.message.value).unwrap_or_default(),
            handled_by: Vec::new(),
        }
    };
    Ok(published.into_iter().map(entry).collect())
}

/// Returns the facts that we learned about an order, in the order of their places.
async fn learned(store: &Store, id: &str) -> Result<Vec<HistoryEntry>, Error> {
    let facts = store
        .query(
            "SELECT place, event_type, event_id, stream, seq, time_us, recorded_us, causation_id, payload
             FROM fact WHERE order_id = $1 ORDER BY place, recorded_us, event_id",
            params![id],
        )
        .await?;
    let entry = |row: &Row| {
        Ok(HistoryEntry {
            n: row.get(0)?,
            event_type: row.get(1)?,
            event_id: row.get(2)?,
            stream: row.get(3)?,
            seq: row.get(4)?,
            time: row.get(5)?,
            recorded_at: row.get(6)?,
            causation_id: row.get(7)?,
            payload: serde_json::from_str(&row.get::<String>(8)?).unwrap_or_default(),
            handled_by: Vec::new(),
        })
    };
    facts.iter().map(entry).collect()
}

/// Both in one order: our own events, by their numbers, take the places that facts leave free.
fn placed(own: Vec<HistoryEntry>, facts: Vec<HistoryEntry>) -> Vec<HistoryEntry> {
    let mut entries = Vec::with_capacity(own.len() + facts.len());
    // A fact without a place was handled by an instance of an older release, beside ours: it comes last.
    let (unnumbered, facts): (Vec<_>, Vec<_>) = facts.into_iter().partition(|fact| fact.n == 0);
    let mut facts = facts.into_iter().peekable();
    let (mut position, mut seen) = (0, 0);
    for event in own {
        // Early events may be forgotten by now; their places stay theirs.
        let seq = event.seq.unwrap_or_default();
        let mut left = seq - seen;
        seen = seq;
        while left > 0 {
            position += 1;
            match facts.next_if(|fact| fact.n <= position) {
                Some(fact) => entries.push(HistoryEntry { n: position, ..fact }),
                None => left -= 1,
            }
        }
        entries.push(HistoryEntry { n: position, ..event });
    }
    // What follows on a decision that was not seen yet is cut off.
    while let Some(fact) = facts.next_if(|fact| fact.n <= position + 1) {
        position += 1;
        entries.push(HistoryEntry { n: position, ..fact });
    }
    entries.extend(unnumbered.into_iter().zip(position + 1..).map(|(fact, n)| HistoryEntry { n, ..fact }));
    entries
}

/// Finds out who handled each event: its consequences show it; facts were handled here.
fn attribute(entries: &mut [HistoryEntry]) {
    let led_to: Vec<(Option<String>, String, String)> =
        entries.iter().map(|e| (e.causation_id.clone(), e.stream.clone(), e.event_type.clone())).collect();
    for entry in entries {
        let consequences = led_to.iter().filter(|(cause, ..)| cause.as_deref() == Some(&entry.event_id));
        entry.handled_by = consequences
            .map(|(_, stream, event_type)| HandledBy {
                consumer: stream.split('/').next().unwrap_or_default().to_owned(),
                led_to: Some(event_type.clone()),
            })
            .collect();
        let is_fact = !entry.stream.starts_with("orders/") || entry.seq.is_none();
        if is_fact && !entry.handled_by.iter().any(|h| h.consumer == "orders") {
            entry.handled_by.push(HandledBy { consumer: "orders".to_owned(), led_to: None });
        }
    }
}
