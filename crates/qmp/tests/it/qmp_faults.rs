//! Every way in which the other end of a QMP socket can break the protocol.

use std::{
    io::Read,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use hostler_qmp::{
    CloseReason, ErrorClass, EventsError, Options, Qmp, QmpError,
    command::{Cont, Getfd, QueryCpusFast, QueryStatus, RunState, Stop},
    event::Event,
};
use tokio::net::UnixStream;

use crate::fake_peer::{GREETING, Peer, connected, connecting, options};

const RUNNING: &str = r#"{"running":true,"status":"running","singlestep":false}"#;

/// What a client with one command under way gets if the peer then says this.
async fn fate_after(said: Vec<u8>) -> (QmpError, CloseReason) {
    let (qmp, mut events, peer) = connected(async move |mut peer: Peer| {
        peer.hear_command("query-status").await;
        peer.write(&said).await;
        // Half a line ends with the stream.
        let _ = peer.stream.into_std().unwrap().shutdown(std::net::Shutdown::Write);
    })
    .await;
    let second = qmp.clone();
    let (first, second) = tokio::join!(qmp.execute(QueryStatus), async {
        // Queued behind the first.
        tokio::task::yield_now().await;
        second.execute(Stop).await
    });
    assert!(second.unwrap_err().is_closed());
    let reason = qmp.closed().await;
    let Err(EventsError::Closed(told)) = events.recv().await else { panic!("no end of events") };
    assert_eq!(told.to_string(), reason.to_string());
    assert!(qmp.execute(Stop).await.unwrap_err().is_closed());
    assert!(matches!(qmp.subscribe().recv().await, Err(EventsError::Closed(_))));
    peer.await.unwrap();
    (first.unwrap_err(), reason)
}

#[tokio::test]
async fn every_waiter_learns_why_the_connection_broke() {
    let check = async |said: &[u8], expected: &str| {
        let (error, reason) = fate_after(said.to_vec()).await;
        assert!(error.is_closed(), "{error:?}");
        let reason = reason.to_string();
        assert!(reason.contains(expected), "{reason:?} does not contain {expected:?}");
    };
    check(b"", "QEMU closed the connection").await;
    check(b"{\"return\":", "in the middle of a message").await;
    check(b"garbage\x1b[2J\n", "beginning with \"garbage.[2J\"").await;
    check(b"\xff\xfe\n", "no QMP message").await;
    check(b"\n", "no QMP message").await;
    check(b"[1]\n", "no QMP message").await;
    check(b"{}\n", "no QMP message").await;
    check(b"{\"return\":{},\"id\":99}\n", "an answer that nobody asked for").await;
    check(b"{\"return\":{}}\n", "an answer that nobody asked for").await;
    check(b"{\"error\":{\"class\":\"GenericError\",\"desc\":\"\"}}\n", "an answer").await;
    check(format!("{GREETING}\n").as_bytes(), "a second greeting").await;
    check(format!("{}\n", "[".repeat(60_000)).as_bytes(), "no QMP message").await;
    check(&vec![b'x'; 100_000], "more than 65536 bytes").await;
    let event = format!("{{\"event\":\"{}\"}}\n", "X".repeat(5000));
    check(event.as_bytes(), "more than 4096 bytes").await;
}

#[tokio::test]
async fn a_line_of_a_gigabyte_is_not_collected() {
    let (qmp, _events, peer) = connected(async |peer: Peer| {
        let chunk = vec![b' '; 1 << 16];
        let started = Instant::now();
        let mut written = 0usize;
        while peer.stream.writable().await.is_ok() && written < 1 << 30 {
            match peer.stream.try_write(&chunk) {
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            assert!(started.elapsed() < Duration::from_secs(20));
        }
        // The socket's own buffers, and one line.
        assert!(written < 4 << 20, "the client took {written} bytes");
        peer.until_closed().await;
    })
    .await;
    assert!(matches!(qmp.closed().await, CloseReason::TooLong { limit: 65536 }));
    peer.await.unwrap();
}

#[tokio::test]
async fn events_between_command_and_answer_go_their_own_way() {
    let (qmp, mut events, peer) = connected(async |mut peer: Peer| {
        let id = peer.hear_command("query-status").await;
        peer.say(r#"{"event":"STOP","timestamp":{"seconds":5,"microseconds":6}}"#).await;
        peer.write(format!(r#"{{"return":{RUNNING},"#).as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        peer.write(format!("\"id\":{id}}}\r\n{{\"event\":\"RES").as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        peer.say(r#"UME"}"#).await;
        peer.until_closed().await;
    })
    .await;
    let status = qmp.execute(QueryStatus).await.unwrap();
    assert_eq!((status.running, status.status), (true, RunState::Running));
    let stop = events.recv().await.unwrap();
    assert_eq!(stop.event, Event::Stop);
    assert_eq!(stop.timestamp.seconds, 5);
    assert_eq!(events.recv().await.unwrap().event, Event::Resume);
    drop((qmp, events));
    peer.await.unwrap();
}

#[tokio::test]
async fn a_refusal_carries_class_and_sentence() {
    let (qmp, _events, _peer) = connected(async |mut peer: Peer| {
        let id = peer.hear_command("stop").await;
        peer.say(&format!(r#"{{"id":{id},"error":{{"class":"DeviceNotFound","desc":"no"}}}}"#))
            .await;
        peer.answer("cont", "{}").await;
        peer.answer("query-status", "[]").await;
        peer.answer("query-cpus-fast", &format!("[{}", "[".repeat(20_000))).await;
    })
    .await;
    let error = qmp.execute(Stop).await.unwrap_err();
    assert!(error.is_device_not_found());
    assert_eq!(error.to_string(), "QEMU refused stop: no");
    let QmpError::Refused { class, .. } = error else { panic!() };
    assert_eq!(class, ErrorClass::DeviceNotFound);
    // The connection goes on, also after an answer of another form.
    qmp.execute(Cont).await.unwrap();
    assert!(matches!(qmp.execute(QueryStatus).await, Err(QmpError::Answer { .. })));
    assert!(qmp.execute(QueryCpusFast).await.unwrap_err().is_closed());
}

#[tokio::test]
async fn a_deeply_nested_answer_is_an_error_and_not_a_crash() {
    let large = Options { max_line: 1 << 20, ..options() };
    let handshake = async |peer: &mut Peer| {
        peer.say(GREETING).await;
        peer.answer("qmp_capabilities", "{}").await;
    };
    let (result, _peer) = connecting(large, handshake, async |mut peer: Peer| {
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        peer.answer("qom-get", &nested).await;
        peer.say(r#"{"event":"STOP"}"#).await;
    })
    .await;
    let (qmp, mut events) = result.unwrap();
    let get = hostler_qmp::command::QomGet { path: "/".to_owned(), property: "type".to_owned() };
    assert!(matches!(qmp.execute(get).await, Err(QmpError::Answer { .. })));
    assert_eq!(events.recv().await.unwrap().event, Event::Stop);
}

#[tokio::test]
async fn a_late_answer_is_discarded_and_not_given_to_the_next() {
    let (qmp, _events, peer) = connected(async |mut peer: Peer| {
        let late = peer.hear_command("query-status").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        peer.say(&format!(r#"{{"return":{{"running":false,"status":"paused"}},"id":{late}}}"#))
            .await;
        // The second timed out before its turn came and is never sent.
        peer.answer("query-status", RUNNING).await;
        peer.until_closed().await;
    })
    .await;
    let short = Duration::from_millis(50);
    let started = Instant::now();
    let error = qmp.execute_within(QueryStatus, short).await.unwrap_err();
    assert!(matches!(error, QmpError::Timeout { command: "query-status", .. }), "{error:?}");
    let error = qmp.execute_within(Stop, short).await.unwrap_err();
    assert!(matches!(error, QmpError::Timeout { command: "stop", .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_millis(140));
    assert!(qmp.execute(QueryStatus).await.unwrap().running);
    drop(qmp);
    peer.await.unwrap();
}

#[tokio::test]
async fn a_full_queue_times_out_too() {
    let (qmp, _events, peer) = connected(async |mut peer: Peer| {
        peer.hear_command("query-status").await;
        peer.until_closed().await;
    })
    .await;
    let started = Instant::now();
    let calls = (0..200).map(|_| {
        let qmp = qmp.clone();
        tokio::spawn(
            async move { qmp.execute_within(QueryStatus, Duration::from_millis(100)).await },
        )
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), Err(QmpError::Timeout { .. })));
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    drop(qmp);
    peer.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_missed() {
    let (qmp, mut events, _peer) = connected(async |mut peer: Peer| {
        for _ in 0..9 {
            peer.say(r#"{"event":"RESET","data":{"guest":true,"reason":"guest-reset"}}"#).await;
        }
        peer.say(r#"{"event":"STOP"}"#).await;
        peer.answer("stop", "{}").await;
    })
    .await;
    qmp.execute(Stop).await.unwrap();
    let Err(EventsError::Lagged { missed }) = events.recv().await else { panic!("not told") };
    assert_eq!(missed, 6);
    let found =
        events.wait_for(Duration::from_secs(1), |event| (*event == Event::Stop).then_some(7));
    assert_eq!(found.await.unwrap(), 7);
    let nothing = events.wait_for(Duration::from_millis(20), |_| Some(()));
    assert!(matches!(nothing.await, Err(EventsError::Timeout { .. } | EventsError::Closed(_))));
}

#[tokio::test]
async fn the_handshake_has_limits() {
    let nothing = async |_: Peer| {};
    let quick = || Options { greeting_timeout: Duration::from_millis(50), ..options() };

    let (result, _) =
        connecting(quick(), async |_| {}, async |peer: Peer| peer.until_closed().await).await;
    assert!(matches!(result, Err(QmpError::NoGreeting { .. })));

    // A drip is no greeting either: the limit is for the whole line.
    let drip = async |peer: &mut Peer| {
        for byte in GREETING.bytes().take(8) {
            peer.write(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    let (result, _) = connecting(quick(), drip, nothing).await;
    assert!(matches!(result, Err(QmpError::NoGreeting { .. })));

    for (said, expected) in [
        (r#"{"return":{}}"#, "an answer"),
        (r#"{"event":"STOP"}"#, "an event"),
        ("SSH-2.0-OpenSSH", "no QMP message"),
        (r#"{"QMP":{}}"#, "no QMP message"),
    ] {
        let (result, _) = connecting(options(), async |peer| peer.say(said).await, nothing).await;
        let Err(QmpError::Closed(reason)) = result else { panic!("{said}: accepted") };
        assert!(reason.to_string().contains(expected), "{said}: {reason}");
    }

    let refuse = async |peer: &mut Peer| {
        peer.say(GREETING).await;
        let id = peer.hear_command("qmp_capabilities").await;
        peer.say(&format!(r#"{{"id":{id},"error":{{"class":"GenericError","desc":"no"}}}}"#)).await;
    };
    let (result, _) = connecting(options(), refuse, nothing).await;
    assert!(matches!(result, Err(QmpError::Refused { command: "qmp_capabilities", .. })));
}

#[tokio::test]
async fn descriptors_travel_with_their_command() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (qmp, _events, peer) = connected(async |mut peer: Peer| {
        let command = peer.hear_with_fds().await;
        assert_eq!(command["arguments"]["fdname"], "pipe");
        let [fd] = <[OwnedFd; 1]>::try_from(std::mem::take(&mut peer.fds)).unwrap();
        rustix::io::write(&fd, b"here").unwrap();
        drop(fd);
        peer.say(&format!(r#"{{"return":{{}},"id":{}}}"#, command["id"])).await;
        assert_eq!(peer.hear_with_fds().await["execute"], "stop");
        assert!(peer.fds.is_empty());
    })
    .await;
    let getfd = || Getfd { fdname: "pipe".to_owned() };
    qmp.execute_with_fds(getfd(), vec![writer.into()]).await.unwrap();
    // Our copy is closed, so the pipe ends with what the peer wrote.
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "here");
    let _ = qmp.execute_within(Stop, Duration::from_millis(100)).await;
    peer.await.unwrap();

    let fds = (0..9).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
    let error = qmp.execute_with_fds(getfd(), fds).await.unwrap_err();
    assert!(matches!(error, QmpError::TooManyFds { count: 9, .. }));
}

#[tokio::test]
async fn a_large_command_goes_out_in_pieces() {
    let text = "x".repeat(3 << 20);
    let expected = text.len();
    let (qmp, _events, peer) = connected(async move |mut peer: Peer| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let command = peer.hear().await;
        assert_eq!(command["arguments"]["fdname"].as_str().unwrap().len(), expected);
        peer.say(&format!(r#"{{"return":{{}},"id":{}}}"#, command["id"])).await;
    })
    .await;
    qmp.execute(Getfd { fdname: text }).await.unwrap();
    peer.await.unwrap();
}

#[tokio::test]
async fn the_last_handle_closes_the_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer::new(theirs);
    let (result, ()) = tokio::join!(Qmp::connect(ours, options()), async {
        peer.say(GREETING).await;
        peer.answer("qmp_capabilities", "{}").await;
    });
    let (qmp, mut events) = result.unwrap();
    drop(qmp);
    assert!(matches!(events.recv().await, Err(EventsError::Closed(CloseReason::Released))));
    peer.until_closed().await;
}
