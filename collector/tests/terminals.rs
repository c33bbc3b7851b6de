//! What the eBPF programs tell of terminals. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use inventory::terminals::{Side, Terminal};
use kernel::tty;
use stasis_collector::{Collector, Parts};

/// The terminals behind these descriptors of this process, when nothing in them moves.
fn looked_at(collector: &mut Collector, fds: &[&OwnedFd]) -> Vec<Terminal> {
    let pid = ids::HostPid::own();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let inventory = collector.parts(&[pid], Parts::FILES).unwrap();
        let files = &inventory.processes[&pid].files;
        let of = |fd: &&OwnedFd| {
            let file = files.iter().find(|file| file.fd == fd.as_raw_fd()).unwrap();
            (**file.terminal.as_ref().unwrap()).clone()
        };
        let all: Vec<Terminal> = fds.iter().map(of).collect();
        if all.iter().all(|one| one.input.as_ref().is_none_or(|input| !input.moves)) {
            return all;
        }
        assert!(Instant::now() < until, "it moves for ever");
    }
}

#[test]
fn terminals_and_what_waits_in_them() {
    let mut collector = Collector::with_bpf().unwrap();
    let pair = nix::pty::openpty(None, None).unwrap();
    let mut master = File::from(pair.master.try_clone().unwrap());
    let mut slave = File::from(pair.slave.try_clone().unwrap());
    let size = tty::WindowSize { rows: 5, columns: 6, x_pixels: 7, y_pixels: 8 };
    tty::set_window_size(&pair.slave, size).unwrap();
    let mut modes = tty::modes(&pair.slave).unwrap();
    // Typed into it: a line, the end of a file, half of a line.
    master.write_all(b"one\ntwo\x04thr").unwrap();
    slave.write_all(b"out\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let both = loop {
        let both = looked_at(&mut collector, &[&pair.master, &pair.slave]);
        if both[1].input.as_ref().unwrap().taken.len() == 11 {
            break both;
        }
        assert!(Instant::now() < deadline, "{both:?}");
    };
    let [of_master, of_slave] = &both[..] else { unreachable!() };
    assert_eq!((of_master.side, of_slave.side), (Side::Master, Side::Slave));
    let number = tty::number(pair.master.as_fd()).unwrap();
    assert_eq!((of_master.number(), of_slave.number()), (number, number));
    assert_eq!(of_slave.device, nix::sys::stat::fstat(&pair.slave).unwrap().st_rdev);
    let on = nix::sys::stat::fstat(&pair.slave).unwrap().st_dev;
    assert_eq!((of_master.instance, of_slave.instance), (on, on));
    assert_eq!((of_master.opens, of_slave.opens), (Some(1), Some(1)));
    assert_eq!(of_slave.window, [5, 6, 7, 8]);
    assert_eq!(of_slave.modes.flags, [modes.input, modes.output, modes.control, modes.local]);
    assert_eq!(of_slave.modes.characters, modes.characters);
    let input = of_slave.input.as_ref().unwrap();
    assert_eq!(input.taken, b"one\ntwo\0thr");
    assert_eq!((&input.line_ends[..], input.whole), (&[3, 7][..], 8));
    // Among it is the echo.
    let output = of_master.input.as_ref().unwrap();
    assert!(output.taken.windows(5).any(|part| part == b"out\r\n"), "{output:?}");
    assert!(output.line_ends.is_empty());

    // More than the line discipline takes.
    modes.local = 0;
    modes.input = 0;
    tty::set_modes(&pair.slave, &modes).unwrap();
    let much: Vec<u8> = (0..6000_u32).map(|nth| (nth * 7) as u8).collect();
    master.write_all(&much).unwrap();
    let (both, input) = loop {
        let both = looked_at(&mut collector, &[&pair.slave]);
        let input = both[0].input.clone().unwrap();
        if input.taken.len() + input.waiting.len() == 6011 && input.taken.len() > 4000 {
            break (both, input);
        }
        assert!(Instant::now() < deadline, "{input:?}");
    };
    assert_eq!([&input.taken[11..], &input.waiting].concat(), much);
    assert!(!input.is_part && both[0].modes.flags[3] == 0);

    // Closed on one side, and on the other.
    drop((slave, pair.slave));
    let of_master = looked_at(&mut collector, &[&pair.master]).remove(0);
    assert!(of_master.other_closed && !of_master.locked);
    let slave = nix::fcntl::open(
        format!("/dev/pts/{number}").as_str(),
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY,
        nix::sys::stat::Mode::empty(),
    )
    .unwrap();
    drop((master, pair.master));
    let hung_up = looked_at(&mut collector, &[&slave]).remove(0);
    assert!(hung_up.hung_up && hung_up.input.is_none());
}
