//! The file as the programs themselves document it: every key, its help, its default, what is in
//! force and from where. What is printed is a configuration file again, that says the same.

use std::ffi::{OsStr, OsString};

use toml::Value as Toml;

use crate::check::{Value, values_of};
use crate::key::Key;
use crate::{COMMON, Error, Program, Text, Values};

/// How wide comments are.
const WIDTH: usize = 96;

/// Variables of an environment.
pub type Environment<'a> = &'a dyn Fn(&OsStr) -> Option<OsString>;

/// The documented file for all programs, with what `text` says, and, of who wants to know what is in
/// force, an environment.
///
/// # Errors
/// If the file says what cannot be.
pub fn show(
    text: Option<&Text>,
    programs: &[Program],
    environment: Option<Environment<'_>>,
) -> Result<String, Error> {
    let mut out = String::new();
    let head = "Configuration of stasis: a section for each program, and one for all of them. Keys \
        are the long names of options. An option on the command line comes before the variable of \
        the environment, that before the program's section, and that before [common].";
    comment(&mut out, head);
    let all: Vec<_> = programs
        .iter()
        .map(|program| {
            Ok((program, text.map_or(Ok(Values::default()), |it| values_of(it, program))?))
        })
        .collect::<Result<_, Error>>()?;
    common(&mut out, &all);
    for (program, values) in &all {
        section(&mut out, program, values, environment);
    }
    Ok(out)
}

/// What several programs have: each is documented in the programs' own sections.
fn common(out: &mut String, all: &[(&Program, Values)]) {
    let mut shared: Vec<&Key> = Vec::new();
    let mut said: Vec<(&Key, &Value)> = Vec::new();
    for (program, values) in all {
        for key in program.keys.iter().filter(|key| !key.arg.is_hide_set()) {
            let having = all.iter().filter(|(other, _)| other.key(&key.name).is_some()).count();
            if having > 1 && shared.iter().all(|known| known.name != key.name) {
                shared.push(key);
            }
        }
        for (name, value) in values.0.iter().filter(|(_, value)| value.section == COMMON) {
            if let Some(key) =
                program.key(name).filter(|_| said.iter().all(|it| it.0.name != *name))
            {
                said.push((key, value));
            }
        }
    }
    append(out, format_args!("\n[{COMMON}]"));
    let names: Vec<_> = shared.iter().map(|key| key.name.as_str()).collect();
    comment(out, &format!("For every program that has such an option: {}", names.join(", ")));
    for (key, value) in said {
        append(out, format_args!("{} = {}", key.name, key.toml(&value.texts)));
    }
}

fn section(
    out: &mut String,
    program: &Program,
    values: &Values,
    environment: Option<Environment<'_>>,
) {
    append(out, format_args!("\n[{}]", program.section));
    let about = program.command.get_about().map(ToString::to_string).unwrap_or_default();
    comment(out, &format!("{}: {about}", program.command.get_name()));
    for key in &program.keys {
        let value = values.0.get(&key.name);
        if !key.arg.is_hide_set() || value.is_some() {
            out.push('\n');
            document(out, program.section, key, value, environment);
        }
    }
}

fn document(
    out: &mut String,
    section: &str,
    key: &Key,
    value: Option<&Value>,
    environment: Option<Environment<'_>>,
) {
    let help = key.arg.get_long_help().or(key.arg.get_help()).map(ToString::to_string);
    comment(out, &help.unwrap_or_default());
    let possible: Vec<_> =
        key.arg.get_possible_values().iter().map(|one| one.get_name().to_owned()).collect();
    if !key.is_switch() && !possible.is_empty() {
        comment(out, &format!("One of: {}", possible.join(", ")));
    }
    let default = key.default();
    let variable = key.arg.get_env();
    let named = variable.map(|name| format!("; environment: {}", name.display()));
    let named = named.unwrap_or_default();
    comment(out, &format!("Default: {}{named}", default.as_deref().unwrap_or("none")));
    let name = &key.name;
    let Some(environment) = environment else {
        match value.filter(|value| value.section == section) {
            Some(value) => append(out, format_args!("{name} = {}", key.toml(&value.texts))),
            None => append(out, format_args!("#{name} = {}", key.example(default))),
        }
        return;
    };
    let set = variable.and_then(|variable| Some((variable, environment(variable)?)));
    match (set, value) {
        (Some((variable, set)), value) => {
            let set = set.to_string_lossy().into_owned();
            append(out, format_args!("# In force, from {}: {set:?}", variable.display()));
            match value.filter(|value| value.section == section) {
                Some(value) => append(out, format_args!("{name} = {}", key.toml(&value.texts))),
                None => append(out, format_args!("#{name} = {}", key.example(default))),
            }
        }
        (None, Some(value)) if value.section == section => {
            append(out, format_args!("# In force, from line {}:", value.line));
            append(out, format_args!("{name} = {}", key.toml(&value.texts)));
        }
        (None, Some(value)) => {
            let (from, line) = (value.section, value.line);
            append(out, format_args!("# In force, from [{from}], line {line}:"));
            append(out, format_args!("#{name} = {}", key.toml(&value.texts)));
        }
        (None, None) => append(out, format_args!("#{name} = {}", key.example(default))),
    }
}

impl Key {
    /// Texts of the command line as the file has them.
    fn toml(&self, texts: &[String]) -> String {
        let one = |text: &String| match (self.is_switch(), self.is_number(), text.parse::<i64>()) {
            (true, ..) => Toml::Boolean(text == "true"),
            (_, true, Ok(number)) => Toml::Integer(number),
            _ => Toml::String(text.clone()),
        };
        match self.is_list() {
            true => Toml::Array(texts.iter().map(one).collect()).to_string(),
            false => texts.first().map(|text| one(text).to_string()).unwrap_or_default(),
        }
    }

    fn default(&self) -> Option<String> {
        if self.is_switch() && self.arg.get_default_values().is_empty() {
            return Some("false".to_owned());
        }
        let values = self.arg.get_default_values().iter();
        let texts: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        (!texts.is_empty()).then(|| self.toml(&texts))
    }

    /// What stands behind the key of an option that is not set.
    fn example(&self, default: Option<String>) -> String {
        let names = self.arg.get_value_names().unwrap_or_default();
        let name = names.first().map_or_else(|| "…".to_owned(), ToString::to_string);
        default.unwrap_or_else(|| self.toml(&[name]))
    }
}

/// Writes a line.
fn append(out: &mut String, line: std::fmt::Arguments<'_>) {
    out.push_str(&line.to_string());
    out.push('\n');
}

/// Writes a comment, in lines that are not too wide.
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + word.len() >= WIDTH {
            append(out, format_args!("{line}"));
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        append(out, format_args!("{line}"));
    }
}
