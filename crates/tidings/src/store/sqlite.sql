-- The framework's part of a service's database. Times are integer microseconds UTC.

-- Every published event, whole; append-only. A stream's last number is its highest seq here.
CREATE TABLE event_log (
    id INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    seq INTEGER NOT NULL,
    topic TEXT NOT NULL,
    recorded_us INTEGER NOT NULL,
    head BLOB NOT NULL, -- key and headers (codec.rs)
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX event_log_stream ON event_log (stream, seq);

-- Events not yet acknowledged by the broker; id is event_log's.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    blocked TEXT -- why the broker refuses it for good; its stream waits
);

-- How far a consumer has come in a stream.
CREATE TABLE inbox (
    stream TEXT NOT NULL,
    consumer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    blocked INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, consumer)
) WITHOUT ROWID;

-- Events without a number that were handled, by id.
CREATE TABLE inbox_id (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    seen_us INTEGER NOT NULL,
    PRIMARY KEY (consumer, source, event_id)
) WITHOUT ROWID;
CREATE INDEX inbox_id_seen ON inbox_id (seen_us);

-- Events that wait: for their turn again, behind one of their key, or (dead) for an operator.
CREATE TABLE parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL,
    stream TEXT,
    seq INTEGER,
    source TEXT,
    event_id TEXT,
    event_type TEXT,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    timestamp_us INTEGER NOT NULL,
    message BLOB NOT NULL, -- as it came (codec.rs)
    state TEXT NOT NULL,   -- waiting | dead
    attempts INTEGER NOT NULL,
    due_us INTEGER,        -- set only for the head of a stream whose turn will come by itself
    first_failed_us INTEGER NOT NULL,
    last_failed_us INTEGER NOT NULL,
    error_code TEXT NOT NULL,
    error_message TEXT NOT NULL
);
CREATE UNIQUE INDEX parked_position ON parked (consumer, topic, partition, "offset");
CREATE INDEX parked_due ON parked (consumer, due_us) WHERE due_us IS NOT NULL;
CREATE INDEX parked_stream ON parked (consumer, stream, id);
CREATE INDEX parked_state ON parked (consumer, state);

-- Deeds in the outside world, under their permanent key.
CREATE TABLE effect (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,   -- new | called (its outcome may be unknown) | done
    attempts INTEGER NOT NULL DEFAULT 0,
    due_us INTEGER,        -- when somebody may take it up; null when done
    error TEXT,
    correlation_id TEXT,
    causation_id TEXT,
    traceparent TEXT,
    asked_us INTEGER NOT NULL,
    done_us INTEGER
) WITHOUT ROWID;
CREATE INDEX effect_due ON effect (due_us) WHERE due_us IS NOT NULL;

-- Answers to requests that may be repeated; committed with what the request did.
CREATE TABLE idempotency_key (
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (route, key)
) WITHOUT ROWID;
