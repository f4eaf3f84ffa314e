-- Entries of an order's history so far, and the place of a fact among them: counted under the lock of the order's
-- row. Our own events, whose numbers are taken under it too, have the places between.
ALTER TABLE orders ADD COLUMN entries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE fact ADD COLUMN place BIGINT NOT NULL DEFAULT 0;
-- What is there keeps the order that it was shown in: by time, a fact before what was stated at the same moment.
UPDATE fact SET place = placed.place FROM (
    SELECT f.ctid AS row,
        row_number() OVER (PARTITION BY f.order_id ORDER BY f.recorded_us, coalesce(f.seq, 0), f.event_id)
        + (SELECT coalesce(max(e.seq), 0) FROM event_log e
            WHERE e.stream = 'orders/' || f.order_id AND e.recorded_us < f.recorded_us) AS place
    FROM fact f
) placed WHERE fact.ctid = placed.row;
UPDATE orders SET entries = (SELECT count(*) FROM fact f WHERE f.order_id = orders.id)
    + (SELECT coalesce(max(e.seq), 0) FROM event_log e WHERE e.stream = 'orders/' || orders.id);
