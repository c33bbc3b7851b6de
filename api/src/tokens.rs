//! Tokens: who may ask for what over TCP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Labels;

/// What somebody may do. Each of the others may do what `view` may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read lists, checkpoints and jobs.
    View,
    /// Take checkpoints, label and verify them, and track processes.
    Checkpoint,
    /// Restore checkpoints.
    Restore,
    /// All of that, and remove checkpoints. Who is bound to no labels and no user may give tokens, too.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::View, Self::Checkpoint, Self::Restore, Self::Admin];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Checkpoint => "checkpoint",
            Self::Restore => "restore",
            Self::Admin => "admin",
        }
    }
}

/// `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What it is called, in lists and in what is noted of who asked: 1 to 63 letters, digits, `.`, `_` and `-`.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,63}$")]
    pub name: String,
    /// What it is good for.
    #[schema(min_items = 1)]
    pub roles: Vec<Role>,
    /// It is good for checkpoints that have all of these labels alone, and those that it takes get them.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// It is good for what this user might do himself (a name or a number); for everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// For how long it is good (`90d`, `12h`); until it is taken back when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
}

/// What is told of a token. What it says itself is told once, to who makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// What it is called.
    pub name: String,
    /// What it is good for.
    pub roles: Vec<Role>,
    /// The labels that it is bound to.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Number of the user that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// When it was made.
    pub created_ms: u64,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// When it was shown last, within a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<u64>,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// What is told of it from now on.
    #[serde(flatten)]
    pub about: Token,
    /// The token itself, which is told this once: the gateway keeps its hash alone.
    pub token: String,
}

/// What a token is must be in no log.
impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("about", &self.about).finish_non_exhaustive()
    }
}

/// `GET /v1/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The tokens, by name.
    pub tokens: Vec<Token>,
}
