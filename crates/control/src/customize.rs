//! Customizations on their way from a client to a guest.
//!
//! 1. [`sealed`]: what the client sent is checked, and its secrets are sealed;
//! 2. [`Customizing::resolve`]: it is laid over a customization spec, the host name is decided and
//!    NICs get their addresses. What it gives nobody else is given, until the VM is in the inventory
//!    or the request has come to nothing. Whatever makes VMs (also clones) calls this;
//! 3. [`open`]: secrets are opened in what is sent to the VM's host, and nowhere else.

mod addresses;
mod overlay;
mod resolve;
mod secrets;

pub(crate) use overlay::overlay;
pub(crate) use resolve::{Customizing, GuestWish, Reservations};
pub(crate) use secrets::{open, seal, sealed};
