//! The embedded log: one SQLite file with Kafka's words and rules, for one process.
//!
//! A row holds a *record batch*, as in Kafka: what one burst added to one partition. The newest
//! records of each partition also stay in memory, where consumers that keep up find them; who falls
//! behind reads the table until it has caught up.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::watch;

use super::{Outgoing, Position, Record, Start, Stretch, Topic, has_room, partition_of};
use crate::error::Error;
use crate::message::codec;
use crate::message::{MESSAGE_BYTES_MAX, Message};
use crate::panic::lock;
use crate::sqlite::{Database, migrate};

const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// Newest records of one partition kept in memory, in bytes of key, headers and value.
const TAIL_BYTES_MAX: usize = 1024 * 1024;
/// How long records can be read. A group that stayed away for longer has missed some.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Batches forgotten in one transaction.
const FORGOTTEN_MAX: usize = 500;
/// How often a consumer's progress is written down.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// A partition's record batches lie together in the table: its number above, the offset below.
const OFFSET_BITS: u32 = 40;
/// A message may carry `dlq_*` headers on top of what was published.
const RECORD_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX;

pub(super) struct Log {
    database: Arc<Database>,
    state: Mutex<State>,
    /// Counts appends and group changes: what consumers wait for.
    changes: watch::Sender<u64>,
    members: AtomicU64,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<Arc<str>, Vec<usize>>,
    partitions: Vec<Partition>,
    groups: HashMap<String, Group>,
    round_robin: usize,
}

/// One partition; its place in `State::partitions` is its number in the table.
struct Partition {
    topic: Arc<str>,
    number: i32,
    /// The next offset to give out; ahead of `end` while a burst is being committed. What a failed
    /// burst was given is never given again: like Kafka's, offsets may have holes.
    next: i64,
    /// The next offset a consumer will find.
    end: i64,
    tail: VecDeque<Record>,
    tail_bytes: usize,
}

#[derive(Default)]
struct Group {
    generation: u64,
    members: Vec<(u64, Vec<String>)>,
    committed: HashMap<usize, i64>,
}

/// A record on its way into the table, and then into the tail.
struct Appended {
    partition: usize,
    record: Record,
}

impl Log {
    pub(super) fn open(directory: &Path) -> Result<Arc<Self>, Error> {
        let database = Database::open(directory, "log")?;
        let state = database.set_up(|connection| {
            migrate(connection, "log", MIGRATIONS)?;
            load(connection)
        })?;
        Ok(Arc::new(Self {
            database,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            members: AtomicU64::new(0),
        }))
    }

    /// The migrations that opening it would run.
    pub(super) fn steps(directory: &Path) -> Result<Vec<String>, Error> {
        crate::sqlite::steps(directory, "log", &[("log", MIGRATIONS.len())])
    }

    pub(super) async fn apply_topics(&self, topics: &[Topic]) -> Result<(), Error> {
        for topic in topics {
            let found = lock(&self.state).topics.get(&*topic.name).map(Vec::len);
            match found {
                Some(count) if count == topic.partitions as usize => {}
                Some(count) => {
                    return Err(Error::config(format!(
                        "topic {} has {count} partitions, not {}: changing that would move keys; keep --partitions {count}",
                        topic.name, topic.partitions
                    )));
                }
                None => self.create(topic).await?,
            }
        }
        Ok(())
    }

    async fn create(&self, topic: &Topic) -> Result<(), Error> {
        let unit = self.database.begin().await?;
        let first = lock(&self.state).partitions.len();
        for number in 0..topic.partitions {
            unit.connection()
                .execute(
                    "INSERT INTO topic_partition (id, topic, partition) VALUES (?1, ?2, ?3)",
                    params![first as i64 + i64::from(number), topic.name, number],
                )
                .map_err(|e| Error::store(format!("cannot create topic {}", topic.name), e))?;
        }
        unit.commit(Box::new(|| ())).await?;
        let mut state = lock(&self.state);
        let name: Arc<str> = (*topic.name).into();
        for number in 0..topic.partitions {
            state.add(name.clone(), number.cast_signed(), 0);
        }
        Ok(())
    }

