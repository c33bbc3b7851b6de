//! Modes and sizes of terminals, as the images have them.

use std::os::fd::{AsFd, OwnedFd};

use images::messages::{TermiosEntry, TtyInfoEntry, WinsizeEntry};
use kernel::tty::{self, Modes, WindowSize};

use super::super::Error;

/// Checks what the images say of a terminal.
pub(super) fn check(info: &TtyInfoEntry) -> Result<(), Error> {
    let what = format!("terminal {}", info.id);
    for termios in [&info.termios, &info.termios_locked].into_iter().flatten() {
        modes(termios, &what)?;
    }
    window(info, &what)?;
    Ok(())
}

/// The modes of an entry.
pub(super) fn modes(entry: &TermiosEntry, what: &str) -> Result<Modes, Error> {
    let line = u8::try_from(entry.c_line);
    let line = line.map_err(|_| Error::image(what, "its modes are none"))?;
    Ok(Modes {
        input: entry.c_iflag,
        output: entry.c_oflag,
        control: entry.c_cflag,
        local: entry.c_lflag,
        line,
        characters: entry.control_chars(),
        input_speed: entry.c_ispeed,
        output_speed: entry.c_ospeed,
    })
}

fn window(info: &TtyInfoEntry, what: &str) -> Result<Option<WindowSize>, Error> {
    let of = |size: &WinsizeEntry| {
        let part = |value: u32| u16::try_from(value).ok();
        Some(WindowSize {
            rows: part(size.ws_row)?,
            columns: part(size.ws_col)?,
            x_pixels: part(size.ws_xpixel)?,
            y_pixels: part(size.ws_ypixel)?,
        })
    };
    match &info.winsize {
        None => Ok(None),
        Some(size) => match of(size) {
            Some(size) => Ok(Some(size)),
            None => Err(Error::image(what, "it is too large")),
        },
    }
}

/// Gives a terminal the modes that an entry has, where they differ: to set them may take rights, and those of
/// a terminal of hardware are its own.
pub(super) fn apply_modes(fd: impl AsFd, info: &TtyInfoEntry, what: &str) -> Result<(), Error> {
    let failed = |doing: &str| {
        let operation = format!("{doing} of {what}");
        |source| Error::Kernel { operation, source }
    };
    if let Some(termios) = &info.termios {
        let wanted = modes(termios, what)?;
        let mut now = tty::modes(&fd).map_err(failed("get modes"))?;
        if (wanted.input_speed, wanted.output_speed) == (0, 0) {
            (now.input_speed, now.output_speed) = (0, 0);
        }
        if now != wanted {
            tty::set_modes(&fd, &wanted).map_err(failed("set modes"))?;
        }
    }
    Ok(())
}

/// Gives a terminal of the tree's own all that an entry has.
pub(super) fn apply(fd: &OwnedFd, info: &TtyInfoEntry, what: &str) -> Result<(), Error> {
    let failed = |doing: &str| {
        let operation = format!("{doing} of {what}");
        |source| Error::Kernel { operation, source }
    };
    apply_modes(fd, info, what)?;
    if let Some(locked) = &info.termios_locked {
        let (wanted, mut now) =
            (modes(locked, what)?, tty::locked_modes(fd).map_err(failed("get locked modes"))?);
        (now.input_speed, now.output_speed) = (wanted.input_speed, wanted.output_speed);
        if now != wanted {
            tty::set_locked_modes(fd, &wanted).map_err(failed("lock modes"))?;
        }
    }
    if let Some(size) = window(info, what)?
        && tty::window_size(fd).map_err(failed("get the size"))? != size
    {
        tty::set_window_size(fd, size).map_err(failed("set the size"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_criu_writes_them() {
        let entry = TermiosEntry {
            c_lflag: 35379,
            c_cc: vec![360_651_779, 65540, 1_708_817, 370_609_938, 0, 7, 9, u32::MAX],
            ..TermiosEntry::default()
        };
        let modes = modes(&entry, "x").unwrap();
        assert_eq!(modes.characters[..5], [3, 28, 127, 21, 4]);
        assert_eq!((modes.local, modes.characters[18]), (35379, 0));
        assert!(super::modes(&TermiosEntry { c_line: 256, ..entry }, "x").is_err());
    }
}
