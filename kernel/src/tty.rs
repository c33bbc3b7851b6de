//! Terminals (ioctl_tty(2)): modes, size, locks, and who is in the foreground.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;

use ids::ImagePid;

use crate::descriptors::place;

/// Number of control characters of the kernel's own `struct termios`.
pub const CONTROL_CHARACTERS: usize = 19;

/// Modes of a terminal: the kernel's `struct termios2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Input.
    pub input: u32,
    /// Output.
    pub output: u32,
    /// Control.
    pub control: u32,
    /// Local.
    pub local: u32,
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub characters: [u8; CONTROL_CHARACTERS],
    /// Speed of input, in bits a second.
    pub input_speed: u32,
    /// Speed of output.
    pub output_speed: u32,
}

/// Window size: the kernel's `struct winsize`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Width in pixels.
    pub x_pixels: u16,
    /// Height in pixels.
    pub y_pixels: u16,
}

fn ioctl<T>(fd: impl AsFd, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: private to this module: every caller passes the type that the request reads or
    // writes.
    let answer =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `_IOR('T', 0x2A, struct termios2)` and `_IOW('T', 0x2B, struct termios2)`.
const TCGETS2: libc::Ioctl = 0x802C_542A;
const TCSETS2: libc::Ioctl = 0x402C_542B;
/// `_IO('T', 0x41)`.
const TIOCGPTPEER: libc::Ioctl = 0x5441;
/// `_IOR('T', N, unsigned int)`.
const TIOCGPTN: libc::Ioctl = 0x8004_5430;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439;
const TIOCGEXCL: libc::Ioctl = 0x8004_5440;
/// `_IOW('T', 0x31, int)`.
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;

/// The modes.
///
/// # Errors
/// When it is no terminal, or has hung up.
pub fn modes(fd: impl AsFd) -> io::Result<Modes> {
    let mut modes = Modes::default();
    ioctl(fd, TCGETS2, &mut modes)?;
    Ok(modes)
}

/// Sets the modes at once. Speeds of 0 are not set.
///
/// # Errors
/// As [`modes`].
pub fn set_modes(fd: impl AsFd, modes: &Modes) -> io::Result<()> {
    // The first kind of structure is the other one without the speeds.
    let request =
        if (modes.input_speed, modes.output_speed) == (0, 0) { libc::TCSETS } else { TCSETS2 };
    ioctl(fd, request, &mut modes.clone())
}

/// Which modes are locked.
///
/// # Errors
/// As [`modes`].
pub fn locked_modes(fd: impl AsFd) -> io::Result<Modes> {
    let mut modes = Modes::default();
    ioctl(fd, libc::TIOCGLCKTRMIOS, &mut modes)?;
    Ok(modes)
}

/// Locks modes.
///
/// # Errors
/// As [`modes`], and without the right.
pub fn set_locked_modes(fd: impl AsFd, modes: &Modes) -> io::Result<()> {
    ioctl(fd, libc::TIOCSLCKTRMIOS, &mut modes.clone())
}

/// The window size.
///
/// # Errors
/// As [`modes`].
pub fn window_size(fd: impl AsFd) -> io::Result<WindowSize> {
    let mut size = WindowSize::default();
    ioctl(fd, libc::TIOCGWINSZ, &mut size)?;
    Ok(size)
}

/// Sets the window size.
///
/// # Errors
/// As [`modes`].
pub fn set_window_size(fd: impl AsFd, size: WindowSize) -> io::Result<()> {
    ioctl(fd, libc::TIOCSWINSZ, &mut size.clone())
}

fn flag(fd: impl AsFd, request: libc::Ioctl) -> io::Result<bool> {
    let mut value = 0_i32;
    ioctl(fd, request, &mut value)?;
    Ok(value != 0)
}

/// Whether it is in exclusive mode.
///
/// # Errors
/// As [`modes`].
pub fn is_exclusive(fd: impl AsFd) -> io::Result<bool> {
    flag(fd, TIOCGEXCL)
}

/// Whether the slave of this pseudo-terminal master is locked.
///
/// # Errors
/// When it is no master.
pub fn is_slave_locked(master: impl AsFd) -> io::Result<bool> {
    flag(master, TIOCGPTLCK)
}

/// Locks or unlocks the slave of this pseudo-terminal master.
///
/// # Errors
/// When it is no master.
pub fn lock_slave(master: impl AsFd, lock: bool) -> io::Result<()> {
    ioctl(master, TIOCSPTLCK, &mut i32::from(lock))
}

/// Whether this pseudo-terminal master is in packet mode.
///
/// # Errors
/// When it is no master.
pub fn is_packet_mode(master: impl AsFd) -> io::Result<bool> {
    flag(master, TIOCGPKT)
}

/// Puts this pseudo-terminal master into packet mode, or out of it.
///
/// # Errors
/// When it is no master.
pub fn set_packet_mode(master: impl AsFd, on: bool) -> io::Result<()> {
    ioctl(master, libc::TIOCPKT, &mut i32::from(on))
}

/// Has nobody open the terminal again (but who may administrate the system).
///
/// # Errors
/// As [`modes`].
pub fn set_exclusive(fd: impl AsFd) -> io::Result<()> {
    with_number(fd, libc::TIOCEXCL, 0)
}

/// Opens the slave of this pseudo-terminal master, whatever its name leads to. (The kernel would keep `O_CLOEXEC`
/// among the flags of the open file, where it says nothing of its descriptors, and `/proc` show it.)
///
/// # Errors
/// When it is locked, or no master.
pub fn open_slave(master: impl AsFd, flags: OFlag) -> io::Result<OwnedFd> {
    let of_file = (flags - OFlag::O_CLOEXEC).bits();
    // SAFETY: the argument is an integer.
    let fd = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCGPTPEER, of_file) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    let slave = unsafe { OwnedFd::from_raw_fd(fd) };
    place(&slave, fd, flags.contains(OFlag::O_CLOEXEC))?;
    Ok(slave)
}

