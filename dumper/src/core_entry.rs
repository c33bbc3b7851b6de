//! `core-TID.img`: a thread, and in the leader's also what belongs to the process.

use arch::fpu::Layout;
use arch::image;
use arch::regs::Abi;
use collector::settings::in_empty_session;
use images::messages::{
    CoreEntry, CredsEntry, MemoryPolicyEntry, RlimitEntry, RseqEntry, SaEntry, SchedulingEntry,
    SiginfoEntry, SignalQueueEntry, TASK_ALIVE, TASK_DEAD, TASK_STOPPED, TASK_TRACED,
    TaskCoreEntry, TaskRlimitsEntry, ThreadCoreEntry, ThreadSasEntry,
};
use kernel::procfs::{Limit, Status};
use kernel::ptrace::RawSigInfo;
use kernel::sched::Scheduling;
use parasite::task::SigAction;

use crate::inject::{ParasiteReport, ThreadState};
use crate::interrupted::ToThread;
use crate::numbers::Numbers;
use crate::tasks::{TaskCapture, ThreadCapture};
use crate::timers;

/// What other images say of a thread.
pub(crate) struct Elsewhere {
    /// The number of its control groups.
    pub(crate) groups: u32,
    /// Its mode of seccomp, and the number of its last filter.
    pub(crate) seccomp: (u32, Option<u32>),
}

/// The image of a thread; `task` is its process, with the signals that wait for it and what its
/// threads are called, if the thread leads it, `layout` that of the processor.
pub(crate) fn thread(
    capture: &ThreadCapture,
    in_task: &ThreadState,
    task: Option<(&TaskCapture, &ParasiteReport, &[&RawSigInfo], &Numbers)>,
    layout: &Layout,
    elsewhere: &Elsewhere,
    signals: &ToThread<'_>,
) -> CoreEntry {
    let state = image::ThreadState {
        registers: capture.registers(),
        handler: signals.handler,
        extended: &capture.original.extended,
        segments: capture.segments.as_ref(),
        clear_child_tid: in_task.clear_child_tid,
        permitted: task.map(|(_, report, ..)| report.state.permitted),
        identification_faults: in_task.identification_faults,
        clock_faults: in_task.clock_faults,
    };
    CoreEntry {
        tc: task.map(|(task, report, shared, numbers)| TaskCoreEntry {
            signals_s: Some(queue(shared)),
            timers: Some(timers::encode(report, &task.timers, numbers)),
            ..task_core(task, report, capture)
        }),
        thread_core: Some(ThreadCoreEntry {
            cg_set: Some(elsewhere.groups),
            signals_p: Some(queue(&signals.pending)),
            seccomp_mode: Some(elsewhere.seccomp.0),
            seccomp_filter: elsewhere.seccomp.1,
            // The leader's is that of the process, where a value may stand for another one that CRIU has misread.
            personality: (task.is_none() || capture.settings.personality != 0)
                .then_some(capture.settings.personality),
            ..thread_core(capture, in_task)
        }),
        ..image::encode(&state, layout)
    }
}

/// The image of a process that has ended and is not yet waited for.
pub(crate) fn zombie(name: &[u8], exit_status: i32) -> CoreEntry {
    CoreEntry {
        tc: Some(TaskCoreEntry {
            task_state: TASK_DEAD,
            exit_code: exit_status.cast_unsigned(),
            comm: comm(name),
            ..TaskCoreEntry::default()
        }),
        ..image::encode_ended()
    }
}

fn task_core(task: &TaskCapture, report: &ParasiteReport, leader: &ThreadCapture) -> TaskCoreEntry {
    let stopped = task.group_stop != 0;
    TaskCoreEntry {
        task_state: match (leader.traced.is_some(), stopped) {
            (true, _) => TASK_TRACED,
            (_, true) => TASK_STOPPED,
            _ => TASK_ALIVE,
        },
        exit_code: 0,
        personality: task.attributes.personality,
        flags: task.attributes.stat.flags,
        blk_sigset: leader.original.mask,
        comm: comm(&leader.comm),
        rlimits: Some(TaskRlimitsEntry {
            rlimits: task.attributes.limits.0.iter().map(limit).collect(),
        }),
        loginuid: Some(task.attributes.login_uid),
        oom_score_adj: Some(task.attributes.oom_score_adj),
        sigactions: actions(task.attributes.abi, &report.state.actions),
        child_subreaper: Some(report.state.child_subreaper != 0),
        stop_signo: stopped.then_some(task.group_stop.cast_unsigned()),
        stop_told: (stopped && task.settings.stop_told).then_some(true),
        membarrier_registration_mask: Some(report.state.membarrier).filter(|mask| *mask != 0),
        core_dump_filter: Some(task.settings.core_dump_filter),
        autogroup_nice: Some(task.settings.autogroup_nice),
        empty_session_keyring: in_empty_session(&leader.settings).then_some(true),
        ..TaskCoreEntry::default()
    }
}

