-- Where each commit ends in the log, so that whoever follows it sees a commit whole or not at all.
-- What is there already was committed long ago: every entry counts as an end.

ALTER TABLE changes ADD COLUMN ends INTEGER NOT NULL DEFAULT 1;
