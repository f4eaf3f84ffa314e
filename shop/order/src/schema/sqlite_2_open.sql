-- Whether an order's status is not final; lists of open orders are asked for by it.
ALTER TABLE orders ADD COLUMN open INTEGER NOT NULL DEFAULT 1;
UPDATE orders SET open = 0 WHERE status IN ('completed', 'cancelled');
DROP INDEX orders_status;
CREATE INDEX orders_open ON orders (n) WHERE open = 1;
