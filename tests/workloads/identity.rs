//! What a process is besides memory and files: place, limits, scheduling, names and flags.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::stage::{Findings, Outcome, Stage, check};

/// The lines of `/proc/self/status` that a checkpoint carries.
const STATUS: &[&str] = &[
    "Name",
    "Umask",
    "Tgid",
    "Pid",
    "PPid",
    "Uid",
    "Gid",
    "Groups",
    "NStgid",
    "NSpid",
    "NSpgid",
    "NSsid",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed",
    "THP_enabled",
    "CoreDumping",
    "Threads",
];

pub(crate) fn status() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/status").expect("read status");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| STATUS.contains(name))
        // The parent is the test, then whoever adopts a restored program: its own test says.
        .filter(|(name, _)| *name != "PPid")
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// What is read by `prctl` with a pointer to an int.
fn by_pointer(option: i32) -> i32 {
    let mut value = 0;
    // SAFETY: these options write one int.
    check(unsafe { libc::prctl(option, &raw mut value) }).expect("prctl");
    value
}

fn by_value(option: i32) -> i32 {
    // SAFETY: these options take zeros and return a value.
    unsafe { libc::prctl(option, 0, 0, 0, 0) }
}

/// include/uapi/linux/membarrier.h
const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 1 << 9;

fn membarrier(command: i32) -> i64 {
    // SAFETY: takes integers only.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// Two of the kinds that a program has to register for.
pub(crate) fn register_for_membarrier() {
    for kind in [
        libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED,
        libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ,
    ] {
        assert_eq!(membarrier(kind), 0, "register for membarrier");
    }
}

pub(crate) fn flags() -> BTreeMap<&'static str, i64> {
    // SAFETY: none of these calls takes a pointer.
    let (nice, policy, personality) = unsafe {
        (
            libc::getpriority(libc::PRIO_PROCESS, 0),
            libc::sched_getscheduler(0),
            libc::personality(0xffff_ffff),
        )
    };
    BTreeMap::from([
        ("nice", nice.into()),
        ("scheduling policy", policy.into()),
        ("personality", personality.into()),
        ("parent-death signal", by_pointer(libc::PR_GET_PDEATHSIG).into()),
        ("child subreaper", by_pointer(libc::PR_GET_CHILD_SUBREAPER).into()),
        ("dumpable", by_value(libc::PR_GET_DUMPABLE).into()),
        ("no new privileges", by_value(libc::PR_GET_NO_NEW_PRIVS).into()),
        ("securebits", by_value(libc::PR_GET_SECUREBITS).into()),
        ("THP disabled", by_value(libc::PR_GET_THP_DISABLE).into()),
        ("timer slack", by_value(libc::PR_GET_TIMERSLACK).into()),
        ("membarrier registrations", membarrier(MEMBARRIER_CMD_GET_REGISTRATIONS)),
    ])
}

fn limits() -> Vec<(u64, u64)> {
    (0..16)
        .map(|resource| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: writes one rlimit.
            check(unsafe { libc::getrlimit(resource, &raw mut limit) }).expect("getrlimit");
            (limit.rlim_cur, limit.rlim_max)
        })
        .collect()
}

fn lower_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one rlimit.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }).expect("setrlimit");
}

/// Where the program is and what it was started from.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    cwd: (std::path::PathBuf, u64),
    root: (std::path::PathBuf, u64),
    executable: std::path::PathBuf,
    arguments: Vec<u8>,
    environment: Vec<u8>,
    auxiliary: Vec<u8>,
    comm: Vec<u8>,
    oom_score_adjust: Vec<u8>,
    /// start_code, end_code, start_stack, start_data … of `/proc/self/stat`.
    layout: Vec<String>,
}

impl Place {
    fn now() -> Self {
        let link = |name: &str| {
            let path = format!("/proc/self/{name}");
            let inode = fs::metadata(&path).map_or(0, |m| m.ino());
            (fs::read_link(path).unwrap_or_default(), inode)
        };
        let text = |name: &str| fs::read(format!("/proc/self/{name}")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&text("stat")).into_owned();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        // Field N of proc(5) is at N - 2 behind the name.
        let layout = [26, 27, 28, 45, 46, 47, 48, 49, 50, 51];
        Self {
            cwd: link("cwd"),
            root: link("root"),
            executable: link("exe").0,
            arguments: text("cmdline"),
            environment: text("environ"),
            auxiliary: text("auxv"),
            comm: text("comm"),
            oom_score_adjust: text("oom_score_adj"),
            layout: layout.map(|n| fields.get(n - 2).unwrap_or(&"").to_string()).to_vec(),
        }
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let dir = stage.path("current directory");
    fs::create_dir(&dir).expect("mkdir");
    std::env::set_current_dir(&dir).expect("chdir");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    lower_limit(libc::RLIMIT_NOFILE, 777, 1999);
    lower_limit(libc::RLIMIT_CORE, 0, 0);
    lower_limit(libc::RLIMIT_STACK, 4 << 20, 64 << 20);
    // SAFETY: none of these takes a pointer but the name, which is a C string, and the scheduling
    // parameter, which is valid for the call.
    unsafe {
        let parameter = libc::sched_param { sched_priority: 0 };
        check(libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter)).expect("batch");
        check(libc::setpriority(libc::PRIO_PROCESS, 0, 7)).expect("nice");
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGURG)).expect("parent-death signal");
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)).expect("subreaper");
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).expect("no new privileges");
        check(libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0)).expect("no THP");
        check(libc::prctl(libc::PR_SET_NAME, c"odd ) name\n".as_ptr())).expect("name");
    }
    fs::write("/proc/self/oom_score_adj", "123").expect("oom_score_adj");
    register_for_membarrier();
    let before = (status(), flags(), limits(), Place::now());

    stage.ready_then_wait();

    let mut found = Findings::default();
    let after = (status(), flags(), limits(), Place::now());
    found.same("status", &before.0, &after.0);
    found.same("flags", &before.1, &after.1);
    found.same("limits", &before.2, &after.2);
    found.same("place", &before.3, &after.3);
    found.outcome()
}
