//! An operator's view of parked events: found, brought back, discarded, edited. The row is the truth; what is done to it
//! is done in one transaction with its audit row, and may be asked for again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::audit::{self, Operator};
use super::condition::Condition;
use super::{Row, Store, Tx, inbox, parked};
use crate::error::Error;
use crate::failure::WaitReason;
use crate::message::{Message, codec};
use crate::params;

/// Dead letters in one transaction.
const CHUNK: usize = 256;
/// Redrives after which a dead letter is quarantined: it is brought back only if it is named.
pub(crate) const REDRIVES_MAX: u32 = 5;

/// A state of a parked event, as a filter names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ParkedState {
    #[default]
    Dead,
    Waiting,
    Discarded,
}

/// The parked events that an operator means: those for which everything that is said holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) ids: Option<Vec<i64>>,
    pub(crate) state: ParkedState,
    pub(crate) group: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) event_type: Option<String>,
    pub(crate) topic: Option<String>,
    /// The streams that a key can stand for.
    pub(crate) streams: Option<Vec<String>>,
    pub(crate) fingerprint: Option<String>,
    pub(crate) event_id: Option<String>,
    /// By the time of the last failure.
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) is_redriven: Option<bool>,
}

impl Filter {
    fn condition(&self) -> Condition<'_> {
        let state: &str = self.state.into();
        let mut condition = Condition::new("p.state = $1", vec![state.into()]);
        let texts = [
            ("p.consumer", &self.group),
            ("p.error_code", &self.code),
            ("p.event_type", &self.event_type),
            ("p.topic", &self.topic),
            ("p.fingerprint", &self.fingerprint),
            ("p.event_id", &self.event_id),
        ];
        for (column, text) in texts {
            if let Some(text) = text {
                condition.and(column, "=", text);
            }
        }
        if let Some(ids) = &self.ids {
            condition.one_of("p.id", ids.iter().copied());
        }
        if let Some(streams) = &self.streams {
            condition.one_of("p.stream", streams);
        }
        if let Some(since) = self.since {
            condition.and("p.last_failed_us", ">=", since);
        }
        if let Some(until) = self.until {
            condition.and("p.last_failed_us", "<", until);
        }
        if let Some(is_redriven) = self.is_redriven {
            condition.and("p.redrives", if is_redriven { ">" } else { "=" }, 0);
        }
        condition
    }
}

/// A parked event, as an operator sees it.
pub(crate) struct ParkedRow {
    pub(crate) id: i64,
    pub(crate) group: String,
    pub(crate) stream: Option<String>,
    pub(crate) seq: Option<u64>,
    pub(crate) event_id: Option<String>,
    pub(crate) event_type: Option<String>,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: Timestamp,
    pub(crate) state: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) fingerprint: String,
    pub(crate) attempts: u32,
    pub(crate) redrives: u32,
    pub(crate) first_failed: Timestamp,
    pub(crate) last_failed: Timestamp,
    pub(crate) due: Option<Timestamp>,
    /// The number of events that wait in its stream beside it.
    pub(crate) behind: u64,
    /// The last number that its consumer has handled in its stream.
    last: u64,
}

/// The columns of a row; `IS TRUE` as in the look-up of the next event of a stream (`parked/mod.rs`).
const COLUMNS: &str =
    "p.id, p.consumer, p.stream, p.seq, p.event_id, p.event_type, p.topic, p.partition, p.\"offset\",
     p.timestamp_us, p.state, p.error_code, p.error_message, p.fingerprint, p.attempts, p.redrives,
     p.first_failed_us, p.last_failed_us, p.due_us,
     (SELECT count(*) FROM parked w WHERE w.consumer = p.consumer AND w.stream = p.stream
        AND (w.state = 'waiting') IS TRUE AND w.id <> p.id),
     (SELECT i.seq FROM inbox i WHERE i.stream = p.stream AND i.consumer = p.consumer)";

