//! Terminals. Pseudo-terminals are made again, both sides, under the numbers that they had, with what waited
//! in them; consoles and virtual terminals are opened again as files are; the caller's terminal takes the
//! place of one that was outside of the tree, or one is made whose master the caller takes. One that had hung up, as its window was closed, is one that has
//! hung up again.
//!
//! A slave is opened by way of its master, never by its name: the name may be somebody else's terminal by
//! now. Sessions get their terminals when they are founded, before they have other members.

mod caller;
mod current;
mod known;
mod numbers;
mod orphans;
mod pairs;
mod queue;
mod settings;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use ids::ImagePid;
use images::Checkpoint;
use images::messages::{FdinfoEntry, FileEntry, TtyDataEntry, TtyInfoEntry, fd_type, tty_type};
use kernel::tty;

use self::caller::Caller;
use self::known::{Controlling, File, is_led, number};
use self::pairs::Pair;
use support::Refusal;

use super::beside::{Beside, Part};
use super::file_kind::{FileKind, Member, missing};
use super::images::FileImages;
use super::keep::Keep;
use super::opening::{Opening, flagged};
use super::user::User;
use super::{Error, InstallTask, OpenFiles};

/// What is known of terminals, and of the sessions that they control.
#[derive(Debug, Default)]
struct Terminals {
    infos: BTreeMap<u32, TtyInfoEntry>,
    /// What waited in them.
    inputs: BTreeMap<u32, TtyDataEntry>,
    /// By session.
    controlling: BTreeMap<u32, Controlling>,
}

impl Part for Terminals {
    fn keep(&mut self, keep: Keep) -> io::Result<()> {
        for (session, Controlling { fd, group }) in std::mem::take(&mut self.controlling) {
            self.controlling.insert(session, Controlling { fd: keep.keep(fd)?, group });
        }
        Ok(())
    }
}

/// An open terminal.
#[derive(Debug)]
pub(super) struct OpenTerminal;

impl FileKind for OpenTerminal {
    fn r#type(&self) -> u32 {
        fd_type::TTY
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let known = beside.of::<Terminals>();
        checkpoint.terminals.values().try_for_each(settings::check)?;
        known.infos = checkpoint.terminals.clone();
        checkpoint.terminal_input.iter().try_for_each(queue::check)?;
        let inputs = checkpoint.terminal_input.iter().cloned();
        known.inputs = inputs.map(|data| (data.tty_id, data)).collect();
        Ok(())
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        let entry = file.tty.as_ref().ok_or_else(|| missing(file))?;
        let known = images.beside.get::<Terminals>();
        for id in [Some(entry.tty_info_id), entry.terminal].into_iter().flatten() {
            known.and_then(|known| known.infos.get(&id)).ok_or_else(|| missing(file))?;
        }
        Ok(())
    }

    fn name(&self, file: &FileEntry, beside: &Beside) -> Option<Vec<u8>> {
        let known = beside.get::<Terminals>()?;
        let info = known.infos.get(&file.tty.as_ref()?.tty_info_id)?;
        Some(format!("tty[{:x}:{:x}]", info.rdev, info.dev.unwrap_or(0)).into_bytes())
    }

    /// It has the modes that the program knows, and the size that the caller's window has.
    fn inherit(
        &self,
        opening: &mut Opening<'_>,
        file: &FileEntry,
        handed: &OwnedFd,
    ) -> Result<OwnedFd, Error> {
        let what = format!("terminal of file {}", file.id);
        let failed = |source| Error::Kernel { operation: format!("duplicate {what}"), source };
        let info = file.tty.as_ref().map_or(0, |tty| tty.tty_info_id);
        let known = opening.beside.of::<Terminals>();
        if let Some(info) = known.infos.get(&info).filter(|info| info.termios.is_some()) {
            settings::apply_modes(handed, info, &what)?;
        }
        handed.try_clone().map_err(failed)
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let known = std::mem::take(opening.beside.of::<Terminals>());
        let all = sort(&known, opening.files, files)?;
        let controlling = all.open(opening, &known)?;
        *opening.beside.of::<Terminals>() = Terminals { controlling, ..known };
        Ok(())
    }

    /// The leader of a session takes the terminal that controlled it.
    fn found_session(&self, files: &OpenFiles, leader: ImagePid) -> Result<(), Error> {
        let known = files.beside.get::<Terminals>();
        let own = known.and_then(|known| known.controlling.get(&leader.unsigned()));
        let Some(own) = own else { return Ok(()) };
        tty::make_controlling(&own.fd).map_err(|source| Error::Kernel {
            operation: format!("make a terminal the controlling one of session {leader}"),
            source,
        })
    }

    /// The group that was in the foreground of a terminal is so again, and who had given up the terminal of
    /// the session has done so again.
    fn in_session(&self, files: &OpenFiles, member: &Member) -> Result<(), Error> {
        if member.gave_up_terminal {
            return current::give_up(member.pid);
        }
        let known = files.beside.get::<Terminals>();
        let own = known.and_then(|known| known.controlling.get(&member.pid.unsigned()));
        let Some(own) = own.filter(|_| member.leads) else { return Ok(()) };
        set_foreground(files, &own.fd, (member.pid, own.group))
    }

    /// The job that was in the foreground of its terminal outside is so again.
    fn in_task(
        &self,
        files: &OpenFiles,
        entry: &FdinfoEntry,
        file: &FileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        let Some(known) = files.beside.get::<Terminals>() else { return Ok(()) };
        let info = file.tty.as_ref().and_then(|tty| known.infos.get(&tty.tty_info_id));
        match info {
            Some(info)
                if info.pgrp == task.pid.unsigned()
                    && !known.controlling.contains_key(&info.sid) =>
            {
                set_foreground(files, files.opened(entry.id, task)?, (task.pid, info.pgrp))
            }
            _ => Ok(()),
        }
    }
}

