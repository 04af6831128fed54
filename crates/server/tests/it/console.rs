//! Console tickets and the WebSocket behind them.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use hostler_api::console::{ConsoleKind, CreateTicket, Ticket, TicketRequest};
use hostler_api::vm::VmPath;
use hostler_endpoint::NoParams;
use hostler_pki::tls;
use hostler_types::{Ref, Role};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::rig::Rig;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn ticket(rig: &Rig, vm: &str, kind: ConsoleKind) -> Ticket {
    let path = VmPath { vm: vm.parse::<Ref>().unwrap() };
    let request = TicketRequest { kind };
    rig.root().call::<CreateTicket>(&path, &NoParams {}, request).await.unwrap()
}

/// The socket, or the status that refuses it.
async fn open(rig: &Rig, url: &str, origin: Option<&str>) -> Result<Socket, u16> {
    let url = format!("wss://localhost:{}{url}", rig.address.port());
    let mut request = url.into_client_request().unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    let mut config = tls::pinned_client(rig.fingerprint).unwrap();
    config.alpn_protocols.clear();
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

/// The next message that is not a ping.
async fn next(socket: &mut Socket) -> Option<Message> {
    loop {
        let limit = Duration::from_secs(5);
        match tokio::time::timeout(limit, socket.next()).await.expect("a message")?.ok()? {
            Message::Ping(_) => {}
            message => return Some(message),
        }
    }
}

#[tokio::test]
async fn bytes_go_through_in_both_directions() {
    let rig = Rig::start().await;
    let ticket = ticket(&rig, "web01", ConsoleKind::Serial).await;
    let mut socket = open(&rig, &ticket.url, None).await.unwrap();
    for text in ["ls\n", "\u{0}\u{7f}"] {
        socket.send(Message::binary(text)).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().into_data(), text);
    }
    socket.send(Message::text("typed")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().into_data(), "typed");
}

#[tokio::test]
async fn a_ticket_opens_one_console_of_one_vm_once() {
    let rig = Rig::start().await;
    let first = ticket(&rig, "web01", ConsoleKind::Serial).await;
    let lasts = first.expires_at.duration_since(jiff::Timestamp::now());
    assert!(lasts.as_secs() <= 30, "{lasts}");
    open(&rig, &first.url, None).await.unwrap();
    assert_eq!(open(&rig, &first.url, None).await.unwrap_err(), 401, "twice");

    let other = ticket(&rig, "web01", ConsoleKind::Serial).await;
    let of_other_vm = other.url.replace("web01", "db01");
    assert_eq!(open(&rig, &of_other_vm, None).await.unwrap_err(), 401, "another VM");
    assert_eq!(open(&rig, &other.url, None).await.unwrap_err(), 401, "and it is spent");

    let other = ticket(&rig, "web01", ConsoleKind::Serial).await;
    let vnc = other.url.replace("kind=serial", "kind=vnc");
    assert_eq!(open(&rig, &vnc, None).await.unwrap_err(), 401, "another console");

    let guess = "/v1/vms/web01/console?kind=serial&ticket=guess";
    assert_eq!(open(&rig, guess, None).await.unwrap_err(), 401);
}

#[tokio::test]
async fn pages_of_other_sites_do_not_get_in() {
    let rig = Rig::start().await;
    let own = format!("https://localhost:{}", rig.address.port());
    let first = ticket(&rig, "web01", ConsoleKind::Vnc).await;
    assert_eq!(open(&rig, &first.url, Some("https://evil.example")).await.unwrap_err(), 403);
    open(&rig, &first.url, Some(&own)).await.expect("the refusal has not spent it");
}

#[tokio::test]
async fn a_ticket_ends_with_who_asked_for_it() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Operator).await;
    let ann = rig.client(&rig.token("ann", None).await);
    let path = VmPath { vm: "web01".parse::<Ref>().unwrap() };
    let request = TicketRequest { kind: ConsoleKind::Serial };
    let ticket = ann.call::<CreateTicket>(&path, &NoParams {}, request).await.unwrap();
    let ann = hostler_api::user::UserPath { user: "ann".parse::<Ref>().unwrap() };
    rig.root().call::<hostler_api::user::Delete>(&ann, &NoParams {}, ()).await.unwrap();
    assert_eq!(open(&rig, &ticket.url, None).await.unwrap_err(), 401);
}

#[tokio::test]
async fn consoles_are_told_when_the_server_ends() {
    let rig = Rig::start().await;
    let ticket = ticket(&rig, "web01", ConsoleKind::Serial).await;
    let mut socket = open(&rig, &ticket.url, None).await.unwrap();
    socket.send(Message::binary("x")).await.unwrap();
    next(&mut socket).await.unwrap();
    let closing = rig.closing.clone();
    closing.cancel();
    let Some(Message::Close(Some(frame))) = next(&mut socket).await else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1001);
    rig.stop().await;
}

#[tokio::test]
async fn a_plain_request_is_told_what_is_expected() {
    let rig = Rig::start().await;
    let url = rig.url("/v1/vms/web01/console?kind=serial&ticket=x");
    let response = rig.http().get(url).send().await.unwrap();
    assert_eq!(response.status(), 426);
}
