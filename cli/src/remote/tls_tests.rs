//! Gateways behind TLS: of a private authority, and such as want to know who asks.

use std::path::PathBuf;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::transport::{TlsFiles, tls};
use super::*;

/// A certificate that vouches for itself, in files.
struct Known {
    certificate: PathBuf,
    key: PathBuf,
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Known {
    fn new(folder: &Path, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) =
            (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { certificate, key, made }
    }
}

/// Answers every request with an empty list of tracks; `client` is the one who may ask.
async fn serve(own: &Known, client: Option<&Known>) -> Place {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.made.cert.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
    let config = builder.with_single_cert(vec![own.made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = [0; 4096];
            if stream.read(&mut asked).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"tracks\":[]}";
                stream.write_all(answer).await.unwrap_or_default();
                stream.flush().await.unwrap_or_default();
            }
        }
    });
    Place::Tcp { host: "localhost".to_owned(), port, tls: true }
}

async fn ask(place: &Place, files: &TlsFiles) -> Result<api::TrackList, String> {
    let config = tls(files).map_err(|error| error.to_string())?;
    let client = Client::of(place.clone(), Some(config), None).unwrap();
    client.get("/v1/tracks").await.map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn only_who_is_vouched_for_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (Known::new(folder.path(), "own"), Known::new(folder.path(), "other"));
    let place = serve(&own, None).await;
    let by = |file: &Path| TlsFiles { authority: Some(file.into()), ..TlsFiles::default() };
    assert_eq!(ask(&place, &by(&own.certificate)).await, Ok(api::TrackList::default()));
    let error = ask(&place, &by(&other.certificate)).await.unwrap_err();
    assert!(error.contains("certificate") && error.contains("remedy: name the cert"), "{error}");
    let error = ask(&place, &by(&own.key)).await.unwrap_err();
    assert!(error.contains("has no certificate"), "{error}");
}

#[tokio::test]
async fn a_gateway_may_want_a_certificate_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (own, ours) = (Known::new(folder.path(), "own"), Known::new(folder.path(), "ours"));
    let place = serve(&own, Some(&ours)).await;
    let without = TlsFiles { authority: Some(own.certificate.clone()), ..TlsFiles::default() };
    let with = TlsFiles {
        certificate: Some(ours.certificate.clone()),
        key: Some(ours.key.clone()),
        ..without.clone()
    };
    assert_eq!(ask(&place, &with).await, Ok(api::TrackList::default()));
    let error = ask(&place, &without).await.unwrap_err();
    assert!(error.contains("remedy: "), "{error}");
}
