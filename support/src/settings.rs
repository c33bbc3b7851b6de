//! What few tasks have set for themselves and a checkpoint cannot carry.

use ebpf_common::unusual;
use ids::HostPid;
use inventory::settings::LANDLOCK;
use inventory::{Process, Thread};

use crate::files::is_unnamed;
use crate::peculiar;
use crate::unsupported::{Refusal, Unsupported, word};

/// Something that cannot be carried: its bit, its name, why not and what helps, and what to call it where
/// nothing but eBPF sees it (`None`: `/proc` does).
type Rule = (u32, &'static str, Refusal, Option<&'static str>);

static RULES: [Rule; 9] = [
    (
        LANDLOCK,
        "landlock domain",
        Refusal::fixed(
            "it has given up rights by landlock, which nothing can read back to give up again",
            "start it without its sandbox",
        ),
        Some("landlock domains"),
    ),
    (
        unusual::PROCESS_KEYRING,
        "process keyring",
        Refusal::fixed(
            "it holds keys, which stay in the kernel",
            "have it unlink them before the dump",
        ),
        Some("keys of its own"),
    ),
    (
        unusual::THREAD_KEYRING,
        "thread keyring",
        Refusal::fixed(
            "it holds keys, which stay in the kernel",
            "have it unlink them before the dump",
        ),
        Some("keys of its own"),
    ),
    (
        unusual::REQUEST_KEY,
        "request for a key",
        Refusal::fixed(
            "it is a request-key helper: the kernel waits for the key that it makes",
            "dump it when that is done",
        ),
        Some("requests for keys"),
    ),
    (
        unusual::SYSCALL_DISPATCH,
        "system call dispatch",
        Refusal::fixed(
            "its system calls are handed back to itself (PR_SET_SYSCALL_USER_DISPATCH), those of a \
             restore too",
            "have it switch that off before the dump",
        ),
        Some("system call dispatch"),
    ),
    (
        unusual::IO_FLUSHER,
        "I/O flusher",
        Refusal::fixed(
            "it is marked as an I/O flusher (PR_SET_IO_FLUSHER), on which the writeback of other tasks depends",
            "have it switch that off before the dump",
        ),
        None,
    ),
    (
        unusual::CORE_COOKIE,
        "core scheduling",
        Refusal::fixed(
            "it has a cookie, which it shares with whoever may run beside it",
            "start it without one (PR_SCHED_CORE)",
        ),
        Some("core scheduling cookies"),
    ),
    (
        unusual::SHARED_IO,
        "I/O context",
        Refusal::fixed(
            "it shares its I/O context with another task (clone with CLONE_IO)",
            "start it without CLONE_IO",
        ),
        Some("shared I/O contexts"),
    ),
    (
        unusual::RINGS,
        "io_uring",
        Refusal::fixed(
            "it has an io_uring, which the kernel works on by itself",
            "have the program close it before the dump",
        ),
        Some("io_uring without a descriptor"),
    ),
];

/// What a thread of a process has. An io_uring that a descriptor leads to is refused with that.
pub(crate) fn of_thread(process: &Process, thread: &Thread) -> Vec<Unsupported> {
    let known = thread.in_task.map(|known| known.settings).unwrap_or_default();
    let has_ring = || process.files.iter().any(|file| file.target == "anon_inode:[io_uring]");
    let told = if known.unusual & unusual::RINGS != 0 && has_ring() { unusual::RINGS } else { 0 };
    let wide = known.memory_policy.is_some_and(|policy| policy.wide);
    rules(known.unusual & !told)
        .chain(wide.then_some((POLICY, WIDE_POLICY)))
        .map(|(object, refusal)| {
            refusal.of(process.pid, format!("{object} of thread {}", thread.tid))
        })
        .collect()
}

/// What a task has of these things (bits of [`unusual`]).
pub fn of_unusual(task: HostPid, unusual: u32) -> impl Iterator<Item = Unsupported> {
    rules(unusual).map(move |(object, refusal)| refusal.of(task, object))
}

