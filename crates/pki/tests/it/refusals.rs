//! What is let through, and everything that is not.

use std::time::Duration;

use hostler_pki::{Credentials, Identity, tls};
use hostler_types::HostId;
use rustls::ClientConfig;

use crate::handshake::{World, handshake};

#[track_caller]
fn assert_refused(result: &Result<Option<Identity>, String>, why: &str) {
    let error = result.as_ref().expect_err("it was let through");
    assert!(error.contains(why), "expected {why:?} in: {error}");
}

#[tokio::test]
async fn server_and_agent_know_each_other() {
    let (world, host) = (World::new(), HostId::generate());
    let agent = tls::agent_server(&world.host(host)).unwrap();
    let client = tls::agent_client(&world.server(), Identity::Host(host)).unwrap();
    assert_eq!(handshake(client, agent).await, Ok(Some(Identity::Server)));
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let (world, host) = (World::new(), HostId::generate());
    let agent = tls::agent_server(&world.host(host)).unwrap();
    let mut client = tls::ca_file_client(world.ca.pem()).unwrap();
    client.alpn_protocols.clear();
    let result = handshake(client, agent).await;
    assert!(result.is_err(), "{result:?}");
}

#[tokio::test]
async fn a_foreign_ca_is_refused_by_both_sides() {
    let (world, foreign, host) = (World::new(), World::new(), HostId::generate());
    let agent = tls::agent_server(&world.host(host)).unwrap();
    let client = tls::agent_client(&foreign.server(), Identity::Host(host)).unwrap();
    assert_refused(&handshake(client, agent).await, "UnknownIssuer");

    // The client trusts the agent here, and only the agent can refuse.
    let agent = tls::agent_server(&world.host(host)).unwrap();
    let mut client = tls::agent_client(&world.server(), Identity::Host(host)).unwrap();
    client.client_auth_cert_resolver = tls::agent_client(&foreign.server(), Identity::Host(host))
        .unwrap()
        .client_auth_cert_resolver;
    assert_refused(&handshake(client, agent).await, "server: Err");
}

#[tokio::test]
async fn another_host_at_the_agents_address_is_refused() {
    let (world, host, other) = (World::new(), HostId::generate(), HostId::generate());
    let agent = tls::agent_server(&world.host(other)).unwrap();
    let client = tls::agent_client(&world.server(), Identity::Host(host)).unwrap();
    assert_refused(&handshake(client, agent).await, "WrongIdentity");
}

#[tokio::test]
async fn a_hosts_certificate_is_not_the_servers() {
    let (world, host) = (World::new(), HostId::generate());
    let refused = async |client: ClientConfig, why: &str| {
        let fake = tls::public_server(&world.host(host)).unwrap();
        assert_refused(&handshake(client, fake).await, why);
    };
    refused(tls::pinned_client(world.ca.fingerprint()).unwrap(), "WrongIdentity").await;
    refused(tls::ca_file_client(world.ca.pem()).unwrap(), "HostAsServer").await;
}

#[tokio::test]
async fn a_host_that_calls_an_agent_is_seen_as_a_host() {
    let (world, host, other) = (World::new(), HostId::generate(), HostId::generate());
    let agent = tls::agent_server(&world.host(host)).unwrap();
    let client = tls::agent_client(&world.host(other), Identity::Host(host)).unwrap();
    assert_eq!(handshake(client, agent).await, Ok(Some(Identity::Host(other))));
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let (world, host) = (World::new(), HostId::generate());
    let expired = world.host_for(host, Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let client = tls::agent_client(&world.server(), Identity::Host(host)).unwrap();
    let agent = tls::agent_server(&expired).unwrap();
    assert_refused(&handshake(client, agent).await, "Expired");

    let agent = tls::agent_server(&world.host(HostId::generate())).unwrap();
    let mut client = tls::agent_client(&world.server(), Identity::Host(host)).unwrap();
    client.client_auth_cert_resolver =
        tls::agent_client(&expired, Identity::Host(host)).unwrap().client_auth_cert_resolver;
    let result = handshake(client, agent).await;
    assert!(result.is_err(), "{result:?}");
}

#[tokio::test]
async fn the_cli_trusts_a_fingerprint_or_a_ca_file() {
    let (world, foreign) = (World::new(), World::new());
    let server = || tls::public_server(&world.server()).unwrap();
    for client in [
        tls::pinned_client(world.ca.fingerprint()).unwrap(),
        tls::ca_file_client(world.ca.pem()).unwrap(),
    ] {
        assert_eq!(handshake(client, server()).await, Ok(None));
    }
    let client = tls::pinned_client(foreign.ca.fingerprint()).unwrap();
    assert_refused(&handshake(client, server()).await, "WrongCa");
    let client = tls::ca_file_client(foreign.ca.pem()).unwrap();
    assert_refused(&handshake(client, server()).await, "UnknownIssuer");
    let client = tls::web_client().unwrap();
    assert_refused(&handshake(client, server()).await, "UnknownIssuer");
}

#[tokio::test]
async fn a_pinned_ca_must_have_signed_the_certificate() {
    let (world, foreign) = (World::new(), World::new());
    // The foreign server presents our CA's certificate, which is public, beside its own.
    let own = std::fs::read_to_string(world.path("ca/ca.pem")).unwrap();
    let text = {
        foreign.server();
        std::fs::read_to_string(foreign.path("server.pem")).unwrap()
    };
    assert!(Credentials::from_pem(&text, "", &own).is_err(), "not even loaded as ours");
    let (chain, key) = (foreign.path("chain.pem"), foreign.path("key.pem"));
    let end = text.find("-----BEGIN CERTIFICATE-----").unwrap();
    std::fs::write(&key, &text[..end]).unwrap();
    std::fs::write(&chain, format!("{}{own}", &text[end..])).unwrap();
    let fake = hostler_pki::CredentialFile::open_pair(&chain, &key).unwrap();
    let client = tls::pinned_client(world.ca.fingerprint()).unwrap();
    let result = handshake(client, tls::public_server(&fake).unwrap()).await;
    assert_refused(&result, "client: Err");
    assert_refused(&result, "UnknownIssuer");
}

#[test]
fn an_answered_certificate_must_fit_the_key() {
    let (world, host) = (World::new(), HostId::generate());
    let (mine, other) =
        (hostler_pki::KeyRequest::generate(), hostler_pki::KeyRequest::generate().unwrap());
    let pem = world.ca.issue_host(host, &[], other.request()).unwrap();
    let error = mine.unwrap().complete(&pem, world.ca.pem()).unwrap_err();
    assert!(matches!(error, hostler_pki::CredentialsError::Key(_)), "{error:?}");

    let credentials = world.host_credentials(host, crate::handshake::YEAR);
    assert_eq!(credentials.identity(), Identity::Host(host));
    assert_eq!(credentials.ca_fingerprint(), world.ca.fingerprint());
}

#[test]
fn certificates_have_the_usages_that_qemu_needs() {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (world, key) = (World::new(), hostler_pki::KeyRequest::generate().unwrap());
    let pem = world.ca.issue_host(HostId::generate(), &[], key.request()).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!certificate.is_ca());
}