    pub(super) async fn topics(&self) -> Result<Vec<Topic>, Error> {
        let state = lock(&self.state);
        let topic = |(name, partitions): (&Arc<str>, &Vec<usize>)| Topic {
            name: name.to_string().into(),
            partitions: u32::try_from(partitions.len()).expect("a topic has few partitions"),
        };
        Ok(state.topics.iter().map(topic).collect())
    }

    pub(super) async fn send(self: &Arc<Self>, burst: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(burst.len());
        let mut accepted = Vec::with_capacity(burst.len());
        for outgoing in burst {
            let checked = self.check(&outgoing);
            if checked.is_ok() {
                accepted.push(outgoing);
            }
            results.push(checked);
        }
        if !accepted.is_empty()
            && let Err(e) = self.append(accepted).await
        {
            for result in results.iter_mut().filter(|r| r.is_ok()) {
                *result = Err(e.clone());
            }
        }
        results
    }

    fn check(&self, outgoing: &Outgoing) -> Result<(), Error> {
        if !lock(&self.state).topics.contains_key(&*outgoing.topic) {
            return Err(Error::refused(format!("there is no topic {}", outgoing.topic)));
        }
        if outgoing.message.size() > RECORD_BYTES_MAX {
            return Err(Error::unacceptable(format!(
                "a message of {} bytes is larger than {RECORD_BYTES_MAX}",
                outgoing.message.size()
            )));
        }
        Ok(())
    }

    async fn append(self: &Arc<Self>, burst: Vec<Outgoing>) -> Result<(), Error> {
        let unit = self.database.begin().await?;
        // Offsets are given out under the write lock, so offset order is commit order.
        let appended = lock(&self.state).assign(burst, Timestamp::now().as_microsecond());
        let written = write(unit.connection(), &appended);
        written.map_err(|e| Error::store("cannot append to the log", e))?;
        let log = self.clone();
        unit.commit(Box::new(move || log.publish(appended))).await
    }

    /// Makes committed records visible: runs in commit order, before anybody else may write.
    fn publish(&self, appended: Vec<Appended>) {
        let mut state = lock(&self.state);
        for Appended { partition, record } in appended {
            state.partitions[partition].push(record);
        }
        drop(state);
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) async fn positions(&self, group: &str, topics: &[String]) -> Result<Vec<Position>, Error> {
        let state = lock(&self.state);
        let committed = state.groups.get(group).map(|g| &g.committed);
        let partitions = state.partitions_of(topics)?;
        Ok(partitions
            .into_iter()
            .map(|id| {
                let partition = &state.partitions[id];
                Position {
                    topic: partition.topic.clone(),
                    partition: partition.number,
                    offset: committed.and_then(|c| c.get(&id)).copied().unwrap_or(0),
                    end: partition.end,
                }
            })
            .collect())
    }

    pub(super) async fn read(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let id = lock(&self.state)
            .topics
            .get(topic)
            .and_then(|ids| ids.get(usize::try_from(partition).ok()?))
            .copied()
            .ok_or_else(|| Error::config(format!("there is no partition {topic}/{partition}")))?;
        self.fetch(id, offset, limit).await
    }

    pub(super) async fn offsets(&self, topic: &str, start: Start) -> Result<Vec<i64>, Error> {
        let partitions: Vec<(usize, i64)> = {
            let state = lock(&self.state);
            let ids = state.partitions_of(&[topic.to_owned()])?;
            ids.into_iter().map(|id| (id, state.partitions[id].end)).collect()
        };
        let mut offsets = Vec::with_capacity(partitions.len());
        for (id, end) in partitions {
            offsets.push(match start {
                Start::Offset(offset) => offset,
                Start::End => end,
                Start::Time(time_us) => self.not_before(id, end, time_us).await?,
            });
        }
        Ok(offsets)
    }

