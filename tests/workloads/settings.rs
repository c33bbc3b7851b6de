//! What a program may set for itself and hardly any does: priorities of I/O, what goes into core
//! dumps, how late sleeps may be, what happens to broken memory. The process's own in its first
//! thread, others in a second one.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc;

use crate::stage::{Findings, Outcome, Stage, check};

const IOPRIO_WHO_PROCESS: i32 = 1;
/// Class "idle" is 3, "best effort" 2, each with a level.
const IDLE: i32 = 3 << 13;
const BEST_EFFORT_6: i32 = 2 << 13 | 6;

/// What any process may see of a thread.
fn of_thread() -> BTreeMap<&'static str, i64> {
    // SAFETY: none of these calls takes a pointer.
    let (io, slack, failure, nice) = unsafe {
        (
            libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0),
            libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0),
            libc::prctl(libc::PR_MCE_KILL_GET, 0, 0, 0, 0),
            libc::getpriority(libc::PRIO_PROCESS, 0),
        )
    };
    let slice = attributes().runtime;
    // SAFETY: it takes an integer, by which it only asks.
    let personality = unsafe { libc::personality(0xffff_ffff) };
    BTreeMap::from([
        ("personality", personality.into()),
        ("I/O priority", io),
        ("timer slack", slack.into()),
        ("memory failure policy", failure.into()),
        ("nice", nice.into()),
        ("slice", slice.cast_signed()),
    ])
}

fn of_process() -> BTreeMap<&'static str, String> {
    let group = fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
    let nice = group.split_once("nice").map_or("", |(_, nice)| nice);
    BTreeMap::from([
        ("core dump filter", fs::read_to_string("/proc/self/coredump_filter").expect("filter")),
        ("nice value of the session", nice.trim().to_owned()),
    ])
}

/// The kernel's `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

pub(crate) fn attributes() -> Attributes {
    let mut found = Attributes::default();
    let bytes = size_of::<Attributes>();
    // SAFETY: the kernel fills at most the size that it is told, which is the struct's.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, bytes, 0) };
    assert_eq!(done, 0, "sched_getattr: {}", std::io::Error::last_os_error());
    found
}

fn set_attributes(wanted: &Attributes) {
    let wanted = Attributes { size: size_of::<Attributes>() as u32, ..*wanted };
    // SAFETY: the kernel reads a struct of the size that it says.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    assert_eq!(done, 0, "sched_setattr: {}", std::io::Error::last_os_error());
}

fn set_io_priority(value: i32) {
    // SAFETY: takes integers only.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    assert_eq!(done, 0, "ioprio_set: {}", std::io::Error::last_os_error());
}

/// `slack` in nanoseconds, `failure` a `PR_MCE_KILL_*`.
fn set(io: i32, slack: u64, failure: i32) {
    set_io_priority(io);
    // SAFETY: these take integers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_TIMERSLACK, slack, 0, 0, 0)).expect("timer slack");
        let option = libc::PR_MCE_KILL_SET;
        check(libc::prctl(libc::PR_MCE_KILL, option, failure, 0, 0)).expect("memory failure");
    }
}

/// Asks another thread, which answers for itself each time.
struct Other<T> {
    ask: mpsc::Sender<()>,
    answer: mpsc::Receiver<T>,
}

impl<T: Send + 'static> Other<T> {
    fn start(set: impl FnOnce() + Send + 'static, look: impl Fn() -> T + Send + 'static) -> Self {
        let (ask, asked) = mpsc::channel();
        let (say, answer) = mpsc::channel();
        std::thread::spawn(move || {
            set();
            while asked.recv().is_ok() {
                say.send(look()).expect("somebody asked");
            }
        });
        Self { ask, answer }
    }

    fn look(&self) -> T {
        self.ask.send(()).expect("the thread is there");
        self.answer.recv().expect("the thread answers")
    }
}

fn set_personality(personality: libc::c_ulong) {
    // SAFETY: it takes an integer.
    check(unsafe { libc::personality(personality) }).expect("personality");
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    fs::write("/proc/self/coredump_filter", "0x7f").expect("core dump filter");
    // Not where sessions have no scheduling groups.
    if fs::exists("/proc/self/autogroup").expect("look") {
        fs::write("/proc/self/autogroup", "7").expect("nice value of the session");
    }
    set(IDLE, 777_777, libc::PR_MCE_KILL_EARLY);
    // The kernel takes any value. The digits of this one are those of ADDR_NO_RANDOMIZE.
    set_personality(40_000);
    let other = Other::start(
        || {
            set(BEST_EFFORT_6, 123_456, libc::PR_MCE_KILL_LATE);
            set_attributes(&Attributes { nice: 3, runtime: 5_000_000, ..Attributes::default() });
            set_personality(0xfe9c_38e9 | libc::UNAME26 as libc::c_ulong);
        },
        of_thread,
    );
    let before = (of_process(), of_thread(), other.look());

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("process", &before.0, &of_process());
    found.same("first thread", &before.1, &of_thread());
    found.same("second thread", &before.2, &other.look());
    found.outcome()
}

/// A deadline thread.
pub(crate) fn deadline(stage: &Stage) -> Outcome {
    const SCHED_DEADLINE: u32 = 6;
    let (runtime, deadline, period) = (2_000_000, 15_000_000, 20_000_000);
    let wanted =
        Attributes { policy: SCHED_DEADLINE, runtime, deadline, period, ..Attributes::default() };
    let other = Other::start(move || set_attributes(&wanted), attributes);
    let before = other.look();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("scheduling", &before, &other.look());
    found.same("policy", &SCHED_DEADLINE, &before.policy);
    found.outcome()
}

