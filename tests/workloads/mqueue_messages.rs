//! POSIX message queues with messages in them: without a name, and in an IPC namespace of their own.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, fchown};

use crate::mounts::attach;
use crate::mqueue::{open_as, stat};
use crate::stage::{Findings, Outcome, Stage, check, eventually};
use crate::sysv::whole;
use crate::tree::child;

/// A queue is open to be read and written, to be read, and to be written.
struct Queue {
    name: CString,
    both: OwnedFd,
    reader: OwnedFd,
    writer: OwnedFd,
}

const CREATE: i32 = libc::O_CREAT | libc::O_EXCL;
/// Bytes of the longest message.
const LONG: usize = 9000;

impl Queue {
    fn make(kind: &str, most: i64, bytes: i64) -> Self {
        let name = format!("/stasis-{kind}-{}", std::process::id());
        let name = CString::new(name).expect("a name");
        let both = open_as(&name, libc::O_RDWR | CREATE, (most, bytes));
        let reader = open_as(&name, libc::O_RDONLY | libc::O_NONBLOCK, (0, 0));
        let writer = open_as(&name, libc::O_WRONLY | libc::O_NONBLOCK, (0, 0));
        Self { name, both, reader, writer }
    }

    fn unlink(&self) {
        // SAFETY: the name is a C string.
        check(unsafe { libc::mq_unlink(self.name.as_ptr()) }).expect("unlink");
    }

    /// Gives it to others, and says that it was used long ago.
    fn age(&self) {
        fchown(&self.both, Some(Uid::from_raw(3)), Some(Gid::from_raw(4))).expect("chown");
        let [read, changed] = [TimeSpec::new(1_000_000_000, 123), TimeSpec::new(1_100_000_000, 7)];
        futimens(&self.both, &read, &changed).expect("set the times");
    }

    /// But for when it was read last: without eBPF a dump has to read from it who is told of messages.
    fn state(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let found = nix::sys::stat::fstat(&self.reader).expect("stat");
        let times = [found.st_mtime, found.st_mtime_nsec];
        ([&self.both, &self.reader, &self.writer].map(stat), times)
    }

    fn stat(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let times = |queue: &OwnedFd| {
            let found = nix::sys::stat::fstat(queue).expect("stat");
            [found.st_atime, found.st_atime_nsec, found.st_mtime, found.st_mtime_nsec]
        };
        ([&self.both, &self.reader, &self.writer].map(stat), times(&self.reader))
    }
}

fn send(queue: &OwnedFd, text: &[u8], priority: u32) -> io::Result<i32> {
    // SAFETY: the text is as long as is said.
    let sent =
        unsafe { libc::mq_send(queue.as_raw_fd(), text.as_ptr().cast(), text.len(), priority) };
    check(sent)
}

/// The next message, with its priority.
fn receive(queue: &OwnedFd) -> Option<(u32, Vec<u8>)> {
    let (mut text, mut priority) = (vec![0u8; LONG], 0);
    // SAFETY: there is room for the longest message.
    let got = unsafe {
        libc::mq_receive(queue.as_raw_fd(), text.as_mut_ptr().cast(), LONG, &raw mut priority)
    };
    text.truncate(usize::try_from(got).ok()?);
    Some((priority, text))
}

/// Messages of several priorities, some older than others of the same one, of no bytes and around the borders of the kernel's
/// segments (4,048 bytes of the first, 4,088 of others).
fn messages(count: usize) -> Vec<(u32, Vec<u8>)> {
    let lengths = [5, 0, 4048, 4049, 8136, 8137, LONG, 1, 0, 100];
    let priorities = [3, 0, 32767, 3, 3, 7, 0, 32767, 3, 1];
    let text = |nth: usize| (0..lengths[nth % 10]).map(move |at| (at * 7 + nth) as u8).collect();
    (0..count).map(|nth| (priorities[nth % 10], text(nth))).collect()
}

fn fill(queue: &Queue, messages: &[(u32, Vec<u8>)]) {
    for (priority, text) in messages {
        send(&queue.writer, text, *priority).expect("send");
    }
}

