-- Decisions about where VMs go, each with all that it depended on: a bounded store beside the
-- objects, which the change log does not know. Identifiers sort by time.

CREATE TABLE decisions (
    id      TEXT    NOT NULL PRIMARY KEY,
    summary TEXT    NOT NULL,
    record  TEXT    NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT;

CREATE TABLE decision_vms (
    vm       TEXT NOT NULL,
    decision TEXT NOT NULL,
    PRIMARY KEY (vm, decision)
) STRICT, WITHOUT ROWID;

CREATE INDEX decision_vms_by_decision ON decision_vms (decision);

-- How many there are and how large they are together, so that nobody has to count.
CREATE TABLE decision_totals (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;

INSERT INTO decision_totals (one, count, bytes) VALUES (1, 0, 0);
