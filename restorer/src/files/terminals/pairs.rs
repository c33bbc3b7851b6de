//! Pseudo-terminals with both sides, made again; and slaves whose masters are gone.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use images::messages::{TtyDataEntry, TtyInfoEntry, TtyNodeEntry};
use kernel::tty;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};

use super::super::Error;
use super::super::approve::{Approved, Purpose};
use super::super::opening::{Opening, flagged};
use super::super::reopen;
use super::known::{Controlling, File, is_led, number};
use super::numbers::{self, Wanted};
use super::{current, queue, settings};

/// What is open of a pseudo-terminal.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    master: File<'a>,
    info: &'a TtyInfoEntry,
    pub(super) slaves: Vec<File<'a>>,
    /// What the images say of the slave, if it was open.
    pub(super) slave: Option<&'a TtyInfoEntry>,
    /// Files of it that were opened as `/dev/tty`.
    pub(super) current: Vec<File<'a>>,
}

impl<'a> Pair<'a> {
    pub(super) fn new(master: File<'a>, info: &'a TtyInfoEntry) -> Self {
        Self { master, info, slaves: Vec::new(), slave: None, current: Vec::new() }
    }
}

/// A slave that is opened for ourselves: it must not wait for anything.
const OURS: OFlag =
    OFlag::O_RDWR.union(OFlag::O_NOCTTY).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// Opens all pairs, with their numbers.
pub(super) fn open(
    opening: &mut Opening<'_>,
    infos: &BTreeMap<u32, TtyInfoEntry>,
    inputs: &BTreeMap<u32, TtyDataEntry>,
    pairs: BTreeMap<u32, Pair<'_>>,
    controlling: &mut BTreeMap<u32, Controlling>,
) -> Result<(), Error> {
    // Those that were opened by one name have their numbers from one place.
    let mut by_name: BTreeMap<&[u8], Vec<Pair<'_>>> = BTreeMap::new();
    for pair in pairs.into_values() {
        let name = pair.master.path.map_or(&[][..], |path| &path.name);
        by_name.entry(name).or_default().push(pair);
    }
    for pairs in by_name.into_values() {
        for (pair, master) in masters(opening, pairs)? {
            let slave = infos.get(&(pair.info.id - 1)).filter(|info| info.pty == pair.info.pty);
            let pair = Pair { slave: pair.slave.or(slave), ..pair };
            Making { opening, inputs, controlling, pair, master }.make()?;
        }
    }
    Ok(())
}

/// Opens the masters of pairs, each under its number.
fn masters<'a>(
    opening: &mut Opening<'_>,
    pairs: Vec<Pair<'a>>,
) -> Result<Vec<(Pair<'a>, OwnedFd)>, Error> {
    let mut approved: Vec<Approved> = Vec::new();
    let mut wanted = Vec::new();
    for pair in &pairs {
        let path = pair.master.path()?;
        approved.push(opening.opener.approve(path, Purpose::Access(path.flags))?);
        let (number, flags) = (number(pair.info)?, pair.master.entry.flags);
        wanted.push(Wanted { number, flags, file: pair.master.id });
    }
    // All of them are the same file, which all of their holders may have.
    let first = (pairs.first(), approved.first());
    let (Some(pair), Some(approved)) = first else { return Ok(Vec::new()) };
    let path = pair.master.path()?;
    let open = |flags: u32| {
        // What it is that waits must not hold us up.
        let flags = flags | libc::O_NONBLOCK.cast_unsigned();
        let opened = opening.opener.open_again(path, approved, flags)?;
        opening.keep.keep(opened).map_err(failed("keep", &pair.master.what()))
    };
    let masters = numbers::masters(&wanted, open)?;
    Ok(pairs.into_iter().zip(masters).collect())
}

fn failed(doing: &str, what: &str) -> impl Fn(io::Error) -> Error + use<> {
    let operation = format!("{doing} {what}");
    move |source| Error::Kernel { operation: operation.clone(), source }
}

/// A pair that is being made.
struct Making<'a, 'b, 'c> {
    opening: &'a mut Opening<'b>,
    inputs: &'a BTreeMap<u32, TtyDataEntry>,
    controlling: &'a mut BTreeMap<u32, Controlling>,
    pair: Pair<'c>,
    master: OwnedFd,
}

