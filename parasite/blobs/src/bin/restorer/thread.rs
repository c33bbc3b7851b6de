//! What belongs to one thread.

use core::mem::size_of;
use core::sync::atomic::Ordering;

use arch::syscall::{clone_thread, nr};
use arch::{compat, settings};
use parasite::restorer::{
    BORN_WITH_GROUPS, BORN_WITH_IDS, BORN_WITHOUT_RIGHTS, CLOCK_FAULTS, Credentials, Filter,
    IDENTIFICATION_FAULTS, Limit, NEEDS_ROOM, Step, Thread, UNSET,
};

use crate::births;
use crate::context::{Context, Seat, UNKNOWN, WANTED};
use crate::process::signal_number;
use crate::rings;

const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
/// How often a number is asked for, a millisecond apart.
const TRIES: u32 = 500;
const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
/// What the threads of a process have in common.
pub const SHARED_BY_THREADS: u64 =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

const PR_SET_PDEATHSIG: usize = 1;
const PR_SET_NAME: usize = 15;
const PR_SET_TIMERSLACK: usize = 29;
const PR_MCE_KILL: usize = 33;
const PR_MCE_KILL_SET: usize = 1;
const PR_SET_SPECULATION_CTRL: usize = 53;
const IOPRIO_WHO_PROCESS: usize = 1;
/// `PFA_*`, which misfeature it is about, and how it is switched; what cannot be undone last.
const SPECULATION: [(u32, usize, usize); 5] = [
    (1 << 3, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE),
    (1 << 7, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE_NOEXEC),
    (1 << 4, PR_SPEC_STORE_BYPASS, PR_SPEC_FORCE_DISABLE),
    (1 << 5, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE),
    (1 << 6, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE),
];
const PR_SPEC_STORE_BYPASS: usize = 0;
const PR_SPEC_INDIRECT_BRANCH: usize = 1;
const PR_SPEC_DISABLE: usize = 1 << 2;
const PR_SPEC_FORCE_DISABLE: usize = 1 << 3;
const PR_SPEC_DISABLE_NOEXEC: usize = 1 << 4;
const PR_CAPBSET_READ: usize = 23;
const PR_CAPBSET_DROP: usize = 24;
const PR_GET_SECUREBITS: usize = 27;
const PR_SET_SECUREBITS: usize = 28;
const PR_SET_NO_NEW_PRIVS: usize = 38;
const PR_CAP_AMBIENT: usize = 47;
const PR_SET_SECCOMP: usize = 22;
const SECCOMP_MODE_STRICT: usize = 1;
const SECCOMP_SET_MODE_FILTER: usize = 1;
const PR_CAP_AMBIENT_RAISE: usize = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;

/// Changing user ids leaves capabilities alone (`SECBIT_NO_SETUID_FIXUP`).
const KEEP_CAPABILITIES: usize = 1 << 2;
const CLONE_NEWUSER: usize = 0x1000_0000;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

const FUTEX_WAKE: usize = 1;
const SIGKILL: usize = 9;

/// `struct clone_args`.
#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
}

/// Makes the other threads, each with its own number.
pub fn create_others(context: &Context) {
    let threads = context.arguments().threads;
    let first = context.first(threads);
    // The last first: while a number is asked for, others of the machine may get those behind it.
    for (index, thread) in context.entries(threads).iter().enumerate().skip(1).rev() {
        // A thread begins with the slack of the one that makes it, and goes back to that.
        slack(context, thread.settings.default_timer_slack);
        context.at(Step::Clone, thread.tid as u64);
        let mut tries = 1;
        loop {
            match create(context, first.wrapping_add(index), thread) {
                Ok(true) => break,
                Err(error) if error != EEXIST || tries >= TRIES => {
                    context.fail(Step::Clone, thread.tid as u64, error)
                }
                Ok(false) if tries >= TRIES => context.fail(Step::Clone, thread.tid as u64, EEXIST),
                _ => wait_a_moment(context),
            }
            tries += 1;
        }
    }
    births::over(context);
}