fn rules(unusual: u32) -> impl Iterator<Item = (&'static str, Refusal)> {
    let rules = RULES.iter().filter(move |(bit, ..)| unusual & bit != 0);
    rules.map(|(_, object, refusal, _)| (*object, refusal.clone()))
}

/// What to call a NUMA policy.
const POLICY: &str = "NUMA policy";

pub(crate) const WIDE_POLICY: Refusal = Refusal::fixed(
    "its NUMA policy names a node above 63 or a home node",
    "give it another policy before the dump",
);

/// A NUMA policy of a mapping or a thread, of which `/proc` does not tell enough to carry it.
#[must_use]
pub fn of_policy_without_bpf(pid: HostPid) -> Unsupported {
    let reason = "without eBPF not all of it can be read";
    let remedy = "dump it as root with eBPF (`stasis check` says what is missing), or give it the \
                  default policy";
    Refusal::fixed(reason, remedy).of(pid, POLICY)
}

/// What a process has as a whole.
pub(crate) fn of_process(process: &Process) -> Option<Unsupported> {
    let known = process.in_process.as_ref()?;
    let asked = known.timers || known.thp_restricted;
    (asked && known.settings.deny_write_execute != 0).then(|| {
        let refusal = Refusal::fixed(
            "it has timers or restricts huge pages, for which stasis would have to run code in it, and \
             it lets none in",
            "start it without PR_SET_MDWE (systemd: MemoryDenyWriteExecute=no)",
        );
        refusal.of(process.pid, "write xor execute (PR_SET_MDWE)")
    })
}

/// A child of a process that is dumped, if it is none as `fork` makes it.
pub(crate) fn of_child(process: &Process) -> Option<Unsupported> {
    let leader = process.threads.get(&process.pid)?;
    of_exit_signal(process.pid, leader.in_task?.settings.exit_signal)
}

/// The signal that a child's parent gets at its end.
#[must_use]
pub fn of_exit_signal(pid: HostPid, signal: i32) -> Option<Unsupported> {
    let refusal = Refusal::fixed(
        "its end is not told to its parent by SIGCHLD (clone with another signal, or with none)",
        "start it by fork, or by clone with SIGCHLD",
    );
    (signal != libc::SIGCHLD).then(|| refusal.of(pid, "exit signal"))
}

/// What to call filters of system calls.
const SECCOMP: &str = "seccomp";

/// A thread in a `mode` of seccomp. `readable` is whether who dumps may read filters.
#[must_use]
pub fn of_seccomp(
    process: &Process,
    task: HostPid,
    mode: u32,
    readable: bool,
) -> Option<Unsupported> {
    const FILTERS: u32 = 2;
    let told = process.threads.get(&task).is_some_and(|thread| thread.in_task.is_some());
    let known = process.in_process.as_ref().filter(|_| told);
    match (mode, known) {
        (0, _) => None,
        (FILTERS, _) if !readable => Some(
            Refusal::fixed(
                "its seccomp filters cannot be read by a program that has filters itself, or that lacks \
                 CAP_SYS_ADMIN",
                "dump it as root, from outside of containers and sandboxes",
            )
            .of(task, SECCOMP),
        ),
        // Whether they let pass what it would be asked is seen when it stands still, and they can be read.
        (FILTERS, _) => None,
        (_, Some(known)) if !known.timers && !known.thp_restricted => None,
        (_, known) => Some(seccomp_asked(task, "mmap", known.is_some())),
    }
}

/// A task that would have to be asked, and whose mode or filters of seccomp may not let pass a call that it takes:
/// where it is not for what programs of eBPF lack (`by_programs`), it is for want of them.
#[must_use]
pub fn seccomp_asked(task: HostPid, call: &str, by_programs: bool) -> Unsupported {
    let (why, remedy) = match by_programs {
        true => {
            ("it has POSIX timers or restricts huge pages", "delete its timers before the dump")
        }
        false => (
            "without eBPF not all of it can be seen",
            "dump it as root with eBPF (`stasis check` says what is missing)",
        ),
    };
    let reason = format!(
        "{why}, so stasis would have to make calls in it, and its seccomp filters may not let {call} pass"
    );
    let remedy = format!(
        "{remedy}, or start it with filters that do, or without (systemd: SystemCallFilter=; container engines: \
         --security-opt seccomp=unconfined)"
    );
    Refusal::new(reason, remedy).of(task, SECCOMP)
}

