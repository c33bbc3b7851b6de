//! Terminals (ioctl_tty(2)): modes, size, locks, and who is in the foreground.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use ids::ImagePid;

/// Number of control characters of the kernel's own `struct termios`.
pub const CONTROL_CHARACTERS: usize = 19;

/// Modes of a terminal: the kernel's `struct termios`.
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
    ioctl(fd, libc::TCGETS, &mut modes)?;
    Ok(modes)
}

/// Sets the modes at once.
///
/// # Errors
/// As [`modes`].
pub fn set_modes(fd: impl AsFd, modes: &Modes) -> io::Result<()> {
    ioctl(fd, libc::TCSETS, &mut modes.clone())
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
    // SAFETY: the argument is an integer: 0, to take it from nobody.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
    }

    #[test]
    fn bytes_in_a_pipe() {
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"four").unwrap();
        assert_eq!(bytes_waiting(&read).unwrap(), 4);
    }
}
