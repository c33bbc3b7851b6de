//! Whose code programs are.

use std::fs::File;
use std::io::Read;

use arch::compat::{self, ELF_HEAD_BYTES, of_program};
use arch::regs::Abi;
use collector::Process;
use ids::HostPid;
use support::{Unsupported, settings};

/// The head of a process's program, as far as it can be read.
fn head(pid: HostPid) -> Option<[u8; ELF_HEAD_BYTES]> {
    let mut head = [0; ELF_HEAD_BYTES];
    File::open(format!("/proc/{pid}/exe")).and_then(|mut exe| exe.read_exact(&mut head)).ok()?;
    Some(head)
}

/// Whose code a process's program is: by its kind the kernel chose, when it was executed, the vDSO and where memory is. `None` if
/// that cannot be told.
pub(crate) fn abi_of(pid: HostPid) -> Option<Abi> {
    of_program(&head(pid)?)
}

/// Refuses a program that is of neither kind.
pub(crate) fn unsupported(pid: HostPid) -> Option<Unsupported> {
    head(pid)
        .is_some_and(|head| of_program(&head).is_none())
        .then(|| settings::of_other_program(pid))
}

/// Refuses a thread of a 64-bit program that has segments for 32-bit code: its registers do not say so while it is in other code.
pub(crate) fn of_segments(process: &Process, tid: HostPid, abi: Abi) -> Option<Unsupported> {
    let known = process.threads.get(&tid)?.in_task?;
    (abi == Abi::Native && known.segments).then(|| settings::of_segments(process.pid, tid))
}

/// Refuses a process of which another kind of code than its program has set an action: the kernel goes by that when it runs a handler. Only
/// its own structures tell.
pub(crate) fn of_actions(process: &Process, abi: Abi) -> Option<Unsupported> {
    /// `SIG_DFL` and `SIG_IGN` are not run.
    const HANDLERS: std::ops::RangeFrom<u64> = 2..;
    let wanted = match abi {
        Abi::Native => 0,
        Abi::Compat => compat::ACTION_FLAG,
    };
    let mut actions = process.in_process.iter().flat_map(|known| &known.actions).zip(1..);
    let found = actions.find(|(action, _)| {
        HANDLERS.contains(&action.handler) && action.flags & compat::ACTION_FLAGS != wanted
    });
    found.map(|(_, signal)| settings::of_mixed_action(process.pid, signal))
}