/// A task whose filters hand calls to a supervisor.
#[must_use]
pub fn seccomp_supervised(task: HostPid) -> Unsupported {
    Refusal::fixed(
        "a filter hands calls to a supervisor (SECCOMP_RET_USER_NOTIF), whose descriptor a restore cannot \
         make",
        "start it without the supervisor",
    )
    .of(task, SECCOMP)
}

/// What the status of a task (`/proc/PID/status`) tells: the processor's features that it has turned on.
#[must_use]
pub fn of_status(task: HostPid, features: Option<&str>) -> Vec<Unsupported> {
    let mut found = Vec::new();
    if features.is_some_and(|features| features.contains(arch::kernel::SHADOW_STACK)) {
        let remedy = arch::kernel::WITHOUT_SHADOW_STACK;
        let refusal = Refusal::fixed("signal frames cannot be made for it", remedy);
        found.push(refusal.of(task, "shadow stack"));
    }
    found
}

/// A label of a security module (SELinux, AppArmor, Smack) that a restore would not give back: what it
/// restores gets its own. `own` is that of whoever dumps.
#[must_use]
pub fn of_label(task: HostPid, label: &str, own: &str) -> Option<Unsupported> {
    let reason = format!("a restore would give it the label of stasis, {own}");
    let remedy = format!(
        "dump and restore under this label (SELinux: runcon {} stasis …; AppArmor: aa-exec -p PROFILE -- \
         stasis …)",
        word(label)
    );
    let object = format!("security label {label}");
    (label != own && label != "unconfined").then(|| Refusal::new(reason, remedy).of(task, object))
}

/// A process that runs a program of neither of the two kinds that are carried.
#[must_use]
pub fn of_other_program(pid: HostPid) -> Unsupported {
    const REASON: &str =
        "it is of 32-bit pointers and 64-bit registers (x32), or of another processor";
    Refusal::fixed(REASON, "run the 64-bit or the 32-bit build of the program").of(pid, "program")
}

/// A thread in code of the other kind than its program.
#[must_use]
pub fn of_mixed_code(pid: HostPid, tid: HostPid) -> Unsupported {
    const REASON: &str = "it runs 32-bit code in a 64-bit program, or 64-bit code in a 32-bit one";
    Refusal::fixed(REASON, "run a build of the program that is all of one kind")
        .of(pid, format!("thread {tid}"))
}

/// A thread of a 64-bit program that has segments for 32-bit code.
#[must_use]
pub fn of_segments(pid: HostPid, tid: HostPid) -> Unsupported {
    const REASON: &str = "it has segments of 32-bit code in a 64-bit program (set_thread_area)";
    Refusal::fixed(REASON, "run a build of the program that is all of one kind")
        .of(pid, format!("thread {tid}"))
}

/// A signal whose action code of the other kind than the program has set.
#[must_use]
pub fn of_mixed_action(pid: HostPid, signal: usize) -> Unsupported {
    const REASON: &str =
        "its action was set by 32-bit code in a 64-bit program, or by 64-bit code in a 32-bit one";
    Refusal::fixed(REASON, "run a build of the program that is all of one kind")
        .of(pid, format!("signal {signal}"))
}

/// Registers of a thread that the images have no field for, by the names of the processor's components.
#[must_use]
pub fn of_registers(pid: HostPid, tid: HostPid, names: &[&str]) -> Unsupported {
    let object = format!("thread {tid}, registers of {}", names.join(" and "));
    let reason = "the images have no place for them";
    Refusal::fixed(reason, "run the program with a library that does not use them").of(pid, object)
}