/// Makes one; whether it has the numbers that it is to have. If not it has ended by now.
fn create(context: &Context, place: *mut Thread, thread: &Thread) -> Result<bool, i32> {
    let asks = births::are_asked(context);
    let top = context.arguments().region_start + thread.stack;
    let seat = (top - size_of::<Seat>() as u64) as *mut Seat;
    let wanted = if asks { UNKNOWN } else { WANTED };
    // SAFETY: the host gave every thread a stack of its own in the region, which nobody uses
    // before the thread is there.
    unsafe { seat.write(Seat::new(context.base(), place, wanted)) };
    // SAFETY: it lies in the region, and the thread, which has it as well, changes nothing but what is atomic in it.
    let shared = unsafe { &*seat };
    // The kernel wants start and length; the start does not matter here.
    let arguments = CloneArgs {
        flags: SHARED_BY_THREADS | if asks { CLONE_CHILD_CLEARTID } else { 0 },
        child_tid: if asks { shared.there.as_ptr() as u64 } else { 0 },
        stack: seat as u64 - 16,
        stack_size: 16,
        set_tid: if thread.numbers.count > 0 { context.first(thread.numbers) as u64 } else { 0 },
        set_tid_size: thread.numbers.count,
        ..CloneArgs::default()
    };
    if asks {
        births::ask(context, thread);
    }
    let at = &raw const arguments as usize;
    // SAFETY: the arguments name the thread's own stack, whose end the seat is; `follower`
    // takes the seat.
    let made = unsafe { clone_thread(at, size_of::<CloneArgs>(), follower, seat as usize) };
    if !asks {
        return made.map(|_| true);
    }
    let mut is_wanted = births::born(context, thread);
    let number = made?;
    // Where all were asked for it is the one of its own pid namespace.
    is_wanted &= thread.numbers.count > 0 || number == thread.tid as usize;
    births::judge(context, shared, is_wanted);
    Ok(is_wanted)
}

/// Waits for the kernel to free a number: who had it was gone for everybody a moment before that.
fn wait_a_moment(context: &Context) {
    let millisecond = [0_u64, 1_000_000];
    // That it is cut short does no harm.
    context
        .may(nr::NANOSLEEP, [&raw const millisecond as usize, 0, 0, 0, 0, 0])
        .unwrap_or_default();
}

/// The way of every other thread.
///
/// # Safety
/// `seat` is the address of the thread's [`Seat`].
unsafe extern "C" fn follower(seat: usize) -> ! {
    // SAFETY: the leader put the seat at the top of this thread's own stack.
    let context = unsafe { Context::follower(seat) };
    // SAFETY: the same; the leader changes nothing but what is atomic in it.
    births::await_judgement(&context, unsafe { &(*(seat as *const Seat)).wanted });
    register(&context);
    own_filters(&context);
    credentials(&context);
    settle(&context);
    parent_death_signal(&context);
    pending(&context);
    park(&context)
}

/// What the thread has told the kernel of itself, its name and its scheduling.
pub fn register(context: &Context) {
    let thread = context.thread();
    let step = Step::Thread;
    let at = thread.clear_child_tid;
    context.must(step, at, nr::SET_TID_ADDRESS, [at as usize, 0, 0, 0, 0, 0]);
    let list = thread.robust_list;
    if list != 0 && context.arguments().compat != 0 {
        let bytes = thread.robust_bytes;
        context.succeeds(step, list, || compat::set_robust_list(list, bytes));
    } else if list != 0 {
        let args = [list as usize, thread.robust_bytes as usize, 0, 0, 0, 0];
        context.must(step, list, nr::SET_ROBUST_LIST, args);
    }
    let stack = &raw const thread.alt_stack as usize;
    context.must(step, thread.alt_stack.start, nr::SIGALTSTACK, [stack, 0, 0, 0, 0, 0]);
    if thread.rseq != 0 {
        let (bytes, signature) = (thread.rseq_bytes as usize, thread.rseq_signature as usize);
        context.must(
            step,
            thread.rseq,
            nr::RSEQ,
            [thread.rseq as usize, bytes, 0, signature, 0, 0],
        );
    }
    context.must(
        Step::Name,
        thread.tid as u64,
        nr::PRCTL,
        [PR_SET_NAME, thread.name.as_ptr() as usize, 0, 0, 0, 0],
    );
    rings::issue(context);
    settings(context);
    schedule(context, thread);
    if thread.processor & NEEDS_ROOM != 0 {
        context.at(Step::Component, settings::ROOM_ON_USE);
        // SAFETY: the process has been given the permission, on a processor that has it.
        unsafe { settings::make_room() };
    }
    if thread.processor & IDENTIFICATION_FAULTS != 0 {
        let identification = settings::IDENTIFICATION_FAULT;
        context.succeeds(Step::Fault, identification, || settings::set_identification_faults(true));
    }
    if thread.processor & CLOCK_FAULTS != 0 {
        context.succeeds(Step::Fault, settings::CLOCK_FAULT, || settings::set_clock_faults(true));
    }
    // The leader's has been in force since before its memory was brought in; others have it from
    // there until now.
    memory_policy(context);
}

