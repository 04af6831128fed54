//! Every way in which a guest agent can misbehave, malicious ones first.

use std::time::{Duration, Instant};

use hostler_qmp::guest::{
    ExecRequest, FsfreezeStatus, GetHostName, GetOsinfo, GuestAgent, GuestError, GuestOptions,
    NetworkGetInterfaces, Ping, SetUserPassword, ShutdownMode,
};
use tokio::{net::UnixStream, task::JoinHandle};

use crate::fake_peer::Peer;

/// An agent that goes on as the test says.
fn agent<F>(script: impl FnOnce(Peer) -> F) -> (GuestAgent, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = GuestOptions { command_timeout: Duration::from_millis(300), max_line: 64 << 10 };
    (GuestAgent::new(ours, options), tokio::spawn(script(Peer::new(theirs))))
}

impl Peer {
    async fn sync_id(&mut self) -> i64 {
        let command = self.hear().await;
        assert_eq!(command["execute"], "guest-sync-delimited");
        command["arguments"]["id"].as_i64().unwrap()
    }

    async fn sync(&mut self) {
        let id = self.sync_id().await;
        self.write(b"\xff").await;
        self.say(&format!(r#"{{"return": {id}}}"#)).await;
    }

    async fn serve(&mut self, name: &str, answer: &str) {
        self.sync().await;
        assert_eq!(self.hear().await["execute"], name);
        self.say(answer).await;
    }
}

#[tokio::test]
async fn a_command_is_sent_only_after_the_agent_answered() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        // Two commands time out here: only their synchronisation was sent.
        let first = peer.sync_id().await;
        let second = peer.sync_id().await;
        assert_ne!(first, second);
        // An agent that starts now answers all three, of which only the last counts.
        let third = peer.sync_id().await;
        for id in [first, second, third] {
            peer.write(b"\xff").await;
            peer.say(&format!(r#"{{"return": {id}}}"#)).await;
        }
        assert_eq!(peer.hear().await["execute"], "guest-ping");
        peer.say(r#"{"return": {}}"#).await;
    });
    let started = Instant::now();
    for _ in 0..2 {
        let error = guest.execute_within(Ping, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, GuestError::Unresponsive { .. }), "{error:?}");
    }
    assert!(started.elapsed() < Duration::from_millis(250));
    guest.execute(Ping).await.unwrap();
    peer.await.unwrap();
}

#[tokio::test]
async fn whether_an_agent_answers_is_asked_in_one_exchange() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        peer.sync().await;
        peer.sync().await;
        assert_eq!(peer.hear().await["execute"], "guest-get-host-name");
        peer.say(r#"{"return": {"host-name": "here"}}"#).await;
    });
    guest.answers(Duration::from_secs(10)).await.unwrap();
    assert_eq!(&*guest.execute(GetHostName).await.unwrap().host_name, "here");
    peer.await.unwrap();
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        peer.sync().await;
        assert_eq!(peer.hear().await["execute"], "guest-get-host-name");
        let id = peer.sync_id().await;
        peer.say(r#"{"return": {"host-name": "late"}}"#).await;
        peer.write(b"\xff").await;
        peer.say(&format!(r#"{{"return": {id}}}"#)).await;
        peer.hear().await;
        peer.say(r#"{"return": {"host-name": "right"}}"#).await;
    });
    let error = guest.execute_within(GetHostName, Duration::from_millis(50)).await.unwrap_err();
    assert!(
        matches!(error, GuestError::Timeout { command: "guest-get-host-name", .. }),
        "{error:?}"
    );
    assert_eq!(&*guest.execute(GetHostName).await.unwrap().host_name, "right");
    peer.await.unwrap();
}

#[tokio::test]
async fn one_byte_now_and_then_does_not_extend_the_deadline() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        peer.sync().await;
        for byte in br#"{"return": {"host-name": "drip"}}"#.repeat(3) {
            peer.write(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let started = Instant::now();
    let error = guest.execute(GetHostName).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_millis(400));
    peer.abort();
}

