//! Terminals of a shell's job: modes and size, and who is in the foreground.

use std::os::fd::{AsFd, BorrowedFd};

use collector::{Inventory, OpenFile, Process};
use images::messages::{
    FileEntry, TermiosEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, WinsizeEntry, fd_type,
    tty_type,
};
use images::{ImageWriter, names};
use kernel::procfs::{Dir, ProcFile, Stat};
use kernel::tty::{self, Modes};
use nix::sys::stat::FileStat;

use super::Captured;
use super::beside::Part;
use super::file_kind::FileKind;
use super::paths::is_terminal;
use super::problem::{Doing, Problem};
use super::survey::Survey;
use crate::numbers::Numbers;

/// `/dev/tty` counts as terminal number 1006 in the images.
const CONTROLLING: u32 = 1006;
/// Largest number of a pseudo-terminal that the images have a place for.
const LARGEST: u32 = 1000;

/// What is known of terminals, each once.
#[derive(Debug, Default)]
struct Infos(Vec<TtyInfoEntry>);

impl Part for Infos {}

/// An open terminal.
#[derive(Debug)]
pub(super) struct OpenTerminal;

impl FileKind for OpenTerminal {
    fn types(&self) -> &'static [u32] {
        &[fd_type::TTY]
    }

    fn is_device(&self, device: u64) -> bool {
        is_terminal(device)
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let pid = process.pid;
        let found = survey.find(pid, file)?;
        let stat = found.stat()?;
        let terminal = Terminal::of(stat.st_rdev, survey.context.shell_job)?;
        let fown = survey.owner(pid, file)?;
        let regf_id = survey.new_id();
        let reg = survey.regular(&found, regf_id, file.flags, file.position, fown)?;
        survey.out.files.push(FileEntry {
            id: regf_id,
            r#type: fd_type::REG,
            reg: Some(reg),
            ..FileEntry::default()
        });
        // What it is like is the frozen look's to tell.
        survey.to_keep = false;
        let known = &survey.out.beside.of::<Infos>().0;
        if known.iter().all(|info| info.id != terminal.id()) {
            let fd = survey.held.borrow(pid, file.fd)?;
            let info = info(terminal, fd.as_fd(), &stat, (survey.inventory, survey.numbers))?;
            survey.out.beside.of::<Infos>().0.push(info);
        }
        let tty = TtyFileEntry {
            id: entry.id,
            tty_info_id: terminal.id(),
            flags: file.flags,
            fown,
            regf_id: Some(regf_id),
        };
        Ok(FileEntry { r#type: fd_type::TTY, tty: Some(tty), ..entry })
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let infos = captured.beside.get::<Infos>().map_or(&[][..], |infos| &infos.0);
        writer.write_all(&names::tty_info(), infos)
    }
}

/// What a device number says of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    /// The slave side of a pseudo-terminal.
    Slave(u32),
    /// `/dev/tty`: whatever terminal controls the process.
    Controlling,
}

impl Terminal {
    /// The terminal with the device number `device`; refused when it is of another kind, or when
    /// a job of a shell was not asked for.
    fn of(device: u64, shell_job: bool) -> Result<Self, Problem> {
        let terminal = match (libc::major(device), libc::minor(device)) {
            (major @ 136..=143, minor) => Self::Slave((major - 136) * 256 + minor),
            (5, 0) => Self::Controlling,
            (5, 2) => {
                return Err(Problem::Refused(support::files::TERMINAL_MASTER));
            }
            _ => {
                return Err(Problem::Refused(support::files::OTHER_TERMINAL));
            }
        };
        if !shell_job {
            return Err(Problem::Refused(support::files::TERMINAL_OUTSIDE));
        }
        if matches!(terminal, Self::Slave(number) if number > LARGEST) {
            return Err(Problem::Refused(support::files::terminal_number(LARGEST)));
        }
        Ok(terminal)
    }

    /// Its id in `tty-info.img`: twice its number, and one more for a master.
    fn id(self) -> u32 {
        match self {
            Self::Slave(number) => number << 1,
            Self::Controlling => CONTROLLING << 1,
        }
    }
}