    /// The first offset of a partition whose record is not older: times grow with offsets.
    async fn not_before(&self, id: usize, end: i64, time_us: i64) -> Result<i64, Error> {
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.fetch(id, middle, 1).await?.first() {
                Some(record) if record.timestamp_us < time_us => low = record.offset + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    pub(super) async fn stretches(&self, topic: &str, offsets: &[i64]) -> Result<Vec<Stretch>, Error> {
        /// Records read before their bytes are counted.
        const STEP: usize = 50;
        let ids = lock(&self.state).partitions_of(&[topic.to_owned()])?;
        let mut stretches = Vec::with_capacity(ids.len());
        for (id, offset) in ids.iter().zip(offsets) {
            let (mut stretch, mut next, mut bytes) = (Stretch::default(), *offset, 0);
            while !stretch.is_end && has_room(stretch.records.len(), bytes, ids.len()) {
                let found = self.fetch(*id, next, STEP).await?;
                stretch.is_end = found.len() < STEP;
                next = found.last().map_or(next, |last| last.offset + 1);
                bytes += found.iter().map(|record| record.message.size()).sum::<usize>();
                stretch.records.extend(found);
            }
            stretches.push(stretch);
        }
        Ok(stretches)
    }

    /// Records of a partition from `offset`: from memory if they are there, else from the table.
    async fn fetch(&self, id: usize, offset: i64, limit: usize) -> Result<Vec<Record>, Error> {
        let (topic, number) = {
            let state = lock(&self.state);
            let partition = &state.partitions[id];
            if let Some(records) = partition.recent(offset, limit) {
                return Ok(records);
            }
            (partition.topic.clone(), partition.number)
        };
        let batches = self
            .database
            .read(|connection| {
                read_batches(connection, id, offset, limit).map_err(|e| {
                    Error::store(format!("cannot read {topic}/{number} from offset {offset}"), e)
                })
            })
            .await?;
        let mut records = Vec::new();
        for (base, bytes) in batches {
            for (offset, (timestamp_us, message)) in (base..).zip(decode(&bytes)?) {
                records.push(Record {
                    topic: topic.clone(),
                    partition: number,
                    offset,
                    timestamp_us,
                    message: message.into(),
                    unreadable: None,
                });
            }
        }
        records.retain(|record| record.offset >= offset);
        records.truncate(limit);
        Ok(records)
    }

    /// Forgets record batches that are older than [`RETENTION`]; returns how many.
    pub(super) async fn forget(self: &Arc<Self>, now: Timestamp) -> Result<u64, Error> {
        let before_us = (now - RETENTION).as_microsecond();
        let partitions = lock(&self.state).partitions.len();
        let mut forgotten = 0;
        for id in 0..partitions {
            loop {
                let old = self.old_batches(id, before_us).await?;
                let (Some(first), Some(last)) = (old.first(), old.last()) else {
                    break;
                };
                let unit = self.database.begin().await?;
                unit.connection()
                    .execute("DELETE FROM record_batch WHERE id BETWEEN ?1 AND ?2", [first, last])
                    .map_err(|e| Error::store("cannot shorten the log", e))?;
                unit.commit(Box::new(|| ())).await?;
                forgotten += old.len() as u64;
            }
        }
        Ok(forgotten)
    }

    /// Some of the oldest batches of a partition that are too old, without its last one, which holds the
    /// end offset.
    async fn old_batches(&self, partition: usize, before_us: i64) -> Result<Vec<i64>, Error> {
        let mut found: Vec<(i64, Vec<u8>)> = self
            .database
            .read(|connection| {
                let sql = format!(
                    "SELECT id, substr(records, 1, 8) FROM record_batch WHERE id BETWEEN {} AND {} ORDER BY id LIMIT {}",
                    batch_id(partition, 0),
                    batch_id(partition + 1, 0) - 1,
                    FORGOTTEN_MAX + 1
                );
                rows(connection, &sql, |row| Ok((row.get(0)?, row.get(1)?)))
                    .map_err(|e| Error::store("cannot read the log", e))
            })
            .await?;
        found.pop();
        let is_old = |(_, time): &(i64, Vec<u8>)| {
            time.first_chunk().is_some_and(|time| i64::from_le_bytes(*time) < before_us)
        };
        Ok(found.into_iter().take_while(is_old).map(|(id, _)| id).collect())
    }

    pub(super) async fn close(&self) -> Result<(), Error> {
        self.database.flush().await?;
        self.database.checkpoint().await
    }
}

impl State {
    fn add(&mut self, topic: Arc<str>, number: i32, end: i64) {
        let id = self.partitions.len();
        self.topics.entry(topic.clone()).or_default().push(id);
        self.partitions.push(Partition {
            topic,
            number,
            next: end,
            end,
            tail: VecDeque::new(),
            tail_bytes: 0,
        });
    }

    /// Chooses a partition and an offset for each message; sorted by partition, offsets consecutive.
    fn assign(&mut self, burst: Vec<Outgoing>, timestamp_us: i64) -> Vec<Appended> {
        let mut appended: Vec<Appended> = burst
            .into_iter()
            .map(|outgoing| {
                let ids = &self.topics[&*outgoing.topic];
                let count = u32::try_from(ids.len()).expect("a topic has few partitions");
                let number = match &outgoing.message.key {
                    Some(key) => partition_of(key, count),
                    None => {
                        self.round_robin += 1;
                        (self.round_robin % ids.len()) as i32
                    }
                };
                let id = ids[number.unsigned_abs() as usize];
                let partition = &mut self.partitions[id];
                let offset = partition.next;
                partition.next += 1;
                Appended {
                    partition: id,
                    record: Record {
                        topic: partition.topic.clone(),
                        partition: number,
                        offset,
                        timestamp_us,
                        message: outgoing.message,
                        unreadable: None,
                    },
                }
            })
            .collect();
        appended.sort_by_key(|a| (a.partition, a.record.offset));
        appended
    }

    fn partitions_of(&self, topics: &[String]) -> Result<Vec<usize>, Error> {
        let mut ids = Vec::new();
        for topic in topics {
            let found = self.topics.get(topic.as_str());
            ids.extend(found.ok_or_else(|| {
                Error::config(format!("there is no topic {topic}; make it with: topics apply"))
            })?);
        }
        Ok(ids)
    }
}

impl Partition {
    fn push(&mut self, record: Record) {
        if record.offset != self.end {
            // After a hole, positions in memory would no longer follow from offsets.
            self.tail.clear();
            self.tail_bytes = 0;
        }
        self.end = record.offset + 1;
        self.tail_bytes += record.message.size();
        self.tail.push_back(record);
        while self.tail_bytes > TAIL_BYTES_MAX
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.message.size();
        }
    }

    /// Records from `offset` on, if memory holds them or there are none yet.
    fn recent(&self, offset: i64, limit: usize) -> Option<Vec<Record>> {
        if offset >= self.end {
            return Some(Vec::new());
        }
        let first = self.tail.front()?.offset;
        let skip = usize::try_from(offset - first).ok()?;
        Some(self.tail.range(skip..).take(limit).cloned().collect())
    }
}

/// A member of a group.
pub(super) struct Consumer {
    log: Arc<Log>,
    group: String,
    member: u64,
    generation: u64,
    /// The next offset to read, for each partition that is ours.
    reading: Vec<(usize, i64)>,
    /// The next offset that is not handled yet.
    handled: HashMap<usize, i64>,
    written: Instant,
    dirty: bool,
    changes: watch::Receiver<u64>,
    turn: usize,
}

impl Consumer {
    pub(super) fn join(log: &Arc<Log>, group: &str, topics: &[String]) -> Result<Self, Error> {
        let member = log.members.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = lock(&log.state);
            state.partitions_of(topics)?;
            let joined = state.groups.entry(group.to_owned()).or_default();
            joined.generation += 1;
            joined.members.push((member, topics.to_vec()));
        }
        log.changes.send_modify(|changes| *changes += 1);
        Ok(Self {
            log: log.clone(),
            group: group.to_owned(),
            member,
            generation: 0,
            reading: Vec::new(),
            handled: HashMap::new(),
            written: Instant::now(),
            dirty: false,
            changes: log.changes.subscribe(),
            turn: 0,
        })
    }

