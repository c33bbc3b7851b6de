//! What the file says held against what the programs can be told.

use std::collections::BTreeMap;

use crate::document::{Document, Entry};
use crate::key::nearest;
use crate::{COMMON, Error, Fault, Program, Text};

/// What the file has for one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(pub(crate) BTreeMap<String, Value>);

/// What the file has for an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// As on the command line.
    pub(crate) texts: Vec<String>,
    pub(crate) section: &'static str,
    pub(crate) line: usize,
}

/// Checks all of the file, for all programs: `programs` must be all that there are.
///
/// # Errors
/// All that is wrong, in the order of the file.
pub fn check(text: &Text, programs: &[Program]) -> Result<(), Error> {
    let (document, mut faults) = Document::parse(&text.text);
    for program in programs {
        faults.extend(values(&document, program).err().unwrap_or_default());
    }
    for entry in document.of(COMMON) {
        if programs.iter().all(|program| program.key(&entry.key).is_none()) {
            let names = programs.iter().flat_map(|it| &it.keys).map(|key| key.name.as_str());
            faults.push(unknown(entry, COMMON, nearest(&entry.key, names)));
        }
    }
    done(text, faults)
}

/// What the file has for one program, which knows nothing of the others' sections.
pub(crate) fn values_of(text: &Text, program: &Program) -> Result<Values, Error> {
    let (document, mut faults) = Document::parse(&text.text);
    let values = match values(&document, program) {
        Ok(values) => values,
        Err(more) => {
            faults.extend(more);
            Values::default()
        }
    };
    done(text, faults).map(|()| values)
}

fn done(text: &Text, mut faults: Vec<Fault>) -> Result<(), Error> {
    // What is wrong in [common] is so for several programs.
    faults.sort();
    faults.dedup();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Error::Faults { path: text.path.clone(), faults }),
    }
}

fn values(document: &Document<'_>, program: &Program) -> Result<Values, Vec<Fault>> {
    let (mut values, mut faults) = (Values::default(), Vec::new());
    // In this order: the program's own section comes before what is common.
    for section in [COMMON, program.section] {
        for entry in document.of(section) {
            let Some(key) = program.key(&entry.key) else {
                if section != COMMON {
                    let names = program.keys.iter().map(|key| key.name.as_str());
                    faults.push(unknown(entry, section, nearest(&entry.key, names)));
                }
                continue;
            };
            match key.texts(&entry.value) {
                Ok(texts) => {
                    let value = Value { texts, section, line: entry.line };
                    values.0.insert(key.name.clone(), value);
                }
                Err(why) => faults.push(Fault::new(entry.line, why)),
            }
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

fn unknown(entry: &Entry<'_>, section: &str, meant: Option<&str>) -> Fault {
    let remedy = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => "`stasis config show` lists those there are".to_owned(),
    };
    Fault::new(entry.line, format!("no key {} in [{section}]: {remedy}", entry.key))
}
