//! `/v1/tokens`: who may ask over TCP. For who may do everything alone.

use std::time::Duration;

use api::{NewToken, TokenList, TokenRequest, User};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use service::{Body, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access;
use crate::audit::Object;
use crate::callers::{Owner, Rights};
use crate::gateway::Gateway;
use crate::issued::NoToken;
use crate::job_routes::lost;
use crate::jobs::now_ms;
use crate::openapi::Problems;

/// The longest name.
const LONGEST_NAME: usize = 63;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(tokens, give)).routes(routes!(take_back))
}

/// The tokens that were given, by name.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses((status = 200, description = "The tokens, without what they say", body = TokenList), Problems))]
async fn tokens(State(gateway): State<Gateway>, _: Owner) -> Json<TokenList> {
    Json(TokenList { tokens: gateway.identities.issued.list() })
}

/// Gives a token. What it says is told this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenRequest, responses((status = 201, description = "The token", body = NewToken), Problems))]
async fn give(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Extension<Object>, Json<NewToken>), Problem> {
    let TokenRequest { name, mut roles, labels, user, lasts } = request;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=LONGEST_NAME).contains(&name.len()) || !name.bytes().all(good) {
        return Err(Problem::field("name", "that is no name of a token")
            .remedy("send 1 to 63 letters, digits, '.', '_' and '-'"));
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        return Err(Problem::field("roles", "it is good for nothing")
            .remedy("send view, checkpoint, restore or admin, or several of them"));
    }
    let wrong = |field: &'static str| move |message: String| Problem::field(field, message);
    let labels = access::scope(labels)
        .map_err(wrong("labels"))
        .map_err(|problem| problem.remedy("send values without commas"))?;
    let user = match user {
        Some(name) => Some(user_named(&gateway, name).await?).filter(|user| user.uid != 0),
        None => None,
    };
    let expires_ms = lasts.as_deref().map(ends).transpose()?;
    let (rights, called) = (Rights { roles, user, labels }, name.clone());
    let issued = &gateway.identities.issued;
    let made = issued.ask(move |issued| issued.give(&called, &rights, expires_ms)).await;
    let made = made.map_err(|none| match none {
        NoToken::Taken => {
            let message = format!("there is a token {name} already");
            Problem::new(StatusCode::CONFLICT, message)
                .of("name")
                .remedy("name it otherwise, or take that one back: DELETE /v1/tokens/NAME")
        }
        NoToken::TooMany => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "there are as many tokens as may be")
                .remedy("take some back: DELETE /v1/tokens/NAME")
        }
        NoToken::Lost(error) => lost(error),
    })?;
    tracing::info!("{asker}: gave token {name}");
    let object = Extension(Object::Named(format!("token {name}")));
    Ok((StatusCode::CREATED, object, Json(made)))
}

/// A user of this machine, by name or number.
async fn user_named(gateway: &Gateway, name: String) -> Result<User, Problem> {
    let names = gateway.identities.access.names();
    let found = names.ask(move || access::user_named(&name)).await.map_err(|error| {
        let message = format!("look up the user: {error}");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .remedy("send the request again, or have root see what getent(1) says")
    })?;
    found.map_err(|message| {
        Problem::field("user", message).remedy("send the name or number of a user of this machine")
    })
}

/// When a token ends that lasts so long.
fn ends(lasts: &str) -> Result<u64, Problem> {
    let wrong = |message: String| {
        Problem::field("lasts", message).remedy("send a time of at least a second: 90d, 12h, 30m")
    };
    let time = humantime::parse_duration(lasts)
        .map_err(|error| wrong(format!("lasts is {lasts:?}: {error}")))?;
    if time < Duration::from_secs(1) {
        return Err(wrong(format!("lasts is {lasts:?}")));
    }
    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(now_ms().saturating_add(time))
}

/// Takes a token back: it is good for nothing from now on, and who has logged in with it is logged out.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "tokens", params(("name" = String, Path, description = "What it is called")), responses((status = 204, description = "It is good for nothing"), Problems))]
async fn take_back(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let called = name.clone();
    let issued = &gateway.identities.issued;
    if !issued.ask(move |issued| issued.take_back(&called)).await.map_err(lost)? {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("no token {name}"))
            .remedy("GET /v1/tokens lists those there are"));
    }
    tracing::info!("{asker}: took token {name} back");
    Ok(StatusCode::NO_CONTENT)
}
