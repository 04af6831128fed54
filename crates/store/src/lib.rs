//! Inventory objects, change log and tasks; all SQL. SQLite behind a trait with a conformance suite.
