//! How options are read: as `getopt_long` does, word by word, from wherever they come. Files of options,
//! a command line and the fields of a message of the RPC are all words of one reading, in the order in which they count.

use std::ffi::OsString;
use std::os::fd::RawFd;

use lexopt::{Arg, Parser};

use crate::command::Command;
use crate::options::{Options, UsageError};
use crate::table::{Kind, Known, find_long, find_short};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// That something be done.
    Run(Command, Box<Options>),
    /// That the requests be carried out that come by a socket, the descriptor of this number. They start
    /// from the options that have been read.
    Work(Box<Reading>, RawFd),
    /// The version.
    Version,
    /// How it is used.
    Help,
}

/// Commands that CRIU has and this version of stasis has not, with what to do instead.
const UNSUPPORTED_COMMANDS: &[(&str, &str)] = &[
    ("lazy-pages", "restore without --lazy-pages, which brings in all pages at once"),
    ("exec", "CRIU has none any more either; use gdb or nsenter"),
    ("show", "use `stasis show`, or crit"),
];

/// What has been read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub(crate) options: Options,
    /// The command, and what follows it.
    words: Vec<OsString>,
    /// Options as they were written, those that were taken back left out.
    given: Vec<(&'static Known, String)>,
}

/// Reads a command line, the program's name aside.
///
/// # Errors
/// If it is none of CRIU's, or asks for a command that stasis has not.
pub fn parse(arguments: Vec<OsString>) -> Result<Asked, UsageError> {
    let mut reading = Reading::default();
    match reading.read(arguments)? {
        Some(asked) => Ok(asked),
        None => reading.asked(),
    }
}

impl Reading {
    /// Reads more words: a later option counts more than an earlier one. What asks only to be told something
    /// is returned.
    pub(crate) fn read(&mut self, arguments: Vec<OsString>) -> Result<Option<Asked>, UsageError> {
        let mut parser = Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            let (known, written, on) = match argument {
                Arg::Value(word) => {
                    self.words.push(word);
                    continue;
                }
                Arg::Short(letter) => {
                    let written = format!("-{letter}");
                    let Some(known) = find_short(letter) else {
                        return Err(UsageError::Unknown(written));
                    };
                    (known, written, true)
                }
                Arg::Long(name) => {
                    let written = format!("--{name}");
                    let (known, on) = find_long(name).map_err(|many| match many {
                        true => UsageError::Ambiguous(written.clone()),
                        false => UsageError::Unknown(written.clone()),
                    })?;
                    (known, written, on)
                }
            };
            match known.long {
                "version" => return Ok(Some(Asked::Version)),
                "help" => return Ok(Some(Asked::Help)),
                _ => {}
            }
            let value = match known.kind {
                Kind::Plain | Kind::Switch => None,
                Kind::Optional => parser.optional_value(),
                Kind::Required => {
                    Some(parser.value().map_err(|_| UsageError::NoValue(written.clone()))?)
                }
            };
            self.options.take(known, &written, on, value.as_ref())?;
            match on {
                true => self.given.push((known, written)),
                false => self.given.retain(|(given, _)| given.long != known.long),
            }
        }
        Ok(None)
    }

    fn asked(mut self) -> Result<Asked, UsageError> {
        let words = std::mem::take(&mut self.words);
        let (name, mut rest) = words.split_first().ok_or(UsageError::NoCommand)?;
        let name = name.to_string_lossy().into_owned();
        let command = match name.as_str() {
            "cpuinfo" => {
                let (action, further) = rest.split_first().ok_or(UsageError::NoAction)?;
                rest = further;
                match action.to_str() {
                    Some("dump") => Command::CpuinfoDump,
                    Some("check") => Command::CpuinfoCheck,
                    _ => {
                        let action = action.to_string_lossy();
                        return Err(UsageError::UnknownCommand(format!("cpuinfo {action}")));
                    }
                }
            }
            "dump" => Command::Dump,
            "pre-dump" => Command::PreDump,
            "restore" => Command::Restore,
            "check" => Command::Check,
            "dedup" => Command::Dedup,
            "page-server" => Command::PageServer,
            "service" => Command::Service,
            "swrk" => {
                let [number] = rest else { return Err(UsageError::Worker) };
                let number = number.to_str().and_then(|number| number.parse().ok());
                let number = number.filter(|number: &RawFd| *number >= 0);
                return Ok(Asked::Work(Box::new(self), number.ok_or(UsageError::Worker)?));
            }
            name => {
                let known = UNSUPPORTED_COMMANDS.iter().find(|(known, _)| *known == name);
                return Err(match known {
                    Some((_, instead)) => UsageError::UnsupportedCommand(name.to_owned(), instead),
                    None => UsageError::UnknownCommand(name.to_owned()),
                });
            }
        };
        let exec = self.given.iter().any(|(known, _)| known.long == "exec-cmd");
        match (rest, exec && command == Command::Restore) {
            ([], false) => {}
            ([], true) => return Err(UsageError::NoProgram),
            (_, false) => return Err(UsageError::Excessive(name)),
            (program, true) => self.options.exec = program.to_vec(),
        }
        Ok(Asked::Run(command, Box::new(self.options_for(command))))
    }

    /// The options, with what they mean to a command: what of them is not carried for it, and what does
    /// nothing for it.
    pub(crate) fn options_for(self, command: Command) -> Options {
        let Self { mut options, given, .. } = self;
        let unknown = std::mem::take(&mut options.unknown_external);
        match command {
            Command::Restore => options.misplaced.extend(unknown),
            _ => options.refused.extend(unknown),
        }
        for (known, written) in given {
            if known.refused.contains(&command) {
                options.refused.push(written);
            } else if !known.commands.contains(&command) {
                options.misplaced.push(written);
            }
        }
        // Who has the connection already has no use for an address.
        let addresses = match command {
            Command::Dump | Command::PreDump => options.page_server && options.ps_socket.is_none(),
            Command::PageServer => options.ps_socket.is_none(),
            _ => true,
        };
        if !addresses {
            let given = [
                options.address.take().map(|_| "--address"),
                options.port.take().map(|_| "--port"),
            ];
            options.misplaced.extend(given.into_iter().flatten().map(str::to_owned));
        }
        if matches!(command, Command::Dump | Command::PreDump) {
            // It is the server that has the parent's pages.
            if options.page_server && std::mem::take(&mut options.auto_dedup) {
                options.misplaced.push("--auto-dedup".to_owned());
            }
            if !options.page_server && options.ps_socket.take().is_some() {
                options.misplaced.push("--ps-socket".to_owned());
            }
            let nameless = options.external_mounts.named.iter().filter(|(_, name)| name.is_empty());
            let shown = nameless.map(|(key, _)| format!("--ext-mount-map {}:", key.display()));
            options.refused.extend(shown);
        }
        options
    }
}
