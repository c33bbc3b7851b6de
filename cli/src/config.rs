//! `stasis config`: the configuration file of all programs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use configuration::{Environment, Error, Fault, Place, Program, Text, check, show};
use criu::Failure;
use serde::Serialize;
use services::{collector, dumper, freezer, restorer};

use crate::args::{Args, ConfigCommand};
use crate::voice::Voice;

/// `stasis` itself. The face of CRIU has CRIU's own configuration, and these commands must work with a
/// broken file, too.
pub(crate) fn program() -> Program {
    Program::commands("stasis", Args::command(), |name| {
        !matches!(name, "config" | "criu" | "hold-uffds")
    })
}

/// All programs that have a section.
fn programs() -> [Program; 6] {
    [
        program(),
        gateway::program(),
        collector::program(),
        freezer::program(),
        dumper::program(),
        restorer::program(),
    ]
}

pub(crate) fn run(
    command: &ConfigCommand,
    place: &Place,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    let place = |file: &Option<PathBuf>| match file {
        Some(file) => Place::Named(file.clone()),
        None => place.clone(),
    };
    match command {
        ConfigCommand::Check { file } => checked(&place(file), voice),
        ConfigCommand::Show { .. } if voice.json => {
            let error = "config show with --json: the file is TOML, and so is what is printed";
            Err(Failure::with_remedy(error, "leave --json out"))
        }
        ConfigCommand::Show { file, template } => {
            let place = match (template, file) {
                (true, None) => None,
                _ => Some(place(file)),
            };
            let text = place.map_or(Ok(None), |place| Text::read(&place))?;
            let environment: Environment<'_> = &|name| std::env::var_os(name);
            let environment = (!template).then_some(environment);
            let shown = show(text.as_ref(), &programs(), environment)?;
            voice.print(&(), || shown).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// What became of a check.
#[derive(Serialize)]
struct Checked<'a> {
    path: &'a Path,
    exists: bool,
    faults: &'a [Fault],
}

fn checked(place: &Place, voice: Voice) -> Result<ExitCode, Failure> {
    let path = place.path();
    let text = Text::read(place)?;
    let result = text.as_ref().map_or(Ok(()), |text| check(text, &programs()));
    let exists = text.is_some();
    match result {
        Err(Error::Faults { faults, .. }) if voice.json => {
            voice.print(&Checked { path, exists, faults: &faults }, String::new)?;
            Ok(ExitCode::FAILURE)
        }
        result => {
            result?;
            voice.conclude(&Checked { path, exists, faults: &[] }, || match exists {
                true => format!("{} is good\n", path.display()),
                false => {
                    format!("{} is not there: all programs have their defaults\n", path.display())
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use configuration::{COMMON, SECTIONS};

    use super::*;

    #[test]
    fn each_program_has_a_section() {
        let programs = programs();
        let sections = programs.iter().map(Program::section);
        assert_eq!([COMMON].into_iter().chain(sections).collect::<Vec<_>>(), SECTIONS);
    }

    #[test]
    fn what_is_shown_is_good_and_names_every_option() {
        let programs = programs();
        let text = show(None, &programs, None).unwrap();
        for key in
            ["listen", "run-dir", "checkpoints", "allow-user", "tracked-processes", "runc-state"]
        {
            assert!(text.contains(&format!("\n#{key} = ")), "{key}:\n{text}");
        }
        let set: String = text
            .replace("\n#", "\n")
            .lines()
            .filter(|it| is_said(it))
            .fold(String::new(), |all, line| all + line + "\n");
        // What is no default is a placeholder.
        check(&Text { path: "shown".into(), text }, &programs).unwrap();
        assert!(set.contains("[gateway]") && set.contains("listen = \"127.0.0.1:7437\""), "{set}");
    }

    /// Whether a line is a section or a key.
    fn is_said(line: &str) -> bool {
        line.starts_with('[') || line.split(' ').nth(1) == Some("=")
    }
}
