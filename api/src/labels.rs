//! Labels: what operators call things by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most labels that one thing has.
const MOST: usize = 32;
/// The longest key, in bytes.
const LONGEST_KEY: usize = 63;
/// The longest value, in bytes.
const LONGEST_VALUE: usize = 255;

/// The labels of a checkpoint, at most 32: keys of 1 to 63 letters, digits, `.`, `_`, `-` and `/`, values of at most 255 bytes without control
/// characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

/// Why something is no label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelError {
    /// There are more than 32.
    TooMany,
    /// The key has no characters, too many, or others than it may have.
    Key(String),
    /// The value is too long, or has a control character.
    Value(String),
    /// There is no `=` between key and value.
    NoPair,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "there are more than {MOST} labels"),
            Self::Key(key) => write!(f, "label {key:?} has a key that is none"),
            Self::Value(key) => write!(f, "label {key:?} has a value that is none"),
            Self::NoPair => f.write_str("a label is KEY=VALUE"),
        }
    }
}

impl std::error::Error for LabelError {}

fn is_key(key: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(good)
}

impl Labels {
    /// What a caller should send instead.
    pub const REMEDY: &'static str = "send at most 32, keys of 1 to 63 letters, digits, '.', '_', '-' and '/', values of at most 255 bytes without control characters";

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of the others are among them.
    #[must_use]
    pub fn have(&self, others: &Self) -> bool {
        others.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// They and the others; `None` if one of them has another value there.
    #[must_use]
    pub fn and(&self, others: &Self) -> Option<Self> {
        let mut all = others.0.clone();
        all.extend(self.0.clone());
        let both = Self(all);
        both.have(others).then_some(both)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, LabelError> {
        if labels.len() > MOST {
            return Err(LabelError::TooMany);
        }
        for (key, value) in &labels {
            if !is_key(key) {
                return Err(LabelError::Key(key.chars().take(LONGEST_KEY).collect()));
            }
            if value.len() > LONGEST_VALUE || value.chars().any(char::is_control) {
                return Err(LabelError::Value(key.clone()));
            }
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// `KEY=VALUE`, more of them with commas between.
impl FromStr for Labels {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').ok_or(LabelError::NoPair)?;
            Ok((key.to_owned(), value.to_owned()))
        };
        text.split(',').map(pair).collect::<Result<BTreeMap<_, _>, _>>()?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_plain() {
        let read = |text: &str| serde_json::from_str::<Labels>(text).map(|_| ());
        read(r#"{"app": "web", "example.org/tier-1": "ünïcode and spaces", "e": ""}"#).unwrap();
        for wrong in [
            r#"{"": "x"}"#.to_owned(),
            r#"{"a b": "x"}"#.to_owned(),
            r#"{"a": "x\ny"}"#.to_owned(),
            r#"{"a": 1}"#.to_owned(),
            format!(r#"{{"{}": "x"}}"#, "k".repeat(64)),
            format!(r#"{{"k": "{}"}}"#, "x".repeat(256)),
            serde_json::to_string(
                &(0..33).map(|n| (n.to_string(), "x")).collect::<BTreeMap<_, _>>(),
            )
            .unwrap(),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn those_wanted_are_among_those_there() {
        let labels: Labels = "app=web,tier=1".parse().unwrap();
        assert!(labels.have(&"tier=1".parse().unwrap()));
        assert!(labels.have(&Labels::default()));
        assert!(!labels.have(&"tier=2".parse().unwrap()));
        assert!(!labels.have(&"zone=1".parse().unwrap()));
        let two = "app=web,tier=1,zone=a".parse().unwrap();
        assert_eq!(labels.and(&"zone=a,tier=1".parse().unwrap()), Some(two));
        assert_eq!(labels.and(&"tier=2".parse().unwrap()), None);
        assert_eq!("app".parse::<Labels>(), Err(LabelError::NoPair));
    }
}
