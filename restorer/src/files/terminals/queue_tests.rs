use super::*;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

fn input(taken: &[u8], line_ends: &[u32], whole: u32) -> TtyInputEntry {
    let (taken, line_ends) = (taken.to_vec(), line_ends.to_vec());
    TtyInputEntry { taken, line_ends, whole, waiting: Vec::new() }
}

/// A pair whose sides do not wait.
fn pair() -> (OwnedFd, OwnedFd) {
    let pair = nix::pty::openpty(None, None).unwrap();
    for side in [&pair.master, &pair.slave] {
        fcntl(side, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    }
    (pair.master, pair.slave)
}

/// What reads give until nothing is there any more.
fn reads(fd: &OwnedFd) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut bytes = [0; 8192];
    while let Ok(count) = nix::unistd::read(fd, &mut bytes) {
        all.push(bytes[..count].to_vec());
    }
    all
}

#[test]
fn lines_are_what_they_were() {
    let (master, slave) = pair();
    let modes = tty::modes(&master).unwrap();
    // A line, a zero, the end of a file behind text and alone, a new line that was quoted, and half a line.
    let text = b"one\n\0two\0\0a\nb\n\x03half\x7f";
    let all = input(text, &[3, 8, 9, 13], 14);
    assert_eq!(fill_slave(&master, all, &modes).unwrap(), b"");
    tty::set_modes(&master, &modes).unwrap();
    assert!(!tty::is_packet_mode(&master).unwrap());
    let lines: [&[u8]; 4] = [b"one\n", b"\0two", b"", b"a\nb\n"];
    for line in lines {
        let mut bytes = [0; 100];
        let count = nix::unistd::read(&slave, &mut bytes).unwrap();
        assert_eq!(&bytes[..count], line);
    }
    assert!(reads(&slave).is_empty());
    // The rest is a line when it is ended; half of it can be taken back.
    type_all(&master, b"\x7f!\n").unwrap();
    let mut bytes = [0; 100];
    let mut fds = [PollFd::new(slave.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(5000_u16)), Ok(1));
    let count = nix::unistd::read(&slave, &mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"\x03half!\n");
}

#[test]
fn lines_that_end_otherwise() {
    let (master, slave) = pair();
    let mut modes = tty::modes(&master).unwrap();
    modes.characters[libc::VEOL] = b';';
    // The first of these was quoted.
    let all = input(b"a;b;c;x:", &[3, 5, 7], 8);
    fill_slave(&master, all, &modes).unwrap();
    tty::set_modes(&master, &modes).unwrap();
    let lines: Vec<Vec<u8>> = reads(&slave);
    assert_eq!(lines, [b"a;b;".to_vec(), b"c;".to_vec(), b"x:".to_vec()]);
}

#[test]
fn every_byte_and_a_full_buffer() {
    for count in [1, 199, 200, 201, 4000, 4094, 4095, 5000] {
        let (master, slave) = pair();
        let mut modes = tty::modes(&master).unwrap();
        (modes.local, modes.input) = (0, 0);
        let mut all = input(&[], &[], 0);
        all.taken = (0..count).map(|nth: u32| (nth * 7) as u8).collect();
        all.waiting = all.taken.split_off(all.taken.len().min(MOST));
        all.whole = all.taken.len() as u32;
        let bytes = [&all.taken[..], &all.waiting].concat();
        let rest = fill_slave(&master, all, &modes).unwrap();
        tty::set_modes(&master, &modes).unwrap();
        type_all(&master, &rest).unwrap();
        let mut got = Vec::new();
        let until = Instant::now() + Duration::from_secs(10);
        while got.len() < bytes.len() && Instant::now() < until {
            got.extend(reads(&slave).concat());
        }
        assert_eq!(got, bytes, "{count}");
    }
}

#[test]
fn output_is_not_translated_twice() {
    let (master, slave) = pair();
    let modes = tty::modes(&slave).unwrap();
    fill_master(&slave, &input(b"one\r\ntwo\n", &[], 9)).unwrap();
    tty::set_modes(&slave, &modes).unwrap();
    let mut got = Vec::new();
    let until = Instant::now() + Duration::from_secs(10);
    while got.len() < 9 && Instant::now() < until {
        got.extend(reads(&master).concat());
    }
    assert_eq!(got, b"one\r\ntwo\n");
}

#[test]
fn images_of_criu_tell_less() {
    let data =
        |data: &[u8]| TtyDataEntry { tty_id: 6, data: data.to_vec(), ..TtyDataEntry::default() };
    let lines = super::input(&data(b"one\nend of file"), true);
    assert_eq!((lines.line_ends, lines.whole), (vec![3, 15], 16));
    assert_eq!(lines.taken.last(), Some(&0));
    let raw = super::input(&data(&[7; 5000]), false);
    assert_eq!((raw.taken.len(), raw.waiting.len(), raw.whole), (MOST, 905, 4095));
}

#[test]
fn what_no_terminal_holds() {
    let of = |input: TtyInputEntry| {
        check(&TtyDataEntry { tty_id: 6, input: Some(input), ..TtyDataEntry::default() })
    };
    assert!(of(input(b"one\n", &[3], 4)).is_ok());
    assert!(of(input(b"one\n", &[4], 4)).is_err());
    assert!(of(input(b"one\n", &[3, 3], 4)).is_err());
    assert!(of(input(b"one\n", &[3], 5)).is_err());
    assert!(of(input(&[0; 4096], &[], 0)).is_err());
    let much = TtyDataEntry { tty_id: 6, data: vec![0; LARGEST + 1], ..TtyDataEntry::default() };
    assert!(check(&much).is_err());
}
