//! System V IPC in the namespace of whoever starts it.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::stage::{Findings, Outcome, Stage, check};
use crate::tree::child;

const PAGE: usize = 4096;

/// What the kernel says of a segment: key, owner, group, permissions with flags, size, attachments.
fn stat(id: i32) -> Option<[u64; 6]> {
    // SAFETY: of integers all zeros are a value.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `shmid_ds`.
    check(unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut stat) }).ok()?;
    let perm = stat.shm_perm;
    let numbers = [perm.__key.cast_unsigned(), perm.uid, perm.gid, perm.mode.into()];
    let [key, uid, gid, mode] = numbers.map(u64::from);
    Some([key, uid, gid, mode, stat.shm_segsz as u64, stat.shm_nattch])
}

fn make(key: i32, bytes: usize, mode: i32) -> i32 {
    // SAFETY: takes integers.
    check(unsafe { libc::shmget(key, bytes, mode | libc::IPC_CREAT | libc::IPC_EXCL) })
        .expect("shmget")
}

fn attach(id: i32, flags: i32) -> usize {
    // SAFETY: at a place that the kernel chooses.
    let at = unsafe { libc::shmat(id, std::ptr::null(), flags) };
    assert_ne!(at.addr(), usize::MAX, "shmat: {}", io::Error::last_os_error());
    at as usize
}

fn detach(at: usize) -> bool {
    // SAFETY: it was attached there, and nothing of it is used afterwards.
    unsafe { libc::shmdt(at as *const libc::c_void) == 0 }
}

fn remove(id: i32) -> bool {
    // SAFETY: takes integers.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) == 0 }
}

/// The word at an address of a segment.
fn word(at: usize) -> &'static AtomicU32 {
    // SAFETY: an aligned word in a segment that stays attached, and is reached by atomic operations only.
    unsafe { &*(at as *const AtomicU32) }
}

/// The lines of `/proc/self/maps` that are of segments.
fn maps() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/maps").expect("read maps");
    let lines = text.lines().filter(|line| line.contains("/SYSV"));
    // The device's number may differ from boot to boot, not in one.
    lines.map(str::to_owned).collect()
}

/// A segment with a key that no other has: one of a process with our number may have been left.
fn make_with_key(bytes: usize, mode: i32) -> i32 {
    let own = std::process::id().cast_signed();
    let keys = (0x5a..0x7f).map(|first| first << 24 | own);
    let flags = mode | libc::IPC_CREAT | libc::IPC_EXCL;
    // SAFETY: takes integers.
    let made = |key| check(unsafe { libc::shmget(key, bytes, flags) });
    let is_there = |made: &io::Result<i32>| {
        made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EEXIST))
    };
    let mut tried = keys.map(made).skip_while(is_there);
    tried.next().expect("a free key").expect("shmget")
}

