-- The id of the last event of a stream, as a mark; the bytes of an event without a number, as a digest.
ALTER TABLE inbox ADD COLUMN last_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inbox_id ADD COLUMN digest BLOB;

-- A position in a topic is an identity only within one life of the topic.
ALTER TABLE parked ADD COLUMN digest BLOB NOT NULL DEFAULT x'';
DROP INDEX parked_position;
CREATE UNIQUE INDEX parked_position ON parked (consumer, topic, partition, "offset", digest);

-- Events of a stream that nobody handles and whose turn has not come.
CREATE TABLE inbox_skipped (
    stream TEXT NOT NULL,
    consumer TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (stream, consumer, first_seq)
) WITHOUT ROWID;
