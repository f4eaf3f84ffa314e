-- Since when an effect has been in the state `conflict`: its provider contradicts it, and it waits for an operator. A
-- column of its own: an index that looked at the state would keep rows from being updated in place (HOT).
ALTER TABLE effect ADD COLUMN conflict_us BIGINT;
CREATE INDEX effect_conflict ON effect (conflict_us) WHERE conflict_us IS NOT NULL;
