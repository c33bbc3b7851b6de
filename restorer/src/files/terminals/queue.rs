//! What waits in a terminal, put back.
//!
//! Input is what somebody types: it goes in by the master, and the line discipline makes of it what the modes
//! say. So it is typed under modes by which it comes out as it was: nothing is translated, echoed or a signal;
//! a byte that ends a line is told by a control character, and one that does not is quoted. The characters for
//! that are such as do not occur in what is typed, which goes in by small pieces.
//!
//! The line discipline takes it in its own time, and the final modes must not be set before. Therefore each
//! piece ends with characters that stop the output and let it go on, of which the kernel tells the
//! master in packet mode.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use images::messages::{TtyDataEntry, TtyInputEntry};
use kernel::tty::{self, CONTROL_CHARACTERS, Modes};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::Error;

/// Most bytes that a line discipline takes (`N_TTY_BUF_SIZE`, but one).
const MOST: usize = 4095;
/// More than this waits nowhere: what CRIU reads of a terminal, and what the kernel's buffers hold.
const LARGEST: usize = 64 << 10;

/// Bytes that are typed at once: so that some are left that are not among them.
const AT_ONCE: usize = 200;

const NEW_LINE: u8 = b'\n';

/// Checks what the images say of what waits in a terminal.
pub(super) fn check(data: &TtyDataEntry) -> Result<(), Error> {
    let wrong = |reason: &str| Error::image(format!("input of terminal {}", data.tty_id), reason);
    if data.data.len() > LARGEST {
        return Err(wrong("it is more than a terminal holds"));
    }
    for input in [&data.input, &data.slave].into_iter().flatten() {
        let ends = &input.line_ends;
        let are_in_order = ends.windows(2).all(|two| two[0] < two[1]);
        if input.taken.len() > MOST
            || input.waiting.len() > LARGEST
            || input.whole as usize > input.taken.len()
        {
            return Err(wrong("it is more than a line discipline holds"));
        }
        if !are_in_order || ends.last().is_some_and(|last| *last >= input.whole) {
            return Err(wrong("its lines are none"));
        }
    }
    Ok(())
}

/// What waits in a terminal that is read by lines, or not; of an image of CRIU's, which has what a reader
/// would get, as near as that tells.
pub(super) fn input(data: &TtyDataEntry, by_lines: bool) -> TtyInputEntry {
    if let Some(input) = &data.input {
        return input.clone();
    }
    let mut taken = data.data.clone();
    let waiting = taken.split_off(taken.len().min(MOST));
    if by_lines && taken.last().is_some_and(|last| *last != NEW_LINE) && taken.len() < MOST {
        // It could only be read because of an end of the file behind it.
        taken.push(0);
    }
    let mut line_ends = Vec::new();
    if by_lines {
        let ends = (0..).zip(&taken).filter(|(_, byte)| **byte == NEW_LINE).map(|(at, _)| at);
        line_ends.extend(ends);
        if taken.last() == Some(&0) {
            line_ends.push(taken.len() as u32 - 1);
        }
    }
    let whole = taken.len() as u32;
    TtyInputEntry { taken, line_ends, whole, waiting }
}

/// A piece of input, and the modes under which it is typed.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    by_lines: bool,
    characters: [u8; CONTROL_CHARACTERS],
    bytes: Vec<u8>,
}

/// What has to be typed, and how, for a line discipline to have taken this.
fn pieces(input: &TtyInputEntry, by_lines: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < input.taken.len() {
        let (piece, count) = piece(input, by_lines, at);
        pieces.push(piece);
        at += count;
    }
    pieces
}

