//! The screen and VNC.

use serde::Serialize;

use super::{Command, Empty};

/// Writes a picture of the screen into a file, which QEMU itself must be able to open.
#[derive(Debug, Serialize)]
pub struct Screendump {
    /// The file's path, or `/dev/fdset/N`.
    pub filename: String,
    /// The picture's format.
    pub format: ImageFormat,
    /// The display device, if not the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}
impl Command for Screendump {
    const NAME: &'static str = "screendump";
    type Return = Empty;
}

/// A picture's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Portable network graphics.
    Png,
    /// Portable pixmap.
    Ppm,
}

/// Presses keys together and lets them go.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SendKey {
    /// The keys.
    pub keys: Vec<KeyValue>,
    /// How long they are held, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<u32>,
}
impl Command for SendKey {
    const NAME: &'static str = "send-key";
    type Return = Empty;
}

/// A key, by QEMU's name for it (`ctrl`, `alt`, `delete`, `a`, …).
#[derive(Debug, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum KeyValue {
    /// By name.
    Qcode(String),
    /// By number.
    Number(u32),
}
