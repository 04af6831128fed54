//! Chores of the repository: `cargo xtask check|bench|openapi|dist`.
fn main() {}
