//! The gateway's two doors, and who may pass.
//!
//! - The Unix socket: the kernel says who is at the other end. Root and the gateway's own user may do
//!   everything; anybody else what the access file grants him, or else what he might do to the processes himself, by ptrace. The
//!   services ask the kernel that, at the time of the deed.
//! - TCP: a token says it, or the cookie of a browser in which somebody has logged in with it, or the certificate that a client has
//!   shown. `Host` and `Origin` must be ours.
//!
//! `/healthz` is open to all: it tells whether the services are well, and nothing of processes.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use api::User;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use http_body_util::BodyExt;
use service::metrics::Metrics;
use service::{Doors, Peer, Problem, TcpPeer, Tls};

use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::audit::{Answered, Audit};
use crate::callers::{Caller, StillKnown};
use crate::hosts::{Foreign, Hosts};
use crate::identities::Identities;
use crate::limits::Limits;
use crate::tokens::hash;
use crate::{Gateway, GatewayMetrics, Sessions, page, router};

/// What the doors are told.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// The names by which the gateway may be called.
    pub hosts: Hosts,
    /// Whether users other than root and the gateway's own may come by the Unix socket.
    pub users: bool,
    /// How TLS is spoken over TCP; `None`: it is not.
    pub tls: Option<Tls>,
    /// How much each who asks may ask for.
    pub limits: Limits,
}

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "listen on {0}: that is beyond this machine, and without TLS the token and all answers could be \
     read and changed on the way; name a certificate with --tls-cert and --tls-key, or listen on 127.0.0.1 and use \
     `ssh -L 7437:127.0.0.1:7437 HOST`"
)]
pub struct BeyondLoopback(SocketAddr);

/// Refuses an address that others than this machine reach, where TLS is not spoken.
///
/// # Errors
/// If it is not one of loopback.
pub fn check_listen(address: SocketAddr, tls: bool) -> Result<(), BeyondLoopback> {
    match tls || address.ip().to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(BeyondLoopback(address)),
    }
}

/// The gateway's routers behind its doors. `common` are the metrics that all services have.
pub fn doors(gateway: Gateway, settings: DoorSettings, common: Metrics) -> Doors {
    let metrics = gateway.metrics.clone();
    let (sessions, identities) = (gateway.sessions.clone(), gateway.identities.clone());
    let audit = gateway.audit.clone();
    let own = service::dress(router(gateway), common);
    let tls = settings.tls.clone();
    let log_ins = Arc::new(Semaphore::new(LOG_INS));
    let door = Door { settings, metrics, sessions, identities, audit, log_ins };
    Doors {
        tls,
        tcp: own.clone().layer(middleware::from_fn_with_state(door.clone(), by_tcp)),
        unix: own.layer(middleware::from_fn_with_state(door, by_socket)),
    }
}

#[derive(Clone, Debug)]
struct Door {
    settings: DoorSettings,
    metrics: GatewayMetrics,
    sessions: Sessions,
    identities: Identities,
    audit: Audit,
    /// For those who log in: they are not known yet, and may take their time.
    log_ins: Arc<Semaphore>,
}

/// So many log in at a time.
const LOG_INS: usize = 32;

impl Door {
    /// Counts and notes a refusal of somebody who is not let in.
    fn refuse(
        &self,
        reason: &'static str,
        (request, from): (&Request, &str),
        problem: Problem,
    ) -> Response {
        self.metrics.refused(reason);
        tracing::warn!("refuse {from}: {}", problem.detail.message);
        let response = problem.into_response();
        self.note(None, from, (request.method(), request.uri().path()), &response);
        response
    }

    /// Has the audit note what was answered to whom.
    fn note(
        &self,
        who: Option<&str>,
        from: &str,
        (method, path): (&Method, &str),
        response: &Response,
    ) {
        self.audit.answered(&Answered {
            who,
            from,
            method,
            path,
            status: response.status(),
            code: response.extensions().get().copied(),
            object: response.extensions().get(),
        });
    }

    /// Lets somebody in who is not known, where that is open to all.
    async fn open(&self, from: &str, request: Request, next: Next) -> Response {
        if request.method() != Method::POST || request.uri().path() != page::LOG_IN {
            return next.run(request).await;
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let Ok(_one) = self.log_ins.try_acquire() else {
            let message = "too many log in just now";
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, message).remedy("try again");
            let hang_up = [(header::CONNECTION, "close")];
            return (hang_up, self.refuse("rate", (&request, from), problem)).into_response();
        };
        let response = next.run(request).await;
        self.note(None, from, (&method, &path), &response);
        response
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
    request: Request,
    next: Next,
) -> Response {
    let pid = peer.pid.map(|pid| format!(" pid {pid}")).unwrap_or_default();
    let from = format!("unix uid {}{pid}", peer.uid);
    let owner = peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw();
    if !owner && !door.settings.users && !is_open(&request) {
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            format!("uid {} may not ask this gateway, which serves root alone", peer.uid),
        )
        .remedy("have root send the request, send it over TCP with the gateway's token, or have the gateway started without --no-users");
        return door.refuse("user", (&request, &from), problem);
    }
    let user = User { uid: peer.uid, gid: peer.gid };
    match door.identities.access.user(user, owner).await {
        Ok(Some(asker)) => {
            let access = door.identities.access.clone();
            let known = StillKnown::by(move || {
                let access = access.clone();
                async move { access.user(user, owner).await.ok().flatten() }
            });
            admit(&door, from, (Caller::Asker(asker), known), request, next).await
        }
        Ok(None) | Err(_) if is_open(&request) => door.open(&from, request, next).await,
        Err(error) => {
            let message = format!("ask which groups uid {} has: {error}", peer.uid);
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .remedy("send the request again, or have root see what getent(1) says");
            door.refuse("user", (&request, &from), problem)
        }
        Ok(None) => {
            let message = format!("nothing is granted to uid {}", peer.uid);
            let problem = Problem::new(StatusCode::FORBIDDEN, message)
                .remedy("have root grant a role in the gateway's access file (docs/security.md)");
            door.refuse("user", (&request, &from), problem)
        }
    }
}

