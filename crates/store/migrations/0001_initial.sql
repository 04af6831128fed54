-- Objects of every kind, the log of their changes, and the locks that tasks hold on them.
-- Times are nanoseconds since 1970-01-01 UTC; ids are UUIDs as text, so that they can be read here.

CREATE TABLE objects (
    kind       TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    labels     TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    spec       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    PRIMARY KEY (kind, id),
    UNIQUE (kind, name)
) STRICT;

CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    id       TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    old      TEXT,
    new      TEXT,
    actor    TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    task     TEXT
) STRICT;

CREATE INDEX changes_by_object ON changes (kind, id, revision);
CREATE INDEX changes_by_time ON changes (at, revision);

CREATE TABLE locks (
    object TEXT NOT NULL PRIMARY KEY,
    task   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX locks_by_task ON locks (task);