#[tokio::test]
async fn a_line_without_end_is_neither_collected_nor_fatal() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        peer.sync().await;
        peer.hear().await;
        let mut chunks = 0;
        // The client stops reading, so a write blocks once the socket's buffers are full.
        while let Ok(()) =
            tokio::time::timeout(Duration::from_millis(100), peer.write(&[b'x'; 4096])).await
        {
            chunks += 1;
            assert!(chunks < 1024, "the client goes on reading");
        }
        let id = peer.sync_id();
        let id = tokio::time::timeout(Duration::from_secs(1), id).await.unwrap();
        peer.write(b"tail\n\xff").await;
        peer.say(&format!(r#"{{"return": {id}}}"#)).await;
        peer.hear().await;
        peer.say(r#"{"return": {}}"#).await;
    });
    let error = guest.execute(Ping).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLong { limit: 65536, .. }), "{error:?}");
    tokio::time::sleep(Duration::from_millis(250)).await;
    guest.execute_within(Ping, Duration::from_secs(2)).await.unwrap();
    peer.await.unwrap();
}

#[tokio::test]
async fn babble_is_read_only_so_long() {
    let (guest, peer) = agent(async |peer: Peer| {
        while peer.stream.writable().await.is_ok() {
            if let Err(error) = peer.stream.try_write(&b"{\"return\": 1}\n".repeat(100))
                && error.kind() != std::io::ErrorKind::WouldBlock
            {
                return;
            }
        }
    });
    let error = guest.execute_within(Ping, Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(error, GuestError::Babbling { lines: 1024 }), "{error:?}");
    drop(guest);
    peer.await.unwrap();
}

#[tokio::test]
async fn malformed_answers_are_errors_and_the_next_command_works() {
    let nested = format!(r#"{{"return": {}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let answers = vec![
        "garbage".to_owned(),
        "\u{1b}[2J".to_owned(),
        r#"{"return": 5}"#.to_owned(),
        r#"{"return": {}}"#.to_owned(),
        r#"{"event": "X"}"#.to_owned(),
        r#"{"return": {"host-name": 7}}"#.to_owned(),
        nested,
    ];
    let count = answers.len();
    let (guest, peer) = agent(async move |mut peer: Peer| {
        for answer in answers {
            peer.serve("guest-get-host-name", &answer).await;
        }
        let error = r#"{"error": {"class": "GenericError", "desc": "\u001b[31mno\u0007"}}"#;
        peer.serve("guest-get-host-name", error).await;
        let host = r#"{"return": {"host-name": "\u001b]0;x\u0007<b>we\u202eb</b>"}}"#;
        peer.serve("guest-get-host-name", host).await;
    });
    for _ in 0..count {
        let error = guest.execute(GetHostName).await.unwrap_err();
        assert!(matches!(error, GuestError::Answer { .. }), "{error:?}");
    }
    let error = guest.execute(GetHostName).await.unwrap_err();
    assert_eq!(error.to_string(), "the guest agent refused guest-get-host-name: no");
    let name = guest.execute(GetHostName).await.unwrap().host_name;
    assert_eq!(&*name, "<b>web</b>");
    assert_eq!(name.as_host_name(), None);
    peer.await.unwrap();
}

