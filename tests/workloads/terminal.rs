//! A job on a terminal: its standard streams are the terminal, and it is in the foreground.

use std::fs;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, getsid, tcgetpgrp};

use crate::stage::{Findings, Outcome, Stage};

fn controlling_terminal() -> bool {
    fs::File::open("/dev/tty").is_ok()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let mut settings = tcgetattr(stdin().as_fd()).expect("standard input is a terminal");
    settings.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &settings).expect("tcsetattr");
    let number = fs::metadata("/proc/self/fd/0").map(|m| std::os::unix::fs::MetadataExt::rdev(&m));
    let number = number.expect("stat the terminal");

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.must("standard input is a terminal", stdin().is_terminal());
    found.must("standard output is a terminal", stdout().is_terminal());
    let now = fs::metadata("/proc/self/fd/0").map(|m| std::os::unix::fs::MetadataExt::rdev(&m));
    found.same("the same terminal", &Some(number), &now.ok());
    found.must("it is the controlling terminal", controlling_terminal());
    found.must("somebody leads the session", getsid(None).is_ok_and(|sid| sid != getpgrp()));
    let foreground = tcgetpgrp(stdin().as_fd());
    found.same("in the foreground", &Ok(getpgrp()), &foreground);
    let echo = tcgetattr(stdin().as_fd()).map(|s| s.local_flags.contains(LocalFlags::ECHO));
    found.same("echo is off", &Ok(false), &echo);
    found.works("write to it", stdout().write_all(b"from the job\n"));
    found.outcome()
}
