-- Since when an effect has been in the state `conflict`: its provider contradicts it, and it waits for an operator. A
-- column of its own, so that no index has to follow the state, which changes with each call.
ALTER TABLE effect ADD COLUMN conflict_us INTEGER;
CREATE INDEX effect_conflict ON effect (conflict_us) WHERE conflict_us IS NOT NULL;
