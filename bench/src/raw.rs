//! The raw client: the same rows, written and read with `rusqlite` alone, as durable.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::events::Happened;

/// A durable connection with the tables of the comparisons.
pub fn open(directory: &Path) -> Connection {
    let connection = Connection::open(directory.join("raw.db")).expect("a fresh directory can be written");
    connection.set_prepared_statement_cache_capacity(32);
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;
             CREATE TABLE event (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL);
             CREATE UNIQUE INDEX event_stream ON event (stream, seq);
             CREATE TABLE seen (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE total (id TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;",
        )
        .expect("the tables are well-formed");
    connection
}

/// Writes events with their index, `batch` per commit.
pub fn write(connection: &Connection, events: &[Happened], batch: usize) {
    for chunk in events.chunks(batch) {
        run(connection, "BEGIN IMMEDIATE");
        for event in chunk {
            let payload = serde_json::to_vec(event).expect("an event is JSON");
            connection
                .prepare_cached("INSERT INTO event (stream, seq, payload) VALUES (?1, (SELECT coalesce(max(seq), 0) + 1 FROM event WHERE stream = ?1), ?2)")
                .and_then(|mut insert| insert.execute(params![event.id, payload]))
                .expect("an event can be inserted");
        }
        run(connection, "COMMIT");
    }
}

/// Reads events back in order, `batch` at a time, decoding each; with `apply`, marks it as seen and
/// writes one small row for it, `batch` per commit.
pub fn read(connection: &Connection, count: usize, batch: usize, apply: bool) {
    let mut last = 0_i64;
    let mut read = 0;
    while read < count {
        if apply {
            run(connection, "BEGIN IMMEDIATE");
        }
        let rows: Vec<(i64, String, i64, Vec<u8>)> = connection
            .prepare_cached("SELECT id, stream, seq, payload FROM event WHERE id > ?1 ORDER BY id LIMIT ?2")
            .and_then(|mut select| {
                select
                    .query_map(params![last, batch as i64], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                    })?
                    .collect()
            })
            .expect("events can be read");
        for (id, stream, seq, payload) in &rows {
            let event: Happened = serde_json::from_slice(payload).expect("what was written is an event");
            if apply {
                mark(connection, stream, *seq, &event);
            }
            last = *id;
        }
        read += rows.len();
        if apply {
            run(connection, "COMMIT");
        }
    }
}

fn mark(connection: &Connection, stream: &str, seq: i64, event: &Happened) {
    connection
        .prepare_cached("INSERT INTO seen (stream, seq) VALUES (?1, ?2) ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq WHERE seq = excluded.seq - 1")
        .and_then(|mut insert| insert.execute(params![stream, seq]))
        .expect("a watermark can be written");
    connection
        .prepare_cached("INSERT INTO total (id, amount) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET amount = amount + excluded.amount")
        .and_then(|mut insert| insert.execute(params![event.id, event.amount as i64]))
        .expect("a total can be written");
}

fn run(connection: &Connection, sql: &str) {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute([]))
        .expect("a transaction can begin and end");
}
