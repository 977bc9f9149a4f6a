-- Runs of the proxy's processes: role is supervisor, control or worker; slot is the chain in the ledger, NULL for the supervisor.
CREATE TABLE process_runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    role TEXT NOT NULL,
    slot INTEGER,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    started_at_ns INTEGER NOT NULL,
    ended_at_ns INTEGER,
    ending TEXT CHECK (ending IN ('stopped', 'crashed', 'lost')),
    detail TEXT NOT NULL DEFAULT '',
    CHECK ((ended_at_ns IS NULL) = (ending IS NULL))
);
CREATE INDEX process_runs_open ON process_runs (id) WHERE ended_at_ns IS NULL;
