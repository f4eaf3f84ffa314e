-- The embedded log.

CREATE TABLE topic_partition (
    id INTEGER PRIMARY KEY, -- counted from 0
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    UNIQUE (topic, partition)
);

-- What one burst added to one partition; id = topic_partition.id << 40 | offset of the first record.
CREATE TABLE record_batch (
    id INTEGER PRIMARY KEY,
    records BLOB NOT NULL -- time in microseconds (8 bytes, little-endian), count, messages (codec.rs)
);

CREATE TABLE group_offset (
    name TEXT NOT NULL,
    partition_id INTEGER NOT NULL,
    "offset" INTEGER NOT NULL, -- the next one the group will handle
    PRIMARY KEY (name, partition_id)
) WITHOUT ROWID;
