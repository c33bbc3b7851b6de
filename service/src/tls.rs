//! TLS at the TCP door, by rustls.
//!
//! Certificates are read again when their files change and when the process gets `SIGHUP`; connections that are there keep those that
//! they were made with. With a client CA, a client may show a certificate, whose names say who asks; one that shows none may still
//! show a token.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::signal::unix::Signal;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::serve::AsyncOpen;

/// A client has so long to agree on keys.
const AGREED: Duration = Duration::from_secs(10);
/// In between the files are looked at.
const LOOKED_AT: Duration = Duration::from_secs(30);

/// Where keys and certificates are.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsSettings {
    /// File of the certificate by which the gateway is known over TCP, and of those that it is signed with (PEM): TLS is spoken, and
    /// addresses beyond loopback may be listened on
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "STASIS_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// File of the certificate's private key (PEM); the gateway's user must be able to read it, and nobody else
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "STASIS_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// File of the certificates that clients' certificates must be signed with (PEM): whom they name may ask what --access-file grants
    /// them
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "STASIS_CLIENT_CA")]
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is nothing of what a file is to hold.
    #[error("{} holds no {what}", path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What it is to hold.
        what: &'static str,
    },
    /// Others may read the key.
    #[error(
        "{} may be read by everybody (mode {mode:04o}): chmod o= {}, and have a new key made",
        path.display(), path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// They do not go together, or cannot be used.
    #[error("use the certificate {}", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// TLS as it is spoken now. A clone is the same.
#[derive(Clone, Debug)]
pub struct Tls(Arc<State>);

#[derive(Debug)]
struct State {
    files: Files,
    current: RwLock<Arc<ServerConfig>>,
}

#[derive(Clone, Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Tls {
    /// Reads keys and certificates, where the settings name some.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub fn of(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let (Some(cert), Some(key)) = (settings.tls_cert.clone(), settings.tls_key.clone()) else {
            return Ok(None);
        };
        let files = Files { cert, key, client_ca: settings.client_ca.clone() };
        let current = RwLock::new(Arc::new(files.read()?));
        Ok(Some(Self(Arc::new(State { files, current }))))
    }

    /// Reads them again when they change, for as long as this runs.
    pub(crate) async fn keep_up(self, mut hup: Signal) {
        let mut seen = self.0.files.changed();
        loop {
            let told = tokio::select! {
                told = hup.recv() => told.is_some(),
                () = tokio::time::sleep(LOOKED_AT) => false,
            };
            let now = self.0.files.changed();
            if !told && now == seen {
                continue;
            }
            match self.0.files.read() {
                Ok(config) => {
                    let mut current =
                        self.0.current.write().unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(config);
                    tracing::info!("read the certificate {} again", self.0.files.cert.display());
                    seen = now;
                }
                // Perhaps it is just being written: the one there was is good until then.
                Err(error) => tracing::error!("keep the certificate: {}", crate::chain(&error)),
            }
        }
    }
}

impl Files {
    /// When each was changed last.
    fn changed(&self) -> Vec<Option<SystemTime>> {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|it| it.modified()).ok();
        files.into_iter().flatten().map(changed).collect()
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        use std::os::unix::fs::MetadataExt;
        if let Ok(found) = std::fs::metadata(&self.key)
            && found.mode() & 0o007 != 0
        {
            return Err(TlsError::Open { path: self.key.clone(), mode: found.mode() & 0o7777 });
        }
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|source| match source {
            rustls::pki_types::pem::Error::NoItemsFound => {
                TlsError::Nothing { path: self.key.clone(), what: "private key" }
            }
            source => TlsError::Read { path: self.key.clone(), source },
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unfit = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| {
            TlsError::Unfit { path: path.to_owned(), source }
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&self.cert, error.into()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| unfit(path, error.into()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| unfit(path, error.into()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| unfit(&self.cert, error.into()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    match found.is_empty() {
        true => Err(TlsError::Nothing { path: path.to_owned(), what: "certificate" }),
        false => Ok(found),
    }
}

/// Who is at the other end of a TCP connection.
#[derive(Clone, Debug)]
pub struct TcpPeer {
    /// Its address.
    pub address: SocketAddr,
    /// The names of the certificate that it has shown (its common name, and the DNS names, mail addresses and URIs that it is for),
    /// which the client CA has signed; `None`: it has shown none.
    pub certificate: Option<Arc<[String]>>,
    /// Whether TLS is spoken.
    pub tls: bool,
}

/// Makes of TCP connections what requests are read from.
#[derive(Clone, Debug)]
pub(crate) struct TcpDoor(pub(crate) Option<Tls>);

/// A TCP connection, or TLS in one.
#[derive(Debug)]
pub(crate) enum TcpIo {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncOpen<TcpStream, SocketAddr> for TcpDoor {
    type Io = TcpIo;
    type Peer = TcpPeer;

    async fn open(&self, io: TcpStream, address: SocketAddr) -> Option<(TcpIo, TcpPeer)> {
        // Answers are written whole: waiting for more of them gains nothing.
        drop(io.set_nodelay(true));
        let Some(Tls(state)) = &self.0 else {
            return Some((TcpIo::Plain(io), TcpPeer { address, certificate: None, tls: false }));
        };
        let current = state.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let agreed = tokio::time::timeout(AGREED, TlsAcceptor::from(current).accept(io)).await;
        let stream = match agreed {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!("agree on TLS with {address}: {error}");
                return None;
            }
            Err(_) => return None,
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.map(|shown| names(shown).into());
        Some((TcpIo::Tls(Box::new(stream)), TcpPeer { address, certificate, tls: true }))
    }
}

/// The names of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    if let Ok(Some(others)) = certificate.subject_alternative_name() {
        names.extend(others.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some((*name).to_owned())
            }
            _ => None,
        }));
    }
    names
}

impl AsyncRead for TcpIo {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => std::pin::Pin::new(io).poll_read(context, buffer),
            Self::Tls(io) => std::pin::Pin::new(io.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TcpIo {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => std::pin::Pin::new(io).poll_write(context, bytes),
            Self::Tls(io) => std::pin::Pin::new(io.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => std::pin::Pin::new(io).poll_flush(context),
            Self::Tls(io) => std::pin::Pin::new(io.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => std::pin::Pin::new(io).poll_shutdown(context),
            Self::Tls(io) => std::pin::Pin::new(io.as_mut()).poll_shutdown(context),
        }
    }
}