/// Puts a process group in the foreground of a terminal.
fn set_foreground(
    files: &OpenFiles,
    fd: impl std::os::fd::AsFd,
    (by, group): (ImagePid, u32),
) -> Result<(), Error> {
    let group = ImagePid::try_from(group).ok().and_then(|group| files.levels.local(by, group));
    let Some(group) = group else { return Ok(()) };
    match tty::set_foreground(fd, group) {
        // A terminal that does not control this session has no foreground of ours; a group may have lost its
        // last member while it was in the foreground.
        Err(source) if !matches!(source.raw_os_error(), Some(libc::ENOTTY | libc::ESRCH)) => {
            let operation = format!("put process group {group} in the foreground of its terminal");
            Err(Error::Kernel { operation, source })
        }
        _ => Ok(()),
    }
}

/// The open files of all terminals, by what becomes of them.
#[derive(Debug, Default)]
struct Sorted<'a> {
    /// With both sides in the tree, by number.
    pairs: BTreeMap<u32, Pair<'a>>,
    hung_up: Vec<File<'a>>,
    /// The terminal of a job.
    outside: Vec<(File<'a>, &'a TtyInfoEntry)>,
    /// Consoles, virtual terminals.
    lines: Vec<(File<'a>, &'a TtyInfoEntry)>,
}

fn sort<'a>(
    known: &'a Terminals,
    entries: &'a BTreeMap<u32, Box<FileEntry>>,
    files: &[&'a FileEntry],
) -> Result<Sorted<'a>, Error> {
    let mut all = Sorted::default();
    let mut rest = Vec::new();
    for file in files {
        let entry = file.tty.as_ref().ok_or_else(|| missing(file))?;
        let path = entry.regf_id.and_then(|id| entries.get(&id)?.reg.as_ref());
        let own = File { id: file.id, entry, path };
        let info = known.infos.get(&entry.tty_info_id).ok_or_else(|| missing(file))?;
        if info.r#type == tty_type::PTY && info.id & 1 == 1 {
            let number = number(info)?;
            let pair = Pair::new(own, info);
            if all.pairs.insert(number, pair).is_some() {
                return Err(Error::image(own.what(), format!("/dev/pts/{number} has two masters")));
            }
        } else {
            rest.push((own, info));
        }
    }
    for (file, info) in rest {
        all.add(known, file, info)?;
    }
    Ok(all)
}

impl<'a> Sorted<'a> {
    /// A file of something else than a master.
    fn add(
        &mut self,
        known: &'a Terminals,
        file: File<'a>,
        info: &'a TtyInfoEntry,
    ) -> Result<(), Error> {
        let is_current = info.r#type == tty_type::CTTY;
        // CRIU does not say which terminal it was: that of the session.
        let of_session = || {
            let mut others = known.infos.values();
            others.find(|other| other.r#type != tty_type::CTTY && other.sid == info.sid)
        };
        let real = match file.entry.terminal {
            Some(id) => known.infos.get(&id),
            None if is_current && info.sid != 0 => of_session(),
            None => None,
        };
        let real = real.unwrap_or(info);
        match real.r#type {
            tty_type::PTY if real.termios.is_none() => self.hung_up.push(file),
            tty_type::PTY => match self.pairs.get_mut(&number(real)?) {
                Some(pair) if is_current => pair.current.push(file),
                Some(pair) => {
                    pair.slaves.push(file);
                    pair.slave = Some(real);
                }
                None => self.outside.push((file, real)),
            },
            tty_type::CTTY => self.outside.push((file, real)),
            tty_type::CONSOLE | tty_type::VT | tty_type::SERIAL => self.lines.push((file, real)),
            _ => {
                return Err(Error::image(file.what(), "it is of a kind that is not known"));
            }
        }
        Ok(())
    }

    /// Also returns the terminals of sessions.
    fn open(
        self,
        opening: &mut Opening<'_>,
        known: &Terminals,
    ) -> Result<BTreeMap<u32, Controlling>, Error> {
        let Self { pairs, hung_up, outside, lines } = self;
        let mut controlling = BTreeMap::new();
        pairs::open(opening, &known.infos, &known.inputs, pairs, &mut controlling)?;
        for file in hung_up {
            let opened = pairs::hung_up(opening, &file)?;
            opening.add(file.id, opened)?;
        }
        let outside = match opening.gives_masters {
            true => orphans::open(opening, outside, &mut controlling)?,
            false => outside,
        };
        if !outside.is_empty() {
            Caller::open(opening, outside, &mut controlling)?;
        }
        for (file, info) in lines {
            line(opening, &file, info, &mut controlling)?;
        }
        Ok(controlling)
    }
}

/// Opens a console or a virtual terminal again.
fn line(
    opening: &mut Opening<'_>,
    file: &File<'_>,
    info: &TtyInfoEntry,
    controlling: &mut BTreeMap<u32, Controlling>,
) -> Result<(), Error> {
    let (path, what) = (file.path()?, file.what());
    let opened = current::open_now(opening, path)?;
    settings::apply(&opened, info, &what)?;
    if is_led(opening, info) && !controlling.contains_key(&info.sid) {
        let fd = opened
            .try_clone()
            .map_err(|source| Error::Kernel { operation: format!("duplicate {what}"), source })?;
        controlling.insert(info.sid, Controlling { fd, group: info.pgrp });
    }
    opening.add(file.id, flagged(opened, file.entry.flags, &what)?)
}
