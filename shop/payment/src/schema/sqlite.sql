CREATE TABLE payment (
    n INTEGER PRIMARY KEY,
    order_id TEXT NOT NULL UNIQUE,
    payment_id TEXT NOT NULL,
    status TEXT NOT NULL,
    decision TEXT NOT NULL,
    amount INTEGER NOT NULL,
    currency TEXT NOT NULL,
    method TEXT,
    provider_ref TEXT,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL
);

-- The ledger: each row moves an amount from one account to another, so that all balances always sum to 0.
CREATE TABLE transfer (
    n INTEGER PRIMARY KEY,
    order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    currency TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    UNIQUE (order_id, kind)
);
CREATE TRIGGER transfer_is_never_changed BEFORE UPDATE ON transfer
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER transfer_is_never_deleted BEFORE DELETE ON transfer
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
