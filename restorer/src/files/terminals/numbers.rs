//! The numbers of pseudo-terminals: a master that is opened has the lowest that is free, so that others are
//! opened, and closed again, until it is the one that is wanted.

use std::io;
use std::os::fd::OwnedFd;

use ids::HostPid;
use kernel::procfs::{Dir, FdInfo, ProcFile, Stat, processes};
use kernel::tty;
use support::terminals as rules;

use super::super::Error;

/// A pseudo-terminal that is to have a number again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) number: u32,
    /// Flags that its master is opened with.
    pub(super) flags: u32,
    /// The id of a file that it is.
    pub(super) file: u32,
}

/// Opens masters with these numbers, in rising order, each by `open`.
pub(super) fn masters(
    wanted: &[Wanted],
    mut open: impl FnMut(u32) -> Result<OwnedFd, Error>,
) -> Result<Vec<OwnedFd>, Error> {
    let mut own = Vec::with_capacity(wanted.len());
    // They have numbers between, until all is done.
    let mut others = Vec::new();
    for &Wanted { number, flags, file } in wanted {
        let what = || format!("terminal /dev/pts/{number}");
        loop {
            let opened = open(flags).map_err(|error| {
                let refusal = match cause(&error) {
                    Some(libc::ENOSPC) => rules::TOO_MANY,
                    Some(libc::EMFILE) => rules::number_out_of_reach(number, others.len()),
                    _ => return error,
                };
                Error::refused(file, refusal, what())
            })?;
            let got = tty::number(&opened).map_err(|source| Error::Kernel {
                operation: format!("get the number of {}", what()),
                source,
            })?;
            if got == number {
                own.push(opened);
                break;
            }
            if got > number {
                drop((opened, others));
                let by = holder(number);
                let by = by.as_ref().map(|(pid, command)| (*pid, command.as_str()));
                return Err(Error::refused(file, rules::number_taken(number, by), what()));
            }
            others.push(opened);
        }
    }
    Ok(own)
}

fn cause(error: &Error) -> Option<i32> {
    match error {
        Error::Kernel { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

/// A process that has the master with a number open, and its command.
fn holder(number: u32) -> Option<(HostPid, String)> {
    let has = |pid: &HostPid| has_master(*pid, number).unwrap_or(false);
    let pid = processes().ok()?.into_iter().find(has)?;
    let stat = Dir::open(pid).and_then(|dir| Stat::read(&dir)).ok()?;
    Some((pid, stat.comm.to_string_lossy().into_owned()))
}

fn has_master(process: HostPid, number: u32) -> io::Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        let link = std::fs::read_link(entry.path())?;
        let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(fd)) = (link.as_os_str().as_bytes().ends_with(b"/ptmx"), fd) {
            let info =
                Dir::open(process).and_then(|dir| FdInfo::read_with(&dir, fd, &mut Vec::new()));
            if info.is_ok_and(|info| info.tty_index == Some(number)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;

    fn open(flags: u32) -> Result<OwnedFd, Error> {
        let flags = OFlag::from_bits_retain(flags.cast_signed()) | OFlag::O_NOCTTY;
        nix::fcntl::open("/dev/ptmx", flags, nix::sys::stat::Mode::empty())
            .map_err(|errno| Error::kernel("open", errno))
    }

    const FLAGS: u32 = (libc::O_RDWR | libc::O_CLOEXEC).cast_unsigned();

    fn wanted(numbers: impl IntoIterator<Item = u32>) -> Vec<Wanted> {
        numbers.into_iter().map(|number| Wanted { number, flags: FLAGS, file: 1 }).collect()
    }

    /// One test, as both take the numbers that are free.
    #[test]
    fn numbers_are_those_that_are_wanted_or_somebody_is_named() {
        let mut free = Vec::new();
        let made: Vec<OwnedFd> = (0..5).map(|_| open(FLAGS).unwrap()).collect();
        free.extend(made.iter().map(|fd| tty::number(fd).unwrap()));
        drop(made);
        free.sort_unstable();
        let own = masters(&wanted([free[1], free[4]]), open).unwrap();
        let numbers: Vec<u32> = own.iter().map(|fd| tty::number(fd).unwrap()).collect();
        assert_eq!(numbers, [free[1], free[4]]);

        let error = masters(&wanted([free[4]]), open).unwrap_err().to_string();
        let own_name = format!("of process {}", std::process::id());
        assert!(error.contains(&own_name), "{error}");
        drop(own);
        let full = |_| Err(Error::kernel("open", nix::errno::Errno::ENOSPC));
        let error = masters(&wanted([free[4]]), full).unwrap_err().to_string();
        assert!(error.contains("kernel.pty.max"), "{error}");
    }
}
