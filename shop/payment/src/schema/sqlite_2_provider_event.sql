-- What the provider told of its own accord. Its word moves nothing here: it has the payment looked at.
CREATE TABLE provider_event (
    n INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    hold TEXT NOT NULL,
    happened_us INTEGER NOT NULL,
    order_id TEXT, -- from here on known once the provider was asked
    standing TEXT,
    status TEXT,
    looked_us INTEGER
);
CREATE INDEX provider_event_of_order ON provider_event (order_id, n);
