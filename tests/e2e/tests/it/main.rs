//! The whole product on real QEMU: what users type, and what may go wrong.

mod crash;
mod faults;
mod images;
mod lifecycle;
mod parallel;
mod security;
mod storage;