/// Installs the filters that all threads have in common: those that are made from here on share them.
pub fn common_filters(context: &Context) {
    let filters = context.entries(context.thread().filters);
    let common = context.arguments().common_filters as usize;
    install(context, 0, filters.get(..common).unwrap_or_default());
}

/// Installs the filters that the thread has for itself. It takes rights that it may have lost in the end.
pub fn own_filters(context: &Context) {
    let thread = context.thread();
    let common = context.arguments().common_filters as usize;
    let filters = context.entries(thread.filters);
    install(context, common, filters.get(common..).unwrap_or_default());
    if thread.strict != 0 {
        context.prctl(Step::Seccomp, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    }
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const u64,
}

fn install(context: &Context, first: usize, filters: &[Filter]) {
    for (index, filter) in filters.iter().enumerate() {
        let instructions = context.entries(filter.instructions);
        let program =
            Program { length: instructions.len() as u16, instructions: instructions.as_ptr() };
        let args = [SECCOMP_SET_MODE_FILTER, filter.flags as usize, &raw const program as usize];
        let args = [args[0], args[1], args[2], 0, 0, 0];
        context.must(Step::Seccomp, (first + index) as u64, nr::SECCOMP, args);
    }
}

/// Processors first: a deadline thread may not be kept from any.
fn schedule(context: &Context, thread: &Thread) {
    let object = thread.tid as u64;
    let processors = context.entries(thread.affinity);
    if !processors.is_empty() {
        let args = [0, processors.len(), processors.as_ptr() as usize, 0, 0, 0];
        context.must(Step::Schedule, object, nr::SCHED_SETAFFINITY, args);
    }
    if thread.scheduling.size == 0 {
        return;
    }
    let attributes = &raw const thread.scheduling as usize;
    context.must(Step::Schedule, object, nr::SCHED_SETATTR, [0, attributes, 0, 0, 0, 0]);
    // Of real-time threads, too, which have a nice value for later. PRIO_PROCESS, of this thread.
    let args = [0, 0, thread.scheduling.nice as isize as usize, 0, 0, 0];
    context.must(Step::Schedule, object, nr::SETPRIORITY, args);
}

/// Bits of a set of nodes, and one more, as the kernel wants it counted.
pub const NODES: usize = 65;

/// On which nodes the thread wants its memory.
pub fn memory_policy(context: &Context) {
    let settings = &context.thread().settings;
    let nodes = &raw const settings.nodes as usize;
    let mode = settings.memory_policy as usize;
    or_usual(context, mode, nr::SET_MEMPOLICY, [mode, nodes, NODES, 0, 0, 0]);
}

/// Makes a call that a kernel may lack, which then has nothing but the usual value 0.
fn or_usual(context: &Context, value: usize, number: usize, args: [usize; 6]) {
    if let Err(error) = context.may(number, args)
        && value != 0
    {
        context.fail(Step::Setting, value as u64, error)
    }
}

/// What the thread has set for itself that few set. Before its scheduling: real-time threads are not
/// late, so that the kernel does not take their slack.
fn settings(context: &Context) {
    let thread = context.thread();
    let settings = &thread.settings;
    slack(context, settings.timer_slack);
    let io = settings.io_priority;
    if io != UNSET {
        let args = [IOPRIO_WHO_PROCESS, 0, io as usize, 0, 0, 0];
        or_usual(context, io as usize, nr::IOPRIO_SET, args);
    }
    let failure = settings.memory_failure;
    if failure != UNSET {
        let args = [PR_MCE_KILL, PR_MCE_KILL_SET, failure as usize, 0, 0, 0];
        context.must(Step::Setting, failure.into(), nr::PRCTL, args);
    }
    let personality = settings.personality;
    if personality != UNSET {
        let args = [personality as usize, 0, 0, 0, 0, 0];
        context.must(Step::Personality, personality.into(), nr::PERSONALITY, args);
    }
    for (flag, which, control) in SPECULATION {
        if settings.speculation & flag != 0 {
            // Where the processor needs no such thing, or the administrator decides, it is refused,
            // and has no effect.
            let args = [PR_SET_SPECULATION_CTRL, which, control, 0, 0, 0];
            if context.may(nr::PRCTL, args).is_err() {
                continue;
            }
        }
    }
}

fn slack(context: &Context, nanoseconds: u64) {
    if nanoseconds != 0 {
        let args = [PR_SET_TIMERSLACK, nanoseconds as usize, 0, 0, 0, 0];
        context.must(Step::Setting, nanoseconds, nr::PRCTL, args);
    }
}

/// Users, groups and capabilities, from the most privileged state to the wanted one:
///
/// 1. groups and users, told to leave the capabilities alone; then its user namespace, if that is below the tree's, as ids are
///    those of around it, and who enters it has all capabilities in it;
/// 2. the bounding set, which needs CAP_SETPCAP;
/// 3. the ambient set, for which the inheritable set must be there;
/// 4. the secure bits, which need CAP_SETPCAP;
/// 5. the capabilities themselves;
/// 6. no_new_privs, which forbids nothing of the above but belongs last.
pub fn credentials(context: &Context) {
    let thread = context.thread();
    let wanted = &thread.credentials;
    let prctl = |option, a, b| call(context, nr::PRCTL, [option, a, b, 0, 0, 0]);

    if wanted.born_with & BORN_WITH_IDS == 0 {
        ids(context, wanted);
    }
    if context.arguments().user_namespace >= 0 && context.arguments().threads.count == 1 {
        enter_users(context);
    }

    for capability in 0..u64::BITS as usize {
        if wanted.known & !wanted.bounding & 1 << capability != 0
            && prctl(PR_CAPBSET_READ, capability, 0) != 0
        {
            prctl(PR_CAPBSET_DROP, capability, 0);
        }
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0);
    if wanted.ambient != 0 {
        // CAP_SETPCAP, for what is not in the bounding set any more.
        let sets = u64::from(wanted.born_with & BORN_WITHOUT_RIGHTS == 0);
        let all = wanted.permitted | sets << 8;
        capset(context, &Credentials { effective: all, permitted: all, ..*wanted });
        for capability in 0..u64::BITS as usize {
            if wanted.ambient & 1 << capability != 0 {
                prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability);
            }
        }
    }
    if prctl(PR_GET_SECUREBITS, 0, 0) != wanted.securebits as usize {
        prctl(PR_SET_SECUREBITS, wanted.securebits as usize, 0);
    }
    capset(context, wanted);
    if wanted.no_new_privs != 0 {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0);
    }
}