#[tokio::test]
async fn nesting_of_100000_is_no_crash() {
    for open in ["[", "{\"a\":"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let guest = GuestAgent::new(ours, GuestOptions::default());
        let peer = tokio::spawn(async move {
            let mut peer = Peer::new(theirs);
            for _ in 0..2 {
                peer.serve("guest-get-osinfo", &format!(r#"{{"return": {}"#, open.repeat(100_000)))
                    .await;
            }
        });
        for _ in 0..2 {
            let error = guest.execute(GetOsinfo).await.unwrap_err();
            assert!(matches!(error, GuestError::Answer { .. }), "{error:?}");
        }
        peer.await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_channel_is_told() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        peer.sync().await;
        peer.hear().await;
        peer.write(b"{\"ret").await;
    });
    assert!(matches!(guest.execute(Ping).await, Err(GuestError::Closed)));
    peer.await.unwrap();
    assert!(guest.execute(Ping).await.unwrap_err().is_closed());
    // Nobody obeyed.
    assert!(guest.execute(FsfreezeStatus).await.is_err());
}

#[tokio::test]
async fn programs_run_until_their_deadline() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        peer.sync().await;
        let command = peer.hear().await;
        assert_eq!(command["arguments"]["path"], "/bin/x");
        assert_eq!(command["arguments"]["arg"][0], "-v");
        assert_eq!(command["arguments"]["input-data"], "aGk=");
        peer.say(r#"{"return": {"pid": 7}}"#).await;
        peer.serve("guest-exec-status", r#"{"return": {"exited": false}}"#).await;
        let done = r#"{"return": {"exited": true, "exitcode": 3, "out-data": "AQID"}}"#;
        peer.serve("guest-exec-status", done).await;

        peer.serve("guest-exec", r#"{"return": {"pid": 8}}"#).await;
        for _ in 0..3 {
            peer.serve("guest-exec-status", r#"{"return": {"exited": false}}"#).await;
        }
        peer.serve("guest-exec", r#"{"return": {"pid": 9}}"#).await;
        let large =
            format!(r#"{{"return": {{"exited": true, "out-data": "{}"}}}}"#, "A".repeat(9000));
        peer.serve("guest-exec-status", &large).await;
    });
    let request = ExecRequest::new("/bin/x").arg("-v").input(b"hi".to_vec());
    let output = guest.exec(request).await.unwrap();
    assert_eq!((output.exit_code, &*output.stdout), (Some(3), &[1, 2, 3][..]));

    let error =
        guest.exec(ExecRequest::new("x").within(Duration::from_millis(60))).await.unwrap_err();
    assert!(matches!(error, GuestError::StillRunning { pid: 8, .. }), "{error:?}");

    let error = guest.exec(ExecRequest::new("x").max_output(1000)).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLong { .. }), "{error:?}");
    peer.await.unwrap();
}

#[tokio::test]
async fn a_shutdown_that_is_not_refused_is_obeyed() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        let no = r#"{"error": {"class": "CommandNotFound", "desc": "disabled"}}"#;
        peer.serve("guest-shutdown", no).await;
        peer.sync().await;
        assert_eq!(peer.hear().await["arguments"]["mode"], "powerdown");
    });
    let error = guest.shutdown(ShutdownMode::Powerdown).await.unwrap_err();
    assert!(error.is_command_not_found());
    guest.shutdown(ShutdownMode::Powerdown).await.unwrap();
    peer.await.unwrap();

    let (silent, peer) = agent(async |peer: Peer| peer.until_closed().await);
    let error = silent.shutdown(ShutdownMode::Powerdown).await.unwrap_err();
    assert!(matches!(error, GuestError::Unresponsive { .. }), "{error:?}");
    drop(silent);
    peer.await.unwrap();
}

#[tokio::test]
async fn a_thousand_interfaces_are_cut_to_what_can_be_shown() {
    let (guest, peer) = agent(async |mut peer: Peer| {
        let interface = r#"{"name": "x"},"#.repeat(1000);
        let answer = format!(r#"{{"return": [{interface}{{"name": "last"}}]}}"#);
        peer.serve("guest-network-get-interfaces", &answer).await;
    });
    assert_eq!(guest.execute(NetworkGetInterfaces).await.unwrap().len(), 64);
    peer.await.unwrap();
}

#[test]
fn a_password_is_not_shown() {
    let shown = format!("{:?}", SetUserPassword::plain("root", "secret"));
    assert!(shown.contains("root") && !shown.contains("secret") && !shown.contains("c2VjcmV0"));
}
