-- The newest checkpoint of each ledger and the heads of the chains it covers.
CREATE TABLE checkpoint_marks (
    ledger TEXT PRIMARY KEY,
    number INTEGER NOT NULL CHECK (number > 0),
    epoch INTEGER NOT NULL,
    hash TEXT NOT NULL,
    at_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE checkpoint_heads (
    ledger TEXT NOT NULL REFERENCES checkpoint_marks (ledger) ON DELETE CASCADE,
    slot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (ledger, slot)
) WITHOUT ROWID;
