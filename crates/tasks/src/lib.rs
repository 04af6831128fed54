//! The durable task engine: named steps, each with a way back. Knows no VM.
//!
//! A [`Definition`] lists the steps of one kind of task; a [`Registry`] holds the definitions; the
//! [`Engine`] runs tasks over a world `C`, which is whatever the steps work on. Before a step runs,
//! its intent is in the store; after it, its result, together with the writes to objects that the
//! step asks for and the intent of the next one, in one transaction. When the process dies, at any
//! instruction, [`Engine::recover`] goes on from there: it repeats the step that was at work, or
//! goes on undoing.
//!
//! So a step must be idempotent, and its undo must cope with a step that has happened wholly,
//! partly or not at all. The module `harness` (feature of that name) tests just that.
//!
//! What the engine does not do: decide whether a task is allowed, or know what its objects are.

mod context;
mod definition;
mod engine;
mod error;
#[cfg(feature = "harness")]
pub mod harness;
mod ids;
mod live;
mod runner;
mod status;
mod submit;

pub use context::StepContext;
pub use definition::{Definition, Outcome, Registry, Step, StepError, StepResult};
pub use engine::{Engine, EngineConfig};
pub use error::TaskError;
pub use live::Live;
pub use submit::Submit;
