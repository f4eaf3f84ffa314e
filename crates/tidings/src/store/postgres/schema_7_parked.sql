-- What waits of a stream, in its order: neither one of its events nor the first of them is looked for among the others.
DROP INDEX parked_stream;
CREATE INDEX parked_stream ON parked (consumer, stream, seq NULLS FIRST, id);
