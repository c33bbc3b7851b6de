//! TLS at the gateway's own program: certificates of both sides, and what slow and idle clients take from others.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Signed {
    cert: rcgen::Certificate,
    key: KeyPair,
}

fn signed(authority: &Authority, name: &str) -> Signed {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    Signed { cert: params.signed_by(&key, authority).unwrap(), key }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

struct Gateway {
    child: Child,
    address: SocketAddr,
    place: PathBuf,
}

impl Gateway {
    fn start(place: &Path, more: &[&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_stasis-gateway"))
            .args(["--listen", &address.to_string(), "--run-dir"])
            .arg(place)
            .args(more)
            .env("STASIS_TOKEN_FILE", place.join("gateway.token"))
            .env("STASIS_METRICS_TOKEN_FILE", place.join("metrics.token"))
            .env("STASIS_STATE_DIR", place.join("gateway"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self { child, address, place: place.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the gateway does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        gateway
    }

    fn token(&self) -> String {
        fs::read_to_string(self.place.join("gateway.token")).unwrap().trim().to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The status of an answer, and all of it.
fn ask(stream: &mut (impl Read + Write), head: &str) -> Option<(u16, String)> {
    let head = format!("GET {head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // TLS may end without a word.
    stream.read_to_end(&mut answer).ok().or((!answer.is_empty()).then_some(0))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer))
}

fn connect(
    address: SocketAddr,
    trusted: &Authority,
    own: Option<&Signed>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain: Vec<CertificateDer<'static>> = vec![own.cert.der().clone()];
            let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    StreamOwned::new(session, tcp)
}

#[test]
fn certificates_say_who_asks_and_are_read_again() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    let (first, second) = (authority("first"), authority("second"));
    let server = signed(&first, "localhost");
    write(&file("cert"), &server.cert.pem());
    write(&file("key"), &server.key.serialize_pem());
    write(&file("ca"), &first.pem());
    let grants =
        "[[grant]]\ncertificates = [\"deploy.example\"]\nroles = [\"view\"]\nacts_as = \"root\"\n";
    write(&file("access"), grants);
    let [cert, key, ca, access] =
        ["cert", "key", "ca", "access"].map(|name| file(name).to_str().unwrap().to_owned());
    let more =
        ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca, "--access-file", &access];
    let gateway = Gateway::start(place.path(), &more);
    let status = |own: Option<&Signed>, head: &str| {
        ask(&mut connect(gateway.address, &first, own), head).map(|(status, _)| status)
    };

    let token = format!("/v1/jobs HTTP/1.1\r\nAuthorization: Bearer {}", gateway.token());
    assert_eq!(status(None, "/v1/jobs HTTP/1.1"), Some(401));
    assert_eq!(status(None, &token), Some(200));
    let granted = signed(&first, "deploy.example");
    assert_eq!(status(Some(&granted), "/v1/jobs HTTP/1.1"), Some(200));
    assert_eq!(status(Some(&granted), "/v1/tokens HTTP/1.1"), Some(403), "it may view alone");
    let wrong = "/v1/jobs HTTP/1.1\r\nAuthorization: Bearer no";
    assert_eq!(status(Some(&granted), wrong), Some(401), "a token is what is meant");
    let unknown = signed(&first, "other.example");
    assert_eq!(status(Some(&unknown), "/v1/jobs HTTP/1.1"), Some(401), "nothing is granted");
    // One that another has signed is none.
    let foreign = signed(&second, "deploy.example");
    assert_eq!(status(Some(&foreign), "/v1/jobs HTTP/1.1"), None);
    // Who speaks no TLS is hung up on.
    let mut plain = TcpStream::connect(gateway.address).unwrap();
    assert_eq!(ask(&mut plain, "/healthz HTTP/1.1"), None);

    let server = signed(&second, "localhost");
    write(&file("key"), &server.key.serialize_pem());
    write(&file("cert"), &server.cert.pem());
    kill(Pid::from_raw(gateway.child.id() as i32), Signal::SIGHUP).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask(&mut connect(gateway.address, &second, None), &token).is_none() {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_at_the_start() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    let first = authority("first");
    let (server, other) = (signed(&first, "localhost"), signed(&first, "localhost"));
    write(&file("cert"), &server.cert.pem());
    write(&file("key"), &server.key.serialize_pem());
    write(&file("other"), &other.key.serialize_pem());
    write(&file("empty"), "");
    fs::copy(file("key"), file("open")).unwrap();
    fs::set_permissions(file("open"), fs::Permissions::from_mode(0o644)).unwrap();
    for (key, message) in [
        ("other", "use the certificate"),
        ("empty", "holds no private key"),
        ("open", "may be read by everybody"),
        ("missing", "read "),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_stasis-gateway"))
            .args(["--listen", "127.0.0.1:0", "--run-dir"])
            .arg(place.path())
            .arg("--tls-cert")
            .arg(file("cert"))
            .arg("--tls-key")
            .arg(file(key))
            .env("STASIS_TOKEN_FILE", file("gateway.token"))
            .env("STASIS_METRICS_TOKEN_FILE", file("metrics.token"))
            .env("STASIS_STATE_DIR", file("gateway"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(message), "{key}: {said}");
    }
}

#[test]
fn idle_and_slow_clients_take_nothing_from_the_next() {
    let place = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(place.path(), &[]);
    let (soft, hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // More than the gateway has places, where this process may have as many.
    let many = usize::try_from(hard.saturating_sub(200)).unwrap().min(10_000);
    let idle: Vec<TcpStream> = (0..many)
        .map(|index| {
            let mut stream = TcpStream::connect(gateway.address).unwrap();
            // Half a head, and bodies that never come: of what is open to all, and of what is not.
            let begun: &[u8] = match index % 5 {
                0 => b"",
                1 => b"GET /v1/jobs HTTP/1.1\r\nHo",
                2 => b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
                3 => b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
                _ => b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
            };
            // It may be hung up on already.
            stream.write_all(begun).ok();
            stream
        })
        .collect();
    let head = format!("/v1/jobs HTTP/1.1\r\nAuthorization: Bearer {}", gateway.token());
    for _ in 0..20 {
        let start = Instant::now();
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (status, answer) = ask(&mut stream, &head).unwrap();
        assert_eq!(status, 200, "{answer}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    drop(idle);
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}