/// In the order in which they are received.
fn in_order(mut messages: Vec<(u32, Vec<u8>)>) -> Vec<(u32, Vec<u8>)> {
    messages.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    messages
}

fn received(queue: &OwnedFd) -> Vec<(u32, Vec<u8>)> {
    std::iter::from_fn(|| receive(queue)).collect()
}

/// Lets queues be larger than usual, in a namespace of its own; a limit of each kind is lower than what is in it by then.
fn own_namespace() {
    unshare(CloneFlags::CLONE_NEWIPC).expect("unshare");
    limit([("msg_max", "40"), ("msgsize_max", "9000"), ("queues_max", "7")]);
}

fn limit(limits: [(&str, &str); 3]) {
    for (name, value) in limits {
        fs::write(format!("/proc/sys/fs/mqueue/{name}"), value).expect("set a limit");
    }
}

fn limits() -> Vec<String> {
    let names = ["msg_max", "msgsize_max", "queues_max", "msg_default", "msgsize_default"];
    names.map(|name| whole(&format!("/proc/sys/fs/mqueue/{name}"))).to_vec()
}

/// Queues without a name: a full one into which somebody wants to send, an empty one for whose message somebody waits.
pub(crate) fn nameless(stage: &Stage) -> Outcome {
    let usual = 8192;
    let (full, empty) = (Queue::make("full", 10, usual), Queue::make("empty", 3, 64));
    let all: Vec<_> = messages(10).into_iter().filter(|(_, text)| text.len() <= 8192).collect();
    let more: Vec<_> = all.iter().cloned().chain([(5, b"a".to_vec())]).collect();
    fill(&full, &more);
    assert_eq!(more.len(), 10, "it is full");
    full.unlink();
    empty.unlink();
    let sender = child(stage, "sender", || {
        send(&full.both, b"late", 9).map(drop).map_err(|error| error.to_string())
    });
    let receiver = child(stage, "receiver", || match receive(&empty.both) {
        Some((6, text)) if text == b"go" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for pid in [sender, receiver] {
        let sleeps = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            [242, 243].iter().any(|call: &i32| stat.starts_with(&format!("{call} ")))
        };
        assert!(eventually(sleeps), "it waits");
    }
    full.age();
    let before = (full.stat(), empty.stat());
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("what the kernel says of them", &before, &(full.stat(), empty.stat()));
    let mut expected = in_order(more);
    found.same("the first message", &Some(expected.remove(0)), &receive(&full.reader));
    // Now there is room for what has been waiting.
    let ended = waitpid(sender, None);
    found.same("the sender ends", &Ok(WaitStatus::Exited(sender, 0)), &ended);
    expected.push((9, b"late".to_vec()));
    found.same("the other messages", &in_order(expected), &received(&full.reader));
    found.works("send", send(&empty.writer, b"go", 6));
    let ended = waitpid(receiver, None);
    found.same("the receiver ends", &Ok(WaitStatus::Exited(receiver, 0)), &ended);
    found.outcome()
}

/// An IPC namespace of its own: queues that are open, that nobody has open, and without a name.
pub(crate) fn namespace(stage: &Stage) -> Outcome {
    own_namespace();
    in_namespace(stage, None)
}

/// The same, of which no queue has a message.
pub(crate) fn namespace_empty(stage: &Stage) -> Outcome {
    own_namespace();
    let (held, lonely) = (Queue::make("held", 40, 100), Queue::make("lonely", 2, 9000));
    let nameless = Queue::make("nameless", 3, 33);
    nameless.unlink();
    held.age();
    let of_lonely = lonely.state();
    let (name, ..) = (lonely.name.clone(), drop(lonely));
    limit([("msg_max", "4"), ("msgsize_max", "128"), ("queues_max", "1")]);
    let all = || (held.state(), nameless.state(), limits());
    let before = all();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the queues", &before, &all());
    found.same("nobody's", &of_lonely, &again(&name).state());
    found.outcome()
}

/// The same in a mount namespace of its own, in which the queues are files.
pub(crate) fn mounted(stage: &Stage) -> Outcome {
    own_namespace();
    crate::mounts::enter_root(stage, "mqueue_mounted_inside")
}

/// The mount is of the queues of the outside.
pub(crate) fn mounted_before(stage: &Stage) -> Outcome {
    crate::mounts::enter_root(stage, "mqueue_mounted_before_inside")
}

pub(crate) fn mounted_before_inside(stage: &Stage) -> Outcome {
    attach("mqueue", Path::new("/over"), "mqueue", MsFlags::empty(), "");
    unshare(CloneFlags::CLONE_NEWIPC).expect("unshare");
    stage.ready_then_wait();
    Ok(())
}

pub(crate) fn mounted_inside(stage: &Stage) -> Outcome {
    attach("mqueue", Path::new("/over"), "mqueue", MsFlags::empty(), "");
    in_namespace(stage, Some(Path::new("/over")))
}

/// A queue that is there.
fn again(name: &CString) -> Queue {
    let open = |flags| open_as(name, flags, (0, 0));
    Queue {
        name: name.clone(),
        both: open(libc::O_RDWR),
        reader: open(libc::O_RDONLY | libc::O_NONBLOCK),
        writer: open(libc::O_WRONLY | libc::O_NONBLOCK),
    }
}

fn in_namespace(stage: &Stage, mounted: Option<&Path>) -> Outcome {
    let held = Queue::make("held", 40, 200);
    let lonely = Queue::make("lonely", 10, LONG as i64);
    let nameless = Queue::make("nameless", 12, LONG as i64);
    let empty = Queue::make("empty", 1, 1);
    nameless.unlink();
    let of_held: Vec<_> = messages(40).into_iter().filter(|(_, text)| text.len() < 200).collect();
    fill(&held, &of_held);
    fill(&lonely, &messages(10));
    fill(&nameless, &messages(12));
    for queue in [&held, &lonely, &nameless] {
        queue.age();
    }
    let of_lonely = lonely.stat();
    let (name, ..) = (lonely.name.clone(), drop(lonely));
    limit([("msg_max", "4"), ("msgsize_max", "128"), ("queues_max", "2")]);
    let files = || {
        let listed = mounted.map(|at| fs::read_dir(at).expect("list"));
        let names = listed.into_iter().flatten().map(|it| it.expect("list").file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let before = (held.stat(), nameless.stat(), empty.state(), limits(), files());
    assert_eq!(before.4.len(), if mounted.is_some() { 3 } else { 0 });
    stage.ready_then_wait();

    let mut found = Findings::default();
    let now = (held.stat(), nameless.stat(), empty.state(), limits(), files());
    found.same("what is in the namespace", &before, &now);
    let lonely = again(&name);
    found.same("what nobody had open", &of_lonely, &lonely.stat());
    found.same("messages of the held one", &in_order(of_held), &received(&held.reader));
    found.same("those of nobody's", &in_order(messages(10)), &received(&lonely.reader));
    found.same("those of the nameless one", &in_order(messages(12)), &received(&nameless.reader));
    found.same("the empty one", &None, &receive(&empty.reader));
    found.works("send", send(&nameless.both, b"x", 2));
    found.same("what was sent", &Some((2, b"x".to_vec())), &receive(&nameless.reader));
    // SAFETY: the name is a C string; the limits are looked at.
    let refused = unsafe { libc::mq_open(c"/one-more".as_ptr(), libc::O_RDWR | CREATE, 0o600, 0) };
    found.same("the limit of queues", &-1, &refused);
    held.unlink();
    found.outcome()
}

/// Somebody is to be told of the next message in a queue that nobody has open.
pub(crate) fn notified(stage: &Stage) -> Outcome {
    own_namespace();
    let queue = Queue::make("notified", 4, 64);
    // SAFETY: of integers all zeros are a value; the kernel reads a `sigevent`.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_NONE;
        let fd = queue.both.as_raw_fd();
        assert_eq!(libc::syscall(libc::SYS_mq_notify, fd, &raw const event), 0);
    }
    stage.ready_then_wait();
    Ok(())
}
