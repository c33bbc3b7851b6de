//! Terminals of a shell's job: the caller's terminal takes the place of the one there was. One that
//! had hung up, as its window was closed, is one that has hung up again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use images::Checkpoint;
use images::messages::{
    FdinfoEntry, FileEntry, TermiosEntry, TtyFileEntry, TtyInfoEntry, fd_type, tty_type,
};
use kernel::tty::{self, Modes};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;

use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::opening::Opening;
use super::reopen::{flags as flags_again, reopen};
use super::{Error, InstallTask, OpenFiles};

/// What is known of terminals, by their ids.
#[derive(Debug, Default)]
struct Infos(BTreeMap<u32, TtyInfoEntry>);

impl Part for Infos {}

/// An open terminal.
#[derive(Debug)]
pub(super) struct OpenTerminal;

impl FileKind for OpenTerminal {
    fn r#type(&self) -> u32 {
        fd_type::TTY
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        beside.of::<Infos>().0 = checkpoint.terminals.clone();
        Ok(())
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let mut caller = None;
        for file in files {
            let entry = file.tty.as_ref().ok_or_else(|| missing(file))?;
            let infos = &opening.beside.of::<Infos>().0;
            let info = infos.get(&entry.tty_info_id);
            let info = info.ok_or_else(|| missing(file))?;
            if has_hung_up(info) {
                opening.add(file.id, hung_up(entry)?)?;
                continue;
            }
            if !opening.shell_job {
                return Err(Error::refused(
                    support::host::TERMINAL_OUTSIDE.of(0, "terminal of the job"),
                ));
            }
            let terminal = match &caller {
                Some(terminal) => terminal,
                None => caller.insert(Terminal::of_caller()?),
            };
            let opened = terminal.open(entry, info)?;
            opening.add(file.id, opened)?;
        }
        Ok(())
    }

    /// The job that was in the foreground of its terminal is so again.
    fn in_task(
        &self,
        files: &OpenFiles,
        entry: &FdinfoEntry,
        file: &FileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        let infos = files.beside.get::<Infos>();
        let info = file.tty.as_ref().and_then(|tty| infos?.0.get(&tty.tty_info_id));
        if info.is_none_or(|info| info.pgrp != task.pid.unsigned()) {
            return Ok(());
        }
        match tty::set_foreground(files.opened(entry.id, task)?, task.pid) {
            // A terminal that does not control this session has no foreground of ours.
            Err(source) if source.raw_os_error() != Some(libc::ENOTTY) => {
                let operation =
                    format!("put process group {} in the foreground of its terminal", task.pid);
                Err(Error::Kernel { operation, source })
            }
            _ => Ok(()),
        }
    }
}

/// The caller's terminal.
#[derive(Debug)]
struct Terminal(OwnedFd);

impl Terminal {
    /// Finds the caller's terminal: what it reads from or writes to, or what controls it.
    fn of_caller() -> Result<Self, Error> {
        for path in ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/dev/tty"] {
            let opened = File::options().read(true).write(true).custom_flags_no_tty().open(path);
            if let Ok(file) = opened
                && tty::modes(&file).is_ok()
            {
                return Ok(Self(file.into()));
            }
        }
        Err(Error::refused(support::host::NO_TERMINAL.of(0, "terminal of the job")))
    }

    /// Opens the terminal for an entry, and gives it the modes that its terminal had.
    fn open(&self, entry: &TtyFileEntry, info: &TtyInfoEntry) -> Result<OwnedFd, Error> {
        let what = format!("terminal of file {}", entry.id);
        if !matches!(info.r#type, tty_type::PTY | tty_type::CTTY) || info.id & 1 == 1 {
            return Err(Error::refused(support::images::OTHER_TERMINAL.of(0, what)));
        }
        let fd = reopen(&self.0, entry.flags)
            .map_err(|errno| Error::kernel(format!("open {what}"), errno))?;
        // The window has the size it has; the modes are the program's.
        if let Some(termios) = &info.termios {
            let failed =
                |source| Error::Kernel { operation: format!("set modes of {what}"), source };
            let modes = modes(termios, &what)?;
            if tty::modes(&fd).map_err(failed)? != modes {
                tty::set_modes(&fd, &modes).map_err(|source| Error::Kernel {
                    operation: format!("set modes of {what}"),
                    source,
                })?;
            }
        }
        Ok(fd)
    }
}

/// Whether the terminal had hung up: it told nothing of itself.
fn has_hung_up(info: &TtyInfoEntry) -> bool {
    info.termios.is_none() && info.r#type == tty_type::PTY && info.id & 1 == 0
}

/// A terminal that has hung up: its reads find the end, its writes fail, as they did before.
fn hung_up(entry: &TtyFileEntry) -> Result<OwnedFd, Error> {
    let what = format!("hung-up terminal of file {}", entry.id);
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |errno| Error::kernel(operation, errno)
    };
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).map_err(failed("make the"))?;
    grantpt(&master).map_err(failed("grant the"))?;
    unlockpt(&master).map_err(failed("unlock the"))?;
    let path = ptsname_r(&master).map_err(failed("name the"))?;
    let flags = flags_again(entry.flags);
    // It hangs up as its master is closed.
    nix::fcntl::open(path.as_str(), flags, Mode::empty()).map_err(failed("open the"))
}

/// Opens without making the terminal ours.
trait NoTty {
    fn custom_flags_no_tty(&mut self) -> &mut Self;
}

impl NoTty for std::fs::OpenOptions {
    fn custom_flags_no_tty(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
    }
}

fn modes(entry: &TermiosEntry, what: &str) -> Result<Modes, Error> {
    let malformed = || Error::image(what, "its modes are none");
    let mut modes = Modes {
        input: entry.c_iflag,
        output: entry.c_oflag,
        control: entry.c_cflag,
        local: entry.c_lflag,
        line: u8::try_from(entry.c_line).map_err(|_| malformed())?,
        ..Modes::default()
    };
    // Four in each word; what follows the last of them means nothing.
    let characters = entry.c_cc.iter().flat_map(|word| word.to_ne_bytes());
    for (place, character) in modes.characters.iter_mut().zip(characters) {
        *place = character;
    }
    Ok(modes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_has_hung_up() {
        let entry = TtyFileEntry { flags: libc::O_RDWR.cast_unsigned(), ..TtyFileEntry::default() };
        let fd = hung_up(&entry).unwrap();
        assert_eq!(nix::unistd::read(&fd, &mut [0; 8]), Ok(0));
        assert_eq!(nix::unistd::write(&fd, b"x"), Err(nix::errno::Errno::EIO));
        assert!(tty::modes(&fd).is_err());
    }

    #[test]
    fn modes_as_criu_writes_them() {
        let entry = TermiosEntry {
            c_lflag: 35379,
            c_cc: vec![360_651_779, 65540, 1_708_817, 370_609_938, 0, 7, 9, u32::MAX],
            ..TermiosEntry::default()
        };
        let modes = modes(&entry, "x").unwrap();
        assert_eq!(modes.characters[..5], [3, 28, 127, 21, 4]);
        assert_eq!((modes.local, modes.characters[18]), (35379, 0));
        assert!(super::modes(&TermiosEntry { c_line: 256, ..entry }, "x").is_err());
    }
}
