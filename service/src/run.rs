//! From the command line to the end of a service.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::process::ExitCode;

use api::{Health, HealthState};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::metrics::Metrics;
use crate::peers::{Allowed, Peer};
use crate::problem::in_time;
use crate::serve::{AsItIs, most_connections, serve};
use crate::telemetry::{self, Telemetry, Traces};
use crate::tls::{TcpDoor, Tls};
use crate::{
    BoundSocket, Error, Handed, LogSettings, Privileges, Problem, Settings, Socket, chain, manager,
};

/// What a service is.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its name: of its socket, in its metrics and logs.
    pub name: &'static str,
    /// The privileges that it keeps.
    pub privileges: Privileges,
}

impl Service {
    /// Sets up logs and traces, drops privileges (of this thread: there must be no other), and
    /// makes the registry. With `user`, becomes that user first.
    pub fn prepare(self, log: LogSettings, user: Option<&str>) -> Result<Prepared, Error> {
        self.prepare_with(Metrics::new(self.name)?, log, user)
    }

    /// As [`prepare`](Self::prepare), with metrics that were registered before: by what had to be
    /// done while all privileges were there.
    pub fn prepare_with(
        self,
        metrics: Metrics,
        log: LogSettings,
        user: Option<&str>,
    ) -> Result<Prepared, Error> {
        let handed = Handed::from_environment();
        self.privileges.drop_others(user)?;
        let telemetry = Telemetry::start(self.name, log)?;
        Ok(Prepared { service: self, metrics, notes: Vec::new(), handed, telemetry })
    }
}

/// A service that is ready to run.
#[derive(Debug)]
pub struct Prepared {
    service: Service,
    metrics: Metrics,
    notes: Vec<String>,
    handed: Handed,
    // Last: what happens while the rest is dropped is still logged and traced.
    telemetry: Telemetry,
}

impl Prepared {
    /// The registry, for metrics of the service's own.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// For spans of what was measured.
    #[must_use]
    pub fn traces(&self) -> Traces {
        Traces::of(&self.telemetry)
    }

    /// Has something said aloud: in the log, and in every answer to `/healthz`.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        tracing::warn!("{note}");
        self.notes.push(note);
    }

    /// Answers on the service's Unix socket until it is told to end (`SIGTERM`, `SIGINT`).
    /// `start` makes the router of the service's own paths, inside the runtime.
    pub fn run<F>(mut self, settings: &Settings, start: F) -> Result<(), Error>
    where
        F: AsyncFnOnce() -> Result<Router, Box<dyn StdError + Send + Sync>>,
    {
        let allowed = Allowed::by(settings)?;
        let path: PathBuf = settings.socket(self.service.name);
        let (service, metrics) = (self.service, self.metrics.clone());
        let result = block_on(async {
            let own =
                start().await.map_err(|source| Error::Start { service: service.name, source })?;
            let socket = self.handed.unix(&path)?.listen()?;
            let health = healthy(service.name, self.notes);
            let health = get(move || async move { Json(health) });
            let router = dress_with_metrics_page(own.route("/healthz", health), metrics.clone())
                .layer(middleware::from_fn_with_state((allowed, metrics), admit));
            tracing::info!("listen on {}", path.display());
            manager::ready(&format!("listening on {}", path.display()));
            serve(socket, AsItIs, router, most_connections(1), told_to_end()?).await;
            Ok(())
        });
        tracing::info!("end");
        drop(self.telemetry);
        result
    }

    /// Answers on a TCP socket and on a Unix socket until it is told to end. `start` makes a
    /// router for each, which brings its own `/healthz` and who may ask what; [`dress`] is around
    /// what they have in common.
    pub fn run_doors<F>(
        self,
        tcp: std::net::TcpListener,
        socket: BoundSocket,
        start: F,
    ) -> Result<(), Error>
    where
        F: AsyncFnOnce() -> Result<Doors, Box<dyn StdError + Send + Sync>>,
    {
        let service = self.service;
        let result = block_on(async {
            let doors =
                start().await.map_err(|source| Error::Start { service: service.name, source })?;
            let tcp = TcpListener::from_std(tcp).map_err(Error::Serve)?;
            let local = tcp.local_addr().map_err(Error::Serve)?;
            let scheme = if doors.tls.is_some() { "https" } else { "http" };
            let status = format!("{scheme}://{local} and on {}", socket.path().display());
            tracing::info!("listen on {status}");
            manager::ready(&format!("listening on {status}"));
            if let Some(tls) = doors.tls.clone() {
                let hup = signal(SignalKind::hangup()).map_err(Error::Serve)?;
                tokio::spawn(tls.keep_up(hup));
            }
            doors.answer(tcp, socket.listen()?, [told_to_end()?, told_to_end()?]).await;
            Ok(())
        });
        tracing::info!("end");
        drop(self.telemetry);
        result
    }
}

