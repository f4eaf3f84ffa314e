-- Orders; n counts them, newest last. An order of which only facts are known so far is not known itself.
CREATE TABLE orders (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    known BIGINT NOT NULL,
    open BIGINT NOT NULL DEFAULT 1, -- until its status is final
    status TEXT NOT NULL,
    payment TEXT NOT NULL,
    stock TEXT NOT NULL,
    reason TEXT,
    customer_id TEXT,
    items TEXT NOT NULL, -- JSON
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL
) WITH (fillfactor = 45);
-- No index on the status itself: it changes twice, and an update that no index sees is in place.
CREATE INDEX orders_open ON orders (n) WHERE open = 1;
CREATE INDEX orders_customer ON orders (customer_id, n) WHERE customer_id IS NOT NULL;

-- What other services stated about an order, as this service handled it.
CREATE TABLE fact (
    order_id TEXT NOT NULL,
    recorded_us BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    stream TEXT NOT NULL,
    seq BIGINT,
    event_type TEXT NOT NULL,
    time_us BIGINT,
    causation_id TEXT,
    payload TEXT NOT NULL
);
CREATE INDEX fact_order ON fact (order_id);