/// Makes a call of which the credentials of the thread at hand come.
fn call(context: &Context, number: usize, args: [usize; 6]) -> usize {
    context.must(Step::Credentials, context.thread().tid as u64, number, args)
}

/// Takes groups and users.
fn ids(context: &Context, wanted: &Credentials) {
    let call = |number, args| call(context, number, args);
    let groups = context.entries(wanted.supplementary);
    if wanted.born_with & BORN_WITH_GROUPS == 0 {
        call(nr::SETGROUPS, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0]);
    }
    call(nr::PRCTL, [PR_SET_SECUREBITS, KEEP_CAPABILITIES, 0, 0, 0, 0]);
    let [real, effective, saved, file_system] = wanted.groups;
    call(nr::SETRESGID, [real as usize, effective as usize, saved as usize, 0, 0, 0]);
    call(nr::SETFSGID, [file_system as usize, 0, 0, 0, 0, 0]);
    let [real, effective, saved, file_system] = wanted.users;
    call(nr::SETRESUID, [real as usize, effective as usize, saved as usize, 0, 0, 0]);
    call(nr::SETFSUID, [file_system as usize, 0, 0, 0, 0, 0]);
}

/// Enters the user namespace. Who helped to read pages may be a thread of the process for a moment yet.
fn enter_users(context: &Context) {
    let users = context.arguments().user_namespace as usize;
    let args = [users, CLONE_NEWUSER, 0, 0, 0, 0];
    let mut tries = 1;
    while let Err(error) = context.may(nr::SETNS, args) {
        if error != EINVAL || tries >= TRIES {
            context.fail(Step::Credentials, context.thread().tid as u64, error)
        }
        wait_a_moment(context);
        tries += 1;
    }
    call(context, nr::CLOSE, [users, 0, 0, 0, 0, 0]);
    // It begins without the bits.
    call(context, nr::PRCTL, [PR_SET_SECUREBITS, KEEP_CAPABILITIES, 0, 0, 0, 0]);
}

