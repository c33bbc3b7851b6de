//! The way to a gateway: a Unix socket, TCP, or TLS over TCP.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a Unix socket.
    Unix(PathBuf),
    /// At a host and port.
    Tcp { host: String, port: u16, tls: bool },
}

/// A text that says of no place where a gateway could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a gateway is at http://HOST:PORT, https://HOST:PORT or unix:/PATH")]
pub(crate) struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            return if path.is_absolute() { Ok(Self::Unix(path.into())) } else { Err(NoPlace) };
        }
        let uri: hyper::Uri = text.parse().map_err(|_| NoPlace)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(NoPlace),
        };
        let has_more = uri.path() != "/" || uri.query().is_some();
        let authority = uri.authority().filter(|it| !has_more && !it.as_str().contains('@'));
        let authority = authority.ok_or(NoPlace)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if host.is_empty() { Err(NoPlace) } else { Ok(Self::Tcp { host, port, tls }) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { tls, .. } => {
                write!(f, "{}://{}", if *tls { "https" } else { "http" }, self.host())
            }
        }
    }
}

impl Place {
    /// What the header `Host` says.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Unix(_) => "stasis".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// Whether what is said on the way could be read by others than this machine's root.
    pub(crate) fn is_open_to_others(&self) -> bool {
        match self {
            Self::Unix(_) | Self::Tcp { tls: true, .. } => false,
            Self::Tcp { host, .. } => {
                let loopback = |address: IpAddr| address.to_canonical().is_loopback();
                host != "localhost" && !host.parse().is_ok_and(loopback)
            }
        }
    }
}

/// Files by which TLS knows the gateway, and the gateway us.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsFiles {
    pub(crate) authority: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("read {}", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} has no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("find this machine's certificate authorities")]
    NoAuthorities,
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
}

/// How TLS is spoken: the authorities of `--ca-file` alone, or those that this machine knows.
pub(crate) fn tls(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.authority {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoAuthorities);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(path)) => {
            let key = PrivateKeyDer::from_pem_file(path)
                .map_err(|source| TlsError::Pem { path: path.clone(), source })?;
            config.with_client_auth_cert(certificates(certificate)?, key)?
        }
        _ => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.into(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(failed)?;
    if all.is_empty() { Err(TlsError::Empty { path: path.into() }) } else { Ok(all) }
}

/// Bytes to and from a gateway.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a gateway.
pub(crate) async fn connect(
    place: &Place,
    tls: Option<Arc<ClientConfig>>,
) -> io::Result<Box<dyn Stream>> {
    match (place, tls) {
        (Place::Unix(path), _) => Ok(Box::new(UnixStream::connect(path).await?)),
        (Place::Tcp { host, port, .. }, None) => {
            Ok(Box::new(TcpStream::connect((host.as_str(), *port)).await?))
        }
        (Place::Tcp { host, port, .. }, Some(config)) => {
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_said_by_urls() {
        let tcp = |host: &str, port, tls| Place::Tcp { host: host.to_owned(), port, tls };
        for (text, place) in [
            ("unix:/run/stasis/gateway.sock", Place::Unix("/run/stasis/gateway.sock".into())),
            ("http://127.0.0.1:7437", tcp("127.0.0.1", 7437, false)),
            ("http://127.0.0.1:7437/", tcp("127.0.0.1", 7437, false)),
            ("https://box.example", tcp("box.example", 443, true)),
            ("https://[::1]:7", tcp("::1", 7, true)),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
        for wrong in
            ["", "127.0.0.1:7437", "unix:run", "ftp://x", "http://x/v1", "http://a@b", "http://"]
        {
            assert_eq!(wrong.parse::<Place>(), Err(NoPlace), "{wrong}");
        }
        assert_eq!(tcp("::1", 7, true).to_string(), "https://[::1]:7");
    }

    #[test]
    fn what_others_could_read_is_known() {
        let open = |text: &str| text.parse::<Place>().unwrap().is_open_to_others();
        for closed in
            ["unix:/x", "https://box", "http://localhost:1", "http://127.0.0.9", "http://[::1]:1"]
        {
            assert!(!open(closed), "{closed}");
        }
        for is_open in ["http://box", "http://10.0.0.1:7437", "http://localhost.example"] {
            assert!(open(is_open), "{is_open}");
        }
    }
}
