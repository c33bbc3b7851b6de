//! Answers that are not successes, and the reader of request bodies that makes the most common
//! of them.

use std::error::Error;
use std::time::Duration;

use api::{Code, ErrorBody, ErrorDetail, Unsupported};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body::Body as _;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

/// Bodies are small: a directory and some switches.
const LARGEST_BODY: usize = 64 * 1024;
/// A client has so long to send one.
const BODY_TIME: Duration = Duration::from_secs(30);

/// An answer that is not a success: a status, and the JSON body that every such answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// What went wrong, where, and what helps.
    pub detail: ErrorDetail,
}

impl Problem {
    /// A problem of no field in particular.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let (code, message) = (Code::of_status(status.as_u16()), message.into());
        let detail = ErrorDetail { code, message, ..ErrorDetail::default() };
        Self { status, detail }
    }

    /// A field that cannot be taken as it is.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message).of(field)
    }

    /// A kind of problem that is closer than what its status stands for.
    #[must_use]
    pub fn coded(mut self, code: Code) -> Self {
        self.detail.code = code;
        self
    }

    /// The field at fault.
    #[must_use]
    pub fn of(mut self, field: &str) -> Self {
        self.detail.field = Some(field.to_owned());
        self
    }

    /// What helps.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.detail.remedy = Some(remedy.into());
        self
    }

    /// Everything that stands in the way, with each remedy once as what helps.
    #[must_use]
    pub fn refused(mut self, found: &[Unsupported]) -> Self {
        self.detail = self.detail.refused(found);
        self
    }

    /// No such path: what routers fall back to.
    pub async fn no_such_path(request: Request) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("no path {}", request.uri().path()))
            .remedy("see docs/api.md for the paths")
    }

    /// No such method: what routers fall back to on the paths they have.
    pub async fn no_such_method(request: Request) -> Self {
        let message = format!("{} has no method {}", request.uri().path(), request.method());
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
            .remedy("the Allow header names the methods there are")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail } = self;
        let body = ErrorBody {
            kind: format!("urn:stasis:problem:{}", detail.code.name()),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail,
        };
        let kind = [(header::CONTENT_TYPE, ErrorBody::MEDIA_TYPE)];
        // For whoever notes what was answered.
        let code = Extension(body.detail.code);
        (status, kind, code, Json(body)).into_response()
    }
}

/// A JSON request body. What cannot be read is answered with the field at fault.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = "the request has no Content-Type of application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
                .remedy("send the header Content-Type: application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            Problem::new(rejection.status(), format!("read the body: {rejection}"))
        })?;
        parse(&bytes).map(Body)
    }
}

/// Reads the bodies of requests, which are small and come at once, but for uploads: a layer for a router. Whoever sends a byte now and then is hung up
/// on.
pub(crate) async fn in_time(request: Request, next: Next) -> Response {
    // Uploads are as long as they are: whoever takes one looks at each piece ([`crate::Pieces`]).
    let is_upload = request.uri().path().starts_with(api::UPLOADS);
    // What only reads has no use for a body: it is not waited for, by whoever it may be.
    let reads = request.method().is_safe();
    if request.body().is_end_stream() || is_upload || reads {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, LARGEST_BODY)).await;
    let problem = match read {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(error)) if error.source().is_some_and(|it| it.is::<LengthLimitError>()) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB")
                .remedy("send only the fields that docs/api.md names")
        }
        Ok(Err(error)) => Problem::new(StatusCode::BAD_REQUEST, format!("read the body: {error}"))
            .remedy("send the request again"),
        Err(_) => {
            let message = format!("the body took longer than {} s", BODY_TIME.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, message).remedy("send it at once")
        }
    };
    // What is left of the body is not waited for.
    ([(header::CONNECTION, "close")], problem).into_response()
}

/// Reads a body, naming the field at fault where there is one.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // An array would be read as the fields in their order, which nobody means.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is not a JSON object")
            .remedy("send one JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        malformed(error.inner(), Some(path).filter(|path| path != "."))
    })?;
    reader.end().map_err(|error| malformed(&error, None))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error, path: Option<String>) -> Problem {
    let text = error.to_string();
    // serde_json ends with where it was, which says little about a body of one line.
    let message = text.split(" at line ").next().unwrap_or_default();
    if !error.is_data() {
        return Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {text}"))
            .remedy("send one JSON object");
    }
    // Unknown and missing fields have no path, or the path of what they are (not) in: their
    // names are in the message, in backquotes.
    let quoted = || message.split('`').nth(1).map(str::to_owned);
    let (field, remedy) = if message.starts_with("unknown field") {
        (quoted().or(path), "leave it out, or see docs/api.md for how it is spelt")
    } else if message.starts_with("missing field") {
        (quoted().or(path), "send this field")
    } else {
        (path, "see docs/api.md for the type of this field")
    };
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message).remedy(remedy);
    match field {
        Some(field) => problem.of(&field),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use api::CheckpointRequest;

    use super::*;

    fn problem(body: &str) -> (u16, Option<String>, String) {
        let problem = parse::<CheckpointRequest>(body.as_bytes()).unwrap_err();
        assert!(problem.detail.remedy.is_some(), "{body}");
        (problem.status.as_u16(), problem.detail.field, problem.detail.message)
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (body, field, message) in [
            (r#"{"pid": "x"}"#, "pid", "invalid type: string \"x\", expected i32"),
            (r#"{"pid": 1, "pidd": 2}"#, "pidd", "unknown field `pidd`"),
            (r#"{"pid": 1, "directory": "../x"}"#, "directory", "directory has a part"),
            (r#"{"pid": 99999999999}"#, "pid", "invalid value: integer"),
        ] {
            let (status, named, said) = problem(body);
            assert_eq!((status, named.as_deref()), (422, Some(field)), "{body}");
            assert!(said.starts_with(message), "{body}: {said}");
        }
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for body in ["", "pid=1", "{", r#"{"pid": 1} x"#, "[7]"] {
            let (status, field, _) = problem(body);
            assert_eq!((status, field), (400, None), "{body}");
        }
    }
}
