//! Manual pages and completions of shells, made of what a program says of itself in `--help`: every program of ours writes its own, when
//! it is started as `PROGRAM --write-manuals DIRECTORY`. `make install` does so, and packages do.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, FromArgMatches};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use configuration::Program;

/// The first word of a command line that asks for them.
const ASKED: &str = "--write-manuals";

/// Where shells look for completions, below `PREFIX/share`.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/site-functions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

/// The arguments of a service's program. One that is asked for its manuals writes them, and ends.
#[must_use]
pub fn arguments<A: FromArgMatches>(program: &Program) -> A {
    match written(program.command(), "8", std::env::args_os().skip(1)) {
        None => program.parse(),
        Some(Ok(())) => std::process::exit(0),
        Some(Err(error)) => {
            program.command().clone().error(clap::error::ErrorKind::Io, error).exit()
        }
    }
}

/// The same of a program for people, whose pages are in section 1 and which looks at its arguments itself: how it ends, if it was asked
/// for its manuals.
#[must_use]
pub fn asked(command: &Command, arguments: &[OsString]) -> Option<ExitCode> {
    written(command, "1", arguments.iter().cloned()).map(|written| match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With nowhere to say it, the exit code still tells.
            drop(writeln!(io::stderr(), "write the manuals: {error}"));
            ExitCode::FAILURE
        }
    })
}

fn written(
    command: &Command,
    section: &str,
    mut arguments: impl Iterator<Item = OsString>,
) -> Option<io::Result<()>> {
    if arguments.next()? != ASKED {
        return None;
    }
    let directory = arguments.next().filter(|_| arguments.next().is_none());
    Some(match directory {
        Some(directory) => write(command, section, Path::new(&directory)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{ASKED} takes one directory: PREFIX/share"),
        )),
    })
}

/// Writes the pages of a program and of its commands, and its completions, to where they are looked for below `PREFIX/share`.
fn write(command: &Command, section: &str, share: &Path) -> io::Result<()> {
    let command = command.clone().disable_help_subcommand(true);
    let name = command.get_name().to_owned();
    for (shell, folder) in SHELLS {
        let folder = share.join(folder);
        fs::create_dir_all(&folder)?;
        let file = generate_to(shell, &mut command.clone(), &name, &folder)?;
        if shell == Shell::Bash {
            // What it is called by, by itself, is what it is looked for by.
            fs::rename(file, folder.join(&name))?;
        }
    }
    let folder = share.join(format!("man/man{section}"));
    fs::create_dir_all(&folder)?;
    let mut whole = command;
    whole.build();
    page(&whole, section, &folder)?;
    whole
        .get_subcommands()
        .filter(|it| !it.is_hide_set())
        .try_for_each(|it| page(it, section, &folder))
}

fn page(command: &Command, section: &str, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let source = format!("stasis {}", env!("CARGO_PKG_VERSION"));
    let manual = if section == "8" { "System Administration" } else { "User Commands" };
    // The same program writes the same page whenever it does: there is no date, and what is empty would be left out.
    let page = Man::new(command.clone()).section(section).date(" ").source(source).manual(manual);
    let mut file = File::create(folder.join(format!("{name}.{section}")))?;
    page.render(&mut file)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    /// Does something
    #[derive(Debug, Parser)]
    #[command(name = "thing", version)]
    struct Args {
        /// Where it is done
        #[arg(long, value_name = "DIR", env = "THING_DIR")]
        _place: Option<String>,
        #[command(subcommand)]
        _command: Option<Deed>,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Deed {
        /// Goes on
        Go,
        /// For itself
        #[command(hide = true)]
        Hidden,
    }

    fn asked_by(arguments: &[&str]) -> Option<io::Result<()>> {
        written(&Args::command(), "1", arguments.iter().map(OsString::from))
    }

    #[test]
    fn they_are_written_to_where_they_are_looked_for() {
        let place = tempfile::tempdir().unwrap();
        let share = place.path();
        asked_by(&["--write-manuals", share.to_str().unwrap()]).unwrap().unwrap();
        let read = |name: &str| fs::read_to_string(share.join(name)).unwrap();
        let page = read("man/man1/thing.1");
        assert!(page.contains(".TH thing 1") && page.contains("THING_DIR"), "{page}");
        assert!(page.contains("thing\\-go(1)"), "{page}");
        assert!(read("man/man1/thing-go.1").contains("Goes on"));
        assert!(!share.join("man/man1/thing-hidden.1").exists());
        assert!(read("bash-completion/completions/thing").contains("--place"));
        assert!(read("zsh/site-functions/_thing").starts_with("#compdef thing"));
        assert!(read("fish/vendor_completions.d/thing.fish").contains("place"));
    }

    #[test]
    fn nobody_is_asked_by_other_words() {
        assert!(asked_by(&[]).is_none() && asked_by(&["go", "--write-manuals"]).is_none());
        for wrong in [&["--write-manuals"][..], &["--write-manuals", "a", "b"]] {
            assert!(asked_by(wrong).unwrap().is_err());
        }
    }
}
