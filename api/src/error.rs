//! The body of every answer that is not a success: a problem in the sense of RFC 9457.

use serde::{Deserialize, Serialize};
use support::{Unsupported, remedies};
use utoipa::ToSchema;

/// What kind of problem it is. These names stay: programs go by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not understood: it is no JSON, or a header is none.
    Malformed,
    /// Nothing says who asks, or it is wrong.
    Unauthenticated,
    /// Who asks may not.
    Forbidden,
    /// There is nothing of that name.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The request took too long to come.
    TooSlow,
    /// Something else is in the way, which may go: a job, a checkpoint.
    Conflict,
    /// The body is too large.
    TooLarge,
    /// The body is of another kind than JSON.
    UnsupportedMediaType,
    /// The request calls us by another's name.
    Misdirected,
    /// A field cannot be taken as it is.
    Invalid,
    /// A tree cannot be dumped or restored as it is: `refusals` has all that is in the way.
    Refused,
    /// Somebody has cancelled it.
    Cancelled,
    /// It would have taken longer than whoever asked gave it, or the tree would have stood still for longer.
    OverBudget,
    /// The images of a checkpoint are not as they were written.
    Damaged,
    /// Nobody who is trusted has signed the checkpoint, or signatures are demanded and nobody is trusted; or it is not encrypted, which is
    /// demanded.
    Untrusted,
    /// The checkpoint is encrypted, and the service has no key that can read it.
    Encrypted,
    /// Too much at once.
    TooMany,
    /// Something failed that should not.
    #[default]
    Failed,
    /// This kernel cannot do it, or does not allow the service to.
    Unsupported,
    /// A service does not answer as it should.
    ServiceFailed,
    /// A service does not answer.
    ServiceDown,
    /// There is no room for it.
    NoRoom,
}

/// Whose fault a failure is: who is to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ours: alerts are about these.
    Product,
    /// Of who asked.
    User,
    /// Of the machine: its disk, its kernel.
    Environment,
}

impl Fault {
    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::User => "user",
            Self::Environment => "environment",
        }
    }
}

impl Code {
    /// All there are.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooSlow,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Misdirected,
        Self::Invalid,
        Self::Refused,
        Self::OverBudget,
        Self::Cancelled,
        Self::Damaged,
        Self::Untrusted,
        Self::Encrypted,
        Self::TooMany,
        Self::Failed,
        Self::Unsupported,
        Self::ServiceFailed,
        Self::ServiceDown,
        Self::NoRoom,
    ];

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            Self::Failed | Self::ServiceFailed | Self::ServiceDown => Fault::Product,
            Self::Damaged | Self::Unsupported | Self::NoRoom => Fault::Environment,
            Self::Malformed
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::TooSlow
            | Self::Conflict
            | Self::TooLarge
            | Self::UnsupportedMediaType
            | Self::Misdirected
            | Self::Invalid
            | Self::Refused
            | Self::OverBudget
            | Self::Cancelled
            | Self::Untrusted
            | Self::Encrypted
            | Self::TooMany => Fault::User,
        }
    }

    /// The kind that an HTTP status stands for.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            400 => Self::Malformed,
            401 => Self::Unauthenticated,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::TooSlow,
            409 | 412 => Self::Conflict,
            413 => Self::TooLarge,
            415 => Self::UnsupportedMediaType,
            421 => Self::Misdirected,
            422 => Self::Invalid,
            429 => Self::TooMany,
            501 => Self::Unsupported,
            502 => Self::ServiceFailed,
            503 => Self::ServiceDown,
            507 => Self::NoRoom,
            _ => Self::Failed,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::TooSlow => "too_slow",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Misdirected => "misdirected",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::OverBudget => "over_budget",
            Self::Damaged => "damaged",
            Self::Untrusted => "untrusted",
            Self::Encrypted => "encrypted",
            Self::TooMany => "too_many",
            Self::Failed => "failed",
            Self::Unsupported => "unsupported",
            Self::ServiceFailed => "service_failed",
            Self::ServiceDown => "service_down",
            Self::NoRoom => "no_room",
        }
    }
}

/// The body of every 4xx and 5xx answer, `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// A name for the kind of problem: `urn:stasis:problem:CODE`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// What the HTTP status is called.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What went wrong.
    #[serde(flatten)]
    pub detail: ErrorDetail,
}

impl ErrorBody {
    /// The media type.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";
}

/// What went wrong, where, and what helps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// What kind of problem it is.
    #[serde(default)]
    pub code: Code,
    /// The field of the request that is at fault; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Operation, object and cause, outermost first.
    #[serde(rename = "detail")]
    pub message: String,
    /// What to do about it; absent when nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Everything that stands in the way of a dump or a restore, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Unsupported>,
}

/// So many of what stands in the way are told.
const MOST_REFUSALS: usize = 500;

impl ErrorDetail {
    /// Everything that stands in the way, with each remedy once as what helps.
    #[must_use]
    pub fn refused(mut self, found: &[Unsupported]) -> Self {
        self.code = Code::Refused;
        // A program may hold hundreds of thousands of the same kind.
        let told = &found[..found.len().min(MOST_REFUSALS)];
        self.remedy = Some(remedies(told).join("; ")).filter(|said| !said.is_empty());
        self.refusals = told.to_vec();
        if let Some(left) = found.len().checked_sub(told.len()).filter(|left| *left > 0) {
            self.message += &format!(" (and {left} more that are not told)");
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_called_what_they_are_sent_as() {
        for status in
            [400, 401, 403, 404, 405, 409, 413, 415, 421, 422, 429, 500, 501, 502, 503, 507]
        {
            let code = Code::of_status(status);
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
        let names = Code::ALL.map(Code::name);
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert_eq!(names.iter().filter(|name| **name == code.name()).count(), 1);
        }
    }
}