/// In the leader of a process of several threads that is to be in a user namespace below the tree's: takes its ids and enters that.
/// Who it makes from then on is born there, with these ids. What takes rights of around is done before.
pub fn enter_users_early(context: &Context) {
    let arguments = context.arguments();
    if arguments.user_namespace < 0 || arguments.threads.count == 1 {
        return;
    }
    raise_limits(context);
    ids(context, &context.thread().credentials);
    enter_users(context);
}

/// Raises the hard limits that are lower than they are to be.
fn raise_limits(context: &Context) {
    for limit in context.entries(context.arguments().limits) {
        let mut now = Limit { resource: limit.resource, ..Limit::default() };
        let at = &raw mut now.soft as usize;
        context.must(
            Step::Limit,
            limit.resource,
            nr::PRLIMIT64,
            [0, limit.resource as usize, 0, at, 0, 0],
        );
        // SAFETY: a local that the kernel has just written.
        let mut raised = unsafe { (&raw const now).read_volatile() };
        if raised.hard < limit.hard {
            raised.hard = limit.hard;
            let at = &raw const raised.soft as usize;
            let args = [0, limit.resource as usize, at, 0, 0, 0];
            context.must(Step::Limit, limit.resource, nr::PRLIMIT64, args);
        }
    }
}

fn capset(context: &Context, wanted: &Credentials) {
    let header = [CAPABILITY_VERSION_3, 0];
    // Effective, permitted, inheritable: the low words, then the high ones.
    let sets = [wanted.effective, wanted.permitted, wanted.inheritable];
    let [e, p, i] = sets;
    let words: [u32; 6] =
        [e as u32, p as u32, i as u32, (e >> 32) as u32, (p >> 32) as u32, (i >> 32) as u32];
    let (header, words) = (header.as_ptr() as usize, words.as_ptr() as usize);
    let object = context.thread().tid as u64;
    context.must(Step::Credentials, object, nr::CAPSET, [header, words, 0, 0, 0, 0]);
}

/// Tells the leader that this thread's credentials are what they will be.
pub fn settle(context: &Context) {
    let settled = context.settled();
    settled.fetch_add(1, Ordering::Release);
    let args = [settled.as_ptr() as usize, FUTEX_WAKE, i32::MAX as usize, 0, 0, 0];
    context.must(Step::Credentials, context.thread().tid as u64, nr::FUTEX, args);
}

/// Set again after the credentials: a change of those takes it away.
pub fn parent_death_signal(context: &Context) {
    let signal = context.thread().parent_death_signal;
    context.prctl(Step::ParentDeath, PR_SET_PDEATHSIG, signal as usize);
}

/// Signals that wait for this thread alone.
pub fn pending(context: &Context) {
    let (pid, thread) = (context.arguments().pid as usize, context.thread());
    for info in context.entries(thread.pending) {
        let signal = signal_number(info);
        let args = [pid, thread.tid as usize, signal, info.as_ptr() as usize, 0, 0];
        context.must(Step::Pending, signal as u64, nr::RT_TGSIGQUEUEINFO, args);
    }
}

/// Stops for the tracer. Without one the signal would be the end of the process, as it should.
pub fn park(context: &Context) -> ! {
    let (pid, tid) = (context.arguments().pid as usize, context.thread().tid as usize);
    let signal = context.arguments().park_signal as usize;
    context.must(Step::Park, tid as u64, nr::TGKILL, [pid, tid, signal, 0, 0, 0]);
    // Nobody sets a thread going from here: its tracer has gone, and the kernel is about to end it.
    context.must(Step::Park, tid as u64, nr::TGKILL, [pid, tid, SIGKILL, 0, 0, 0]);
    context.fail(Step::Park, tid as u64, 0)
}