    pub(super) async fn poll(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        loop {
            self.changes.mark_unchanged();
            self.follow_group();
            let records = self.fetch(limit).await?;
            if !records.is_empty() {
                return Ok(records);
            }
            if self.changes.changed().await.is_err() {
                return Err(Error::unavailable("the log is closed"));
            }
        }
    }

    async fn fetch(&mut self, limit: usize) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        // Positions move only at the end, after the last await: a dropped poll has taken nothing.
        let mut reading = self.reading.clone();
        let count = reading.len();
        self.turn = self.turn.wrapping_add(1);
        for i in 0..count {
            let (partition, offset) = &mut reading[(self.turn + i) % count];
            let room = limit - records.len();
            let found = self.log.fetch(*partition, *offset, room).await?;
            if let Some(last) = found.last() {
                *offset = last.offset + 1;
                records.extend(found);
            }
            if records.len() == limit {
                break;
            }
        }
        self.reading = reading;
        Ok(records)
    }

    pub(super) fn commit(&mut self, records: &[Record]) {
        {
            let mut state = lock(&self.log.state);
            for record in records {
                let id = state.topics[&record.topic][record.partition.unsigned_abs() as usize];
                // A partition that somebody else has by now is his to commit.
                if let Some(handled) = self.handled.get_mut(&id) {
                    *handled = (*handled).max(record.offset + 1);
                }
            }
            let group = state.groups.entry(self.group.clone()).or_default();
            if group.generation == self.generation {
                for (&id, &offset) in &self.handled {
                    group.committed.insert(id, offset);
                }
            }
        }
        self.dirty = true;
        if self.written.elapsed() >= COMMIT_EVERY {
            self.write_down();
        }
    }

    /// Which partitions are ours changes when members come and go.
    fn follow_group(&mut self) {
        let state = lock(&self.log.state);
        let Some(group) = state.groups.get(&self.group) else {
            return;
        };
        if group.generation == self.generation {
            return;
        }
        let generation = group.generation;
        let mut mine = Vec::new();
        let mut topics: Vec<&String> = group.members.iter().flat_map(|(_, t)| t).collect();
        topics.sort_unstable();
        topics.dedup();
        for topic in topics {
            let readers = group.members.iter().filter(|(_, t)| t.contains(topic));
            let readers: Vec<u64> = readers.map(|(member, _)| *member).collect();
            for (i, id) in state.topics[topic.as_str()].iter().enumerate() {
                if readers[i % readers.len()] == self.member {
                    mine.push(*id);
                }
            }
        }
        let committed = &state.groups[&self.group].committed;
        let start = |id: usize| committed.get(&id).copied().unwrap_or(0);
        self.handled = mine.iter().map(|&id| (id, start(id))).collect();
        self.reading = mine.iter().map(|&id| (id, start(id))).collect();
        self.generation = generation;
        drop(state);
        self.write_down();
    }

    /// Queues the handled offsets for the log's next commit.
    fn write_down(&mut self) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        self.written = Instant::now();
        let group = self.group.clone();
        let handled: Vec<(usize, i64)> = self.handled.iter().map(|(&id, &o)| (id, o)).collect();
        self.log.database.ride(move |connection| {
            let mut write = connection.prepare_cached(
                "INSERT INTO group_offset (name, partition_id, \"offset\") VALUES (?1, ?2, ?3)
                 ON CONFLICT (name, partition_id) DO UPDATE SET \"offset\" = max(\"offset\", excluded.\"offset\")",
            )?;
            for (id, offset) in &handled {
                write.execute(params![group, *id as i64, offset])?;
            }
            Ok(())
        });
    }
}