/// What is answered at a TCP address and at a Unix socket.
#[derive(Debug)]
pub struct Doors {
    /// Who comes over TCP is a [`TcpPeer`](crate::TcpPeer), in its `ConnectInfo`.
    pub tcp: Router,
    /// How TLS is spoken over TCP; `None`: it is not.
    pub tls: Option<Tls>,
    /// Who comes by the Unix socket is a [`Peer`], in its `ConnectInfo`.
    pub unix: Router,
}

impl Doors {
    /// Answers at both until the ends complete, and what is under way is answered.
    pub async fn answer(self, tcp: TcpListener, unix: Socket, ends: [impl Future<Output = ()>; 2]) {
        let most = most_connections(2);
        let [tcp_end, unix_end] = ends;
        let tcp = serve(tcp, TcpDoor(self.tls), self.tcp, most, tcp_end);
        let unix = serve(unix, AsItIs, self.unix, most, unix_end);
        tokio::join!(tcp, unix);
    }
}

fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Serve)?
        .block_on(future)
}

/// The layers around a service's own paths, and the metrics page.
fn dress_with_metrics_page(own: Router, metrics: Metrics) -> Router {
    let page = Router::new().route("/metrics", get(Metrics::page)).with_state(metrics.clone());
    dress(own.merge(page), metrics)
}

/// The layers around a service's own paths: answers for those that there are not, limits, traces,
/// metrics.
pub fn dress(own: Router, metrics: Metrics) -> Router {
    own.fallback(Problem::no_such_path)
        .method_not_allowed_fallback(Problem::no_such_method)
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn(telemetry::trace))
        .layer(middleware::from_fn_with_state(metrics, Metrics::count))
}

fn healthy(service: &str, notes: Vec<String>) -> Health {
    Health {
        service: service.to_owned(),
        status: HealthState::Ok,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        notes,
    }
}

/// Lets requests of admitted peers through; others are told so and hung up on.
async fn admit(
    State((allowed, metrics)): State<(Allowed, Metrics)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if allowed.admits(peer.uid, peer.gid) {
        return next.run(request).await;
    }
    metrics.refused_peer();
    tracing::warn!("refuse uid {} gid {} pid {:?}", peer.uid, peer.gid, peer.pid);
    let mut response = Problem::new(
        StatusCode::FORBIDDEN,
        format!("uid {} with gid {} may not ask this service", peer.uid, peer.gid),
    )
    .remedy("name the user or group to the service with --allow-user or --allow-group")
    .into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Completes when the process is told to end.
fn told_to_end() -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Serve)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Serve)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        manager::stopping();
    })
}

/// The end of a service's `main`: says why it failed, once, on standard error.
#[must_use]
pub fn exit(name: &str, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let text = format!("stasis-{name}: {}\n", chain(&error));
            // With nowhere to say it, the exit code still tells.
            drop(std::io::stderr().write_all(text.as_bytes()));
            ExitCode::FAILURE
        }
    }
}