impl ParkedRow {
    fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get(0)?,
            group: row.get(1)?,
            stream: row.get(2)?,
            seq: row.get(3)?,
            event_id: row.get(4)?,
            event_type: row.get(5)?,
            topic: row.get(6)?,
            partition: row.get(7)?,
            offset: row.get(8)?,
            timestamp: row.get(9)?,
            state: row.get(10)?,
            code: row.get(11)?,
            message: row.get(12)?,
            fingerprint: row.get(13)?,
            attempts: row.get(14)?,
            redrives: row.get(15)?,
            first_failed: row.get(16)?,
            last_failed: row.get(17)?,
            due: row.get(18)?,
            behind: row.get(19)?,
            last: row.get::<Option<u64>>(20)?.unwrap_or(0),
        })
    }

    /// The key of its event.
    pub(crate) fn key(&self) -> Option<&str> {
        let stream = self.stream.as_deref()?;
        Some(stream.split_once('/').map_or(stream, |(_, key)| key))
    }

    /// True if later events of its key wait for it.
    pub(crate) fn blocks(&self) -> bool {
        self.stream.is_some()
            && match self.state.as_str() {
                "waiting" => true,
                "dead" => self.seq.is_some_and(|seq| seq > self.last),
                _ => false,
            }
    }
}

/// Lists parked events with ids above `after`, oldest first.
pub(crate) async fn list(
    store: &Store,
    filter: &Filter,
    after: i64,
    limit: u32,
) -> Result<Vec<ParkedRow>, Error> {
    let mut condition = filter.condition();
    condition.and("p.id", ">", after);
    let limit = condition.value(limit);
    let sql = format!("SELECT {COLUMNS} FROM parked p WHERE {} ORDER BY p.id LIMIT {limit}", condition.sql);
    store.query(&sql, &condition.values).await?.iter().map(ParkedRow::read).collect()
}

/// A parked event, whole: its message, and the one that came if an operator edited it.
pub(crate) async fn show(
    store: &Store,
    id: i64,
) -> Result<Option<(ParkedRow, Message, Option<Message>)>, Error> {
    let sql = format!("SELECT {COLUMNS}, p.message, p.original FROM parked p WHERE p.id = $1");
    let rows = store.query(&sql, params![id]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let message: Vec<u8> = row.get(21)?;
    let original: Option<Vec<u8>> = row.get(22)?;
    let original = original.map(|original| codec::take(&mut &original[..])).transpose()?;
    Ok(Some((ParkedRow::read(row)?, codec::take(&mut &message[..])?, original)))
}

/// Parked events that failed alike.
pub(crate) struct FailureGroup {
    pub(crate) fingerprint: String,
    pub(crate) code: String,
    pub(crate) event_type: Option<String>,
    pub(crate) count: u64,
    pub(crate) first_failed: Timestamp,
    pub(crate) last_failed: Timestamp,
    /// The id and the message of one of them.
    pub(crate) example: (i64, String),
}

/// Groups parked events by the kind of their failure, largest group first.
pub(crate) async fn summary(store: &Store, filter: &Filter) -> Result<Vec<FailureGroup>, Error> {
    let condition = filter.condition();
    let sql = format!(
        "SELECT g.*, e.error_message FROM (
             SELECT p.fingerprint, p.error_code, p.event_type, count(*) AS failed, min(p.first_failed_us),
                    max(p.last_failed_us), max(p.id) AS example
             FROM parked p WHERE {} GROUP BY p.fingerprint, p.error_code, p.event_type) g
         JOIN parked e ON e.id = g.example ORDER BY failed DESC, g.fingerprint",
        condition.sql
    );
    let rows = store.query(&sql, &condition.values).await?;
    rows.iter()
        .map(|row| {
            Ok(FailureGroup {
                fingerprint: row.get(0)?,
                code: row.get(1)?,
                event_type: row.get(2)?,
                count: row.get(3)?,
                first_failed: row.get(4)?,
                last_failed: row.get(5)?,
                example: (row.get(6)?, row.get(7)?),
            })
        })
        .collect()
}