impl Making<'_, '_, '_> {
    fn make(mut self) -> Result<(), Error> {
        let what = format!("terminal /dev/pts/{}", number(self.pair.info)?);
        let failed = |doing: &str| failed(doing, &what);
        tty::lock_slave(&self.master, false).map_err(failed("unlock"))?;
        let session = self.session();
        let ours = self.needs_slave() || session.is_some();
        let ours = ours.then(|| tty::open_slave(&self.master, OURS)).transpose();
        let ours = ours.map_err(failed("open"))?;
        self.settle(ours.as_ref(), &what)?;
        for file in std::mem::take(&mut self.pair.slaves) {
            let opened = tty::open_slave(&self.master, reopen::flags(file.entry.flags));
            let opened = opened.map_err(failed("open"))?;
            self.opening.add(file.id, flagged(opened, file.entry.flags, &what)?)?;
        }
        if let Some(ours) = &ours {
            for file in std::mem::take(&mut self.pair.current) {
                let opened = current::open(self.opening, ours, &file)?;
                self.opening.add(file.id, flagged(opened, file.entry.flags, &what)?)?;
            }
        }
        self.stop(ours.as_ref()).map_err(failed("stop the output of"))?;
        if self.pair.info.locked {
            tty::lock_slave(&self.master, true).map_err(failed("lock"))?;
        }
        let (id, flags) = (self.pair.master.id, self.pair.master.entry.flags);
        let group = self.pair.info.pgrp;
        self.opening.add(id, flagged(self.master, flags, &what)?)?;
        if let (Some(session), Some(fd)) = (session, ours) {
            self.controlling.entry(session).or_insert(Controlling { fd, group });
        }
        Ok(())
    }

    /// The session of the tree that it controls.
    fn session(&self) -> Option<u32> {
        let info = self.pair.info;
        is_led(self.opening, info).then_some(info.sid)
    }

    /// Whether a slave has to be open for a moment. (One that never was must not be: that shows.)
    fn needs_slave(&self) -> bool {
        let Pair { info, slaves, current, .. } = &self.pair;
        !slaves.is_empty() || !current.is_empty() || info.other_closed == Some(true)
    }

    /// Gives both sides what they had: who owns the slave, what waits in them, modes and size.
    fn settle(&self, ours: Option<&OwnedFd>, what: &str) -> Result<(), Error> {
        let (info, slave) = (self.pair.info, self.pair.slave);
        let failed = |doing: &str| failed(doing, what);
        if let Some(ours) = ours {
            self.own(ours, what)?;
        }
        let termios = info.termios.as_ref().or(slave.and_then(|slave| slave.termios.as_ref()));
        let mut rest = Vec::new();
        if let Some(termios) = termios {
            let modes = settings::modes(termios, what)?;
            let by_lines = queue::is_by_lines(&modes);
            let of_slave = self.inputs.get(&(info.id - 1)).map(|data| queue::input(data, by_lines));
            let told = || self.inputs.get(&info.id).and_then(|data| data.slave.clone());
            if let Some(input) = of_slave.or_else(told) {
                rest = queue::fill_slave(&self.master, input, &modes)
                    .map_err(failed("put back the input of"))?;
            }
        }
        if let (Some(data), Some(ours)) = (self.inputs.get(&info.id), ours) {
            queue::fill_master(ours, &queue::input(data, false))
                .map_err(failed("put back the output of"))?;
        }
        settings::apply(&self.master, info, what)?;
        queue::type_all(&self.master, &rest).map_err(failed("put back the input of"))?;
        if info.packet_mode {
            tty::set_packet_mode(&self.master, true).map_err(failed("set packet mode of"))?;
        }
        if info.exclusive {
            tty::set_exclusive(&self.master).map_err(failed("set exclusive mode of"))?;
        }
        Ok(())
    }

    /// Gives the node of the slave its owner and permissions.
    fn own(&self, slave: &OwnedFd, what: &str) -> Result<(), Error> {
        let Some(node) = self.node() else { return Ok(()) };
        let failed = |doing: &str| {
            let failed = failed(doing, what);
            move |errno: nix::errno::Errno| failed(errno.into())
        };
        let now = fstat(slave).map_err(failed("stat"))?;
        if (now.st_uid, now.st_gid) != (node.uid, node.gid) {
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            fchown(slave.as_fd(), Some(uid), Some(gid)).map_err(failed("set the owner of"))?;
        }
        if now.st_mode & 0o7777 != node.mode {
            let mode = Mode::from_bits_truncate(node.mode);
            fchmod(slave.as_fd(), mode).map_err(failed("set the permissions of"))?;
        }
        Ok(())
    }

    /// What the images say of the slave's node; CRIU has it where the slave was open.
    fn node(&self) -> Option<TtyNodeEntry> {
        let slave = self.pair.slave;
        let mode = || self.pair.slaves.iter().find_map(|file| file.path?.mode);
        let of_slave = || {
            let (uid, gid) = (slave?.uid?, slave?.gid?);
            Some(TtyNodeEntry { uid, gid, mode: mode()? & 0o7777 })
        };
        self.pair.info.node.or_else(of_slave)
    }

    /// Stops the output of the sides that was, and has nobody else open them that were to themselves.
    fn stop(&self, ours: Option<&OwnedFd>) -> io::Result<()> {
        let slave = self.pair.slave.zip(ours);
        for (info, fd) in [(self.pair.info, &self.master)].into_iter().chain(slave) {
            if info.stopped_by_call == Some(true) || info.stopped == Some(true) {
                tty::stop_output(fd, true)?;
            }
        }
        match slave {
            Some((info, fd)) if info.exclusive => tty::set_exclusive(fd),
            _ => Ok(()),
        }
    }
}

/// A slave that has hung up: its reads find the end, its writes fail, as they did before. Which number it
/// has is no matter: nothing leads to it.
pub(super) fn hung_up(opening: &mut Opening<'_>, file: &File<'_>) -> Result<OwnedFd, Error> {
    let what = format!("hung-up terminal of file {}", file.id);
    let failed = |doing: &str| failed(doing, &what);
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::open("/dev/ptmx", flags, Mode::empty());
    let master = master.map_err(|errno| failed("make the")(errno.into()))?;
    tty::lock_slave(&master, false).map_err(failed("unlock the"))?;
    let is_current = file.entry.terminal.is_some();
    let slave = match is_current {
        true => {
            let slave = tty::open_slave(&master, OURS).map_err(failed("open the"))?;
            current::open(opening, &slave, file)?
        }
        false => {
            let flags = reopen::flags(file.entry.flags);
            tty::open_slave(&master, flags).map_err(failed("open the"))?
        }
    };
    // It hangs up as its master is closed.
    drop(master);
    Ok(slave)
}