const MPOL_BIND: i32 = 2;
const MPOL_INTERLEAVE: i32 = 3;
const MPOL_F_ADDR: libc::c_ulong = 2;
const MPOL_F_STATIC_NODES: i32 = 1 << 15;
/// Bits of a set of nodes, and one more, as the kernel counts.
const NODES: usize = 1024 + 1;

/// The policy of the calling thread, or of the memory at an address.
fn policy(at: usize) -> (i32, u64) {
    let (mut mode, mut nodes) = (-1, [0u64; NODES / 64 + 1]);
    let flags = if at == 0 { 0 } else { MPOL_F_ADDR };
    let (mode_at, nodes_at) = (&raw mut mode, nodes.as_mut_ptr());
    // SAFETY: both places are as large as the call takes them for.
    let done =
        unsafe { libc::syscall(libc::SYS_get_mempolicy, mode_at, nodes_at, NODES, at, flags) };
    assert_eq!(done, 0, "get_mempolicy: {}", std::io::Error::last_os_error());
    (mode, nodes[0])
}

fn set_policy(mode: i32) {
    let first_node = 1u64;
    // SAFETY: the set of nodes outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, &raw const first_node, 64) };
    assert_eq!(done, 0, "set_mempolicy: {}", std::io::Error::last_os_error());
}

fn set_local_policy() {
    const MPOL_LOCAL: i32 = 4;
    // SAFETY: no nodes are named.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_LOCAL, 0, 0) };
    assert_eq!(done, 0, "set_mempolicy: {}", std::io::Error::last_os_error());
}

fn map(bytes: usize) -> *mut libc::c_void {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where the kernel finds room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    at
}

/// The flags that `/proc/self/smaps` shows of the mapping at an address.
fn flags_at(address: usize) -> String {
    let text = fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut inside = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(s, e)| (number(s), number(e))) {
            inside = (start..end).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.trim().to_owned();
        }
    }
    panic!("nothing is mapped at {address:#x}");
}

/// What a new mapping is like.
fn with_new_memory(bytes: usize, look: impl Fn(usize) -> String) -> String {
    let at = map(bytes);
    let found = look(at as usize);
    // SAFETY: the mapping was just made, and nobody uses it.
    unsafe { libc::munmap(at, bytes) };
    found
}

/// Where the kernel puts memory: what fits between the mappings, and what does not.
fn places_of_new_memory() -> String {
    let place = |bytes| with_new_memory(bytes, |at| format!("{at:x}"));
    format!("{} {}", place(4096), place(64 << 20))
}

const PR_SET_MDWE: i32 = 65;
const PR_GET_MDWE: i32 = 66;
const PR_SET_MEMORY_MERGE: i32 = 67;
const PR_GET_MEMORY_MERGE: i32 = 68;
const PR_MDWE_REFUSE_EXEC_GAIN: i32 = 1;
const MLOCK_ONFAULT: u32 = 1;

/// What the kernel shows to nobody but the process: an inventory by eBPF is needed to carry it.
pub(crate) fn unseen(stage: &Stage) -> Outcome {
    let bound = map(1 << 16);
    let locked = map(1 << 16);
    let nodes = 1u64;
    // SAFETY: the mappings were just made; the others take integers only.
    unsafe {
        let mode = MPOL_BIND | MPOL_F_STATIC_NODES;
        let (at, set) = (bound as usize, &raw const nodes);
        let done = libc::syscall(libc::SYS_mbind, at, 1 << 16, mode, set, 64, 0);
        assert_eq!(done, 0, "mbind: {}", std::io::Error::last_os_error());
        let done = libc::syscall(libc::SYS_mlock2, locked as usize, 1 << 16, MLOCK_ONFAULT);
        assert_eq!(done, 0, "mlock2: {}", std::io::Error::last_os_error());
        check(libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT)).expect("mlockall");
        check(libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)).expect("merge memory");
    }
    set_policy(MPOL_INTERLEAVE);
    let local = Other::start(
        || {
            // What is freed is used again, with what was in it.
            for _ in 0..8 {
                set_policy(MPOL_BIND);
                set_local_policy();
            }
        },
        || policy(0),
    );
    set(IDLE, 777_777, libc::PR_MCE_KILL_DEFAULT);
    let other = Other::start(
        || {
            set_policy(MPOL_BIND);
            set(0, 123_456, libc::PR_MCE_KILL_DEFAULT);
        },
        || policy(0),
    );
    let default_slack = Other::start(
        || {},
        || {
            // SAFETY: takes integers only. The value 0 stands for the one that the thread began with.
            unsafe {
                check(libc::prctl(libc::PR_SET_TIMERSLACK, 0, 0, 0, 0)).expect("timer slack");
                libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0)
            }
        },
    );
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) }).expect("MDWE");
    let look = || {
        // SAFETY: these take zeros.
        let (deny, merge) = unsafe {
            (libc::prctl(PR_GET_MDWE, 0, 0, 0, 0), libc::prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0))
        };
        BTreeMap::from([
            ("policy", format!("{:?}", policy(0))),
            ("policy of a mapping", format!("{:?}", policy(bound as usize))),
            ("policy of another thread", format!("{:?}", other.look())),
            ("local policy", format!("{:?}", local.look())),
            ("default timer slack", default_slack.look().to_string()),
            ("write or execute", deny.to_string()),
            ("merging", merge.to_string()),
            ("locked on fault", flags_at(locked as usize)),
            ("new memory", with_new_memory(4096, flags_at)),
            ("places of new memory", places_of_new_memory()),
        ])
    };
    let before = look();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("settings", &before, &look());
    found.same("default timer slack", &"777777", &before["default timer slack"].as_str());
    found.must("new memory is locked", before["new memory"].contains(" lo "));
    found.outcome()
}