/// Lets a request in, with who sends it, and counts what is refused behind the door because of who asked.
async fn admit(
    door: &Door,
    from: String,
    (caller, known): (Caller, StillKnown),
    mut request: Request,
    next: Next,
) -> Response {
    let name = caller.to_string();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let admitted = match &caller {
        Caller::Asker(asker) => door.settings.limits.check(asker, !method.is_safe()),
        Caller::Metrics => Ok(None),
    };
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(known);
    let (door, changes) = (door.clone(), !method.is_safe());
    let answered = async move {
        let response = match admitted {
            Err(response) => {
                door.metrics.refused("rate");
                *response
            }
            // It counts until all of the answer is sent.
            Ok(at_once) => next.run(request).await.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _at_once = &at_once;
                    frame
                }))
            }),
        };
        if response.status() == StatusCode::FORBIDDEN {
            door.metrics.refused("right");
            tracing::warn!("{name} was refused");
        }
        door.note(Some(&name), &from, (&method, &path), &response);
        response
    };
    if !changes {
        return answered.await;
    }
    // Whoever hangs up leaves a record all the same.
    let done = tokio::spawn(answered.in_current_span()).await;
    done.unwrap_or_else(|error| {
        let message = format!("the gateway failed at it: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
    })
}

async fn by_tcp(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<TcpPeer>,
    request: Request,
    next: Next,
) -> Response {
    let from = peer.address.to_string();
    match door.settings.hosts.check(request.uri(), request.headers(), peer.tls) {
        Ok(()) => {}
        Err(Foreign::Host) => {
            let problem = Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "the request calls this gateway by a name that is not one of its own",
            )
            .remedy("call it 127.0.0.1 or localhost, or start it with --allow-host NAME");
            return door.refuse("host", (&request, &from), problem);
        }
        Err(Foreign::Origin) => {
            let problem =
                Problem::new(StatusCode::FORBIDDEN, "the request comes from another site's page")
                    .remedy("send no Origin header, or that of the gateway itself");
            return door.refuse("origin", (&request, &from), problem);
        }
    }
    let shown = token(request.headers()).map(hash);
    let showed_token = request.headers().contains_key(header::AUTHORIZATION);
    let by_token = || {
        let (shown, identities) = (shown?, door.identities.clone());
        let caller = identities.token(&shown)?;
        let known = StillKnown::by(move || {
            ready(match identities.token(&shown) {
                Some(Caller::Asker(asker)) => Some(asker),
                Some(Caller::Metrics) | None => None,
            })
        });
        Some((caller, known))
    };
    let by_certificate = || {
        let (names, access) = (peer.certificate.clone()?, door.identities.access.clone());
        let asker = access.certificate(&names)?;
        let known = StillKnown::by(move || ready(access.certificate(&names)));
        Some((Caller::Asker(asker), known))
    };
    let by_session = || {
        let (headers, sessions) = (request.headers().clone(), door.sessions.clone());
        let asker = sessions.asker(&headers).filter(|_| is_meant(&request))?;
        let known = StillKnown::by(move || ready(sessions.asker(&headers)));
        Some((Caller::Asker(asker), known))
    };
    // Who shows a token means to be known by it.
    let found = match showed_token {
        true => by_token(),
        false => by_certificate().or_else(by_session),
    };
    if let Some(found) = found {
        return admit(&door, from, found, request, next).await;
    }
    if is_open(&request) {
        return door.open(&from, request, next).await;
    }
    if wants_page(&request) && !showed_token {
        return Redirect::to(page::LOG_IN).into_response();
    }
    let (message, remedy) = match (showed_token, &peer.certificate) {
        (true, _) => {
            ("the token is none of the gateway's".to_owned(), "read it again from its file")
        }
        (false, None) => ("no token".to_owned(), "send the header Authorization: Bearer TOKEN"),
        (false, Some(names)) => (
            format!("nothing is granted to the certificate of {}", names.join(", ")),
            "have root grant a role to one of its names in the gateway's access file (docs/security.md)",
        ),
    };
    let problem = Problem::new(StatusCode::UNAUTHORIZED, message).remedy(format!(
        "{remedy}; the token is in the file that --token-file names \
         (/var/lib/stasis/gateway.token), or come by the Unix socket, where none is needed"
    ));
    let mut response = door.refuse("token", (&request, &from), problem);
    let bearer = HeaderValue::from_static("Bearer realm=\"stasis\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
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
            check_listen(address.parse().unwrap(), false).unwrap();
        }
        for address in ["0.0.0.0:7437", "10.0.0.1:1", "[::]:7437", "[fe80::1]:1", "8.8.8.8:1"] {
            let address = address.parse().unwrap();
            check_listen(address, true).unwrap();
            let error = check_listen(address, false).unwrap_err().to_string();
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
