//! The file's text as sections, keys and values, each with its line.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::Fault;
use crate::key::nearest;

/// The section that is every program's.
pub const COMMON: &str = "common";

/// All sections there can be: that of every program, and one for each.
pub const SECTIONS: [&str; 7] =
    [COMMON, "stasis", "gateway", "collector", "freezer", "dumper", "restorer"];

/// What the file says.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    text: &'a str,
    pub(crate) sections: Vec<Section<'a>>,
}

/// A section of the file.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry<'a>>,
}

/// A key and what it holds.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: DeValue<'a>,
}

impl<'a> Document<'a> {
    /// Reads a text, and says what of it is no TOML, or stands in no section that there is.
    pub(crate) fn parse(text: &'a str) -> (Self, Vec<Fault>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { text, sections: Vec::new() };
        let mut faults: Vec<_> = errors
            .iter()
            .map(|error| Fault::new(document.line(error.span()), error.message()))
            .collect();
        // What could not be read has other consequences that are nobody's fault.
        if !faults.is_empty() {
            return (document, faults);
        }
        for (name, value) in table.into_inner() {
            let line = document.line(Some(name.span()));
            let name = name.into_inner().into_owned();
            match document.section(&name, line, value.into_inner()) {
                Ok(section) => document.sections.push(section),
                Err(fault) => faults.push(fault),
            }
        }
        (document, faults)
    }

    fn section(&self, name: &str, line: usize, value: DeValue<'a>) -> Result<Section<'a>, Fault> {
        let DeValue::Table(table) = value else {
            let text = format!("{name} stands in no section: write it below that of its program");
            return Err(Fault::new(line, text));
        };
        if !SECTIONS.contains(&name) {
            let known =
                || SECTIONS.iter().map(|it| format!("[{it}]")).collect::<Vec<_>>().join(", ");
            let meant = match nearest(name, SECTIONS) {
                Some(meant) => format!("did you mean [{meant}]?"),
                None => format!("there are {}", known()),
            };
            return Err(Fault::new(line, format!("no section [{name}]: {meant}")));
        }
        let entry = |(key, value): (Spanned<_>, Spanned<_>)| Entry {
            line: self.line(Some(key.span())),
            key: std::borrow::Cow::into_owned(key.into_inner()),
            value: value.into_inner(),
        };
        let mut entries: Vec<_> = table.into_iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.line);
        Ok(Section { name: name.to_owned(), entries })
    }

    /// The entries of a section.
    pub(crate) fn of(&self, name: &str) -> &[Entry<'a>] {
        let found = self.sections.iter().find(|section| section.name == name);
        found.map_or(&[], |section| &section.entries)
    }

    fn line(&self, span: Option<Range<usize>>) -> usize {
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        before.matches('\n').count() + 1
    }
}
