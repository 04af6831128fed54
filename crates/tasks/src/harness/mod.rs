//! Tests that every task runs.
