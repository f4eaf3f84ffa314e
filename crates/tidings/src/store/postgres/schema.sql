-- The framework's part of a service's schema. Times are integer microseconds UTC.
--
-- A row that is updated soon after it was written shares its page with others of its batch: with half of
-- the page free, all of them can be updated in place (HOT), and no index is touched.

-- Every published event, whole; append-only. The last of a stream holds its number.
CREATE SEQUENCE event_id CACHE 1; -- so that in one stream ids grow with numbers
CREATE TABLE event_log (
    id BIGINT PRIMARY KEY,
    stream TEXT NOT NULL,
    seq BIGINT NOT NULL,
    topic TEXT NOT NULL,
    recorded_us BIGINT NOT NULL,
    head BYTEA NOT NULL, -- key and headers (codec.rs)
    payload BYTEA NOT NULL
);
-- Who takes a number that is taken waits here for whoever took it: commit order is number order.
CREATE UNIQUE INDEX event_log_stream ON event_log (stream, seq);

-- Events not yet acknowledged by the broker; id is event_log's.
CREATE TABLE outbox (
    id BIGINT PRIMARY KEY,
    lane SMALLINT NOT NULL,
    blocked TEXT -- why the broker refuses it for good; its stream waits
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

CREATE SEQUENCE lane_epoch;
-- Who relays which streams. Times are the database's.
CREATE TABLE relay_lane (
    lane SMALLINT PRIMARY KEY,
    owner BIGINT, -- an instance
    epoch BIGINT NOT NULL DEFAULT 0, -- from a sequence: no two leases share one
    expires_us BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO relay_lane (lane) SELECT generate_series(0, 63);

-- The processes of this service that are alive. Times are the database's.
CREATE SEQUENCE instance_id;
CREATE TABLE instance (
    id BIGINT PRIMARY KEY,
    expires_us BIGINT NOT NULL,
    relays BOOLEAN NOT NULL DEFAULT false -- has a share of the lanes
);

-- How far a consumer has come in a stream.
CREATE TABLE inbox (
    stream TEXT NOT NULL,
    consumer TEXT NOT NULL,
    seq BIGINT NOT NULL,
    blocked BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, consumer)
) WITH (fillfactor = 45);

-- Events without a number that were handled, by id.
CREATE TABLE inbox_id (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    seen_us BIGINT NOT NULL,
    PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX inbox_id_seen ON inbox_id (seen_us);

-- Events that wait: for their turn again, behind one of their key, or (dead) for an operator.
CREATE TABLE parked (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer TEXT NOT NULL,
    stream TEXT,
    seq BIGINT,
    source TEXT,
    event_id TEXT,
    event_type TEXT,
    topic TEXT NOT NULL,
    partition BIGINT NOT NULL,
    "offset" BIGINT NOT NULL,
    timestamp_us BIGINT NOT NULL,
    message BYTEA NOT NULL, -- as it came (codec.rs)
    state TEXT NOT NULL,    -- waiting | dead
    attempts BIGINT NOT NULL,
    due_us BIGINT,          -- set only for the head of a stream whose turn will come by itself
    first_failed_us BIGINT NOT NULL,
    last_failed_us BIGINT NOT NULL,
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
    owner BIGINT,          -- the instance that called it
    attempts BIGINT NOT NULL DEFAULT 0,
    due_us BIGINT,         -- when somebody may take it up; null when done, or called right after its commit
    error TEXT,
    correlation_id TEXT,
    causation_id TEXT,
    traceparent TEXT,
    asked_us BIGINT NOT NULL,
    done_us BIGINT
) WITH (fillfactor = 45);
CREATE INDEX effect_asked ON effect USING brin (asked_us);
CREATE INDEX effect_due ON effect (due_us) WHERE due_us IS NOT NULL;

-- Answers to requests that may be repeated; committed with what the request did.
CREATE TABLE idempotency_key (
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    status BIGINT NOT NULL,
    answer TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (route, key)
);

-- How many partitions topics had when they were first seen: more would move keys.
CREATE TABLE topic (
    name TEXT PRIMARY KEY,
    partitions BIGINT NOT NULL
);
