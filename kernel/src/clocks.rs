//! Time namespaces: how far the clocks of a process are from those of the machine (time_namespaces(7)).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use crate::user_namespaces::Inside;
use ids::HostPid;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};

use crate::namespaces::elsewhere;
use crate::process::own_thread;

const NANOSECONDS: i128 = 1_000_000_000;

/// What the two clocks that a time namespace shifts show, or how far they are shifted: nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC` and those that go with it.
    pub monotonic: i128,
    /// `CLOCK_BOOTTIME` and those that go with it.
    pub boottime: i128,
}

impl Clocks {
    fn map2(self, other: Self, join: impl Fn(i128, i128) -> i128) -> Self {
        Self {
            monotonic: join(self.monotonic, other.monotonic),
            boottime: join(self.boottime, other.boottime),
        }
    }

    /// What the calling thread's clocks show.
    ///
    /// # Errors
    /// Never, in practice.
    pub fn now() -> io::Result<Self> {
        let read = |clock| {
            let now = clock_gettime(clock)?;
            Ok::<_, io::Error>(i128::from(now.tv_sec()) * NANOSECONDS + i128::from(now.tv_nsec()))
        };
        Ok(Self {
            monotonic: read(ClockId::CLOCK_MONOTONIC)?,
            boottime: read(ClockId::CLOCK_BOOTTIME)?,
        })
    }

    /// What they would show of the machine itself, not shifted.
    fn of_machine() -> io::Result<Self> {
        Ok(Self::now()?.map2(offsets(HostPid::own())?, |now, shift| now - shift))
    }

    /// What those of a process show, if its children are to be in its own time namespace.
    ///
    /// # Errors
    /// If it has gone, or the kernel has no time namespaces.
    pub fn of_process(pid: HostPid) -> io::Result<Self> {
        Ok(Self::of_machine()?.map2(offsets(pid)?, |now, shift| now + shift))
    }
}

/// How far the clocks of this process's children are shifted: its own as well, if they are to be in its time namespace.
///
/// # Errors
/// If the kernel has no time namespaces, or /proc is not there.
pub fn own_offsets() -> io::Result<Clocks> {
    offsets(HostPid::own())
}

/// How far the clocks of the children of a process are shifted.
fn offsets(pid: HostPid) -> io::Result<Clocks> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/timens_offsets"))?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "strange clock offsets"))
}

/// A line for each clock: its name, seconds, nanoseconds.
fn parse(text: &str) -> Option<Clocks> {
    let mut clocks = Clocks::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let clock = words.next()?;
        let mut number = || words.next()?.parse::<i64>().ok().map(i128::from);
        let shift = number()? * NANOSECONDS + number()?;
        match clock {
            "monotonic" => clocks.monotonic = shift,
            "boottime" => clocks.boottime = shift,
            _ => {}
        }
    }
    Some(clocks)
}

fn text(clocks: Clocks) -> String {
    let line = |name: &str, shift: i128| {
        format!("{name} {} {}\n", shift.div_euclid(NANOSECONDS), shift.rem_euclid(NANOSECONDS))
    };
    line("monotonic", clocks.monotonic) + &line("boottime", clocks.boottime)
}

/// Makes a time namespace in which the clocks show this now.
///
/// # Errors
/// Without the right to (`CAP_SYS_TIME`), without time namespaces, or if the kernel does not take such clocks.
pub fn new_time(wanted: Clocks) -> io::Result<OwnedFd> {
    elsewhere(move || {
        unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        let dir = format!("/proc/{}", own_thread());
        let shift = wanted.map2(Clocks::of_machine()?, |wanted, now| wanted - now);
        std::fs::write(format!("{dir}/timens_offsets"), text(shift))?;
        File::open(format!("{dir}/ns/time_for_children")).map(OwnedFd::from)
    })
}

/// The same in a user namespace, in which nobody may open the file that says how clocks are shifted.
///
/// # Errors
/// As [`new_time`] and [`Inside::during`].
pub fn new_time_inside(inside: &Inside<'_>, wanted: Clocks) -> io::Result<OwnedFd> {
    let offsets = || File::options().write(true).open("/proc/self/timens_offsets");
    inside.during_from(offsets, |mut offsets| {
        unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        let shift = wanted.map2(Clocks::of_machine()?, |wanted, now| wanted - now);
        offsets.write_all(text(shift).as_bytes())?;
        File::open("/proc/self/ns/time_for_children").map(OwnedFd::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_they_are_written() {
        let clocks = Clocks { monotonic: -1, boottime: 86_400 * NANOSECONDS + 7 };
        assert_eq!(text(clocks), "monotonic -1 999999999\nboottime 86400 7\n");
        assert_eq!(parse(&text(clocks)), Some(clocks));
        let kernels = "monotonic           0         0\nboottime           -5         3\n";
        let expected = Clocks { monotonic: 0, boottime: -5 * NANOSECONDS + 3 };
        assert_eq!(parse(kernels), Some(expected));
        assert_eq!(parse("monotonic 1"), None);
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "nothing is skipped without a word")]
    fn clocks_go_on_in_a_namespace() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: making a time namespace takes root");
            return;
        }
        let day = 86_400 * NANOSECONDS;
        let wanted = Clocks { monotonic: 3 * day, boottime: 5 * day };
        drop(new_time(wanted).unwrap());
        let own = Clocks::of_process(HostPid::own()).unwrap();
        let apart = own.map2(Clocks::now().unwrap(), |told, now| (now - told).abs());
        assert!(apart.monotonic < NANOSECONDS && apart.boottime < NANOSECONDS, "{apart:?}");
        new_time(Clocks { monotonic: -day, ..wanted }).unwrap_err();
    }
}
