//! The entries that terminals have in the images.

use std::path::Path;

use images::messages::{
    TermiosEntry, TtyDataEntry, TtyInfoEntry, TtyInputEntry, TtyNodeEntry, TtyPtyEntry,
    WinsizeEntry, tty_type,
};
use inventory::terminals::{Input, Modes, Side, Terminal};
use support::terminals as rules;

use crate::mounts::Views;

/// The entry of a terminal in `tty-info.img`. One that has hung up answers nothing: its entry stays bare.
pub(super) fn info(id: u32, terminal: &Terminal, session: (u32, u32)) -> TtyInfoEntry {
    let pty = TtyPtyEntry { index: terminal.number() };
    let is_pty = terminal.side != Side::Line;
    let (major, minor) = (libc::major(terminal.device), libc::minor(terminal.device));
    let mut info = TtyInfoEntry {
        id,
        r#type: match (terminal.side, major, minor) {
            (Side::Master | Side::Slave, ..) => tty_type::PTY,
            (Side::Line, 5, _) => tty_type::CONSOLE,
            (Side::Line, 4, 0..=63) => tty_type::VT,
            (Side::Line, ..) => tty_type::SERIAL,
        },
        sid: session.0,
        pgrp: session.1,
        rdev: terminal.device as u32,
        pty: is_pty.then_some(pty),
        ..TtyInfoEntry::default()
    };
    if terminal.hung_up {
        return info;
    }
    info.locked = terminal.locked;
    info.exclusive = terminal.exclusive;
    info.packet_mode = terminal.packets;
    info.termios = Some(termios(&terminal.modes));
    info.termios_locked = Some(termios(&terminal.locked_modes));
    let [rows, columns, width, height] = terminal.window.map(u32::from);
    info.winsize =
        Some(WinsizeEntry { ws_row: rows, ws_col: columns, ws_xpixel: width, ws_ypixel: height });
    let set = |flag: bool| flag.then_some(true);
    info.other_closed = set(terminal.other_closed);
    info.stopped = set(terminal.stopped);
    info.stopped_by_call = set(terminal.stopped_by_call);
    info
}

/// What waits in a terminal. A reader of CRIU's gets what a read would have got.
pub(super) fn data(id: u32, terminal: &Terminal) -> Option<TtyDataEntry> {
    let own = terminal.input.as_ref().filter(|input| !input.is_empty());
    let slave = terminal.input_of_slave.as_ref().filter(|input| !input.is_empty());
    (own.is_some() || slave.is_some()).then(|| TtyDataEntry {
        tty_id: id,
        data: own.map(readable).unwrap_or_default(),
        input: own.map(entry_of),
        slave: slave.map(entry_of),
    })
}

fn readable(input: &Input) -> Vec<u8> {
    let is_file_end =
        |at: usize| input.taken[at] == 0 && input.line_ends.binary_search(&(at as u32)).is_ok();
    let whole = (0..input.whole as usize).filter(|at| !is_file_end(*at));
    let mut bytes: Vec<u8> = whole.map(|at| input.taken[at]).collect();
    if input.whole as usize == input.taken.len() {
        bytes.extend(&input.waiting);
    }
    bytes
}

fn entry_of(input: &Input) -> TtyInputEntry {
    TtyInputEntry {
        taken: input.taken.clone(),
        line_ends: input.line_ends.clone(),
        whole: input.whole,
        waiting: input.waiting.clone(),
    }
}

fn termios(modes: &Modes) -> TermiosEntry {
    let [c_iflag, c_oflag, c_cflag, c_lflag] = modes.flags;
    let mut entry = TermiosEntry {
        c_iflag,
        c_oflag,
        c_cflag,
        c_lflag,
        c_line: modes.line.into(),
        c_ispeed: modes.speeds[0],
        c_ospeed: modes.speeds[1],
        c_cc: Vec::new(),
    };
    entry.set_control_chars(&modes.characters);
    entry
}

/// Owner, group and permissions of the node of a slave, if it is where it usually is.
pub(super) fn node(terminal: &Terminal, views: &Views) -> Option<TtyNodeEntry> {
    let number = terminal.number();
    let inside = views.find_on(terminal.instance, Path::new(&number.to_string()));
    let stat = match inside {
        Some(found) => nix::sys::stat::fstat(&found).ok()?,
        None => nix::sys::stat::lstat(format!("/dev/pts/{number}").as_str()).ok()?,
    };
    let is_it = stat.st_rdev == rules::slave(number)
        && (terminal.instance == 0 || terminal.instance == stat.st_dev);
    let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
    is_it.then_some(TtyNodeEntry { uid, gid, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_criu_gets_what_a_read_would_have_got() {
        let of = |input: Input| data(6, &Terminal { input: Some(input), ..Terminal::default() });
        let input = Input {
            taken: b"one\ntwo\0\0x\npart".to_vec(),
            line_ends: vec![3, 7, 10],
            whole: 11,
            ..Input::default()
        };
        let entry = of(input.clone()).unwrap();
        // The second zero was typed.
        assert_eq!((entry.tty_id, &entry.data[..]), (6, &b"one\ntwo\0x\n"[..]));
        let raw = Input { waiting: b"more".to_vec(), whole: 3, taken: b"abc".to_vec(), ..input };
        assert_eq!(of(Input { line_ends: vec![], ..raw }).unwrap().data, b"abcmore");
        assert!(of(Input::default()).is_none());
    }

    #[test]
    fn entries_by_kind() {
        let of = |side, major, minor| {
            let device = libc::makedev(major, minor);
            let terminal = Terminal { side, device, ..Terminal::default() };
            info(1, &terminal, (2, 3))
        };
        let slave = of(Side::Slave, 136, 300);
        assert_eq!((slave.r#type, slave.pty.unwrap().index), (tty_type::PTY, 300));
        assert_eq!((slave.sid, slave.pgrp), (2, 3));
        assert_eq!(of(Side::Line, 4, 5).r#type, tty_type::VT);
        assert_eq!(of(Side::Line, 4, 64).r#type, tty_type::SERIAL);
        assert_eq!(of(Side::Line, 5, 1).r#type, tty_type::CONSOLE);
        let hung_up = Terminal { side: Side::Slave, hung_up: true, ..Terminal::default() };
        assert!(info(1, &hung_up, (0, 0)).termios.is_none());
    }
}
