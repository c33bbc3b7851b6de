//! The name of a checkpoint: a relative directory that cannot leave the root it is joined to.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const LONGEST_NAME: usize = 200;
/// Lists look no deeper.
const DEEPEST: usize = 8;

/// A relative directory of plain names: no `..`, no root, no hidden names, nothing that a shell
/// or a file system could read otherwise. Joining it to a root stays under the root, symbolic
/// links aside (the services refuse those when they open it).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
    max_length = 200
)]
pub struct Directory(String);

/// Why a text is not a [`Directory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryError {
    /// Nothing in it.
    Empty,
    /// More than 200 bytes.
    TooLong,
    /// Begins with `/`.
    Absolute,
    /// A part is empty, or begins with a dot (`..`, `.` and hidden names).
    Part(String),
    /// A part that stasis itself gives to directories (`pre-copy`, temporary ones).
    Taken(String),
    /// More than eight parts.
    Deep,
    /// A character other than letters, digits, `.`, `_`, `-` and `/`.
    Character(char),
}

impl std::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("directory is empty"),
            Self::TooLong => write!(f, "directory is longer than {LONGEST_NAME} bytes"),
            Self::Absolute => f.write_str("directory is an absolute path"),
            Self::Part(part) if part.is_empty() => f.write_str("directory has an empty part"),
            Self::Part(part) => write!(f, "directory has a part that begins with a dot: {part}"),
            Self::Taken(part) => write!(f, "directory has a part that stasis gives itself: {part}"),
            Self::Deep => write!(f, "directory has more than {DEEPEST} parts"),
            Self::Character(c) => write!(f, "directory has the character {c:?}"),
        }
    }
}

impl std::error::Error for DirectoryError {}

impl Directory {
    /// What a caller should send instead.
    pub const REMEDY: &'static str = "name a directory relative to the checkpoint root, of letters, \
         digits, '.', '_' and '-', no part beginning with a dot";

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the two is, or contains, the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let below = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        below(&self.0, &other.0) || below(&other.0, &self.0)
    }

    /// The directory under a root.
    #[must_use]
    pub fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

impl FromStr for Directory {
    type Err = DirectoryError;

    fn from_str(text: &str) -> Result<Self, DirectoryError> {
        if text.is_empty() {
            return Err(DirectoryError::Empty);
        }
        if text.len() > LONGEST_NAME {
            return Err(DirectoryError::TooLong);
        }
        if text.starts_with('/') {
            return Err(DirectoryError::Absolute);
        }
        let strange = |c: &char| !(c.is_ascii_alphanumeric() || "._-/".contains(*c));
        if let Some(c) = text.chars().find(strange) {
            return Err(DirectoryError::Character(c));
        }
        if let Some(part) = text.split('/').find(|part| part.is_empty() || part.starts_with('.')) {
            return Err(DirectoryError::Part(part.to_owned()));
        }
        let taken = |part: &&str| *part == "pre-copy" || part.contains(".stasis-tmp-");
        if let Some(part) = text.split('/').find(taken) {
            return Err(DirectoryError::Taken(part.to_owned()));
        }
        if text.split('/').count() > DEEPEST {
            return Err(DirectoryError::Deep);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Directory {
    type Error = DirectoryError;

    fn try_from(text: String) -> Result<Self, DirectoryError> {
        text.parse()
    }
}

impl From<Directory> for String {
    fn from(directory: Directory) -> Self {
        directory.0
    }
}

impl std::fmt::Display for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass() {
        for text in ["web", "web/2026-11-23_1", "a.b-c_d", "A/b/C"] {
            assert_eq!(text.parse::<Directory>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn directories_overlap_by_whole_names() {
        let directory = |text: &str| text.parse::<Directory>().unwrap();
        assert!(directory("a").overlaps(&directory("a")));
        assert!(directory("a/b").overlaps(&directory("a")));
        assert!(directory("a").overlaps(&directory("a/b/c")));
        assert!(!directory("a").overlaps(&directory("ab")));
        assert!(!directory("a/b").overlaps(&directory("a/c")));
    }

    #[test]
    fn whatever_could_leave_the_root_is_refused() {
        use DirectoryError::{Absolute, Character, Empty, Part, TooLong};
        let part = |text: &str| Part(text.to_owned());
        for (text, error) in [
            ("", Empty),
            ("/etc", Absolute),
            ("..", part("..")),
            ("a/../b", part("..")),
            ("a//b", part("")),
            ("a/", part("")),
            ("./a", part(".")),
            (".hidden", part(".hidden")),
            ("a\0b", Character('\0')),
            ("a b", Character(' ')),
            ("ä", Character('ä')),
            ("a\\b", Character('\\')),
        ] {
            assert_eq!(text.parse::<Directory>(), Err(error), "{text:?}");
        }
        assert_eq!("x".repeat(201).parse::<Directory>(), Err(TooLong));
    }
}
