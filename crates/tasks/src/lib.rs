//! The durable task engine: steps with undo, progress, cancel, locks, recovery. Knows no VM.
