//! Webhooks: POSTs by the server on behalf of people who may not reach what the server reaches.
//!
//! So the address is theirs, and everything else is ours: HTTPS unless the operator allows plain
//! HTTP; no addresses that only the server's machine or its cloud answers at (loopback, link-local,
//! metadata), whatever name leads there, and the address that was checked is the one that is called;
//! redirects are not followed and proxies not used; of the answer nothing but the status is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hostler_types::{Ipv4Net, SecretText};
use jiff::Timestamp;
use reqwest::{Client, StatusCode, Url, redirect};
use uuid::Uuid;

/// What an operator allows beyond the web.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookRules {
    /// Plain HTTP, too: what is sent can be read and changed on the way.
    pub plain_http: bool,
    /// Networks that are refused otherwise, such as `127.0.0.0/8`.
    pub networks: Vec<Ipv4Net>,
}

/// One POST.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) url: String,
    /// Opened.
    pub(crate) secret: Option<SecretText>,
    /// The same for each try.
    pub(crate) id: Uuid,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Duration,
}

/// Why a call has not worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// It never will.
    Final(String),
    /// It may at another time.
    Passing(String),
}

impl WebhookRules {
    /// # Errors
    /// A sentence that says why it cannot be called.
    pub(crate) fn parse(&self, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("it is no address: {error}"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            "http" => {
                return Err("plain http is not allowed on this server; use https".to_owned());
            }
            other => return Err(format!("it begins with `{other}:`; use https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it holds a user or password; use `secret` to sign calls".to_owned());
        }
        if let Some(address) = literal(&url) {
            self.allow(address)?;
        }
        Ok(url)
    }

    /// # Errors
    /// Why this address is refused.
    pub(crate) fn allow(&self, address: IpAddr) -> Result<(), String> {
        let address = address.to_canonical();
        let allowed = match address {
            IpAddr::V4(address) => self.networks.iter().any(|net| net.contains(address)),
            IpAddr::V6(_) => false,
        };
        match inward(address) {
            Some(what) if !allowed => Err(format!("{address} is {what}, which is not called")),
            _ => Ok(()),
        }
    }

    /// Posts once.
    ///
    /// # Cancel safety
    /// Dropped, it may have been heard.
    pub(crate) async fn post(&self, call: Call) -> Result<StatusCode, CallError> {
        let limit = call.timeout;
        match tokio::time::timeout(limit, self.answer(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Passing(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn answer(&self, call: Call) -> Result<StatusCode, CallError> {
        let url = self.parse(&call.url).map_err(CallError::Final)?;
        let client = self.client(&url).await?;
        let now = Timestamp::now().as_second();
        let mut request = client
            .post(url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("hostler/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", call.id.to_string())
            .header("hostler-timestamp", now.to_string());
        if let Some(secret) = &call.secret {
            request = request.header("hostler-signature", signature(secret, now, &call.body));
        }
        // The answer is dropped with its connection: its body is never read.
        let answer = request.body(call.body).send().await.map_err(broken)?;
        judge(answer.status())
    }

    /// A client that calls the addresses that were checked, and no others.
    async fn client(&self, url: &Url) -> Result<Client, CallError> {
        let failed = |error: &dyn std::error::Error| CallError::Final(chain(error));
        let tls = hostler_pki::tls::web_client().map_err(|error| failed(&error))?;
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(0);
        if let (None, Some(host)) = (literal(url), url.host_str()) {
            let addresses = self.resolved(host, url.port_or_known_default().unwrap_or(443)).await?;
            builder = builder.resolve_to_addrs(host, &addresses);
        }
        builder.build().map_err(|error| failed(&error))
    }

    async fn resolved(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, CallError> {
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|error| CallError::Passing(format!("`{host}`: {error}")))?;
        let addresses: Vec<_> = found.collect();
        for address in &addresses {
            self.allow(address.ip()).map_err(|why| CallError::Final(format!("`{host}`: {why}")))?;
        }
        Ok(addresses)
    }
}

/// The host, when it is an address already.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// What an address is that leads back to the server's machine, its link or its cloud.
fn inward(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => inward_v4(address),
        IpAddr::V6(address) => inward_v6(address),
    }
}

fn inward_v4(address: Ipv4Addr) -> Option<&'static str> {
    let first = address.octets()[0];
    if address.is_loopback() || first == 0 {
        return Some("the server itself");
    }
    if address.is_link_local() {
        return Some("link-local, where clouds keep their metadata");
    }
    if address == Ipv4Addr::new(100, 100, 100, 200) || address.octets()[..3] == [192, 0, 0] {
        return Some("where clouds keep their metadata");
    }
    (first >= 224).then_some("no address of one machine")
}

fn inward_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    if address.is_loopback() || address.is_unspecified() {
        return Some("the server itself");
    }
    if address.is_unicast_link_local() {
        return Some("link-local");
    }
    if segments[..3] == [0xfd00, 0x0ec2, 0] {
        return Some("where clouds keep their metadata");
    }
    // Addresses of IPv4 in another dress: NAT64 and 6to4.
    if segments[..2] == [0x64, 0xff9b] || segments[0] == 0x2002 {
        return Some("a detour to an IPv4 address");
    }
    address.is_multicast().then_some("no address of one machine")
}

/// `sha256=` and the HMAC of time, a dot and body: what is heard later or was changed does not fit.
fn signature(secret: &SecretText, now: i64, body: &[u8]) -> String {
    use std::fmt::Write as _;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.reveal().as_bytes());
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(format!("{now}.").as_bytes());
    context.update(body);
    let tag = context.sign();
    tag.as_ref().iter().fold("sha256=".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn judge(status: StatusCode) -> Result<StatusCode, CallError> {
    if status.is_success() {
        return Ok(status);
    }
    let said = format!("it answered {}", status.as_u16());
    if status.is_redirection() {
        return Err(CallError::Final(format!("{said}: redirects are not followed")));
    }
    let passing = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
    Err(if passing { CallError::Passing(said) } else { CallError::Final(said) })
}

/// A connection that breaks may work at the next try; a certificate that is refused will not.
fn broken(error: reqwest::Error) -> CallError {
    // The address may hold a secret.
    let text = chain(&error.without_url());
    if text.contains("certificate") { CallError::Final(text) } else { CallError::Passing(text) }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_to_the_outside_is_called() {
        let check = |url: &str, expected: &str| {
            let found = WebhookRules::default().parse(url);
            let found = found.map_or_else(|why| why, |_| "fine".to_owned());
            assert!(found.contains(expected), "{url}: {found}");
        };
        check("https://hooks.example.org/x?y=z", "fine");
        check("https://10.0.0.7/x", "fine");
        check("http://hooks.example.org/x", "plain http is not allowed");
        check("file:///etc/passwd", "use https");
        check("gopher://x", "use https");
        check("x", "no address");
        check("https://me:secret@hooks.example.org/", "user or password");
        for (inward, what) in [
            ("127.0.0.1", "server itself"),
            ("127.1", "server itself"),
            ("2130706433", "server itself"),
            ("0x7f.1", "server itself"),
            ("0.0.0.0", "server itself"),
            ("[::1]", "server itself"),
            ("[::]", "server itself"),
            ("[::ffff:127.0.0.1]", "server itself"),
            ("[::ffff:169.254.169.254]", "link-local"),
            ("169.254.169.254", "link-local"),
            ("[fe80::1]", "link-local"),
            ("100.100.100.200", "metadata"),
            ("192.0.0.192", "metadata"),
            ("[fd00:ec2::254]", "metadata"),
            ("[64:ff9b::a9fe:a9fe]", "detour"),
            ("[2002:7f00:1::]", "detour"),
            ("224.0.0.1", "no address of one machine"),
            ("255.255.255.255", "no address of one machine"),
        ] {
            check(&format!("https://{inward}/latest"), what);
        }
    }

    #[test]
    fn an_operator_may_allow_more() {
        let networks = vec!["127.0.0.0/8".parse().unwrap()];
        let rules = WebhookRules { plain_http: true, networks };
        assert!(rules.parse("http://127.0.0.1:8080/x").is_ok());
        assert!(rules.parse("http://169.254.169.254/").is_err());
        assert!(rules.parse("http://[::1]/").is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_inward_is_not_called() {
        let rules = WebhookRules { plain_http: true, networks: Vec::new() };
        let call = Call {
            url: "http://localhost:9/".to_owned(),
            secret: None,
            id: Uuid::nil(),
            body: Vec::new(),
            timeout: Duration::from_secs(10),
        };
        let Err(CallError::Final(why)) = rules.post(call).await else { panic!("it was called") };
        assert!(why.contains("the server itself"), "{why}");
    }

    /// As `printf '1700000000.{}' | openssl dgst -sha256 -hmac key` has it.
    #[test]
    fn bodies_are_signed_with_their_time() {
        let signed = signature(&SecretText::new("key"), 1_700_000_000, b"{}");
        assert_eq!(signed, EXPECTED);
    }

    const EXPECTED: &str =
        "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
}
