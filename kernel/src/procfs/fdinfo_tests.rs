//! Texts as Linux 6.18 prints them.

use ids::HostPid;

use super::*;

fn parse(rest: &str) -> FdInfo {
    FdInfo::parse(format!("pos:\t95\nflags:\t02100002\nmnt_id:\t17\nino:\t1038\n{rest}").as_bytes())
        .unwrap()
}

#[test]
fn what_every_descriptor_has() {
    let info = parse("");
    assert_eq!((info.position, info.flags, info.mount), (95, 0o2_100_002, 17));
    assert_eq!((info.inode, info.detail), (Some(1038), Detail::None));
    assert!(FdInfo::parse(b"pos:\t1\n").is_err());
    assert!(FdInfo::parse(b"pos:\tx\nflags:\t0\n").is_err());
}

#[test]
fn eventfd() {
    let info = parse("eventfd-count:               1f\neventfd-id: 2\neventfd-semaphore: 1\n");
    let expected = Detail::Eventfd { count: 0x1f, id: Some(2), semaphore: Some(true) };
    assert_eq!(info.detail, expected);
}

#[test]
fn epoll() {
    let info = parse(
        "tfd:        3 events:       19 data: ffffffff00000003  pos:7 ino:40e sdev:10\ntfd:        4 events: 80000001 data:                0  pos:0 ino:1 sdev:fe00001\n",
    );
    let Detail::Epoll(entries) = info.detail else { panic!("{:?}", info.detail) };
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].fd, entries[0].events, entries[0].position), (3, 0x19, 7));
    assert_eq!((entries[0].data, entries[0].inode), (0xffff_ffff_0000_0003, 0x40e));
    assert_eq!(entries[1].device, libc::makedev(0xfe, 1));
}

#[test]
fn signalfd_and_timerfd() {
    assert_eq!(parse("sigmask:\t0000000000000204\n").detail, Detail::Signalfd { mask: 0x204 });
    let info = parse(
        "clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (99, 998165548)\nit_interval: (1, 0)\n",
    );
    let expected = TimerSetting {
        clock: 1,
        ticks: 3,
        settime_flags: 1,
        value: (99, 998_165_548),
        interval: (1, 0),
    };
    assert_eq!(info.detail, Detail::Timerfd(expected));
}

#[test]
fn notifiers() {
    let info = parse(
        "inotify wd:1 ino:3c4a7 sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000\n",
    );
    let Detail::Inotify(watches) = info.detail else { panic!() };
    assert_eq!((watches[0].wd, watches[0].inode, watches[0].mask), (1, 0x3c4a7, 2));
    assert_eq!(watches[0].handle, [0xa7, 0xc4, 3, 0, 0, 0, 0, 0]);
    let info = parse(
        "fanotify flags:0 event-flags:8000\nfanotify ino:3c4a7 sdev:fe00000 mflags:0 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7\nfanotify mnt_id:1b mflags:1 mask:3 ignored_mask:4\n",
    );
    let Detail::Fanotify { event_flags, marks, .. } = info.detail else { panic!() };
    assert_eq!((event_flags, marks.len()), (0x8000, 2));
    assert_eq!((marks[0].inode, marks[1].inode, marks[1].mount), (Some(0x3c4a7), None, Some(0x1b)));
}

#[test]
fn other_kinds() {
    let info = parse("Pid:\t17164\nNSpid:\t17164\t2\n");
    let task = HostPid::new(17164).map(PidfdTarget::Task).unwrap();
    assert_eq!(info.detail, Detail::Pidfd(task));
    assert_eq!(parse("Pid:\t0\nNSpid:\t0\n").detail, Detail::Pidfd(PidfdTarget::Elsewhere));
    assert_eq!(parse("Pid:\t-1\nNSpid:\t-1\n").detail, Detail::Pidfd(PidfdTarget::Ended));
    let ring = "SqMask:\t0x7\nSqHead:\t0\nPollList:\n  op=6, task_works=0\n  op=13, task_works=1\nCqOverflowList:\n";
    assert_eq!(parse(ring).detail, Detail::IoUring { waiting: vec![6, 13] });
    let info = parse("pending:\t0\ntotal:\t0\nAPI:\taa:0:80000000000001ff\n");
    assert_eq!(info.detail, Detail::Userfaultfd);
    assert_eq!(parse("tty-index:\t3\n").tty_index, Some(3));
}

#[test]
fn locks() {
    let info = parse(
        "lock:\t1: POSIX  ADVISORY  WRITE 17164 fe:00:10010628 0 EOF\nlock:\t2: OFDLCK ADVISORY  READ -1 00:1b:7 10 19\n",
    );
    assert_eq!(info.locks.len(), 2);
    let first = info.locks[0];
    assert_eq!((first.kind, first.write, first.pid), (LockKind::Posix, true, HostPid::new(17164)));
    assert_eq!((first.device, first.inode), (libc::makedev(0xfe, 0), 10_010_628));
    assert_eq!((first.start, first.end), (0, None));
    let second = info.locks[1];
    assert_eq!((second.kind, second.read, second.pid), (LockKind::OpenFileDescription, true, None));
    assert_eq!((second.start, second.end), (10, Some(19)));
}

#[test]
fn kinds_that_do_not_go_together_are_refused() {
    let text = b"flags:\t0\nsigmask:\t0\ntfd: 3 events: 1 data: 0\n";
    assert!(FdInfo::parse(text).is_err());
}

#[test]
fn locks_that_are_waited_for_are_not_held() {
    let text = b"1: FLOCK  ADVISORY  WRITE 708 00:1b:1234 0 EOF\n\
        1: -> FLOCK  ADVISORY  WRITE 709 00:1b:1234 0 EOF\n\
        2: OFDLCK ADVISORY  READ -1 fe:00:77 10 19\n";
    let found = held_locks(text);
    assert_eq!(found.iter().map(|lock| lock.inode).collect::<Vec<_>>(), [1234, 77]);
    assert_eq!(found[1].pid, None);
}
