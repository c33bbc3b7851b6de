//! The gateway's two doors, and who may pass.
//!
//! - The Unix socket: the kernel says who is at the other end. Root and the gateway's own user may do
//!   everything; anybody else what he might do to the processes himself, by ptrace. The services ask
//!   the kernel that, at the time of the deed.
//! - TCP: a token says it, or the cookie of a browser in which somebody has logged in with it. `Host` and `Origin` must be ours.
//!
//! `/healthz` is open to all: it tells whether the services are well, and nothing of processes.

use std::net::SocketAddr;

use api::User;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use service::metrics::Metrics;
use service::{Doors, Peer, Problem};

use crate::callers::Caller;
use crate::hosts::{Foreign, Hosts};
use crate::tokens::{Good, Tokens};
use crate::{Gateway, GatewayMetrics, Sessions, page, router};

/// What the doors are told.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// The tokens.
    pub tokens: Tokens,
    /// The names by which the gateway may be called.
    pub hosts: Hosts,
    /// Whether users other than root and the gateway's own may come by the Unix socket.
    pub users: bool,
}

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "listen on {0}: that is beyond this machine, and without TLS the token and all answers could be \
     read and changed on the way; listen on 127.0.0.1, and have a proxy on this machine speak TLS \
     (with --allow-host for its name), or use `ssh -L 7437:127.0.0.1:7437 HOST`"
)]
pub struct BeyondLoopback(SocketAddr);

/// Refuses an address that others than this machine reach.
///
/// # Errors
/// If it is not one of loopback.
pub fn check_listen(address: SocketAddr) -> Result<(), BeyondLoopback> {
    match address.ip().to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(BeyondLoopback(address)),
    }
}

/// The gateway's routers behind its doors. `common` are the metrics that all services have.
pub fn doors(gateway: Gateway, settings: DoorSettings, common: Metrics) -> Doors {
    let metrics = gateway.metrics.clone();
    let sessions = gateway.sessions.clone();
    let own = service::dress(router(gateway), common);
    let door = Door { settings, metrics, sessions };
    Doors {
        tcp: own.clone().layer(middleware::from_fn_with_state(door.clone(), by_tcp)),
        unix: own.layer(middleware::from_fn_with_state(door, by_socket)),
    }
}

#[derive(Clone, Debug)]
struct Door {
    settings: DoorSettings,
    metrics: GatewayMetrics,
    sessions: Sessions,
}

impl Door {
    /// Counts and logs a refusal.
    fn refuse(&self, reason: &'static str, who: &str, problem: Problem) -> Response {
        self.metrics.refused(reason);
        tracing::warn!("refuse {who}: {}", problem.detail.message);
        problem.into_response()
    }
}

fn is_open(request: &Request) -> bool {
    let path = request.uri().path();
    path == "/healthz" || path == page::LOG_IN || path.starts_with(page::ASSETS)
}

/// Whether a browser asks for a page, and would show one.
fn wants_page(request: &Request) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT).iter();
    request.method() == Method::GET
        && accepted.filter_map(|it| it.to_str().ok()).any(|it| it.contains("text/html"))
}

/// Whether a request that a browser sends with its cookie was meant by who uses it: it says that a page of ours sent it.
fn is_meant(request: &Request) -> bool {
    request.method().is_safe() || request.headers().contains_key(header::ORIGIN)
}

async fn by_socket(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let owner = peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw();
    if !owner && !door.settings.users && !is_open(&request) {
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            format!("uid {} may not ask this gateway, which serves root alone", peer.uid),
        )
        .remedy("have root send the request, send it over TCP with the gateway's token, or have the gateway started without --no-users");
        return door.refuse("user", &format!("uid {} (pid {:?})", peer.uid, peer.pid), problem);
    }
    let caller = match owner {
        true => Caller::Owner(peer.uid),
        false => Caller::User(User { uid: peer.uid, gid: peer.gid }),
    };
    request.extensions_mut().insert(caller);
    answered(&door, caller, next.run(request).await)
}

async fn by_tcp(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    match door.settings.hosts.check(request.uri(), request.headers()) {
        Ok(()) => {}
        Err(Foreign::Host) => {
            let problem = Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "the request calls this gateway by a name that is not one of its own",
            )
            .remedy("call it 127.0.0.1 or localhost, or start it with --allow-host NAME");
            return door.refuse("host", "a request over TCP", problem);
        }
        Err(Foreign::Origin) => {
            let problem =
                Problem::new(StatusCode::FORBIDDEN, "the request comes from another site's page")
                    .remedy("send no Origin header, or that of the gateway itself");
            return door.refuse("origin", "a request over TCP", problem);
        }
    }
    match token(request.headers()).and_then(|token| door.settings.tokens.good(token)) {
        Some(good) => {
            let caller = match good {
                Good::ForAll => Caller::Token,
                Good::ForMetrics => Caller::Metrics,
            };
            request.extensions_mut().insert(caller);
            answered(&door, caller, next.run(request).await)
        }
        None if is_open(&request) => next.run(request).await,
        None if door.sessions.knows(request.headers()) && is_meant(&request) => {
            request.extensions_mut().insert(Caller::Session);
            answered(&door, Caller::Session, next.run(request).await)
        }
        None if wants_page(&request) && !request.headers().contains_key(header::AUTHORIZATION) => {
            Redirect::to(page::LOG_IN).into_response()
        }
        None => {
            let (message, remedy) = match request.headers().contains_key(header::AUTHORIZATION) {
                true => ("the token is not the gateway's", "read it again from its file"),
                false => ("no token", "send the header Authorization: Bearer TOKEN"),
            };
            let problem = Problem::new(StatusCode::UNAUTHORIZED, message).remedy(format!(
                "{remedy}; the token is in the file that --token-file names \
                 (/var/lib/stasis/gateway.token), or come by the Unix socket, where none is needed"
            ));
            let mut response = door.refuse("token", "a request over TCP", problem);
            let bearer = HeaderValue::from_static("Bearer realm=\"stasis\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
            response
        }
    }
}

/// Counts what was refused behind the door because of who asked.
fn answered(door: &Door, caller: Caller, response: Response) -> Response {
    if response.status() == StatusCode::FORBIDDEN {
        door.metrics.refused("right");
        tracing::warn!("{caller} was refused");
    }
    response
}

/// The token that a request shows, once.
fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        for address in ["127.0.0.1:7437", "127.9.9.9:1", "[::1]:7437", "[::ffff:127.0.0.1]:1"] {
            check_listen(address.parse().unwrap()).unwrap();
        }
        for address in ["0.0.0.0:7437", "10.0.0.1:1", "[::]:7437", "[fe80::1]:1", "8.8.8.8:1"] {
            let error = check_listen(address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("TLS") && error.contains("127.0.0.1"), "{error}");
        }
    }

    #[test]
    fn a_token_is_shown_once_and_as_a_bearer_token() {
        let shown = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            token(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(shown(&["Bearer abc"]), Some(b"abc".to_vec()));
        assert_eq!(shown(&["bearer abc"]), Some(b"abc".to_vec()));
        for none in [&[][..], &["abc"], &["Basic abc"], &["Bearer"], &["Bearer a", "Bearer b"]] {
            assert_eq!(shown(none), None, "{none:?}");
        }
    }
}
