//! Connections to other agents, for guests on their way.
//!
//! Both kinds are mutual TLS with this host's own certificate, and reach no other host than the one
//! that is meant. QEMU has no part in it: it gets one end of a pair of sockets.

use std::io;
use std::time::{Duration, Instant};

use hostler_endpoint::Client;
use hostler_pki::{CredentialFile, Identity, tls};
use hostler_types::{Epoch, HostId, VmId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::fault::{Fault, chain};

const CONNECT: Duration = Duration::from_secs(5);
/// A link that carries nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// The longest first line of a connection, in bytes.
const LINE: u64 = 200;
/// What is under way in each direction, in bytes.
const BUFFER: usize = 256 << 10;

/// The first words of a connection that only measures.
const MEASURED: &str = "measure";
/// For how long is sent to measure.
const MEASURE: Duration = Duration::from_millis(250);
/// The most that is sent to measure, and taken, in bytes.
const MOST_MEASURED: u64 = 1 << 30;

/// How other agents are reached.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    credentials: CredentialFile,
}

impl Peers {
    pub(crate) fn new(credentials: CredentialFile) -> Self {
        Self { credentials }
    }

    /// To ask the agent of a host something.
    pub(crate) fn client(&self, host: HostId, address: &str) -> Result<Client, Fault> {
        let config = tls::agent_client(&self.credentials, Identity::Host(host));
        let config = config.map_err(|error| Fault::internal("TLS", &error))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .http2_prior_knowledge()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Fault::internal("make a client", &error))?;
        Ok(Client::new(http, &format!("https://{address}")))
    }

    /// Connects to the QEMU that waits for a VM on another host.
    pub(crate) async fn stream(
        &self,
        host: HostId,
        address: &str,
        vm: VmId,
        epoch: Epoch,
    ) -> Result<Stream, Fault> {
        self.connect(host, address, &format!("{vm} {epoch}")).await
    }

    /// How many bytes a second come through to another host, as a guest's memory would: what is sent
    /// within [`MEASURE`] is thrown away there, and counted.
    pub(crate) async fn bandwidth(&self, host: HostId, address: &str) -> Result<u64, Fault> {
        let Stream(mut stream) = self.connect(host, address, MEASURED).await?;
        let failed = |error: io::Error| Fault::Peer(format!("the host {host}: {error}"));
        let data = vec![0_u8; BUFFER];
        let begun = Instant::now();
        let measured = async {
            let mut sent = 0_u64;
            while begun.elapsed() < MEASURE && sent < MOST_MEASURED {
                stream.write_all(&data).await?;
                sent += data.len() as u64;
            }
            stream.shutdown().await?;
            // It has all of it.
            first_line(&mut stream).await?;
            Ok(sent)
        };
        let late = |_| failed(io::ErrorKind::TimedOut.into());
        let sent = tokio::time::timeout(CONNECT, measured).await.map_err(late)?.map_err(failed)?;
        let elapsed = begun.elapsed().as_micros().max(1);
        Ok(u64::try_from(u128::from(sent) * 1_000_000 / elapsed).unwrap_or(u64::MAX))
    }

    async fn connect(&self, host: HostId, address: &str, words: &str) -> Result<Stream, Fault> {
        let failed = |what: String| Fault::Peer(format!("the host {host} at {address}: {what}"));
        let config = tls::migration_client(&self.credentials, Identity::Host(host));
        let config = config.map_err(|error| Fault::internal("TLS", &error))?;
        let connected = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            rustix::net::sockopt::set_tcp_user_timeout(
                &tcp,
                u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX),
            )?;
            // Who it is counts, not its name.
            let name = rustls::pki_types::ServerName::try_from("host.invalid")
                .map_err(io::Error::other)?;
            TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await
        };
        let tls = tokio::time::timeout(CONNECT, connected).await;
        let tls = tls.map_err(|_| failed("it does not answer".to_owned()))?;
        let mut stream = BufReader::new(TlsStream::from(tls.map_err(|e| failed(chain(&e)))?));
        let greeted = async {
            stream.write_all(format!("{words}\n").as_bytes()).await?;
            stream.flush().await?;
            first_line(&mut stream).await
        };
        let answer = tokio::time::timeout(CONNECT, greeted).await;
        match answer.map_err(|_| failed("it does not answer".to_owned()))? {
            Ok(line) if line == "ok" => Ok(Stream(stream)),
            Ok(line) => Err(failed(line)),
            Err(error) => Err(failed(format!("it has closed the connection: {error}"))),
        }
    }
}

/// A connection for one guest.
#[derive(Debug)]
pub(crate) struct Stream(BufReader<TlsStream<TcpStream>>);

impl Stream {
    /// The other side's first words: which VM it sends, and under which epoch; or `None`: it measures.
    pub(crate) async fn accept(
        tls: TlsStream<TcpStream>,
    ) -> Result<(Self, Option<(VmId, Epoch)>), io::Error> {
        let mut stream = BufReader::new(tls);
        let line = tokio::time::timeout(CONNECT, first_line(&mut stream)).await??;
        if line == MEASURED {
            return Ok((Self(stream), None));
        }
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "not a VM and an epoch");
        let (vm, epoch) = line.split_once(' ').ok_or_else(unknown)?;
        let vm = vm.parse().map_err(|_| unknown())?;
        let epoch = epoch.parse().map(Epoch).map_err(|_| unknown())?;
        Ok((Self(stream), Some((vm, epoch))))
    }

    pub(crate) async fn answer(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes()).await?;
        self.0.flush().await
    }

    /// Throws away what comes, to its end, and says so: the other side measures.
    pub(crate) async fn swallow(mut self) -> io::Result<()> {
        let swallowed = async {
            let mut all = (&mut self.0).take(MOST_MEASURED + BUFFER as u64);
            tokio::io::copy_buf(&mut all, &mut tokio::io::sink()).await
        };
        let bytes = tokio::time::timeout(CONNECT, swallowed).await??;
        self.answer(&bytes.to_string()).await
    }

    /// Carries bytes both ways until both sides have ended, or one has failed.
    pub(crate) async fn carry(mut self, mut qemu: UnixStream) -> io::Result<()> {
        let carried =
            tokio::io::copy_bidirectional_with_sizes(&mut self.0, &mut qemu, BUFFER, BUFFER);
        carried.await.map(drop)
    }
}

async fn first_line(stream: &mut BufReader<TlsStream<TcpStream>>) -> io::Result<String> {
    let mut line = String::new();
    (&mut *stream).take(LINE).read_line(&mut line).await?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