fn thread_core(capture: &ThreadCapture, in_task: &ThreadState) -> ThreadCoreEntry {
    let (robust_list, robust_list_bytes) = capture.robust_list;
    let rseq = &capture.rseq;
    let death_signal = in_task.parent_death_signal;
    let settings = &capture.settings;
    ThreadCoreEntry {
        futex_rla: robust_list,
        futex_rla_len: robust_list_bytes as u32,
        sched_nice: Some(capture.attributes.scheduling.nice),
        sched_policy: Some(policy(&capture.attributes.scheduling)),
        sched_prio: (capture.attributes.scheduling.priority != 0)
            .then_some(capture.attributes.scheduling.priority),
        blk_sigset: Some(capture.original.mask),
        sas: Some(ThreadSasEntry {
            ss_sp: in_task.alt_stack.start,
            ss_size: in_task.alt_stack.bytes,
            ss_flags: in_task.alt_stack.flags,
        }),
        pdeath_sig: (death_signal != 0).then_some(death_signal.cast_unsigned()),
        creds: Some(creds(&capture.attributes.status, in_task.securebits)),
        comm: Some(comm(&capture.comm)),
        rseq_entry: (rseq.pointer != 0).then_some(RseqEntry {
            rseq_abi_pointer: rseq.pointer,
            rseq_abi_size: rseq.size,
            signature: rseq.signature,
            rseq_cs_pointer: capture.original.section.map(|(_, descriptor)| descriptor),
        }),
        cpu_affinity: Some(capture.attributes.affinity.clone()),
        io_priority: Some(settings.io_priority),
        timer_slack: Some(match settings.timer_slack {
            0 => in_task.timer_slack,
            read => read,
        }),
        default_timer_slack: settings.default_timer_slack,
        memory_policy: settings
            .memory_policy
            .map(|policy| MemoryPolicyEntry { mode: policy.mode, nodes: policy.nodes }),
        memory_failure: Some(settings.memory_failure),
        speculation: Some(settings.speculation).filter(|flags| *flags != 0),
        scheduling: scheduling(&capture.attributes.scheduling, default_slice()),
        ..ThreadCoreEntry::default()
    }
}

/// The part of a thread's scheduling that CRIU's fields have no room for; `None` if all of it is the default. `default_slice` is the
/// slice of a thread that asked for none.
fn scheduling(scheduling: &Scheduling, default_slice: u64) -> Option<SchedulingEntry> {
    // The default. (SCHED_RESET_ON_FORK does not count: it goes into CRIU's field of the policy.)
    const USUAL: SchedulingEntry = SchedulingEntry {
        policy: 0,
        flags: 0,
        runtime: 0,
        deadline: 0,
        period: 0,
        utilization_min: 0,
        utilization_max: 0,
    };
    /// Utilization limits that nobody has set: what a kernel without them reports, the kernel's default, and its default for
    /// real-time threads.
    const NO_WISH: [(u32, u32); 3] = [(0, 0), (0, 1024), (1024, 1024)];
    let Scheduling { policy, flags, deadline, period, .. } = *scheduling;
    let of_default = policy != SCHED_DEADLINE && scheduling.runtime == default_slice;
    let runtime = if of_default { 0 } else { scheduling.runtime };
    let wishes = scheduling.utilization;
    let (utilization_min, utilization_max) =
        if NO_WISH.contains(&wishes) { (0, 0) } else { wishes };
    let beyond = SchedulingEntry {
        policy: 0,
        flags: flags & !SCHED_FLAG_RESET_ON_FORK,
        runtime,
        deadline,
        period,
        utilization_min,
        utilization_max,
    };
    (beyond != USUAL).then_some(SchedulingEntry { policy, flags, ..beyond })
}