/// Returns the number of dead letters that a redrive leaves out, since they were brought back too often.
pub(crate) async fn quarantined(store: &Store, filter: &Filter) -> Result<u64, Error> {
    let mut condition = filter.condition();
    condition.and("p.redrives", ">=", REDRIVES_MAX);
    let sql = format!("SELECT count(*) FROM parked p WHERE {}", condition.sql);
    store.query(&sql, &condition.values).await?[0].get(0)
}

/// A dead letter that is to be brought back or discarded.
struct Selected {
    id: i64,
    group: String,
    stream: Option<String>,
    seq: Option<u64>,
    event_id: Option<String>,
}

async fn select(
    store: &Store,
    filter: &Filter,
    limit: u32,
    but_quarantined: bool,
) -> Result<Vec<Selected>, Error> {
    let mut condition = filter.condition();
    if but_quarantined {
        condition.and("p.redrives", "<", REDRIVES_MAX);
    }
    let limit = condition.value(limit);
    let sql = format!(
        "SELECT p.id, p.consumer, p.stream, p.seq, p.event_id FROM parked p WHERE {} ORDER BY p.id LIMIT {limit}",
        condition.sql
    );
    let rows = store.query(&sql, &condition.values).await?;
    rows.iter()
        .map(|row| {
            Ok(Selected {
                id: row.get(0)?,
                group: row.get(1)?,
                stream: row.get(2)?,
                seq: row.get(3)?,
                event_id: row.get(4)?,
            })
        })
        .collect()
}

/// Has dead letters wait for their turn again, oldest first; returns how many. Those that were brought back too often
/// are left out, unless they are named by their ids.
pub(crate) async fn redrive(store: &Store, filter: &Filter, limit: u32, by: &Operator) -> Result<u64, Error> {
    let selected = select(store, filter, limit, filter.ids.is_none()).await?;
    let mut redriven = 0;
    for chunk in selected.chunks(CHUNK) {
        let mut tx = store.begin().await?;
        for (group, letters) in by_group(chunk) {
            redriven += redrive_chunk(&mut tx, group, &letters, by).await?;
        }
        let handle = store.clone();
        tx.after_commit(move || handle.parked_has_changed());
        tx.commit().await?;
    }
    Ok(redriven)
}

fn by_group(chunk: &[Selected]) -> BTreeMap<&str, Vec<&Selected>> {
    let mut groups: BTreeMap<&str, Vec<&Selected>> = BTreeMap::new();
    for letter in chunk {
        groups.entry(&letter.group).or_default().push(letter);
    }
    groups
}

async fn redrive_chunk(tx: &mut Tx, group: &str, letters: &[&Selected], by: &Operator) -> Result<u64, Error> {
    let streams = streams(letters);
    inbox::lock(tx, group, &streams).await?;
    let (now, code) = (tx.now(), <&str>::from(WaitReason::Redriven));
    // Without a stream nothing says when its turn is: it is now.
    let rows = letters.iter().map(|letter| {
        let due = letter.stream.is_none().then_some(now);
        [due.map_or(0, Timestamp::as_microsecond).into(), code.into(), letter.id.into()]
    });
    let changed = tx
        .execute_many(
            "UPDATE parked SET state = 'waiting', due_us = nullif($1, CAST(0 AS BIGINT)), attempts = 0, redrives = redrives + 1,
                               error_code = $2 WHERE id = $3 AND state = 'dead'",
            rows,
        )
        .await?;
    inbox::block(tx, group, &streams).await?;
    parked::release(tx, group, &streams).await?;
    let ids: Vec<i64> = letters
        .iter()
        .zip(&changed)
        .filter(|(_, changed)| **changed == 1)
        .map(|(letter, _)| letter.id)
        .collect();
    if !ids.is_empty() {
        let detail = json!({"ids": ids, "group": group});
        audit::record(tx, by, "dead_letter.redrive", &format!("{} dead letters", ids.len()), &detail).await?;
    }
    Ok(ids.len() as u64)
}