/// The piece that begins with byte `at`, and of how many bytes it is.
fn piece(input: &TtyInputEntry, by_lines: bool, at: usize) -> (Piece, usize) {
    let ends_line = |at: usize| by_lines && input.line_ends.binary_search(&(at as u32)).is_ok();
    let rest = &input.taken[at..input.taken.len().min(at + AT_ONCE)];
    // 0 is no control character.
    let mut free = (1..=u8::MAX).filter(|byte| *byte != NEW_LINE && !rest.contains(byte));
    let mut next = || free.next().unwrap_or_default();
    let (stop, start, quote, end_of_file) = (next(), next(), next(), next());
    let mut characters = [0; CONTROL_CHARACTERS];
    characters[libc::VMIN] = 1;
    characters[libc::VSTOP] = stop;
    characters[libc::VSTART] = start;
    if by_lines {
        characters[libc::VLNEXT] = quote;
        characters[libc::VEOF] = end_of_file;
    }
    let mut bytes = Vec::with_capacity(rest.len() + 2);
    // A byte of the program's own that ends lines.
    let mut own_end = None;
    let mut count = 0;
    for (nth, &byte) in rest.iter().enumerate() {
        match (ends_line(at + nth), byte) {
            (true, NEW_LINE) => bytes.push(byte),
            (true, 0) => bytes.push(end_of_file),
            (true, _) => {
                // Of such a one what came before must not be typed under it.
                if own_end.is_none_or(|own| own != byte) && (own_end.is_some() || nth > 0) {
                    break;
                }
                own_end = Some(byte);
                bytes.push(byte);
            }
            (false, _) if by_lines && (byte == NEW_LINE || own_end == Some(byte)) => {
                bytes.extend([quote, byte]);
            }
            (false, _) => bytes.push(byte),
        }
        count += 1;
    }
    if let Some(own) = own_end {
        characters[libc::VEOL] = own;
    }
    bytes.extend([stop, start]);
    (Piece { by_lines, characters, bytes }, count)
}

/// How long a line discipline may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Puts into a slave what waited in it, by its master, which is not in packet mode and has nothing to read.
/// Leaves it with modes for that, and returns what is still to be typed, under the final ones: the line
/// discipline has no room for it yet.
pub(super) fn fill_slave(
    master: &OwnedFd,
    mut input: TtyInputEntry,
    final_modes: &Modes,
) -> io::Result<Vec<u8>> {
    let by_lines = is_by_lines(final_modes);
    // The characters behind it need room to be looked at, unless one line fills all of it.
    let has_lines = input.whole != 0;
    let mut rest =
        input.taken.split_off(input.taken.len().min(if has_lines { MOST - 1 } else { MOST }));
    rest.append(&mut input.waiting);
    let pieces = pieces(&input, by_lines);
    if pieces.is_empty() {
        return Ok(rest);
    }
    tty::set_packet_mode(master, true)?;
    for piece in pieces {
        let local = if piece.by_lines { libc::ICANON | libc::IEXTEN } else { 0 };
        tty::set_modes(
            master,
            &Modes {
                input: libc::IXON,
                output: 0,
                local,
                characters: piece.characters,
                input_speed: 0,
                output_speed: 0,
                ..*final_modes
            },
        )?;
        type_all(master, &piece.bytes)?;
        until_taken(master)?;
    }
    tty::set_packet_mode(master, false)?;
    Ok(rest)
}

/// Whether a terminal with these modes is read by lines.
pub(super) fn is_by_lines(modes: &Modes) -> bool {
    modes.local & libc::ICANON != 0 && modes.local & libc::EXTPROC == 0
}

/// Puts into a master what waited in it, by its slave.
pub(super) fn fill_master(slave: &OwnedFd, input: &TtyInputEntry) -> io::Result<()> {
    let mut modes = tty::modes(slave)?;
    modes.output = 0;
    tty::set_modes(slave, &modes)?;
    type_all(slave, &input.taken)?;
    type_all(slave, &input.waiting)
}

/// Writes to a side that does not wait.
pub(super) fn type_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            // The other side's buffers are emptied into its line discipline, of which nobody is told.
            Err(Errno::EAGAIN) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Waits until the master is told that the output goes on again.
fn until_taken(master: &OwnedFd) -> io::Result<()> {
    /// `TIOCPKT_START`.
    const GOES_ON: u8 = 8;
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN | PollFlags::POLLPRI)];
        if poll(&mut fds, left)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut status = [0; 2];
        match nix::unistd::read(master, &mut status) {
            Ok(1) if status[0] & GOES_ON != 0 => return Ok(()),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
