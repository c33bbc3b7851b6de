//! Terminals: pseudo-terminals with both sides, what waits in them, and which sessions they control;
//! consoles and virtual terminals; the terminal of a shell's job, which is outside.
//!
//! The images have a terminal once for each of its sides that is open in the tree, whatever it was opened by
//! (`/dev/tty` is the terminal of who opened it). How it is comes with the inventory, what waits in it
//! too: no call shows that without taking it away. Without eBPF the terminal is asked, and one in which
//! anything waits is refused.

mod asked;
mod entries;
mod known;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{FileEntry, TtyFileEntry, fd_type};
use images::{ImageWriter, names};
use inventory::terminals::{Side, Terminal};
use nix::sys::stat::FileStat;
use support::terminals as rules;

use super::Captured;
use super::file_kind::FileKind;
use super::paths::is_terminal;
use super::problem::Problem;
use super::regular::external_name;
use super::survey::Survey;
use known::{Known, Outside};

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
        // What it is like is the frozen look's to tell.
        survey.to_keep = false;
        Known::begin(survey)?;
        let fown = survey.owner(pid, file)?;
        let regf_id = survey.new_id();
        let (reg, stat) = survey.regular_now(&found, regf_id, file.flags, file.position, fown)?;
        let asked;
        let terminal = match &file.terminal {
            Some(terminal) => &**terminal,
            None => {
                asked = asked::ask(survey, pid, file, &stat)?;
                &asked
            }
        };
        let own = survey.terminal(pid, file, terminal, &stat)?;
        let (tty_info_id, is) = match is_current(stat.st_rdev) {
            true => (survey.current(terminal, &stat), Some(own)),
            false => (own, None),
        };
        survey.out.files.push(FileEntry {
            id: regf_id,
            r#type: fd_type::REG,
            reg: Some(reg),
            ..FileEntry::default()
        });
        let (id, regf_id) = (entry.id, Some(regf_id));
        let tty = TtyFileEntry { id, tty_info_id, flags: file.flags, fown, regf_id, terminal: is };
        Ok(FileEntry { r#type: fd_type::TTY, tty: Some(tty), ..entry })
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let Some(known) = captured.beside.get::<Known>() else { return Ok(()) };
        let mut infos: Vec<_> = known.infos.values().cloned().collect();
        infos.iter_mut().for_each(|info| captured.ids.enter(info));
        writer.write_all(&names::tty_info(), &infos)?;
        writer.write_all(&names::tty_data(), &known.data)
    }
}

/// Whether this is `/dev/tty`: the terminal that controls whoever opens it.
fn is_current(device: u64) -> bool {
    (libc::major(device), libc::minor(device)) == (5, 0)
}

impl Survey<'_> {
    /// The id of a terminal of which a file is open, with an entry in the images.
    fn terminal(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        terminal: &Terminal,
        stat: &FileStat,
    ) -> Result<u32, Problem> {
        if let Some(refusal) = rules::of_terminal(terminal) {
            return Err(Problem::Refused(refusal));
        }
        match terminal.side {
            _ if terminal.hung_up => {}
            Side::Master => {}
            Side::Slave => self.slave(terminal, stat)?,
            Side::Line => self.line(pid, file, terminal)?,
        }
        let session = self.session(terminal);
        let own = (!is_current(stat.st_rdev)).then_some(stat);
        let known = self.out.beside.of::<Known>();
        known.add(terminal, session, own)
    }

    /// The id of the entry that `/dev/tty` has in the images, of all who opened that.
    fn current(&mut self, terminal: &Terminal, stat: &FileStat) -> u32 {
        let session = self.session(terminal);
        self.out.beside.of::<Known>().add_current(terminal, session, stat)
    }

    /// A slave has its master in the tree, is a job's terminal, or one that a restore is handed.
    fn slave(&mut self, terminal: &Terminal, stat: &FileStat) -> Result<(), Problem> {
        if self.context.external_files.contains(&external_name("tty", stat.st_rdev, stat.st_dev)) {
            return Ok(());
        }
        let (shell_job, gives_masters) = (self.context.shell_job, self.context.gives_masters);
        let known = self.out.beside.of::<Known>();
        if known.has_master(terminal) {
            return match known.is_held_outside(terminal) {
                true => Err(Problem::Refused(rules::held_outside(terminal.number()))),
                false => Ok(()),
            };
        }
        match known.outside(terminal) {
            _ if gives_masters => Ok(()),
            _ if !shell_job => Err(Problem::Refused(rules::OUTSIDE)),
            Outside::Second => Err(Problem::Refused(rules::SECOND_OUTSIDE)),
            Outside::First => Ok(()),
        }
    }

    /// A virtual terminal shows text.
    fn line(&mut self, pid: HostPid, file: &OpenFile, terminal: &Terminal) -> Result<(), Problem> {
        const VIRTUAL: std::ops::RangeInclusive<u32> = 1..=63;
        let (major, minor) = (libc::major(terminal.device), libc::minor(terminal.device));
        if major != 4 || !VIRTUAL.contains(&minor) {
            return Ok(());
        }
        let fd = self.held.borrow(pid, file.fd)?;
        match kernel::tty::shows_text(&fd) {
            Ok(false) => Err(Problem::Refused(rules::DRAWN)),
            // There may be none behind the name.
            _ => Ok(()),
        }
    }

    /// The session that a terminal controls, if any process of the tree is in it, and the group in its
    /// foreground.
    fn session(&self, terminal: &Terminal) -> (u32, u32) {
        let device = match terminal.side {
            Side::Master => rules::slave(terminal.number()),
            Side::Slave | Side::Line => terminal.device,
        };
        let mut own = self.inventory.processes.values();
        let found = own.find(|process| process.terminal == device && !terminal.hung_up);
        found.map_or((0, 0), |process| {
            (self.numbers.message(process.sid), self.numbers.message(process.foreground))
        })
    }
}
