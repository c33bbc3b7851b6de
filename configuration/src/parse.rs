//! From the command line and the file to what a program is told.

use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};

use crate::check::values_of;
use crate::program::CONFIG;
use crate::{Error, Place, Program, Text, Values};

/// Why a program is told nothing.
enum Failure {
    OfCommandLine(clap::Error),
    OfFile(Error),
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::OfCommandLine(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::OfFile(error)
    }
}

impl Program {
    /// What the program is told: by its command line, the environment and the file. As clap does,
    /// ends the process if that cannot be understood, after saying why.
    #[must_use]
    pub fn matches(&self) -> ArgMatches {
        let name = self.command.get_name();
        self.told(std::env::args_os().collect()).unwrap_or_else(|failure| match failure {
            Failure::OfCommandLine(error) => error.exit(),
            Failure::OfFile(error) => {
                let cause = error.source().map(|cause| format!(": {cause}"));
                let cause = cause.unwrap_or_default();
                // With nowhere to say it, the exit code still tells.
                drop(writeln!(std::io::stderr(), "{name}: {error}{cause}"));
                std::process::exit(1);
            }
        })
    }

    /// The same as what it is made of.
    #[must_use]
    pub fn parse<A: FromArgMatches>(&self) -> A {
        A::from_arg_matches(&self.matches()).unwrap_or_else(|error| error.exit())
    }

    /// Where a command line says that the file is.
    #[must_use]
    pub fn place(matches: &ArgMatches) -> Place {
        let named = !matches!(matches.value_source(CONFIG), None | Some(ValueSource::DefaultValue));
        match matches.get_one::<PathBuf>(CONFIG).filter(|_| named) {
            Some(path) => Place::Named(path.clone()),
            None => Place::Default,
        }
    }

    fn told(&self, arguments: Vec<OsString>) -> Result<ArgMatches, Failure> {
        // First only to learn where the file is, and whether there is any need for it. What is wrong
        // with the rest is told the second time, and help is given also if the file is broken.
        let first = self.command.clone().ignore_errors(true).try_get_matches_from(&arguments)?;
        let read = first.subcommand_name().is_none_or(self.read_for);
        let text = if read { Text::read(&Self::place(&first))? } else { None };
        let command = match text {
            Some(text) => values_of(&text, self)?.as_defaults(self.command.clone()),
            None => self.command.clone(),
        };
        Ok(command.try_get_matches_from(arguments)?)
    }
}

impl Values {
    /// A command whose options, and those of all commands below it, have these values as defaults.
    pub(crate) fn as_defaults(&self, command: Command) -> Command {
        let ids: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| Some((arg.get_id().clone(), self.0.get(arg.get_long()?)?)))
            .collect();
        let command = ids.into_iter().fold(command, |command, (id, value)| {
            command.mut_arg(id, |arg| arg.default_values(value.texts.clone()).required(false))
        });
        let names: Vec<_> =
            command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
        names.into_iter().fold(command, |command, name| {
            command.mut_subcommand(name, |below| self.as_defaults(below))
        })
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
