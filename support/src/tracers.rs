//! Tasks of a tree that others of it trace (ptrace): a debugger and its program.

use ids::HostPid;

use crate::unsupported::{Refusal, Unsupported};

/// How a debugger's program comes to stand where it can be carried, or is let go.
const STOP_IT: &str = "have the tracer stop it (gdb: Ctrl-C, and wait for the prompt), or detach from it (gdb: detach; strace: Ctrl-C)";

/// What is known of a thread that another one of its tree traces.
#[derive(Clone, Copy, Debug)]
pub struct Tracee {
    /// The thread.
    pub tid: HostPid,
    /// The thread that traces it.
    pub tracer: HostPid,
    /// It stands in a stop of its tracer.
    pub stands: bool,
    /// It is known how it is traced, which takes eBPF.
    pub is_known: bool,
    /// Its code is of 32 bits.
    pub is_compat: bool,
    /// Its system calls are filtered, or those of its tracer.
    pub is_filtered: bool,
    /// All threads of its process have the same tracer.
    pub is_whole: bool,
    /// It traces others itself, or its tracer is traced.
    pub is_chained: bool,
    /// Both are called by the same numbers: they are in one pid namespace.
    pub is_near: bool,
}

impl Tracee {
    /// Why it cannot be carried.
    #[must_use]
    pub fn unsupported(&self) -> Option<Unsupported> {
        let tracer = self.tracer;
        let rules = [
            (
                !self.stands,
                "it runs, or waits in a system call: only one that stands still for its tracer can be carried",
                STOP_IT,
            ),
            (
                self.is_compat,
                "it is in 32-bit code, which cannot be carried while it is traced",
                "detach the debugger from it",
            ),
            (
                !self.is_known,
                "how it is traced can be seen by eBPF alone",
                "dump it as root on a kernel with BPF type information, or detach the debugger from it",
            ),
            (
                self.is_filtered,
                "it has a filter of system calls (seccomp), or its tracer has one",
                "detach the debugger from it, or start both without the filter",
            ),
            (
                !self.is_whole,
                "other threads of its process are traced by somebody else, or by nobody",
                "have the debugger attach to all of them, or detach from the process",
            ),
            (
                self.is_chained,
                "it traces others itself, or its tracer is traced: one of the two at a time can be carried",
                "detach one of the debuggers",
            ),
            (
                !self.is_near,
                "its tracer is in another pid namespace",
                "detach the debugger, and have one attach from inside of the namespace",
            ),
        ];
        let found = rules.into_iter().find(|(is, ..)| *is);
        found.map(|(_, reason, remedy)| {
            let reason = format!("thread {tracer} of the tree traces it, and {reason}");
            Refusal::new(reason, remedy).of(self.tid, "the process")
        })
    }
}

/// A thread that stands for its tracer, but not for a signal; `stop` says for what.
#[must_use]
pub fn other_stop(tid: HostPid, stop: &str) -> Unsupported {
    Refusal::new(
        format!("it stands for its tracer {stop}; one that stands for a signal (a breakpoint, Ctrl-C) can be carried"),
        "have the tracer set it going and stop it again (gdb: continue, then Ctrl-C), or detach from it",
    )
    .of(tid, "the process")
}

/// A thread that has stopped, and whose tracer has not been told.
#[must_use]
pub fn untold(tid: HostPid) -> Unsupported {
    Refusal::fixed(
        "it has stopped, and its tracer has not taken note of that",
        "wait for a moment, and dump again",
    )
    .of(tid, "the process")
}

/// A thread of which the kernel's structures do not tell all, so that it would have to be asked itself.
#[must_use]
pub fn to_be_asked(tid: HostPid) -> Unsupported {
    Refusal::fixed(
        "it would have to be asked for what eBPF does not tell (POSIX timers), and is traced",
        "detach the debugger from it, or have it end its timers",
    )
    .of(tid, "the process")
}

/// A thread that was sent a signal while the tree stood still.
#[must_use]
pub fn signalled(tid: HostPid) -> Unsupported {
    Refusal::fixed(
        "it was sent a signal while it was read, and its tracer alone can tell which",
        "dump again",
    )
    .of(tid, "the process")
}

/// A thread that traces one outside of the tree.
#[must_use]
pub fn of_outsider(tracer: HostPid, tracee: HostPid) -> Unsupported {
    Refusal::new(
        format!("it traces process {tracee} outside the tree (ptrace)"),
        format!("have it detach from process {tracee} (a debugger: quit it), or dump a tree that holds both"),
    )
    .of(tracer, "tracer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Tracee = Tracee {
        tid: HostPid::new(7).unwrap(),
        tracer: HostPid::new(5).unwrap(),
        stands: true,
        is_known: true,
        is_compat: false,
        is_filtered: false,
        is_whole: true,
        is_chained: false,
        is_near: true,
    };

    #[test]
    fn one_that_stands_is_carried() {
        assert_eq!(GOOD.unsupported(), None);
    }

    #[test]
    fn each_of_the_others_is_told_why_not() {
        let others = [
            Tracee { stands: false, ..GOOD },
            Tracee { is_known: false, ..GOOD },
            Tracee { is_compat: true, ..GOOD },
            Tracee { is_filtered: true, ..GOOD },
            Tracee { is_whole: false, ..GOOD },
            Tracee { is_chained: true, ..GOOD },
            Tracee { is_near: false, ..GOOD },
        ];
        let reasons: Vec<_> = others.iter().map(|it| it.unsupported().unwrap().reason).collect();
        let mut different = reasons.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), reasons.len());
        assert!(reasons.iter().all(|reason| reason.contains("thread 5 of the tree")));
    }
}