/// What only eBPF sees beside what is refused.
const UNSEEN: [&str; 12] = [
    "what 32-bit code in a 64-bit program has set (set_thread_area, signal actions), or the other way round",
    "settings of pid namespaces (kernel.pid_max, vm.memfd_noexec)",
    "that a parent has been told of a stop (WUNTRACED), which it is once more",
    "what is to be undone in System V semaphores (SEM_UNDO)",
    "memory merging before Linux 6.15",
    "whom single threads trace",
    "segments (modify_ldt)",
    "I/O ports",
    "locks of memory to come (MCL_FUTURE)",
    "write-xor-execute (PR_SET_MDWE)",
    "speculation control (PR_SET_SPECULATION_CTRL)",
    "default timer slack",
];

/// What is seen in the kernel's structures alone: without eBPF a dump cannot tell whether a task has
/// any of it. Of `processes` are told which have files that it can be true of, where few have such.
#[must_use]
pub fn unseen_without_bpf<'a>(processes: impl Iterator<Item = &'a Process>) -> String {
    let refused = RULES.iter().filter_map(|(.., name)| *name);
    let mut all: Vec<&str> = refused.chain(UNSEEN).chain(peculiar::names()).collect();
    all.dedup();
    let unnamed = unnamed_files(processes);
    all.extend(unnamed.as_deref());
    all.join(", ")
}

/// Open files of which only eBPF tells whether they may be given a name; a restore without its answer takes
/// it for no.
fn unnamed_files<'a>(processes: impl Iterator<Item = &'a Process>) -> Option<String> {
    let mut unnamed = processes.flat_map(|process| {
        let files = process.files.iter().filter(|file| is_unnamed(file));
        files.map(|file| format!("descriptor {} of process {}", file.fd, process.pid))
    });
    let first = unnamed.next()?;
    let others = if unnamed.next().is_some() { ", and others" } else { "" };
    Some(format!(
        "unnamed files that may be given a name (O_TMPFILE without O_EXCL: {first}{others}), which they \
         may not be when they are restored"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    #[test]
    fn labels_that_a_restore_would_not_give() {
        let shell = "unconfined_u:unconfined_r:unconfined_t:s0";
        let daemon = "system_u:system_r:httpd_t:s0";
        let found = of_label(pid(40), daemon, shell).expect("refused");
        assert!(found.object.contains(daemon) && found.remedy.contains(daemon), "{found}");
        assert!(found.reason.contains(shell), "{found}");
        assert_eq!(of_label(pid(40), daemon, daemon), None);
        assert!(of_label(pid(40), shell, daemon).is_some());
        assert_eq!(of_label(pid(40), "unconfined", "/usr/bin/stasis (enforce)"), None);
        assert!(of_label(pid(40), "/usr/sbin/cupsd (enforce)", "unconfined").is_some());
    }

    #[test]
    fn what_the_status_tells() {
        let found = of_status(pid(40), Some(arch::kernel::SHADOW_STACK));
        let objects: Vec<_> = found.iter().map(|found| &*found.object).collect();
        assert_eq!(objects, ["shadow stack"]);
        assert!(of_status(pid(40), Some("")).is_empty());
    }

    #[test]
    fn every_bit_is_told_once() {
        let all = RULES.iter().fold(0, |all, (bit, ..)| {
            assert_eq!((all & bit, bit.count_ones()), (0, 1));
            all | bit
        });
        assert_eq!(all & unusual::EMPTY_SESSION, 0);
    }

    /// What /proc does not show is in the line that a dump without eBPF prints.
    #[test]
    fn what_is_not_seen_is_listed() {
        let line = unseen_without_bpf(std::iter::empty());
        for (bit, .., name) in &RULES {
            let told = *bit == unusual::IO_FLUSHER;
            assert_eq!(name.is_none(), told);
            assert!(name.is_none_or(|name| line.contains(name)));
        }
        assert_eq!(line.matches("keys of its own").count(), 1);
        assert!(line.contains("IPsec"));
    }
}
