//! Pseudo-terminals: both sides, one side closed or never open, hung up, with what waits in them, and as the
//! controlling terminals of sessions.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{
    LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr,
    tcsetattr,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, setpgid, setsid, tcgetpgrp, tcsetpgrp};

use crate::stage::{Findings, Outcome, Stage, check};

/// A master and its number.
pub(crate) struct Master(pub(crate) File, u32);

impl Master {
    fn new() -> Self {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/ptmx");
        let file = file.expect("open a master");
        let number = get(&file, libc::TIOCGPTN).cast_unsigned();
        Self(file, number)
    }

    pub(crate) fn unlocked() -> Self {
        let master = Self::new();
        set(&master.0, libc::TIOCSPTLCK, 0);
        master
    }

    fn path(&self) -> String {
        format!("/dev/pts/{}", self.1)
    }

    pub(crate) fn slave(&self) -> File {
        open(&self.path()).expect("open a slave")
    }
}

fn open(path: &str) -> std::io::Result<File> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

fn get(file: impl AsFd, request: libc::Ioctl) -> i32 {
    let mut value = 0_i32;
    // SAFETY: the requests write an integer.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, &raw mut value) })
        .expect("ask a terminal");
    value
}

fn set(file: impl AsFd, request: libc::Ioctl, value: i32) {
    // SAFETY: the requests read an integer.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, &raw const value) })
        .expect("set a terminal");
}

pub(crate) fn window(file: impl AsFd) -> (u16, u16, u16, u16) {
    // SAFETY: four numbers, which may be 0.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes such a structure.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })
        .expect("ask for the size");
    (size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel)
}

pub(crate) fn set_window(file: impl AsFd, rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 3, ws_ypixel: 4 };
    // SAFETY: the request reads such a structure.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
        .expect("set the size");
}

fn raw(file: &File) -> Termios {
    let mut modes = tcgetattr(file).expect("modes");
    cfmakeraw(&mut modes);
    modes.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    tcsetattr(file, SetArg::TCSANOW, &modes).expect("set modes");
    modes
}

/// What can be read now, by so many reads.
fn reads(file: &File, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut bytes = [0; 8192];
        match (&*file).read(&mut bytes) {
            Ok(count) => all.extend(&bytes[..count]),
            Err(_) => break,
        }
    }
    all
}

