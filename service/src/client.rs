//! Asking a service over its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;

use api::{Code, ErrorBody, ErrorDetail, Operation, User};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::streams::BrokenOff;
use crate::{Pieces, Problem, telemetry};

/// Reading images for who asks may take so long.
const LOOK: Duration = Duration::from_secs(120);

/// A service, as seen by who asks it.
#[derive(Clone, Debug)]
pub struct Client {
    service: &'static str,
    socket: PathBuf,
    http: reqwest::Client,
    on_behalf_of: Option<User>,
}

/// Why a service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client cannot be made.
    #[error("make a client for the {service}")]
    Make {
        /// The service.
        service: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It does not answer.
    #[error("ask the {service} at {}", socket.display())]
    Down {
        /// The service.
        service: &'static str,
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It answers something that is not understood.
    #[error("understand the {service}")]
    Strange {
        /// The service.
        service: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It says no.
    #[error("{}", detail.message)]
    Refused {
        /// The status.
        status: StatusCode,
        /// Why, in its own words.
        detail: ErrorDetail,
    },
}

impl ClientError {
    /// Whether the service may have taken the request, and done all of it: it did not say.
    #[must_use]
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Down { source, .. } => !source.is_connect(),
            Self::Strange { .. } => true,
            Self::Refused { .. } | Self::Make { .. } => false,
        }
    }

    /// As the detail of an error body: the service's own words where it has said any.
    #[must_use]
    pub fn into_detail(self) -> ErrorDetail {
        let remedy = match &self {
            Self::Down { service, .. } => Some(format!("start stasis-{service}, or see its log")),
            _ => None,
        };
        match self {
            Self::Refused { detail, .. } => detail,
            error => {
                let code = match &error {
                    Self::Down { .. } => Code::ServiceDown,
                    _ => Code::ServiceFailed,
                };
                let message = crate::chain(&error);
                ErrorDetail { code, message, remedy, ..ErrorDetail::default() }
            }
        }
    }
}

impl Client {
    /// A client of the service that listens on a socket.
    pub fn new(service: &'static str, socket: &Path) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            // Before the service closes it (`serve.rs`): a request on its way then would be lost.
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|source| ClientError::Make { service, source })?;
        Ok(Self { service, socket: socket.to_owned(), http, on_behalf_of: None })
    }

    /// The same, asking on behalf of a user; `None`: of somebody who may do everything.
    #[must_use]
    pub fn on_behalf_of(&self, user: Option<User>) -> Self {
        Self { on_behalf_of: user, ..self.clone() }
    }

    /// Name of the service.
    #[must_use]
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// Asks with a body. There is no time limit: dumps and restores take as long as they take,
    /// and a service that dies closes the connection.
    pub async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, ClientError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// The same, by a name by which it can be asked later what came of it ([`Operation::HEADER`]).
    pub async fn post_as<A: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, ClientError> {
        self.json(self.request(Method::POST, path).header(Operation::HEADER, name).json(body)).await
    }

    /// Puts something in the place of what is there, within 10 seconds.
    pub async fn put<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, ClientError> {
        let request = self.request(Method::PUT, path).timeout(Duration::from_secs(10));
        self.json(request.json(body)).await
    }

    /// Asks without a body, for at most 10 seconds.
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.json(self.request(Method::GET, path).timeout(Duration::from_secs(10))).await
    }

    /// Asks for what images have to be read for, for at most two minutes.
    pub async fn look<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        let looked = self.json(self.request(Method::GET, path).timeout(LOOK)).await;
        looked.map_err(|error| match error {
            ClientError::Down { source, .. } | ClientError::Strange { source, .. }
                if source.is_timeout() =>
            {
                let message = format!("reading the images takes longer than {} s", LOOK.as_secs());
                let remedy = "run `stasis show` or `stasis diff` on the machine, where it may take as long as it takes";
                let detail = ErrorDetail { message, remedy: Some(remedy.to_owned()), ..ErrorDetail::default() };
                ClientError::Refused { status: StatusCode::GATEWAY_TIMEOUT, detail }
            }
            error => error,
        })
    }

    /// Asks for something to be deleted, for at most two minutes: it may be large.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, path).timeout(Duration::from_secs(120));
        self.send(request).await.map(drop)
    }

    /// Asks for an operation to be given up that has not begun, for at most 10 seconds; what came of it if it has.
    pub async fn give_up<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.json(self.request(Method::DELETE, path).timeout(Duration::from_secs(10))).await
    }

    /// Asks for what is passed on as it comes, however long that is.
    pub async fn stream(&self, path: &str) -> Result<Body, ClientError> {
        let response = self.send(self.request(Method::GET, path)).await?;
        Ok(Body::new(reqwest::Body::from(response)))
    }

    /// Puts something somewhere, piece by piece as they come.
    pub async fn send_pieces<A: DeserializeOwned>(
        &self,
        path: &str,
        pieces: Pieces,
    ) -> Result<A, ClientError> {
        let body = reqwest::Body::wrap(pieces.into_body());
        let sent = self.json(self.request(Method::PUT, path).body(body)).await;
        sent.map_err(|error| {
            let broken_off = match &error {
                ClientError::Down { source, .. } => BrokenOff::among(source),
                _ => None,
            };
            let status = match broken_off {
                Some(BrokenOff::Late(_)) => StatusCode::REQUEST_TIMEOUT,
                Some(BrokenOff::Gone(_)) => StatusCode::BAD_REQUEST,
                None => return error,
            };
            let message = broken_off.map(|it| crate::chain(it)).unwrap_or_default();
            let problem = Problem::new(status, message).remedy("send it again, without a pause");
            ClientError::Refused { status, detail: problem.detail }
        })
    }

    /// Asks for text, for at most 5 seconds.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(5));
        let response = self.send(request).await?;
        let service = self.service;
        response.text().await.map_err(|source| ClientError::Strange { service, source })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // The host is for the log of the other side; the connection goes to the socket.
        let url = format!("http://{}{path}", self.service);
        let request = self.http.request(method, url).headers(telemetry::carry());
        match self.on_behalf_of {
            Some(user) => request.header(User::HEADER, user.to_string()),
            None => request,
        }
    }

    async fn json<A: DeserializeOwned>(&self, request: RequestBuilder) -> Result<A, ClientError> {
        let service = self.service;
        let response = self.send(request).await?;
        response.json().await.map_err(|source| ClientError::Strange { service, source })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let service = self.service;
        let response = request.send().await.map_err(|source| ClientError::Down {
            service,
            socket: self.socket.clone(),
            // The URL is of our own making: it would only repeat the service's name.
            source: source.without_url(),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match response.json::<ErrorBody>().await {
            Ok(body) => Err(ClientError::Refused { status, detail: body.detail }),
            Err(source) => Err(ClientError::Strange { service, source }),
        }
    }
}
