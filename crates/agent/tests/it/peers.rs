//! Who is let in.

use hostler_agent_api as api;
use hostler_endpoint::{ClientError, NoParams};
use hostler_pki::{Ca, CredentialFile};
use hostler_types::HostId;

use crate::world::{World, host_credentials, problem};

async fn ask(client: &hostler_endpoint::Client) -> Result<api::Inventory, ClientError> {
    client.call::<api::HostInventory>(&NoParams {}, &NoParams {}, ()).await
}

#[tokio::test]
async fn only_the_server_is_served() {
    let mut world = World::start().await;
    assert_eq!(ask(&world.client).await.unwrap().datastores.len(), 1);

    // Another host, of the same CA, and even this host itself.
    for (name, host) in [("other.pem", HostId::generate()), ("same.pem", world.host)] {
        let path = world.path(name);
        host_credentials(&world.ca, host).save(&path).unwrap();
        let client = world.client_as(&CredentialFile::open(&path).unwrap(), world.address());
        let refusal = problem(ask(&client).await.unwrap_err());
        assert_eq!((refusal.status, refusal.code.as_str()), (403, "forbidden"));
    }

    // A server of another CA does not get through the handshake.
    let foreign = Ca::create_or_open(&world.path("foreign")).unwrap();
    let path = world.path("foreign.pem");
    let credentials = foreign.ensure_server(&path, &[]).unwrap();
    let trusting = hostler_pki::tls::agent_client(
        &world.server_credentials(),
        hostler_pki::Identity::Host(world.host),
    );
    let mut tls = trusting.unwrap();
    tls.client_auth_cert_resolver =
        hostler_pki::tls::agent_client(&credentials, hostler_pki::Identity::Host(world.host))
            .unwrap()
            .client_auth_cert_resolver;
    refused(&world, tls).await;

    // Nor does anyone without a certificate.
    refused(&world, hostler_pki::tls::ca_file_client(world.ca.pem()).unwrap()).await;
    world.end_agent().await;
}

async fn refused(world: &World, mut tls: rustls::ClientConfig) {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let http =
        reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let client = hostler_endpoint::Client::new(http, &format!("https://{}", world.address()));
    let error = ask(&client).await.unwrap_err();
    assert!(error.problem().is_none(), "the handshake should have failed: {error}");
}
