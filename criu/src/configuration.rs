//! Files of options: one option a line, by its long name without the dashes, a value after it, in double
//! quotes if it has blanks (`\"` is a quote in it), and comments from `#` on.
//!
//! | file | read |
//! |---|---|
//! | `/etc/criu/default.conf`, then `$HOME/.criu/default.conf` | unless `--no-default-config` or `--config` is given |
//! | `$CRIU_CONFIG_FILE` | if that is set |
//! | the one of `--config` | if it is given |
//!
//! They come in this order, and the command line comes after them: of an option that is given twice the last
//! one counts. A file that is not there is no error, as in CRIU.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::Host;

/// No file of options is longer than this, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why a file of options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It cannot be read.
    #[error("read configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is none.
    #[error("configuration file {}, line {line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The options of all files that count for a command line, as words of a command line.
///
/// # Errors
/// If a file is there and cannot be read or understood.
pub fn of(arguments: &[OsString], host: &Host) -> Result<Vec<OsString>, ConfigurationError> {
    let chosen = chosen(arguments);
    let defaults = chosen.is_none() && !arguments.iter().any(|word| word == "--no-default-config");
    let mut words = Vec::new();
    for file in host.configuration.iter().filter(|_| defaults) {
        match read(file) {
            // A home that is somebody else's, as after a change of user.
            Err(ConfigurationError::Read { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied => {}
            read => words.extend(read?),
        }
    }
    for file in host.configuration_too.iter().chain(&chosen) {
        words.extend(read(file)?);
    }
    Ok(words)
}

/// The file of `--config`, the last one if there are several.
fn chosen(arguments: &[OsString]) -> Option<PathBuf> {
    let attached = |word: &OsString| {
        Some(PathBuf::from(OsStr::from_bytes(word.as_bytes().strip_prefix(b"--config=")?)))
    };
    let next = |index: usize| arguments.get(index + 1).map(PathBuf::from);
    let mut found =
        arguments.iter().enumerate().filter_map(|(index, word)| match word == "--config" {
            true => next(index),
            false => attached(word),
        });
    found.next_back()
}

/// The options of one file, as words of a command line.
pub(crate) fn read(path: &Path) -> Result<Vec<OsString>, ConfigurationError> {
    let failed = |source| ConfigurationError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST + 1), &mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(failed(io::Error::other("it is longer than 1 MiB")));
    }
    words(&text).map_err(|(line, what)| ConfigurationError::Line {
        path: path.to_owned(),
        line,
        what,
    })
}

/// The words of a command line that a text stands for. The error has a line, counted from 1, and what is wrong.
fn words(text: &[u8]) -> Result<Vec<OsString>, (usize, &'static str)> {
    let mut words = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        words.extend(option(line).map_err(|what| (index + 1, what))?);
    }
    Ok(words)
}

/// The option of a line, in one word so that its value is never taken for an option.
fn option(line: &[u8]) -> Result<Option<OsString>, &'static str> {
    let line = line.trim_ascii();
    let end = line.iter().position(|byte| b" \t#".contains(byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return Ok(None);
    }
    let mut word = [b"--", name].concat();
    if let Some(value) = value(rest.trim_ascii_start())? {
        word.push(b'=');
        word.extend(value);
    }
    Ok(Some(OsString::from_vec(word)))
}

/// The value that follows an option's name, if there is one.
fn value(text: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let (value, rest) = match text.first() {
        None | Some(b'#') => return Ok(None),
        Some(b'"') => quoted(&text[1..])?,
        Some(_) => {
            let end = text.iter().position(|byte| b" \t#".contains(byte)).unwrap_or(text.len());
            (text[..end].to_vec(), &text[end..])
        }
    };
    match rest.trim_ascii_start().first() {
        None | Some(b'#') => Ok(Some(value)),
        Some(_) => Err("an option has one value: put one with blanks in double quotes"),
    }
}

/// What stands before the next quote, and what comes after that.
fn quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8]), &'static str> {
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, text.get(at + 1)) {
            (b'\\', Some(b'"')) => {
                value.push(b'"');
                at += 1;
            }
            (b'"', _) => return Ok((value, &text[at + 1..])),
            _ => value.push(*byte),
        }
        at += 1;
    }
    Err("a quote has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Vec<String>, (usize, &'static str)> {
        let words = words(text.as_bytes())?;
        Ok(words.iter().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn options_values_and_comments_are_told_apart() {
        let text = "# all of it\n\nleave-running\n  verbosity 4 # much\nlog-file \"a \\\"b\\\" # c\" #d\n\
                    tree\t7#x\nno-shell-job#\nwork-dir \"\"\n";
        let words = [
            "--leave-running",
            "--verbosity=4",
            "--log-file=a \"b\" # c",
            "--tree=7",
            "--no-shell-job",
            "--work-dir=",
        ];
        assert_eq!(said(text).unwrap(), words);
    }

    #[test]
    fn other_lines_are_refused_by_number() {
        assert_eq!(said("track-mem\nroot /a b\n").unwrap_err().0, 2);
        assert_eq!(said("root \"/a\n").unwrap_err(), (1, "a quote has no end"));
        assert_eq!(said("root \"/a\" b\n").unwrap_err().0, 1);
    }

    #[test]
    fn files_come_before_the_command_line_and_the_chosen_one_in_place_of_the_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let host = Host {
            configuration: vec![file("system", "verbosity 1"), directory.path().join("none")],
            configuration_too: Some(file("environment", "shell-job")),
            ..Host::of_the_environment()
        };
        let chosen = file("chosen", "verbosity 3");
        let of = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            of(&words, &host).unwrap()
        };
        assert_eq!(of(&["dump"]), ["--verbosity=1", "--shell-job"]);
        assert_eq!(of(&["dump", "--no-default-config"]), ["--shell-job"]);
        let chosen = chosen.to_str().unwrap();
        assert_eq!(of(&["dump", "--config", chosen]), ["--shell-job", "--verbosity=3"]);
        assert_eq!(of(&["dump", &format!("--config={chosen}")]), ["--shell-job", "--verbosity=3"]);
    }
}
