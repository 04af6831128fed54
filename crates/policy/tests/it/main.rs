//! What decisions must hold to, against a checker that shares nothing with them but the snapshot.

mod checker;
mod placement;
mod rules;
mod tape;