/// Stops the terminal's output, or lets it go on.
///
/// # Errors
/// As [`modes`].
pub fn stop_output(fd: impl AsFd, stop: bool) -> io::Result<()> {
    let action = if stop { libc::TCOOFF } else { libc::TCOON };
    with_number(fd, libc::TCXONC, action)
}

/// The session that a terminal controls, if it is the caller's, or asked of a master.
///
/// # Errors
/// When it controls none, or not the caller's.
pub fn session(fd: impl AsFd) -> io::Result<i32> {
    let mut session = 0_i32;
    ioctl(fd, libc::TIOCGSID, &mut session)?;
    Ok(session)
}

/// Gives up the caller's controlling terminal. If the caller leads its session, all of that loses it.
///
/// # Errors
/// When it is not the caller's.
pub fn give_up(fd: impl AsFd) -> io::Result<()> {
    with_number(fd, libc::TIOCNOTTY, 0)
}

/// Whether a virtual terminal shows text, and no program takes part in switching it.
///
/// # Errors
/// When it is none.
pub fn shows_text(fd: impl AsFd) -> io::Result<bool> {
    const KDGETMODE: libc::Ioctl = 0x4B3B;
    const VT_GETMODE: libc::Ioctl = 0x5601;
    let mut mode = 0_i32;
    ioctl(fd.as_fd(), KDGETMODE, &mut mode)?;
    // `struct vt_mode`: its first byte is the mode, VT_AUTO.
    let mut switching = [0_u16; 4];
    ioctl(fd, VT_GETMODE, &mut switching)?;
    Ok(mode == 0 && switching[0].to_ne_bytes()[0] == 0)
}

fn with_number(fd: impl AsFd, request: libc::Ioctl, argument: i32) -> io::Result<()> {
    // SAFETY: private to this module: the requests take an integer.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of this pseudo-terminal master.
///
/// # Errors
/// When it is no master.
pub fn number(master: impl AsFd) -> io::Result<u32> {
    let mut number = 0_u32;
    ioctl(master, TIOCGPTN, &mut number)?;
    Ok(number)
}

/// Makes the terminal the controlling one of the caller's session.
///
/// # Errors
/// When the caller leads no session, or the terminal controls another.
pub fn make_controlling(fd: impl AsFd) -> io::Result<()> {
    // 0: it is taken from nobody.
    with_number(fd, libc::TIOCSCTTY, 0)
}

/// Puts a process group in the foreground of the caller's controlling terminal. The caller has
/// `SIGTTOU` blocked or ignored, or is in the foreground itself.
///
/// # Errors
/// When the terminal is not the caller's, or the group not of its session.
pub fn set_foreground(fd: impl AsFd, group: ImagePid) -> io::Result<()> {
    ioctl(fd, libc::TIOCSPGRP, &mut group.get())
}

/// Bytes waiting to be read (`FIONREAD`): of a pipe, a socket, a terminal.
///
/// # Errors
/// When the file does not tell.
pub fn bytes_waiting(fd: impl AsFd) -> io::Result<u32> {
    let mut count = 0_i32;
    ioctl(fd, libc::FIONREAD, &mut count)?;
    Ok(count.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pseudo_terminal() {
        let pty = nix::pty::openpty(None, None).unwrap();
        assert!(!is_slave_locked(&pty.master).unwrap());
        assert!(!is_exclusive(&pty.slave).unwrap());
        let size = WindowSize { rows: 7, columns: 9, ..WindowSize::default() };
        set_window_size(&pty.slave, size).unwrap();
        assert_eq!(window_size(&pty.master).unwrap(), size);
        let modes = modes(&pty.slave).unwrap();
        assert_ne!(modes.local & libc::ECHO, 0);
        set_modes(&pty.slave, &modes).unwrap();
        assert_eq!(super::modes(&pty.master).unwrap(), modes);
        let again = open_slave(&pty.master, OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        assert_eq!(super::modes(&again).unwrap(), modes);
        lock_slave(&pty.master, true).unwrap();
        assert!(open_slave(&pty.master, OFlag::O_RDWR | OFlag::O_NOCTTY).is_err());
        set_packet_mode(&pty.master, true).unwrap();
        assert!(is_packet_mode(&pty.master).unwrap());
        set_exclusive(&pty.slave).unwrap();
        assert!(is_exclusive(&pty.slave).unwrap() && !is_exclusive(&pty.master).unwrap());
    }

    #[test]
    fn bytes_in_a_pipe() {
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"four").unwrap();
        assert_eq!(bytes_waiting(&read).unwrap(), 4);
    }
}