/// A segment with a key and an odd size, attached by two; one that is marked removed, attached twice; parts that are gone,
/// protected, and elsewhere.
pub(crate) fn memory(stage: &Stage) -> Outcome {
    let both = make_with_key(5 * PAGE + 100, 0o640);
    let gone = make(libc::IPC_PRIVATE, 4 * PAGE, 0o600);
    let untouched = make(libc::IPC_PRIVATE, 100 * PAGE, 0o666);
    stage.publish("ids", &format!("{both} {gone} {untouched}"));
    // SAFETY: as in `stat`.
    let mut stat_both: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes a `shmid_ds`.
    unsafe {
        check(libc::shmctl(both, libc::IPC_STAT, &raw mut stat_both)).expect("stat");
        (stat_both.shm_perm.uid, stat_both.shm_perm.gid) = (7, 8);
        check(libc::shmctl(both, libc::IPC_SET, &raw mut stat_both)).expect("set the owner");
    }
    let (one, two) = (attach(both, 0), attach(gone, 0));
    let read_only = attach(gone, libc::SHM_RDONLY);
    let large = attach(untouched, 0);
    assert!(remove(gone) && remove(untouched), "remove");
    for page in 0..6 {
        word(one + page * PAGE).store(100 + page as u32, Ordering::SeqCst);
    }
    word(two + 3 * PAGE).store(9, Ordering::SeqCst);
    word(large + 77 * PAGE).store(5, Ordering::SeqCst);
    // SAFETY: pages of attached segments that nobody has a reference into.
    let moved = unsafe {
        check(libc::mprotect((one + PAGE) as *mut libc::c_void, PAGE, libc::PROT_READ)).expect("");
        check(libc::munmap((one + 2 * PAGE) as *mut libc::c_void, PAGE)).expect("unmap");
        check(libc::munmap(large as *mut libc::c_void, 10 * PAGE)).expect("unmap the start");
        let (from, how) = ((large + 50 * PAGE) as *mut libc::c_void, libc::MREMAP_MAYMOVE);
        // What was mapped in between makes the kernel choose another place.
        let to = libc::mmap(
            std::ptr::null_mut(),
            30 * PAGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        libc::mremap(from, 30 * PAGE, 30 * PAGE, how | libc::MREMAP_FIXED, to) as usize
    };
    let ended = child(stage, "child", || {
        stage.publish("attached", "");
        let until = Instant::now() + Duration::from_secs(100);
        while word(one).load(Ordering::SeqCst) != 4711 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        word(one + 5 * PAGE).store(4712, Ordering::SeqCst);
        Ok(())
    });
    while !stage.path("attached").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (before, lines) = ([both, gone, untouched].map(stat), maps());
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("what the kernel says of them", &before, &[both, gone, untouched].map(stat));
    found.same("the mappings", &lines, &maps());
    for page in [0, 1, 3, 4, 5] {
        let now = word(one + page * PAGE).load(Ordering::SeqCst);
        found.same("contents", &(100 + page as u32), &now);
    }
    found.same("the removed one", &9, &word(read_only + 3 * PAGE).load(Ordering::SeqCst));
    found.same("what was moved", &5, &word(moved + 27 * PAGE).load(Ordering::SeqCst));
    word(two + PAGE).store(6, Ordering::SeqCst);
    found.same("both see one memory", &6, &word(read_only + PAGE).load(Ordering::SeqCst));
    // SAFETY: as above.
    let write = unsafe {
        let how = libc::PROT_READ | libc::PROT_WRITE;
        libc::mprotect(read_only as *mut libc::c_void, PAGE, how)
    };
    found.same("what is attached to be read stays so", &-1, &write);
    word(one).store(4711, Ordering::SeqCst);
    found.works("the child ends", nix::sys::wait::waitpid(ended, None));
    found.same("the child's answer", &4712, &word(one + 5 * PAGE).load(Ordering::SeqCst));
    found.must("detach all parts at once", detach(one));
    found.same("the first has none left", &Some(0), &stat(both).map(|stat| stat[5]));
    found.must("detach the others", detach(two) && detach(read_only));
    found.same("the removed one is gone", &None, &stat(gone));
    found.must("remove the first", remove(both));
    found.outcome()
}

/// A segment that a process and its child have attached, for those who dump one of the two.
pub(crate) fn shared(stage: &Stage, both: impl FnOnce(&Stage, &AtomicU32) -> Outcome) -> Outcome {
    let id = make(libc::IPC_PRIVATE, PAGE, 0o600);
    let at = attach(id, 0);
    assert!(remove(id), "remove");
    both(stage, word(at))
}

const LIMITS: [(&str, &str); 7] = [
    ("kernel/msgmax", "9000"),
    ("kernel/msgmnb", "20000"),
    ("kernel/msgmni", "77"),
    ("kernel/sem", "1234567890\t1234567891\t1234567892\t12345"),
    ("kernel/shmmax", "123456789"),
    ("kernel/shmmni", "99"),
    ("fs/mqueue/queues_max", "33"),
];

/// The text of a setting, of which the kernel gives the rest to nobody who asks for less first.
pub(crate) fn whole(path: &str) -> String {
    use std::io::Read;
    let mut bytes = [0; 4096];
    let length = fs::File::open(path).and_then(|mut file| file.read(&mut bytes)).expect("read");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// What the namespace lets in, with the ids that come next.
fn limits() -> Vec<String> {
    let more = ["kernel/shmall", "kernel/shm_rmid_forced", "fs/mqueue/msg_max"];
    let names = LIMITS.iter().map(|(name, _)| *name).chain(more);
    names.map(|name| whole(&format!("/proc/sys/{name}"))).collect()
}

/// What the kernel says of a set: key, owner, permissions, semaphores; and what they are at.
fn set(id: i32) -> (Vec<u64>, Vec<u16>) {
    let mut values = vec![0u16; 3];
    // SAFETY: the kernel writes a `semid_ds`, and as many values as the set has.
    let stat = unsafe {
        let mut stat: libc::semid_ds = std::mem::zeroed();
        check(libc::semctl(id, 0, libc::IPC_STAT, &raw mut stat)).expect("look at the set");
        check(libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr())).expect("read the set");
        stat
    };
    let perm = stat.sem_perm;
    let numbers = [perm.uid, perm.gid, perm.cuid, perm.mode.into()].map(u64::from);
    let more = [u64::from(perm.__key.cast_unsigned()), stat.sem_nsems];
    (numbers.into_iter().chain(more).collect(), values)
}

/// What the kernel says of a queue: key, owner, permissions, most bytes, messages, bytes.
fn queue(id: i32) -> Vec<u64> {
    // SAFETY: the kernel writes a `msqid_ds`.
    let stat = unsafe {
        let mut stat: libc::msqid_ds = std::mem::zeroed();
        check(libc::msgctl(id, libc::IPC_STAT, &raw mut stat)).expect("look at the queue");
        stat
    };
    let perm = stat.msg_perm;
    let numbers = [perm.uid, perm.gid, perm.cuid, perm.mode.into(), perm.__key.cast_unsigned()];
    let more = [stat.msg_qbytes, stat.msg_qnum, stat.__msg_cbytes];
    numbers.map(u64::from).into_iter().chain(more).collect()
}

#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; 8900],
}