/// Waits until so much is there to be read.
fn await_input(file: &File, bytes: i32) {
    while get(file, libc::FIONREAD) < bytes {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn much() -> Vec<u8> {
    (0..6000_u32).map(|nth| (nth * 7) as u8).collect()
}

/// Modes as text, to be compared.
fn said(file: impl AsFd) -> String {
    format!("{:?}", tcgetattr(file).map(libc::termios::from))
}

/// Both sides open, read by lines and not, with something in each queue.
struct Pairs {
    lines: (Master, File),
    raw: (Master, File),
    lines_modes: String,
    raw_modes: String,
    /// Whether something waits in them.
    waits: bool,
}

impl Pairs {
    fn set_up(waits: bool) -> Self {
        let lines = Master::unlocked();
        let slave = lines.slave();
        let mut modes = tcgetattr(&slave).expect("modes");
        modes.local_flags.remove(LocalFlags::ECHO);
        modes.control_chars[SpecialCharacterIndices::VINTR as usize] = 7;
        tcsetattr(&slave, SetArg::TCSANOW, &modes).expect("set modes");
        set_window(&slave, 33, 77);
        if waits {
            (&lines.0).write_all(b"one\ntwo\x04ha\x16\x04lf").expect("type");
            (&slave).write_all(b"shown\n").expect("show");
            await_input(&slave, 7);
            await_input(&lines.0, 7);
        }
        let node = slave.metadata().expect("stat").mode();
        std::fs::set_permissions(lines.path(), PermissionsExt::from_mode(node & !0o7777 | 0o620))
            .expect("chmod");
        std::os::unix::fs::chown(lines.path(), Some(1234), Some(5)).expect("chown");

        let other = Master::unlocked();
        let other_slave = other.slave();
        raw(&other_slave);
        if waits {
            (&other.0).write_all(&much()).expect("type");
            (&other_slave).write_all(&much()).expect("show");
            await_input(&other_slave, 4000);
            await_input(&other.0, 4000);
        }
        Self {
            waits,
            lines_modes: said(&slave),
            raw_modes: said(&other_slave),
            lines: (lines, slave),
            raw: (other, other_slave),
        }
    }

    fn check(&self, found: &mut Findings) {
        let (master, slave) = &self.lines;
        found.same("modes", &self.lines_modes, &said(slave));
        found.same("modes by the master", &self.lines_modes, &said(&master.0));
        found.same("size", &(33, 77, 3, 4), &window(&master.0));
        let node = slave.metadata().expect("stat");
        let owner = (node.uid(), node.gid(), node.mode() & 0o7777);
        found.same("owner of the node", &(1234, 5, 0o620), &owner);
        found.same("the same number", &master.1, &get(&master.0, libc::TIOCGPTN).cast_unsigned());
        let by_name = std::fs::metadata(master.path()).map(|node| node.ino());
        found.same("the same node", &Some(node.ino()), &by_name.ok());
        if !self.waits {
            (&master.0).write_all(b"one\ntwo\x04ha\x16\x04lf").expect("type");
            (&*slave).write_all(b"shown\n").expect("show");
            await_input(slave, 7);
            await_input(&master.0, 7);
        }
        found.same("first line", &b"one\n".to_vec(), &reads(slave, 1));
        found.same("second line", &b"two".to_vec(), &reads(slave, 1));
        found.same("no third one", &vec![], &reads(slave, 1));
        (&master.0).write_all(b"!\n").expect("type");
        await_input(slave, 7);
        found.same("third line", &b"ha\x04lf!\n".to_vec(), &reads(slave, 1));
        found.same("shown", &b"shown\r\n".to_vec(), &reads(&master.0, 1));

        let (master, slave) = &self.raw;
        found.same("raw modes", &self.raw_modes, &said(slave));
        if !self.waits {
            return;
        }
        for (what, side) in [("typed", slave), ("shown", &master.0)] {
            let mut all = Vec::new();
            for _ in 0..2000 {
                all.extend(reads(side, 1));
                if all.len() >= 6000 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            found.must(&format!("all that was {what} ({})", all.len()), all == much());
        }
    }
}

/// One side closed, or never open, locked, exclusive, stopped, in packet mode.
struct Single {
    closed: Master,
    hung_up: (File, u64),
    never_open: Master,
    exclusive: (Master, File),
    stopped: (Master, File),
    packets: (Master, File),
    /// Whether something waits in them, and the output of one is stopped.
    waits: bool,
}

impl Single {
    fn set_up(waits: bool) -> Self {
        let closed = Master::unlocked();
        let last: &[u8] = if waits { b"last words" } else { b"" };
        (&closed.slave()).write_all(last).expect("show");
        let gone = Master::unlocked();
        let slave = gone.slave();
        drop(gone);
        let hung_up = (slave.metadata().expect("stat").rdev(), slave);
        let pair = || {
            let master = Master::unlocked();
            let slave = master.slave();
            (master, slave)
        };
        let exclusive = pair();
        check(
            // SAFETY: the request takes nothing.
            unsafe { libc::ioctl(exclusive.1.as_raw_fd(), libc::TIOCEXCL) },
        )
        .expect("exclusive");
        let stopped = pair();
        if waits {
            // SAFETY: the request takes an integer.
            check(unsafe { libc::ioctl(stopped.1.as_raw_fd(), libc::TCXONC, libc::TCOOFF) })
                .expect("stop");
        }
        let packets = pair();
        set(&packets.0.0, libc::TIOCPKT, 1);
        Self {
            closed,
            hung_up: (hung_up.1, hung_up.0),
            never_open: Master::new(),
            exclusive,
            stopped,
            packets,
            waits,
        }
    }

    fn check(&self, found: &mut Findings) {
        let at_end = |file: &File| (&*file).read(&mut [0; 9]).map_err(|error| error.raw_os_error());
        if self.waits {
            found.same("last words", &b"last words".to_vec(), &reads(&self.closed.0, 1));
        }
        found.same("closed", &Err(Some(libc::EIO)), &at_end(&self.closed.0));
        found.same("hung up", &Ok(0), &at_end(&self.hung_up.0));
        found.must("writes to it fail", (&self.hung_up.0).write(b"x").is_err());

        let never = &self.never_open;
        found.same("never open", &Err(Some(libc::EAGAIN)), &at_end(&never.0));
        found.must("locked", open(&never.path()).is_err());
        set(&never.0, libc::TIOCSPTLCK, 0);
        found.works("open it", open(&never.path()));

        const TIOCGEXCL: libc::Ioctl = 0x8004_5440;
        const TIOCGPKT: libc::Ioctl = 0x8004_5438;
        found.same("exclusive", &1, &get(&self.exclusive.1, TIOCGEXCL));
        found.same("its master is not", &0, &get(&self.exclusive.0.0, TIOCGEXCL));
        let stopped = (&self.stopped.1).write(b"x").map_err(|error| error.raw_os_error());
        let expected = if self.waits { Err(Some(libc::EAGAIN)) } else { Ok(1) };
        found.same("stopped", &expected, &stopped);
        found.same("packets", &1, &get(&self.packets.0.0, TIOCGPKT));
        (&self.packets.1).write_all(b"p").expect("show");
        await_input(&self.packets.0.0, 1);
        found.same("a packet", &b"\0p".to_vec(), &reads(&self.packets.0.0, 1));
    }
}

fn ended_well(found: &mut Findings, name: &str, child: Pid) {
    let status = waitpid(child, None);
    found.same(&format!("child {name}"), &Ok(WaitStatus::Exited(child, 0)), &status);
}

/// The members of a session say by files whether all is as it should be for them.
fn session(stage: &Stage, master: &Master) -> Pid {
    crate::tree::child(stage, "leader", || {
        setsid().expect("setsid");
        let slave = master.slave();
        // SAFETY: the request takes an integer.
        check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).expect("control");
        let current = open("/dev/tty").expect("open the current terminal");
        drop(slave);
        let without = crate::tree::child(stage, "without", || {
            let own = open("/dev/tty").expect("open the current terminal");
            // SAFETY: the request takes nothing.
            check(unsafe { libc::ioctl(own.as_raw_fd(), libc::TIOCNOTTY) }).expect("give up");
            drop(own);
            stage.publish("is_without", "");
            stage.wait();
            match open("/dev/tty") {
                Ok(_) => Err("it has a terminal again".to_owned()),
                Err(_) => Ok(()),
            }
        });
        let foreground = crate::tree::child(stage, "foreground", || {
            setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
            stage.publish("is_grouped", "");
            stage.wait();
            let own = open("/dev/tty").map_err(|error| format!("no terminal: {error}"))?;
            match tcgetpgrp(&own) {
                Ok(group) if group == getpgrp() => Ok(()),
                other => Err(format!("in the foreground: {other:?}")),
            }
        });
        for file in ["is_without", "is_grouped"] {
            while !stage.path(file).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut set = SigSet::empty();
        set.add(Signal::SIGTTOU);
        set.thread_block().expect("block a signal");
        tcsetpgrp(&current, foreground).expect("foreground");
        stage.publish("leads", "");
        // As it ends, the terminal controls nobody any more.
        while !stage.path("asked").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut found = Findings::default();
        found.same("foreground", &Ok(foreground), &tcgetpgrp(&current));
        found.works("write to /dev/tty", (&current).write_all(b"current"));
        let path = std::fs::read_link(format!("/proc/self/fd/{}", current.as_raw_fd()));
        found.same("opened as", &"/dev/tty".into(), &path.unwrap_or_default());
        for (name, child) in [("without", without), ("foreground", foreground)] {
            ended_well(&mut found, name, child);
        }
        found.outcome()
    })
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    all(stage, false)
}

/// With something waiting in them.
pub(crate) fn waiting(stage: &Stage) -> Outcome {
    all(stage, true)
}

fn all(stage: &Stage, waits: bool) -> Outcome {
    let pairs = Pairs::set_up(waits);
    let single = Single::set_up(waits);
    let terminal = Master::unlocked();
    let leader = session(stage, &terminal);
    while !stage.path("leads").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }

    stage.ready_then_wait();

    let mut found = Findings::default();
    pairs.check(&mut found);
    single.check(&mut found);
    no_file_closes_at_exec(&mut found);
    let mut sid = 0_i32;
    // SAFETY: the request writes an integer.
    unsafe { libc::ioctl(terminal.0.as_raw_fd(), libc::TIOCGSID, &raw mut sid) };
    found.same("session", &leader.as_raw(), &sid);
    stage.publish("asked", "");
    ended_well(&mut found, "leader", leader);
    found.same("what it wrote", &b"current".to_vec(), &reads(&terminal.0, 1));
    found.outcome()
}

/// That is a matter of descriptors, and these files were opened without.
fn no_file_closes_at_exec(found: &mut Findings) {
    for entry in std::fs::read_dir("/proc/self/fd").expect("list descriptors").flatten() {
        let fd = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(-1);
        // SAFETY: takes three integers. (The descriptor of the listing has its flags from elsewhere.)
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        let is_terminal = entry.path().read_link().is_ok_and(|to| to.starts_with("/dev/pts"));
        let closes = is_terminal && flags & libc::O_CLOEXEC != 0;
        found.must(&format!("the file of descriptor {fd} has no O_CLOEXEC"), !closes);
    }
}

/// What CRIU carries as well: pairs, a session and its terminal.
pub(crate) fn plain(stage: &Stage) -> Outcome {
    pair(stage, false)
}

/// With something waiting in it.
pub(crate) fn plain_waiting(stage: &Stage) -> Outcome {
    pair(stage, true)
}

fn pair(stage: &Stage, waits: bool) -> Outcome {
    let master = Master::unlocked();
    let slave = master.slave();
    raw(&slave);
    let mut modes = tcgetattr(&slave).expect("modes");
    modes.output_flags.remove(OutputFlags::OPOST);
    tcsetattr(&slave, SetArg::TCSANOW, &modes).expect("set modes");
    set_window(&slave, 10, 20);
    let write = || {
        (&master.0).write_all(b"typed\n").expect("type");
        (&slave).write_all(b"shown\n").expect("show");
        await_input(&slave, 6);
        await_input(&master.0, 6);
    };
    if waits {
        write();
    }
    let before = said(&slave);
    let own = getpid();

    stage.ready_then_wait();

    let mut found = Findings::default();
    if !waits {
        write();
    }
    found.same("modes", &before, &said(&slave));
    found.same("size", &(10, 20, 3, 4), &window(&slave));
    found.same("number", &master.1, &get(&master.0, libc::TIOCGPTN).cast_unsigned());
    found.same("typed", &b"typed\n".to_vec(), &reads(&slave, 1));
    found.same("shown", &b"shown\n".to_vec(), &reads(&master.0, 1));
    found.same("pid", &own, &getpid());
    found.outcome()
}
