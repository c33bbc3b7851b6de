//! A key of the file: a long option of a program, and what it may hold.

use std::any::TypeId;
use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use toml::de::DeValue;

/// A long option that has a place in the file.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) arg: Arg,
}

impl Key {
    /// The key of an option, if it has a long name and takes what a file can say.
    pub(crate) fn of(arg: &Arg) -> Option<Self> {
        let takes = matches!(
            arg.get_action(),
            ArgAction::Set | ArgAction::Append | ArgAction::SetTrue | ArgAction::SetFalse
        );
        let name = arg.get_long().filter(|_| takes)?.to_owned();
        Some(Self { name, arg: arg.clone() })
    }

    /// Whether it is switched on or off.
    pub(crate) fn is_switch(&self) -> bool {
        matches!(self.arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
            || self.arg.get_value_parser().type_id() == TypeId::of::<bool>()
    }

    /// Whether it may be given several times.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.arg.get_action(), ArgAction::Append)
    }

    /// Whether it holds a number, and no text.
    pub(crate) fn is_number(&self) -> bool {
        !self.is_switch() && self.parses("1").is_ok() && self.parses("a word").is_err()
    }

    /// What the option would be given on the command line for what the file says.
    pub(crate) fn texts(&self, value: &DeValue<'_>) -> Result<Vec<String>, String> {
        let texts = match value {
            DeValue::Boolean(on) if self.is_switch() => vec![on.to_string()],
            DeValue::Array(all) if self.is_list() => {
                all.iter().map(|one| self.text(one.get_ref())).collect::<Result<_, _>>()?
            }
            one => vec![self.text(one)?],
        };
        for text in &texts {
            self.parses(text).map_err(|why| format!("{}: {why}", self.name))?;
        }
        Ok(texts)
    }

    fn text(&self, value: &DeValue<'_>) -> Result<String, String> {
        match value {
            DeValue::String(text) if !self.is_switch() => Ok(text.clone().into_owned()),
            DeValue::Integer(number) if self.is_number() => Ok(number.to_string()),
            DeValue::Float(number) if self.is_number() => Ok(number.as_str().to_owned()),
            other => {
                let wanted = match (self.is_switch(), self.is_number(), self.is_list()) {
                    (true, ..) => "true or false",
                    (_, true, _) => "a number",
                    (.., true) => "texts in quotes, [\"…\", \"…\"]",
                    _ => "a text in quotes",
                };
                Err(format!("{} takes {wanted}, not {}", self.name, kind(other)))
            }
        }
    }

    /// Whether the option's own parser takes a text; why not.
    fn parses(&self, text: &str) -> Result<(), String> {
        // The option alone, without what it demands of others.
        let mut alone =
            Arg::new("value").long("value").value_parser(self.arg.get_value_parser().clone());
        if let (Some(delimiter), true) = (self.arg.get_value_delimiter(), self.is_list()) {
            alone = alone.value_delimiter(delimiter);
        }
        let command = Command::new("key").no_binary_name(true).arg(alone.action(ArgAction::Append));
        match command.try_get_matches_from([format!("--value={text}")]) {
            Ok(_) => Ok(()),
            Err(error) => Err(reason(&error, text)),
        }
    }
}

/// Why clap takes no text as a value.
fn reason(error: &clap::Error, text: &str) -> String {
    if let Some(source) = error.source() {
        return format!("{text:?}: {source}");
    }
    let valid = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if error.kind() == ErrorKind::InvalidValue => valid,
        _ => return format!("{text:?} is no value for it"),
    };
    let meant = nearest(text, valid.iter().map(String::as_str))
        .map(|meant| format!("; did you mean {meant:?}?"))
        .unwrap_or_default();
    format!("{text:?} is none of {}{meant}", valid.join(", "))
}

/// What TOML calls a value, in words.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date (put it in quotes, if it is a text)",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The name that somebody meant, if there is one like it.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // As clap does for options.
    const ALIKE: f64 = 0.7;
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let alike = names.into_iter().map(|name| (likeness(name), name)).filter(|(it, _)| *it > ALIKE);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, name)| name)
}
