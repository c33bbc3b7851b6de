//! Asking a gateway.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{ErrorBody, ErrorDetail};
use criu::Failure;
use criu::shell::with_sudo;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::transport::{Place, connect};
use crate::ps::plain;

/// More than any answer of a gateway's.
const LONGEST_ANSWER: usize = 64 << 20;
/// More than any token.
const LONGEST_TOKEN: u64 = 1024;
/// An answer is held back by the gateway for at most a minute; removing may take two.
const PATIENCE: Duration = Duration::from_secs(180);

/// Why a gateway did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The token cannot be read.
    #[error("read the token in {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Nobody is there.
    #[error("ask the gateway at {place}")]
    Down {
        place: Place,
        #[source]
        source: io::Error,
    },
    /// It hung up, or what it says is no HTTP.
    #[error("understand the gateway at {place}")]
    Strange {
        place: Place,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It says no.
    #[error("{}", detail.message)]
    Refused { status: StatusCode, detail: ErrorDetail },
}

/// A gateway, as who asks it sees it.
pub(crate) struct Client {
    place: Place,
    tls: Option<Arc<ClientConfig>>,
    token: Option<HeaderValue>,
}

impl Client {
    /// Of the gateway at a place; the token is shown to it.
    pub(crate) fn of(
        place: Place,
        tls: Option<Arc<ClientConfig>>,
        token_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        let token = token_file.map(token).transpose().map_err(explained)?;
        Ok(Self { place, tls, token })
    }

    pub(crate) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.json(Method::GET, path, Bytes::new()).await.map_err(explained)
    }

    pub(crate) async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, Failure> {
        let body = serde_json::to_vec(body)?;
        self.json(Method::POST, path, body.into()).await.map_err(explained)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, Bytes::new()).await.map(drop).map_err(explained)
    }

    fn strange(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Strange { place: self.place.clone(), source: source.into() }
    }

    async fn json<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, ClientError> {
        let answer = self.send(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|source| self.strange(source))
    }

    /// Asks for what is read as it comes, however long that is.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming, Failure> {
        let answer = self.open(Method::GET, path, whole(Bytes::new()), None).await;
        let answer = answer.map_err(explained)?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(explained(self.refusal(answer).await))
    }

    /// Sends what is read as it goes, however long that is.
    pub(crate) async fn send_stream<A: DeserializeOwned>(
        &self,
        path: &str,
        body: Sent,
    ) -> Result<A, Failure> {
        let answer = self.open(Method::PUT, path, body, Some("application/octet-stream")).await;
        let answer = answer.map_err(explained)?;
        if !answer.status().is_success() {
            return Err(explained(self.refusal(answer).await));
        }
        let answer = self.collected(answer.into_body()).await.map_err(explained)?;
        serde_json::from_slice(&answer).map_err(|source| explained(self.strange(source)))
    }

    /// Asks on a connection of its own; the answer's body, if it is one of success.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let kind = (!body.is_empty()).then_some("application/json");
        let asked = async {
            let answer = self.open(method, path, whole(body), kind).await?;
            match answer.status().is_success() {
                true => self.collected(answer.into_body()).await,
                false => Err(self.refusal(answer).await),
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        asked.map_err(|_| self.down(io::ErrorKind::TimedOut.into()))?
    }

    fn down(&self, source: io::Error) -> ClientError {
        ClientError::Down { place: self.place.clone(), source }
    }

    async fn collected(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        Ok(body.map_err(|source| self.strange(source))?.to_bytes())
    }

    /// What it says where it does not do it.
    async fn refusal(&self, answer: Response<Incoming>) -> ClientError {
        let status = answer.status();
        let told = match self.collected(answer.into_body()).await {
            Ok(body) => serde_json::from_slice::<ErrorBody>(&body),
            Err(error) => return error,
        };
        match told {
            Ok(told) => ClientError::Refused { status, detail: told.detail },
            Err(_) => self.strange(format!("it answers {status}, and not as a gateway does")),
        }
    }

    /// Sends a request on a connection of its own; the answer, of which the body is still to come.
    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Sent,
        kind: Option<&'static str>,
    ) -> Result<Response<Incoming>, ClientError> {
        let connecting = connect(&self.place, self.tls.clone());
        let stream = tokio::time::timeout(Duration::from_secs(10), connecting).await;
        let stream = stream.map_err(|_| self.down(io::ErrorKind::TimedOut.into()))?;
        let stream = stream.map_err(|source| self.down(source))?;
        let strange = |source: hyper::Error| self.strange(source);
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(strange)?;
        // It ends with the answer's body, and with us.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, self.place.host()).header(ACCEPT, "application/json");
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(body).map_err(|source| self.strange(source))?;
        sender.send_request(request).await.map_err(strange)
    }
}

/// A body that is sent.
pub(super) type Sent = UnsyncBoxBody<Bytes, io::Error>;

fn whole(bytes: Bytes) -> Sent {
    UnsyncBoxBody::new(Full::new(bytes).map_err(|never| match never {}))
}

fn token(path: &Path) -> Result<HeaderValue, ClientError> {
    let failed = |source| ClientError::Token { path: path.into(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LONGEST_TOKEN).read_to_string(&mut text).map_err(failed)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
        .map_err(|_| failed(io::Error::other("it holds no token")))?;
    value.set_sensitive(true);
    if text.trim().is_empty() {
        return Err(failed(io::Error::other("it is empty")));
    }
    Ok(value)
}

/// Whether the two did not agree on who they are.
fn is_of_tls(error: &ClientError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The error with what helps.
fn explained(error: ClientError) -> Failure {
    let is_root = nix::unistd::geteuid().is_root();
    let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
    let remedy = match &error {
        ClientError::Down { source, .. } | ClientError::Token { source, .. }
            if denied(source) && !is_root =>
        {
            format!("run as root: {}", with_sudo())
        }
        error if is_of_tls(error) => {
            "name the certificates of the authority that vouches for it with --ca-file, and ours with --cert-file and \
             --key-file if it wants one"
                .to_owned()
        }
        ClientError::Down { .. } => {
            "start stasis-gateway there, or name another one with --gateway".to_owned()
        }
        ClientError::Token { .. } => {
            "name the file of the gateway's token with --token-file".to_owned()
        }
        ClientError::Strange { .. } => {
            "see whether it is a gateway of stasis that listens there, and its log".to_owned()
        }
        ClientError::Refused { status: StatusCode::UNAUTHORIZED, .. } => {
            "name the file of the gateway's token with --token-file (on its machine: \
                 /var/lib/stasis/gateway.token)"
                .to_owned()
        }
        ClientError::Refused { detail, .. } => return failure(detail),
    };
    Failure::with_remedy(error, remedy)
}

/// What a gateway says of a request, or of a job. What was refused says what helps in its own words.
pub(crate) fn failure(detail: &ErrorDetail) -> Failure {
    // What others say must not drive the terminal.
    let message = detail.message.lines().map(plain).collect::<Vec<_>>().join("\n");
    match detail.remedy.as_ref().filter(|_| detail.refusals.is_empty()) {
        Some(remedy) => Failure::with_remedy(message, plain(remedy)),
        None => message.into(),
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
