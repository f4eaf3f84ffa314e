-- Orders; n counts them, newest last. An order of which only facts are known so far is not known itself.
CREATE TABLE orders (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    known INTEGER NOT NULL,
    status TEXT NOT NULL,
    payment TEXT NOT NULL,
    stock TEXT NOT NULL,
    reason TEXT,
    customer_id TEXT,
    items TEXT NOT NULL, -- JSON
    amount INTEGER NOT NULL,
    currency TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL
);
CREATE INDEX orders_status ON orders (status, n);
CREATE INDEX orders_customer ON orders (customer_id, n) WHERE customer_id IS NOT NULL;

-- What other services stated about an order, as this service handled it.
CREATE TABLE fact (
    order_id TEXT NOT NULL,
    recorded_us INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    stream TEXT NOT NULL,
    seq INTEGER,
    event_type TEXT NOT NULL,
    time_us INTEGER,
    causation_id TEXT,
    payload TEXT NOT NULL,
    PRIMARY KEY (order_id, recorded_us, event_id)
) WITHOUT ROWID;
