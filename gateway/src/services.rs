//! The services that the gateway asks.

use std::path::Path;

use api::{
    CheckpointSummary, Code, ContainerCheckpoint, ContainerDumpRequest, ContainerList, Directory,
    DumpRequest, DumpSummary, Health, HealthState, RestoreRequest, RestoreSummary, RestoredList,
    ServiceHealth, TogetherRequest, TogetherSummary, User, Verification, VerifyRequest,
};
use axum::http::StatusCode;
use service::{Client, ClientError, Problem};

use crate::callers::Asker;

/// A client for each service.
#[derive(Clone, Debug)]
pub struct Services {
    collector: Client,
    dumper: Client,
    freezer: Client,
    restorer: Client,
}

impl Services {
    /// Clients of the sockets in a directory.
    ///
    /// # Errors
    /// If a client cannot be made; whether the services answer shows later.
    pub fn in_directory(run_dir: &Path) -> Result<Self, ClientError> {
        let client = |name| Client::new(name, &run_dir.join(format!("{name}.sock")));
        Ok(Self {
            collector: client("collector")?,
            dumper: client("dumper")?,
            freezer: client("freezer")?,
            restorer: client("restorer")?,
        })
    }

    /// The same, asked on behalf of a user; `None`: of somebody who may do everything.
    #[must_use]
    pub(crate) fn on_behalf_of(&self, user: Option<User>) -> Self {
        Self {
            collector: self.collector.on_behalf_of(user),
            dumper: self.dumper.on_behalf_of(user),
            freezer: self.freezer.on_behalf_of(user),
            restorer: self.restorer.on_behalf_of(user),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> [&Client; 4] {
        [&self.collector, &self.dumper, &self.freezer, &self.restorer]
    }

    /// The collector, for what is only passed on.
    pub(crate) const fn collector(&self) -> &Client {
        &self.collector
    }

    /// The dumper.
    pub(crate) const fn dumper(&self) -> &Client {
        &self.dumper
    }

    /// The restorer.
    pub(crate) const fn restorer(&self) -> &Client {
        &self.restorer
    }

    pub(crate) async fn dump(
        &self,
        id: &str,
        request: &DumpRequest,
    ) -> Result<DumpSummary, ClientError> {
        self.dumper.post_as(id, "/v1/dumps", request).await
    }

    pub(crate) async fn dump_together(
        &self,
        id: &str,
        request: &TogetherRequest,
    ) -> Result<TogetherSummary, ClientError> {
        self.dumper.post_as(id, "/v1/dumps/together", request).await
    }

    pub(crate) async fn checkpoint_container(
        &self,
        id: &str,
        request: &ContainerDumpRequest,
    ) -> Result<ContainerCheckpoint, ClientError> {
        self.dumper.post_as(id, "/v1/container-dumps", request).await
    }

    pub(crate) async fn try_container(
        &self,
        id: &str,
        request: &ContainerDumpRequest,
    ) -> Result<DumpSummary, ClientError> {
        self.dumper.post_as(id, "/v1/container-dry-runs", request).await
    }

    pub(crate) async fn containers(&self) -> Result<ContainerList, ClientError> {
        self.dumper.get("/v1/containers").await
    }

    pub(crate) async fn restore(
        &self,
        id: &str,
        request: &RestoreRequest,
    ) -> Result<RestoreSummary, ClientError> {
        self.restorer.post_as(id, "/v1/restores", request).await
    }

    pub(crate) async fn verify(
        &self,
        id: &str,
        request: &VerifyRequest,
    ) -> Result<Verification, ClientError> {
        self.dumper.post_as(id, "/v1/verifications", request).await
    }

    /// One checkpoint; `None` when there is none of that name.
    pub(crate) async fn checkpoint(
        &self,
        directory: &Directory,
    ) -> Result<Option<CheckpointSummary>, ClientError> {
        // The characters that a directory may have need no escape in a path.
        match self.dumper.get(&format!("/v1/checkpoints/{directory}")).await {
            Ok(summary) => Ok(Some(summary)),
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn restores(&self) -> Result<RestoredList, ClientError> {
        self.restorer.get("/v1/restores").await
    }
}

/// A path of a service, with the query that it was asked for with: the service reads it, and says what it does not understand.
pub(crate) fn with_query(path: &str, query: Option<String>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// How well a service is.
pub(crate) async fn health(client: &Client) -> ServiceHealth {
    match client.get::<Health>("/healthz").await {
        Ok(health) => ServiceHealth {
            status: health.status,
            version: Some(health.version),
            message: (!health.notes.is_empty()).then(|| health.notes.join("; ")),
        },
        Err(error) => ServiceHealth {
            status: HealthState::Down,
            version: None,
            message: Some(service::chain(&error)),
        },
    }
}

/// A service's failure as an answer of ours.
pub(crate) fn problem(error: ClientError, asker: &Asker) -> Problem {
    let status = match &error {
        ClientError::Down { .. } => StatusCode::SERVICE_UNAVAILABLE,
        ClientError::Refused {
            status: status @ (StatusCode::NOT_IMPLEMENTED | StatusCode::INSUFFICIENT_STORAGE),
            ..
        } => *status,
        ClientError::Refused { status, .. } if status.is_client_error() => {
            // Being refused for who we are is no fault of who may do everything.
            match *status {
                StatusCode::FORBIDDEN if asker.user.is_none() => StatusCode::BAD_GATEWAY,
                status => status,
            }
        }
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut detail = error.into_detail();
    // What is a fault of ours, or of a service, is none of who asks.
    if status == StatusCode::BAD_GATEWAY {
        detail.code = Code::ServiceFailed;
    }
    Problem { status, detail }
}
