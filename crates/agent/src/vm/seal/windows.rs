//! Sealing a Windows guest: sysprep, through its agent.
//!
//! sysprep keeps the answer file that it is given, and Windows Setup would take that one before the
//! one on the seed of a VM made from the template. So it is taken away again before the guest shuts
//! down.

use std::time::Duration;

use hostler_qmp::guest::{ExecRequest, GuestAgent, OsInfo, sanitize};
use hostler_types::{ByteSize, Removed, Seal};

use super::guest_fault;
use super::report::Report;
use crate::fault::Fault;

/// How long sysprep may take.
const SYSPREP: Duration = Duration::from_secs(30 * 60);
/// How long the guest may take to shut down afterwards.
pub(super) const SHUTDOWN: Duration = Duration::from_secs(10 * 60);
const WHAT: &str = "identity (sysprep)";

const ANSWER_FILE: &str = r"C:\Windows\Panther\hostler-seal.xml";
const WRITE: &str = r"[IO.File]::WriteAllText($args[0], [Console]::In.ReadToEnd())";

/// The guest keeps its drivers: the next machine is of the same kind.
const UNATTEND: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<unattend xmlns="urn:schemas-microsoft-com:unattend">
<settings pass="generalize">
<component name="Microsoft-Windows-PnpSysprep" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
<PersistAllDeviceInstalls>true</PersistAllDeviceInstalls>
</component>
</settings>
</unattend>
"#;

/// `shutdown` waits, so that the agent can still tell how sysprep ended.
const GENERALIZE: &str = concat!(
    r"C:\Windows\System32\Sysprep\sysprep.exe /generalize /oobe /quit /quiet ",
    r"/unattend:C:\Windows\Panther\hostler-seal.xml ",
    r"&& del /q C:\Windows\Panther\hostler-seal.xml C:\Windows\Panther\unattend.xml ",
    r"&& shutdown /s /t 5"
);

pub(super) async fn seal(agent: &GuestAgent, os: &OsInfo) -> Result<Report, Fault> {
    let write = ExecRequest::new("powershell.exe")
        .args([
            "-NoProfile",
            "-NonInteractive",
            "-Command",
            &format!("& {{ {WRITE} }} {ANSWER_FILE}"),
        ])
        .input(UNATTEND.as_bytes().to_vec());
    run(agent, write, "its answer file cannot be written").await?;
    let generalize = ExecRequest::new("cmd.exe").args(["/c", GENERALIZE]).within(SYSPREP);
    run(agent, generalize, "sysprep failed; C:\\Windows\\System32\\Sysprep\\Panther says why")
        .await?;
    let name = os.pretty_name.as_deref().unwrap_or("Windows");
    let removed = Removed {
        what: WHAT.to_owned(),
        path: r"C:\Windows".to_owned(),
        files: 0,
        size: ByteSize(0),
    };
    Ok(Report { os: sanitize(name, 300), removed: vec![removed], changed: Vec::new() })
}

/// Whether the guest shuts down by itself once it is sealed so.
pub(super) fn ends_by_itself(seal: &Seal) -> bool {
    seal.removed.iter().any(|removed| removed.what == WHAT)
}

async fn run(agent: &GuestAgent, request: ExecRequest, failed: &str) -> Result<(), Fault> {
    let output = agent.exec(request).await.map_err(|error| guest_fault(&error))?;
    if output.exit_code == Some(0) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = sanitize(said.lines().next_back().unwrap_or_default(), 200);
    Err(Fault::WrongState(format!("the guest is not sealed: {failed} ({said})")))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hostler_qmp::guest::GuestOptions;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    /// A guest agent that runs what it is told and ends with these codes; what it was told.
    async fn fake(stream: UnixStream, mut codes: Vec<i64>) -> Vec<Value> {
        let (read, mut write) = stream.into_split();
        let (mut lines, mut told) = (BufReader::new(read), Vec::new());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
            let start = line.iter().rposition(|byte| *byte == 0xff).map_or(0, |at| at + 1);
            let command: Value = serde_json::from_slice(&line[start..]).unwrap();
            line.clear();
            let answer = match command["execute"].as_str().unwrap() {
                "guest-sync-delimited" => command["arguments"]["id"].clone(),
                "guest-exec" => {
                    told.push(command["arguments"].clone());
                    json!({"pid": 7})
                }
                "guest-exec-status" => {
                    let said = STANDARD.encode("it is in a bad mood");
                    json!({"exited": true, "exitcode": codes.remove(0), "err-data": said})
                }
                other => panic!("{other}"),
            };
            let sync = command["execute"] == "guest-sync-delimited";
            let mut bytes = if sync { vec![0xff] } else { Vec::new() };
            let answer = json!({"return": answer, "id": command["id"]});
            bytes.extend(answer.to_string().bytes().chain([b'\n']));
            write.write_all(&bytes).await.unwrap();
        }
        told
    }

    async fn sealed(codes: Vec<i64>) -> (Result<Report, Fault>, Vec<Value>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fake = tokio::spawn(fake(theirs, codes));
        let agent = GuestAgent::new(ours, GuestOptions::default());
        let result = seal(&agent, &OsInfo::default()).await;
        drop(agent);
        (result, fake.await.unwrap())
    }

    #[tokio::test]
    async fn windows_is_generalised_with_an_answer_file_that_does_not_stay() {
        let (report, told) = sealed(vec![0, 0]).await;
        let report = report.unwrap();
        assert_eq!(report.os, "Windows");
        assert!(ends_by_itself(
            &report.into_seal(hostler_types::SealWay::Guest, jiff::Timestamp::UNIX_EPOCH)
        ));
        let input = STANDARD.decode(told[0]["input-data"].as_str().unwrap()).unwrap();
        assert!(String::from_utf8(input).unwrap().contains("PersistAllDeviceInstalls"));
        let command = told[1]["arg"][1].as_str().unwrap();
        let order = ["sysprep.exe /generalize /oobe", "/unattend:", "del /q", "shutdown /s"];
        let places: Vec<_> = order.iter().map(|part| command.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{command}");
    }

    #[tokio::test]
    async fn a_sysprep_that_fails_is_told() {
        let (result, _) = sealed(vec![0, 1]).await;
        let text = result.unwrap_err().to_string();
        assert!(text.contains("sysprep failed") && text.contains("bad mood"), "{text}");
        let (result, told) = sealed(vec![1]).await;
        assert!(result.unwrap_err().to_string().contains("answer file"));
        assert_eq!(told.len(), 1, "without its answer file it is not begun");
    }
}