fn send(id: i32, kind: libc::c_long, byte: u8, length: usize) {
    let message = Message { kind, text: [byte; 8900] };
    // SAFETY: the message has at least so many bytes.
    check(unsafe { libc::msgsnd(id, (&raw const message).cast(), length, libc::IPC_NOWAIT) })
        .expect("send");
}

/// The next message: its type, first byte and length.
fn receive(id: i32) -> (libc::c_long, u8, isize) {
    let mut message = Message { kind: 0, text: [0; 8900] };
    // SAFETY: the message has room for so many bytes.
    let got = unsafe { libc::msgrcv(id, (&raw mut message).cast(), 8900, 0, libc::IPC_NOWAIT) };
    (message.kind, message.text[0], got)
}

/// A namespace of its own, with limits, sets, queues, and segments that are attached, by nobody, and removed.
pub(crate) fn namespace(stage: &Stage) -> Outcome {
    in_namespace(stage, 8900, true)
}

/// The same without what CRIU does not carry: long messages, and that a segment is removed.
pub(crate) fn namespace_plain(stage: &Stage) -> Outcome {
    in_namespace(stage, 8000, false)
}

fn in_namespace(stage: &Stage, long: usize, removes: bool) -> Outcome {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC).expect("unshare");
    for (name, value) in LIMITS {
        fs::write(format!("/proc/sys/{name}"), value).expect("set a limit");
    }
    // SAFETY: takes integers; the arrays are as long as is said.
    let (sets, queues) = unsafe {
        let create = libc::IPC_CREAT | libc::IPC_EXCL;
        // The first of each goes, so that the ids begin elsewhere.
        let gone = check(libc::semget(libc::IPC_PRIVATE, 1, 0o600)).expect("semget");
        let one = check(libc::semget(77, 3, create | 0o640)).expect("semget");
        let two = check(libc::semget(libc::IPC_PRIVATE, 3, 0o606)).expect("semget");
        check(libc::semctl(gone, 0, libc::IPC_RMID)).expect("remove");
        check(libc::semctl(one, 0, libc::SETALL, [7u16, 0, 32767].as_ptr())).expect("set");
        let three = check(libc::semget(libc::IPC_PRIVATE, 3, 0o600)).expect("semget");
        let queue = check(libc::msgget(78, create | 0o622)).expect("msgget");
        let empty = check(libc::msgget(libc::IPC_PRIVATE, 0o600)).expect("msgget");
        ([one, two, three], [queue, empty])
    };
    for (kind, byte, length) in [(3, b'a', 100), (1 << 40, b'b', long), (5, b'c', 0), (1, b'd', 13)]
    {
        send(queues[0], kind, byte, length);
    }
    let attached = make(79, 3 * PAGE + 5, 0o644);
    let lonely = make(80, 2 * PAGE, 0o600);
    let removed = make(libc::IPC_PRIVATE, PAGE, 0o600);
    let (at, of_lonely, of_removed) = (attach(attached, 0), attach(lonely, 0), attach(removed, 0));
    word(at + 2 * PAGE).store(11, Ordering::SeqCst);
    word(of_lonely + PAGE).store(12, Ordering::SeqCst);
    word(of_removed).store(13, Ordering::SeqCst);
    assert!(detach(of_lonely) && (!removes || remove(removed)));
    let all = || {
        let segments = [attached, lonely, removed].map(stat);
        (sets.map(set), queues.map(queue), segments, limits())
    };
    let before = all();
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("what is in the namespace", &before, &all());
    for message in [(3, b'a', 100), (1 << 40, b'b', long as isize), (5, 0, 0), (1, b'd', 13)] {
        found.same("a message", &message, &receive(queues[0]));
    }
    let of_lonely = attach(lonely, libc::SHM_RDONLY);
    let words = [at + 2 * PAGE, of_lonely + PAGE, of_removed].map(word);
    let words = words.map(|word| word.load(Ordering::SeqCst));
    found.same("contents of segments", &[11, 12, 13], &words);
    found.must("detach", detach(of_removed));
    found.same("the removed one is gone", &removes, &stat(removed).is_none());
    found.outcome()
}
