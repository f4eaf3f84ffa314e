-- Entries of an order's history so far, and the place of a fact among them: counted under the lock of the order's
-- row. Our own events, whose numbers are taken under it too, have the places between.
ALTER TABLE orders ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fact ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
-- What is there keeps the order that it was shown in: by time, a fact before what was stated at the same moment.
UPDATE fact SET place =
    (SELECT count(*) FROM fact f WHERE f.order_id = fact.order_id
        AND (f.recorded_us, coalesce(f.seq, 0), f.event_id) <= (fact.recorded_us, coalesce(fact.seq, 0), fact.event_id))
    + (SELECT coalesce(max(e.seq), 0) FROM event_log e
        WHERE e.stream = 'orders/' || fact.order_id AND e.recorded_us < fact.recorded_us);
UPDATE orders SET entries = (SELECT count(*) FROM fact f WHERE f.order_id = orders.id)
    + (SELECT coalesce(max(e.seq), 0) FROM event_log e WHERE e.stream = 'orders/' || orders.id);
