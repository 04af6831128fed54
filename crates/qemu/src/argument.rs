//! A growing command line.
//!
//! Whatever can be written as JSON is: then no value can end early and become an option. The few
//! options that take no JSON hold only our own words, and text with its commas doubled.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::plan::PlanError;

/// QEMU's arguments.
#[derive(Debug, Default)]
pub(crate) struct Arguments(Vec<OsString>);

impl Arguments {
    /// An option without a value.
    pub(crate) fn flag(&mut self, option: &str) {
        self.0.push(option.into());
    }

    /// An option with a value in QEMU's own syntax.
    pub(crate) fn plain(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    /// A back-end object.
    pub(crate) fn object(&mut self, object: &Value) {
        self.plain("-object", object.to_string());
    }

    /// A device of the guest.
    pub(crate) fn device(&mut self, device: &Value) {
        self.plain("-device", device.to_string());
    }

    /// A node of the block layer.
    pub(crate) fn blockdev(&mut self, node: &Value) {
        self.plain("-blockdev", node.to_string());
    }

    /// A network back end.
    pub(crate) fn netdev(&mut self, netdev: &Value) {
        self.plain("-netdev", netdev.to_string());
    }

    pub(crate) fn into_vec(self) -> Vec<OsString> {
        self.0
    }
}

/// A value for QEMU's `key=value,…` syntax, where a comma is written twice.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// A path as JSON text.
pub(crate) fn path_text(path: &Path) -> Result<&str, PlanError> {
    path.to_str().ok_or_else(|| PlanError::Path(PathBuf::from(path)))
}