impl Drop for Consumer {
    /// Leaves the group: what was handled is kept, the others take over.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.write_down();
        }
        if let Some(group) = lock(&self.log.state).groups.get_mut(&self.group) {
            group.members.retain(|(member, _)| *member != self.member);
            group.generation += 1;
        }
        self.log.changes.send_modify(|changes| *changes += 1);
    }
}

fn write(connection: &Connection, appended: &[Appended]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO record_batch (id, records) VALUES (?1, ?2)")?;
    let mut bytes = Vec::new();
    for batch in appended.chunk_by(|a, b| a.partition == b.partition) {
        let base = batch[0].record.offset;
        bytes.clear();
        bytes.extend(batch[0].record.timestamp_us.to_le_bytes());
        codec::put_length(&mut bytes, batch.len());
        for appended in batch {
            codec::put(&mut bytes, &appended.record.message);
        }
        insert.execute(params![batch_id(batch[0].partition, base), &bytes[..]])?;
    }
    Ok(())
}

/// The records of a batch, each with its time in microseconds (the same for all).
fn decode(batch: &[u8]) -> Result<Vec<(i64, Message)>, Error> {
    let broken = || Error::unavailable("a stored record batch cannot be decoded");
    let (time, mut rest) = batch.split_first_chunk().ok_or_else(broken)?;
    let timestamp_us = i64::from_le_bytes(*time);
    let count = codec::take_length(&mut rest)?;
    (0..count).map(|_| Ok((timestamp_us, codec::take(&mut rest)?))).collect()
}

