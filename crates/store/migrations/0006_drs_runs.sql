-- What balancing has done: a bounded store beside the objects. A run is written when it begins and
-- again when it ends. Identifiers are those of the tasks, and sort by time.

CREATE TABLE drs_runs (
    task TEXT NOT NULL PRIMARY KEY,
    run  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
