//! Terminals of a shell's job: the caller's terminal takes the place of the one there was. One that
//! had hung up, as its window was closed, is one that has hung up again.

use std::fs::File;
use std::os::fd::OwnedFd;

use images::messages::{TermiosEntry, TtyFileEntry, TtyInfoEntry, tty_type};
use kernel::tty::{self, Modes};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;

use super::regular::{flags as flags_again, reopen};
use super::{Error, kernel};

/// The caller's terminal.
#[derive(Debug)]
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// Finds the caller's terminal: what it reads from or writes to, or what controls it.
    pub(super) fn of_caller() -> Result<Self, Error> {
        for path in ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/dev/tty"] {
            let opened = File::options().read(true).write(true).custom_flags_no_tty().open(path);
            if let Ok(file) = opened
                && tty::modes(&file).is_ok()
            {
                return Ok(Self(file.into()));
            }
        }
        Err(Error::refused(
            "terminal of the job",
            "there is no terminal to take its place",
            "restore from a shell in a terminal",
        ))
    }

    /// Opens the terminal for an entry, and gives it the modes that its terminal had.
    pub(super) fn open(&self, entry: &TtyFileEntry, info: &TtyInfoEntry) -> Result<OwnedFd, Error> {
        let what = format!("terminal of file {}", entry.id);
        if !matches!(info.r#type, tty_type::PTY | tty_type::CTTY) || info.id & 1 == 1 {
            return Err(Error::refused(
                what,
                "only the terminals of a shell's jobs are supported yet",
                "dump the job inside the terminal",
            ));
        }
        let fd =
            reopen(&self.0, entry.flags).map_err(|errno| kernel(format!("open {what}"), errno))?;
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
pub(super) fn has_hung_up(info: &TtyInfoEntry) -> bool {
    info.termios.is_none() && info.r#type == tty_type::PTY && info.id & 1 == 0
}

/// A terminal that has hung up: its reads find the end, its writes fail, as they did before.
pub(super) fn hung_up(entry: &TtyFileEntry) -> Result<OwnedFd, Error> {
    let what = format!("hung-up terminal of file {}", entry.id);
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |errno| kernel(operation, errno)
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