/// The batches that hold `offset` and what follows, up to about `limit` records.
fn read_batches(
    connection: &Connection,
    partition: usize,
    offset: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    let first = batch_id(partition, 0);
    let mut select = connection.prepare_cached(
        "SELECT id, records FROM record_batch
         WHERE id >= coalesce((SELECT max(id) FROM record_batch WHERE id BETWEEN ?1 AND ?2), ?2) AND id < ?3
         ORDER BY id",
    )?;
    let mut rows = select.query(params![first, batch_id(partition, offset), batch_id(partition + 1, 0)])?;
    let mut batches: Vec<(i64, Vec<u8>)> = Vec::new();
    while let Some(row) = rows.next()? {
        let base = row.get::<_, i64>(0)? - first;
        let enough = batches.iter().any(|(base, _)| *base >= offset);
        if enough && base >= offset + limit as i64 {
            break;
        }
        batches.push((base, row.get(1)?));
    }
    Ok(batches)
}

fn load(connection: &Connection) -> Result<State, Error> {
    let failed = |e| Error::store("cannot read the log", e);
    let mut state = State::default();
    let partitions: Vec<(i64, String, i32)> =
        rows(connection, "SELECT id, topic, partition FROM topic_partition ORDER BY id", |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .map_err(failed)?;
    for (id, topic, number) in partitions {
        let end = end_of(connection, usize::try_from(id).expect("ids count from 0"))?;
        state.add(topic.into(), number, end);
    }
    let offsets: Vec<(String, i64, i64)> =
        rows(connection, "SELECT name, partition_id, \"offset\" FROM group_offset", |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .map_err(failed)?;
    for (group, id, offset) in offsets {
        let id = usize::try_from(id).expect("ids count from 0");
        state.groups.entry(group).or_default().committed.insert(id, offset);
    }
    Ok(state)
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([], |row| read(row))?.collect()
}

/// The offset after the last record of a partition.
fn end_of(connection: &Connection, partition: usize) -> Result<i64, Error> {
    let first = batch_id(partition, 0);
    let last: Option<(i64, Vec<u8>)> = connection
        .query_row(
            "SELECT id, records FROM record_batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
            params![first, batch_id(partition + 1, 0) - 1],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(|e| Error::store("cannot read the log", e))?;
    match last {
        Some((id, records)) => Ok(id - first + decode(&records)?.len() as i64),
        None => Ok(0),
    }
}

fn batch_id(partition: usize, offset: i64) -> i64 {
    ((partition as i64) << OFFSET_BITS) + offset
}
