//! The body of every answer that is not a success.

use serde::{Deserialize, Serialize};

use support::{Unsupported, remedies};

/// The body of every 4xx and 5xx answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, where, and what helps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The field of the request that is at fault; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Operation, object and cause, outermost first.
    pub message: String,
    /// What to do about it; absent when nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Everything that stands in the way of a dump or a restore, each with its remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Unsupported>,
}

impl ErrorDetail {
    /// Everything that stands in the way, with each remedy once as what helps.
    #[must_use]
    pub fn refused(mut self, found: &[Unsupported]) -> Self {
        self.remedy = Some(remedies(found).join("; ")).filter(|said| !said.is_empty());
        self.refusals = found.to_vec();
        self
    }
}

impl From<ErrorDetail> for ErrorBody {
    fn from(error: ErrorDetail) -> Self {
        Self { error }
    }
}