/// The streams of dead letters, each once, in the order in which they are locked.
fn streams<'a>(letters: &[&'a Selected]) -> Vec<&'a str> {
    let mut streams: Vec<&str> = letters.iter().filter_map(|letter| letter.stream.as_deref()).collect();
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// Gives dead letters up for good: the rows stay for a while, and what waited behind them goes on. Returns how many.
pub(crate) async fn discard(store: &Store, filter: &Filter, limit: u32, by: &Operator) -> Result<u64, Error> {
    let selected = select(store, filter, limit, false).await?;
    let mut discarded = 0;
    for chunk in selected.chunks(CHUNK) {
        let mut tx = store.begin().await?;
        for (group, letters) in by_group(chunk) {
            inbox::lock(&mut tx, group, &streams(&letters)).await?;
            for letter in &letters {
                discarded += u64::from(discard_one(&mut tx, letter, by).await?);
            }
            parked::release(&mut tx, group, &streams(&letters)).await?;
        }
        let handle = store.clone();
        tx.after_commit(move || handle.parked_has_changed());
        tx.commit().await?;
    }
    Ok(discarded)
}

async fn discard_one(tx: &mut Tx, letter: &Selected, by: &Operator) -> Result<bool, Error> {
    let changed = tx
        .execute(
            "UPDATE parked SET state = 'discarded', due_us = NULL WHERE id = $1 AND state = 'dead'",
            params![letter.id],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    if let (Some(stream), Some(seq)) = (&letter.stream, letter.seq) {
        pass(tx, &letter.group, stream, seq, letter.event_id.as_deref()).await?;
    }
    let detail = json!({"stream": letter.stream, "seq": letter.seq, "event_id": letter.event_id});
    audit::record(tx, by, "dead_letter.discard", &letter.id.to_string(), &detail).await?;
    Ok(true)
}

/// Has the inbox pass a number without its event: now, or when its turn comes.
pub(crate) async fn pass(
    tx: &mut Tx,
    group: &str,
    stream: &str,
    seq: u64,
    event_id: Option<&str>,
) -> Result<(), Error> {
    let position = inbox::lock(tx, group, &[stream]).await?[0];
    if seq == position.last + 1 {
        inbox::move_to(tx, group, &[(stream, seq, event_id)]).await?;
    } else if seq > position.last {
        inbox::skip(tx, group, stream, seq).await?;
    }
    Ok(())
}

/// Replaces the payload of a dead letter, and keeps the one that came; says whether it is one.
pub(crate) async fn edit(store: &Store, id: i64, payload: &[u8], by: &Operator) -> Result<bool, Error> {
    let mut tx = store.begin().await?;
    let rows = tx
        .query("SELECT message FROM parked WHERE id = $1 AND state = 'dead' FOR UPDATE", params![id])
        .await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let before: Vec<u8> = row.get(0)?;
    let mut message = codec::take(&mut &before[..])?;
    let former = String::from_utf8_lossy(&message.value).into_owned();
    message.value = payload.to_vec().into();
    message.is_tombstone = false;
    let mut edited = Vec::new();
    codec::put(&mut edited, &message);
    tx.execute(
        "UPDATE parked SET message = $1, original = coalesce(original, $2) WHERE id = $3",
        params![&edited[..], &before[..], id],
    )
    .await?;
    let detail = json!({"before": former, "after": String::from_utf8_lossy(payload)});
    audit::record(&mut tx, by, "dead_letter.edit", &id.to_string(), &detail).await?;
    tx.commit().await?;
    Ok(true)
}
