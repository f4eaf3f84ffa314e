-- The name of this store: a group on a broker belongs to one.
CREATE TABLE store (id TEXT NOT NULL);
INSERT INTO store VALUES (replace(gen_random_uuid()::text, '-', ''));

-- The time of the latest record that was handled of a topic.
ALTER TABLE topic ADD COLUMN handled_us BIGINT;

-- The rest of the trace that an effect goes on with.
ALTER TABLE effect ADD COLUMN tracestate TEXT;
