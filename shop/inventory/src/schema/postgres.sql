CREATE TABLE stock (
    product_id TEXT PRIMARY KEY,
    available BIGINT NOT NULL CHECK (available >= 0),
    reserved BIGINT NOT NULL CHECK (reserved >= 0),
    committed BIGINT NOT NULL CHECK (committed >= 0)
) WITH (fillfactor = 50);

-- What is set aside or handed out for an order.
CREATE TABLE reservation (
    order_id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    lines TEXT NOT NULL -- JSON
) WITH (fillfactor = 45);

-- Deliveries, once per reference.
CREATE TABLE receipt (
    product_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (product_id, reference)
);
