//! Who asks, and what that is good for.

use api::User;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use service::Problem;

/// Who asks, as the door that the request came through has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Who has shown the token: may do everything.
    Token,
    /// Who has logged in to the page with the token: may do everything.
    Session,
    /// Root, or the gateway's own user, on the Unix socket: may do everything.
    Owner(u32),
    /// Anybody else on the Unix socket: may do what ptrace would let him.
    User(User),
    /// Who has shown the metrics token: may read the metrics.
    Metrics,
}

/// For log lines and jobs.
impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token => f.write_str("token"),
            Self::Session => f.write_str("page"),
            Self::Owner(uid) => write!(f, "uid {uid}"),
            Self::User(user) => write!(f, "uid {}", user.uid),
            Self::Metrics => f.write_str("metrics token"),
        }
    }
}

/// One who may ask for more than metrics. Every handler that tells or does something takes it, or
/// [`Scraper`]: without a door before it, there is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) caller: Caller,
    /// On whose behalf the services are asked; `None`: of somebody who may do everything.
    pub(crate) user: Option<User>,
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.caller.fmt(f)
    }
}

/// One who may read the metrics, which tell of what everybody does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scraper;

fn caller(parts: &Parts) -> Result<Caller, Problem> {
    parts.extensions.get::<Caller>().copied().ok_or_else(|| {
        Problem::new(StatusCode::UNAUTHORIZED, "nobody is known to ask")
            .remedy("come by the gateway's own address or socket")
    })
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        let user = match caller {
            Caller::Token | Caller::Session | Caller::Owner(_) => None,
            Caller::User(user) => Some(user),
            Caller::Metrics => {
                let message = "the metrics token is good for /metrics alone";
                return Err(
                    Problem::new(StatusCode::FORBIDDEN, message).remedy("send the gateway's token")
                );
            }
        };
        Ok(Self { caller, user })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scraper {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match caller(parts)? {
            Caller::Token | Caller::Session | Caller::Owner(_) | Caller::Metrics => Ok(Self),
            Caller::User(user) => {
                let message = format!("uid {} may not read the metrics of all", user.uid);
                Err(Problem::new(StatusCode::FORBIDDEN, message)
                    .remedy("have root ask, or ask over TCP with the metrics token"))
            }
        }
    }
}
