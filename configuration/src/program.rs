//! A program that has a section in the file.

use clap::{Arg, Command};

use crate::file::DEFAULT;
use crate::key::Key;

/// The option that says where the file is.
pub(crate) const CONFIG: &str = "config";

/// A program that has a section in the file.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) section: &'static str,
    pub(crate) command: Command,
    pub(crate) keys: Vec<Key>,
    pub(crate) read_for: fn(&str) -> bool,
}

impl Program {
    /// A service: each of its options is a key. What it is started again for as another's helper
    /// (its subcommands) reads no file: that was done once.
    #[must_use]
    pub fn service(section: &'static str, command: Command) -> Self {
        let keys = command.get_arguments().filter_map(Key::of).collect();
        Self::new(section, command, keys, |_| false)
    }

    /// A program of many commands: keys are those options that have a variable of the environment,
    /// too. They say where things are on this machine; all others belong to one deed. `read_for`
    /// says for which commands the file is read.
    #[must_use]
    pub fn commands(section: &'static str, command: Command, read_for: fn(&str) -> bool) -> Self {
        let mut keys = Vec::new();
        collect(&command, &mut keys);
        Self::new(section, command, keys, read_for)
    }

    fn new(
        section: &'static str,
        command: Command,
        keys: Vec<Key>,
        read_for: fn(&str) -> bool,
    ) -> Self {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .env("STASIS_CONFIG")
            .default_value(DEFAULT)
            .value_parser(clap::value_parser!(std::path::PathBuf))
            .help("Configuration file, whose values stand in for options that are not given");
        Self { section, command: command.arg(config), keys, read_for }
    }

    /// Its section.
    #[must_use]
    pub const fn section(&self) -> &'static str {
        self.section
    }

    /// Its command line, with the option that says where the file is.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    pub(crate) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// The options of a command and all below it that have a variable of the environment.
fn collect(command: &Command, keys: &mut Vec<Key>) {
    let of_environment = command.get_arguments().filter(|arg| arg.get_env().is_some());
    for key in of_environment.filter_map(Key::of) {
        if keys.iter().all(|known| known.name != key.name) {
            keys.push(key);
        }
    }
    command.get_subcommands().for_each(|below| collect(below, keys));
}