/// The slice of a thread that asked for none: this thread has not, so it is its own.
fn default_slice() -> u64 {
    kernel::sched::scheduling(kernel::process::own_thread()).map_or(0, |own| own.runtime)
}

const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
const SCHED_DEADLINE: u32 = 6;

/// The policy as `sched_getscheduler` returns it, with the flag SCHED_RESET_ON_FORK. CRIU cannot set the policy of a deadline
/// thread, so its field says that the thread is an ordinary one.
const fn policy(scheduling: &Scheduling) -> u32 {
    const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
    let reset = scheduling.flags & SCHED_FLAG_RESET_ON_FORK != 0;
    let policy = if scheduling.policy == SCHED_DEADLINE { 0 } else { scheduling.policy };
    policy | if reset { SCHED_RESET_ON_FORK } else { 0 }
}

/// A name as a protobuf string has to be: CRIU stores it as one, and refuses other bytes.
fn comm(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).into_owned().into_bytes()
}

fn limit(limit: &Limit) -> RlimitEntry {
    RlimitEntry {
        cur: limit.soft.unwrap_or(libc::RLIM_INFINITY),
        max: limit.hard.unwrap_or(libc::RLIM_INFINITY),
    }
}

fn queue(pending: &[&RawSigInfo]) -> SignalQueueEntry {
    SignalQueueEntry {
        signals: pending.iter().map(|info| SiginfoEntry { siginfo: info.to_vec() }).collect(),
    }
}

/// Actions of all signals but the two that have none.
fn actions(abi: Abi, actions: &[SigAction]) -> Vec<SaEntry> {
    let fixed = [libc::SIGKILL, libc::SIGSTOP];
    (1..)
        .zip(actions)
        .filter(|(signal, _)| !fixed.contains(signal))
        .map(|(_, action)| SaEntry {
            sigaction: action.handler,
            flags: action.flags,
            restorer: action.restorer,
            mask: action.mask,
            compat_sigaction: Some(abi == Abi::Compat),
            mask_extended: None,
        })
        .collect()
}

fn creds(status: &Status, securebits: u32) -> CredsEntry {
    let words = |set: u64| vec![set as u32, (set >> 32) as u32];
    CredsEntry {
        uid: status.uid.real,
        gid: status.gid.real,
        euid: status.uid.effective,
        egid: status.gid.effective,
        suid: status.uid.saved,
        sgid: status.gid.saved,
        fsuid: status.uid.fs,
        fsgid: status.gid.fs,
        cap_inh: words(status.cap_inheritable),
        cap_prm: words(status.cap_permitted),
        cap_eff: words(status.cap_effective),
        cap_bnd: words(status.cap_bounding),
        secbits: securebits,
        groups: status.groups.clone(),
        no_new_privs: status.no_new_privs.then_some(1),
        cap_amb: words(status.cap_ambient),
        ..CredsEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_leave_out_kill_and_stop() {
        let all: Vec<_> =
            (1..=64).map(|signal| SigAction { handler: signal, ..SigAction::default() }).collect();
        let entries = actions(Abi::Native, &all);
        assert_eq!(entries.len(), 62);
        assert_eq!((entries[7].sigaction, entries[8].sigaction), (8, 10));
        assert_eq!((entries[16].sigaction, entries[17].sigaction), (18, 20));
    }

    #[test]
    fn only_what_is_unusual_of_scheduling_has_an_entry() {
        let usual = Scheduling { runtime: 7, utilization: (0, 1024), ..Scheduling::default() };
        assert_eq!(scheduling(&usual, 7), None);
        assert_eq!(scheduling(&Scheduling { flags: 1, ..usual }, 7), None);
        let slice = scheduling(&Scheduling { runtime: 9, ..usual }, 7).unwrap();
        assert_eq!((slice.policy, slice.runtime), (0, 9));
        let deadline =
            Scheduling { policy: 6, flags: 1, runtime: 7, deadline: 8, period: 9, ..usual };
        let entry = scheduling(&deadline, 7).unwrap();
        assert_eq!((entry.policy, entry.flags, entry.runtime, entry.period), (6, 1, 7, 9));
        assert_eq!(policy(&deadline), 0x4000_0000);
    }

    #[test]
    fn a_name_is_text_even_if_it_is_not() {
        assert_eq!(comm(b"caf\xc3\xa9"), b"caf\xc3\xa9");
        assert_eq!(comm(b"\xff!"), "\u{fffd}!".as_bytes());
    }
}
