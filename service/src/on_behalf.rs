//! On whose behalf a peer asks.

use api::User;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::Problem;

/// The user on whose behalf a peer asks; `None`: somebody who may do everything. Every handler that
/// decides what may be seen or done takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnBehalfOf(pub Option<User>);

impl<S: Send + Sync> FromRequestParts<S> for OnBehalfOf {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // What cannot be read must not pass for nobody, who may do everything.
        let mut headers = parts.headers.get_all(User::HEADER).iter();
        let wrong = || {
            let message = format!("the header {} is not one UID:GID", User::HEADER);
            Problem::new(StatusCode::BAD_REQUEST, message).remedy("send it once, as in 1000:1000")
        };
        let user = match (headers.next(), headers.next()) {
            (None, _) => None,
            (Some(value), None) => {
                let text = value.to_str().map_err(|_| wrong())?;
                Some(text.parse().map_err(|_| wrong())?)
            }
            (Some(_), Some(_)) => return Err(wrong()),
        };
        Ok(Self(user))
    }
}

/// Who asks, for log lines: "uid 1000", or "the operator".
impl std::fmt::Display for OnBehalfOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(user) => write!(f, "uid {}", user.uid),
            None => f.write_str("the operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    async fn read(values: &[&str]) -> Result<OnBehalfOf, Problem> {
        let mut request = Request::builder();
        for value in values {
            request = request.header(User::HEADER, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        OnBehalfOf::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_everybody() {
        assert_eq!(read(&[]).await, Ok(OnBehalfOf(None)));
        let user = User { uid: 1000, gid: 50 };
        assert_eq!(read(&["1000:50"]).await, Ok(OnBehalfOf(Some(user))));
        for wrong in [&[""][..], &["root"], &["1000"], &["1:1", "1:1"], &["1:1, 0:0"]] {
            assert_eq!(read(wrong).await.unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong:?}");
        }
    }
}
