//! A program that gave up root: ids, groups, capabilities, secure bits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::identity::{flags, status};
use crate::stage::{Findings, Outcome, Stage, check};

const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_BOOT: u32 = 22;
const SECBIT_NOROOT: libc::c_ulong = 1;
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 4;

/// The layout of `capset`, version 3.
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let bind = 1 << CAP_NET_BIND_SERVICE;
    let low = Sets { effective: bind, permitted: bind | 1 << CAP_NET_RAW, inheritable: bind };
    let data = [low, Sets { effective: 0, permitted: 0, inheritable: 0 }];
    // SAFETY: header and data have the layout of version 3.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(done, 0, "capset: {}", std::io::Error::last_os_error());
    let raise = libc::PR_CAP_AMBIENT_RAISE;
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, CAP_NET_BIND_SERVICE, 0, 0) })
        .expect("raise an ambient capability");
}

fn secure_bits() -> i32 {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }).expect("securebits")
}

/// The secure bits that a thread gives itself, and those that it has when it is asked.
fn of_thread(asked: &mpsc::Receiver<()>) -> (i32, i32) {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT) })
        .expect("securebits");
    let before = secure_bits();
    let _ended = asked.recv();
    (before, secure_bits())
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    fs::set_permissions(stage.dir(), fs::Permissions::from_mode(0o777)).expect("chmod");
    setgroups(&[Gid::from_raw(4), Gid::from_raw(24), Gid::from_raw(70_000)]).expect("setgroups");
    // SAFETY: takes integers only.
    unsafe {
        check(libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0)).expect("bounding set");
        check(libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)).expect("securebits");
    }
    let (say, asked) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || of_thread(&asked));
    let gid = Gid::from_raw;
    setresgid(gid(1235), gid(1236), gid(1237)).expect("setresgid");
    let uid = Uid::from_raw;
    setresuid(uid(1234), uid(1238), uid(1239)).expect("setresuid");
    set_capabilities();
    let before = (status(), flags());

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("status", &before.0, &status());
    found.same("flags", &before.1, &flags());
    drop(say);
    let bits = thread.join().map_err(|_| "panicked");
    let bits = found.works("a thread", bits).unwrap_or_default();
    found.same("secure bits of a thread", &bits.0, &bits.1);
    found.must("they are its own", bits.0 != secure_bits());
    let low_port = std::net::TcpListener::bind("127.0.0.1:1");
    found.works("use the capability that was kept", low_port);
    let owner = fs::metadata(stage.path("ready")).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    found.same("files are made by the effective user", &Some(1238), &owner.ok());
    found.must("root's files stay closed", fs::read("/etc/shadow").is_err());
    found.outcome()
}
