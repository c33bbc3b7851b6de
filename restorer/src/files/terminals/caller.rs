//! The caller's terminal, which takes the place of one that was outside of the tree.

use std::collections::BTreeMap;
use std::fs::File as Opened;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use images::messages::TtyInfoEntry;
use kernel::tty;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getpid, getsid};
use support::Refusal;

use super::super::Error;
use super::super::opening::Opening;
use super::super::reopen::reopen;
use super::known::{Controlling, File, is_led};
use super::settings;

/// The caller's terminal.
#[derive(Debug)]
pub(super) struct Caller(OwnedFd);

impl Caller {
    /// Opens it for all of these files.
    pub(super) fn open(
        opening: &mut Opening<'_>,
        files: Vec<(File<'_>, &TtyInfoEntry)>,
        controlling: &mut BTreeMap<u32, Controlling>,
    ) -> Result<(), Error> {
        let refused = |refusal: Refusal| {
            let what = "terminal of the job";
            match files.first() {
                Some((file, _)) => Error::refused(file.id, refusal, what),
                None => Error::refused_of_none(refusal, what),
            }
        };
        if !opening.shell_job {
            return Err(refused(support::host::TERMINAL_OUTSIDE));
        }
        let Some(caller) = Self::find() else {
            return Err(refused(support::host::NO_TERMINAL));
        };
        for (file, info) in files {
            let what = file.what();
            let fd = reopen(&caller.0, file.entry.flags)
                .map_err(|errno| Error::kernel(format!("open {what}"), errno))?;
            // The window has the size it has; the modes are the program's.
            settings::apply_modes(&fd, info, &what)?;
            opening.add(file.id, fd)?;
            if is_led(opening, info) && !controlling.contains_key(&info.sid) {
                let fd = caller.give_away(info.sid).map_err(|error| error.of(file.id))?;
                controlling.insert(info.sid, Controlling { fd, group: info.pgrp });
            }
        }
        Ok(())
    }

    /// What the caller reads from or writes to, or what controls it.
    fn find() -> Option<Self> {
        let paths = ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/dev/tty"];
        paths.into_iter().find_map(|path| {
            let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
            let opened = Opened::options().read(true).write(true).custom_flags(flags).open(path);
            let opened = opened.ok().filter(|file| tty::modes(file).is_ok())?;
            Some(Self(opened.into()))
        })
    }

    /// The terminal for a session of the tree that it is to control. It controls one session: it is given
    /// up where it controls ours and we lead that.
    fn give_away(&self, session: u32) -> Result<OwnedFd, Error> {
        let what = || format!("controlling terminal of session {session}");
        let failed =
            |source| Error::Kernel { operation: format!("give up the {}", what()), source };
        if let Ok(own) = tty::session(&self.0) {
            let leads = getsid(None).is_ok_and(|sid| sid == getpid() && sid.as_raw() == own);
            if !leads {
                return Err(Error::refused_of_none(support::terminals::CONTROLS_ANOTHER, what()));
            }
            without_hang_up(|| tty::give_up(&self.0)).map_err(failed)?;
        }
        self.0.try_clone().map_err(failed)
    }
}

/// Does something for which this process is sent `SIGHUP`, and then `SIGCONT`.
fn without_hang_up(work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    let hang_up = SigSet::from(Signal::SIGHUP);
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&hang_up), Some(&mut before))?;
    let done = work();
    // Taken off, if it has come.
    SignalFd::with_flags(&hang_up, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?
        .read_signal()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    done
}
