//! How a terminal is, where the inventory does not tell: by calls, which do not show what waits in it.

use std::os::fd::{AsFd, BorrowedFd};

use collector::OpenFile;
use ids::HostPid;
use inventory::terminals::{Modes, Side, Terminal};
use kernel::tty;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::FileStat;
use support::terminals as rules;

use super::super::problem::{Doing, Problem};
use super::super::survey::Survey;

/// Asks the terminal behind a descriptor.
pub(super) fn ask(
    survey: &mut Survey<'_>,
    pid: HostPid,
    file: &OpenFile,
    stat: &FileStat,
) -> Result<Terminal, Problem> {
    let fd = survey.held.borrow(pid, file.fd)?;
    let fd = fd.as_fd();
    let number = tty::number(fd).ok();
    let device = match (number, libc::major(stat.st_rdev)) {
        (Some(number), _) => libc::makedev(128, number),
        // Only the terminal that controls the process is opened so, or was.
        (None, 5) if libc::minor(stat.st_rdev) == 0 => {
            survey.inventory.processes.get(&pid).map_or(0, |process| process.terminal)
        }
        (None, major @ 136..=143) => {
            libc::makedev(136, (major - 136) * 256 + libc::minor(stat.st_rdev))
        }
        _ => stat.st_rdev,
    };
    let side = match (number, libc::major(device)) {
        (Some(_), _) => Side::Master,
        (None, 136) => Side::Slave,
        _ => Side::Line,
    };
    let Ok(modes) = tty::modes(fd) else {
        return Ok(Terminal { side, device, hung_up: true, ..Terminal::default() });
    };
    let is_master = side == Side::Master;
    let events = events(fd)?;
    if events.contains(PollFlags::POLLIN) {
        return Err(Problem::Refused(rules::INPUT_UNSEEN));
    }
    let flag = |flag: std::io::Result<bool>| if is_master { flag } else { Ok(false) };
    let size = tty::window_size(fd).doing("get window size of")?;
    Ok(Terminal {
        side,
        device,
        other_closed: is_master && events.contains(PollFlags::POLLHUP),
        discipline: modes.line.into(),
        exclusive: tty::is_exclusive(fd).doing("get exclusive mode of")?,
        locked: flag(tty::is_slave_locked(fd)).doing("get the lock of")?,
        packets: flag(tty::is_packet_mode(fd)).doing("get packet mode of")?,
        modes: told(&modes),
        locked_modes: told(&tty::locked_modes(fd).doing("get locked modes of")?),
        window: [size.rows, size.columns, size.x_pixels, size.y_pixels],
        ..Terminal::default()
    })
}

fn events(fd: BorrowedFd<'_>) -> Result<PollFlags, Problem> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).doing("poll")?;
    Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
}

fn told(modes: &tty::Modes) -> Modes {
    Modes {
        flags: [modes.input, modes.output, modes.control, modes.local],
        line: modes.line,
        characters: modes.characters,
        speeds: [modes.input_speed, modes.output_speed],
    }
}
