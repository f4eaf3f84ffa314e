CREATE TABLE stock (
    product_id TEXT PRIMARY KEY,
    available INTEGER NOT NULL CHECK (available >= 0),
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    committed INTEGER NOT NULL CHECK (committed >= 0)
) WITHOUT ROWID;

-- What is set aside or handed out for an order.
CREATE TABLE reservation (
    order_id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    lines TEXT NOT NULL -- JSON
) WITHOUT ROWID;

-- Deliveries, once per reference.
CREATE TABLE receipt (
    product_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (product_id, reference)
) WITHOUT ROWID;