/// The session and the foreground group of the terminal `device`, from a process of the tree that
/// it controls; zeros when it controls none.
fn session(inventory: &Inventory, numbers: &Numbers, device: u64) -> Result<(u32, u32), Problem> {
    for pid in inventory.processes.keys() {
        let stat = Dir::open(*pid).and_then(|dir| Stat::read(&dir));
        let stat = match stat {
            Err(error) if error.is_gone() => continue,
            other => other.doing("read stat of a holder of")?,
        };
        if u64::from(stat.tty_nr.cast_unsigned()) == device && device != 0 {
            return Ok((numbers.message(stat.session), numbers.message(stat.tty_pgrp)));
        }
    }
    Ok((0, 0))
}

/// The entry in `tty-info.img`.
fn info(
    terminal: Terminal,
    fd: BorrowedFd<'_>,
    stat: &FileStat,
    (inventory, numbers): (&Inventory, &Numbers),
) -> Result<TtyInfoEntry, Problem> {
    let (kind, pty) = match terminal {
        Terminal::Slave(index) => (tty_type::PTY, Some(TtyPtyEntry { index })),
        Terminal::Controlling => (tty_type::CTTY, None),
    };
    let (sid, pgrp) = session(inventory, numbers, stat.st_rdev)?;
    let mut info = TtyInfoEntry {
        id: terminal.id(),
        r#type: kind,
        locked: false,
        exclusive: false,
        packet_mode: false,
        sid,
        pgrp,
        rdev: stat.st_rdev as u32,
        termios: None,
        termios_locked: None,
        winsize: None,
        pty,
        dev: Some(stat.st_dev as u32),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    };
    // A terminal that has hung up answers nothing: its entry stays bare.
    let Ok(modes) = tty::modes(fd) else { return Ok(info) };
    info.exclusive = tty::is_exclusive(fd).doing("get exclusive mode of")?;
    info.termios = Some(termios(&modes));
    info.termios_locked = Some(termios(&tty::locked_modes(fd).doing("get locked modes of")?));
    let size = tty::window_size(fd).doing("get window size of")?;
    info.winsize = Some(WinsizeEntry {
        ws_row: size.rows.into(),
        ws_col: size.columns.into(),
        ws_xpixel: size.x_pixels.into(),
        ws_ypixel: size.y_pixels.into(),
    });
    Ok(info)
}

fn termios(modes: &Modes) -> TermiosEntry {
    TermiosEntry {
        c_iflag: modes.input,
        c_oflag: modes.output,
        c_cflag: modes.control,
        c_lflag: modes.local,
        c_line: modes.line.into(),
        // The speeds are in `c_cflag`.
        c_ispeed: 0,
        c_ospeed: 0,
        c_cc: characters(modes),
    }
}

/// The control characters as CRIU has them: as many words as there are characters, with the
/// characters one behind the other in the first few.
fn characters(modes: &Modes) -> Vec<u32> {
    let mut words = vec![0; tty::CONTROL_CHARACTERS];
    for (word, bytes) in words.iter_mut().zip(modes.characters.chunks(4)) {
        let mut four = [0; 4];
        four[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(four);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_lie_close() {
        let mut modes = Modes::default();
        modes.characters[..5].copy_from_slice(&[3, 28, 127, 21, 4]);
        let words = characters(&modes);
        assert_eq!((words.len(), words[0], words[1]), (19, 0x157f_1c03, 4));
    }

    #[test]
    fn terminals_by_device() {
        let of = |major, minor| Terminal::of(libc::makedev(major, minor), true);
        assert_eq!(of(136, 3).unwrap().id(), 6);
        assert_eq!(of(137, 1).unwrap(), Terminal::Slave(257));
        assert_eq!(of(5, 0).unwrap(), Terminal::Controlling);
        assert!(of(5, 2).is_err() && of(4, 1).is_err() && of(143, 200).is_err());
        assert!(Terminal::of(libc::makedev(136, 0), false).is_err());
    }
}
