CREATE TABLE payment (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id TEXT NOT NULL UNIQUE,
    payment_id TEXT NOT NULL,
    status TEXT NOT NULL,
    decision TEXT NOT NULL,
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    method TEXT,
    provider_ref TEXT,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL
) WITH (fillfactor = 45);

-- The ledger: each row moves an amount from one account to another, so that all balances always sum to 0.
CREATE TABLE transfer (
    n BIGINT GENERATED ALWAYS AS IDENTITY, -- their order; always asked for by order_id
    order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount >= 0),
    currency TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (order_id, kind)
);
CREATE FUNCTION refuse_to_change_the_ledger() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$;
CREATE TRIGGER transfer_is_never_changed BEFORE UPDATE OR DELETE ON transfer
FOR EACH ROW EXECUTE FUNCTION refuse_to_change_the_ledger();
