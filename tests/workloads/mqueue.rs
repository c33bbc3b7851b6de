//! POSIX message queues: one with a name and messages, one without a name.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::stage::{Findings, Outcome, Stage, check};

fn open(name: &CString, flags: i32) -> OwnedFd {
    open_as(name, flags, (4, 64))
}

/// One that is made has room for so many messages, of so many bytes.
pub(crate) fn open_as(name: &CString, flags: i32, (most, bytes): (i64, i64)) -> OwnedFd {
    // SAFETY: of integers all zeros are a value.
    let mut like: libc::mq_attr = unsafe { std::mem::zeroed() };
    (like.mq_maxmsg, like.mq_msgsize) = (most, bytes);
    // SAFETY: the name is a C string, and the attributes outlive the call.
    let fd = unsafe { libc::mq_open(name.as_ptr(), flags, 0o640, &raw mut like) };
    let fd = check(fd).expect("mq_open");
    // SAFETY: it has just been opened.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What it takes, and has, with its flags, owner, permissions and names.
pub(crate) fn stat(queue: &OwnedFd) -> ([i64; 4], [u32; 4], u64) {
    let stat = nix::sys::stat::fstat(queue).expect("stat");
    // SAFETY: of integers all zeros are a value; the kernel writes an `mq_attr`.
    let found = unsafe {
        let mut found: libc::mq_attr = std::mem::zeroed();
        check(libc::mq_getattr(queue.as_raw_fd(), &raw mut found)).expect("mq_getattr");
        found
    };
    let numbers = [found.mq_flags, found.mq_maxmsg, found.mq_msgsize, found.mq_curmsgs];
    // SAFETY: takes integers.
    let flags = unsafe { libc::fcntl(queue.as_raw_fd(), libc::F_GETFL) };
    (numbers, [stat.st_uid, stat.st_gid, stat.st_mode, flags.cast_unsigned()], stat.st_nlink)
}

fn send(queue: &OwnedFd, text: &[u8], priority: u32) -> bool {
    // SAFETY: the text is as long as is said.
    unsafe { libc::mq_send(queue.as_raw_fd(), text.as_ptr().cast(), text.len(), priority) == 0 }
}

/// The next message, with its priority.
fn receive(queue: &OwnedFd) -> Option<(Vec<u8>, u32)> {
    let (mut text, mut priority) = ([0u8; 64], 0);
    // SAFETY: there is room for the longest message.
    let got = unsafe {
        libc::mq_receive(queue.as_raw_fd(), text.as_mut_ptr().cast(), 64, &raw mut priority)
    };
    Some((text[..usize::try_from(got).ok()?].to_vec(), priority))
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let name = |kind: &str| {
        CString::new(format!("/stasis-{kind}-{}", std::process::id())).expect("a name")
    };
    let (named, nameless) = (name("named"), name("nameless"));
    let create = libc::O_CREAT | libc::O_EXCL;
    let one = open(&named, libc::O_RDWR | create);
    let reader = open(&named, libc::O_RDONLY | libc::O_NONBLOCK);
    let other = open(&nameless, libc::O_WRONLY | create);
    let other_reader = open(&nameless, libc::O_RDONLY | libc::O_NONBLOCK);
    let owner = (Some(nix::unistd::Uid::from_raw(3)), Some(nix::unistd::Gid::from_raw(4)));
    nix::unistd::fchown(&other, owner.0, owner.1).expect("chown");
    assert!(send(&one, b"later", 1) && send(&one, b"first", 9), "send");
    // SAFETY: the name is a C string.
    check(unsafe { libc::mq_unlink(nameless.as_ptr()) }).expect("unlink");
    let all = || [&one, &reader, &other, &other_reader].map(stat);
    let before = all();
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("what the kernel says of them", &before, &all());
    found.same("the first message", &Some((b"first".to_vec(), 9)), &receive(&reader));
    found.same("the second message", &Some((b"later".to_vec(), 1)), &receive(&one));
    found.same("no other", &None, &receive(&reader));
    found.must("send to the nameless one", send(&other, b"x", 2));
    found.same("its message", &Some((b"x".to_vec(), 2)), &receive(&other_reader));
    // SAFETY: the name is a C string.
    found.same("remove the name", &0, &unsafe { libc::mq_unlink(named.as_ptr()) });
    found.outcome()
}
