//! User data of one's own beside ours.
//!
//! It is passed on byte for byte: alone, or as the second part of a MIME message whose first part is
//! ours. (Reading and writing it again would change it: cloud-init reads YAML 1.1, where `no` is
//! false and `0644` octal.)

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::RenderError;

/// The media type by which cloud-init treats a part, from its first line, as cloud-init does.
pub(crate) fn content_type(text: &str) -> Result<&'static str, RenderError> {
    const STARTS: [(&str, &str); 8] = [
        ("#cloud-config-archive", "text/cloud-config-archive"),
        ("#cloud-config", "text/cloud-config"),
        ("#cloud-boothook", "text/cloud-boothook"),
        ("#include", "text/x-include-url"),
        ("## template: jinja", "text/jinja2"),
        ("#!", "text/x-shellscript"),
        // Cloudbase-Init's name for a PowerShell script.
        ("#ps1", "text/x-shellscript"),
        ("Content-Type:", "message/rfc822"),
    ];
    let start = text.trim_start();
    if start.starts_with("MIME-Version:") {
        return Ok("message/rfc822");
    }
    let found = STARTS.iter().find(|(prefix, _)| start.starts_with(prefix));
    found.map(|(_, kind)| *kind).ok_or(RenderError::UnknownUserData)
}

/// A MIME message of two parts. They are in base64, so that no text can end its part early.
pub(crate) fn message(our_type: &str, ours: &str, own: &str) -> Result<String, RenderError> {
    const BOUNDARY: &str = "==hostler==";
    let own_type = content_type(own)?;
    if own_type == "message/rfc822" {
        return Err(RenderError::OwnMessage);
    }
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for (kind, content) in [(our_type, ours), (own_type, own)] {
        text.push_str(&format!(
            "--{BOUNDARY}\nContent-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: base64\n"
        ));
        // Lists of both are joined; without this, the later `users` would replace ours.
        text.push_str("Merge-Type: list(append)+dict(no_replace,recurse_list)+str()\n\n");
        for line in STANDARD.encode(content).as_bytes().chunks(76) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
    }
    text.push_str(&format!("--{BOUNDARY}--\n"));
    Ok(text)
}
