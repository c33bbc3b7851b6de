//! Logging in and out.

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::Markup;
use serde::Deserialize;
use service::TcpPeer;

use super::{LOG_IN, views};
use crate::audit::Object;
use crate::gateway::Gateway;
use crate::sessions::COOKIE;

/// Not sent with what other sites ask for, and shown to no script.
const MANNERS: &str = "Path=/; HttpOnly; SameSite=Strict; Max-Age=43200";

#[derive(Deserialize)]
pub(super) struct Shown {
    token: String,
}

pub(super) async fn form() -> Markup {
    views::log_in(None)
}

pub(super) async fn log_in(
    State(gateway): State<Gateway>,
    peer: Option<Extension<ConnectInfo<TcpPeer>>>,
    Form(shown): Form<Shown>,
) -> Response {
    match gateway.sessions.log_in(&shown.token) {
        Some((session, asker)) => {
            let tls = peer.is_some_and(|Extension(ConnectInfo(peer))| peer.tls);
            let secure = if tls { "; Secure" } else { "" };
            let cookie = format!("{COOKIE}={session}; {MANNERS}{secure}");
            let object = Extension(Object::Named(format!("log-in of {asker}")));
            ([(header::SET_COOKIE, cookie)], object, Redirect::to("/")).into_response()
        }
        None => {
            gateway.metrics.refused("token");
            tracing::warn!("refuse a log-in to the page: the token is not the gateway's");
            let wrong = views::log_in(Some("That is not the gateway's token."));
            (StatusCode::UNAUTHORIZED, wrong).into_response()
        }
    }
}

pub(super) async fn log_out(State(gateway): State<Gateway>, headers: HeaderMap) -> Response {
    gateway.sessions.log_out(&headers);
    let cookie = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    ([(header::SET_COOKIE, cookie)], Redirect::to(LOG_IN)).into_response()
}
