-- The kind of a failure; how often the event was brought back; the message as it came, if an operator edited it.
ALTER TABLE parked ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
ALTER TABLE parked ADD COLUMN redrives BIGINT NOT NULL DEFAULT 0;
ALTER TABLE parked ADD COLUMN original BYTEA;
CREATE INDEX parked_event ON parked (event_id) WHERE event_id IS NOT NULL;

-- What operators did, why, and what was there before; append-only.
CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL -- JSON
);

-- What an operator holds back until it is resumed: the service, a type, a key, a kind of effects.
CREATE TABLE pause (
    scope TEXT NOT NULL,
    name TEXT NOT NULL, -- empty for the service
    since_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (scope, name)
);
