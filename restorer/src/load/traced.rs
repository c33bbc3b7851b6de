//! Threads that others of the tree trace: what of it can be.

use arch::regs::Abi;
use arch::trace::DEBUG_REGISTERS;
use images::messages::TracedEntry;
use parasite::restorer::SIGINFO_BYTES;

use super::{Process, Thread, signal_of};
use crate::error::Error;

/// `PTRACE_O_*` that there are.
const OPTIONS: u32 = 0xff | 1 << 20 | 1 << 21;

/// Refuses what no tree can have.
pub(super) fn check(processes: &[Process]) -> Result<(), Error> {
    let threads = || {
        let living = processes.iter().filter_map(|process| Some((process, process.body.as_ref()?)));
        living.flat_map(|(process, body)| body.threads.iter().map(move |it| (process, it)))
    };
    for (process, thread) in threads() {
        let Some(traced) = &thread.core.traced else { continue };
        let by = threads().find(|(_, other)| other.tid.unsigned() == traced.tracer);
        let wrong = match by {
            None => Some("its tracer is not of the tree"),
            Some((other, _)) if other.pid == process.pid => Some("its own process traces it"),
            Some((_, other)) if other.core.traced.is_some() => Some("its tracer is traced"),
            Some((_, other)) if other.levels.depth() != thread.levels.depth() => {
                Some("its tracer is in another pid namespace")
            }
            Some((_, other)) => of_entry(thread, other, traced),
        };
        if let Some(wrong) = wrong {
            return Err(Error::image(format!("thread {}", thread.tid), wrong));
        }
    }
    Ok(())
}

fn of_entry(thread: &Thread, tracer: &Thread, traced: &TracedEntry) -> Option<&'static str> {
    let signal = signal_of(&traced.signal);
    let are_native = [thread, tracer].iter().all(|thread| thread.processor.abi() == Abi::Native);
    let registers = traced.debug_registers.len();
    let rules = [
        (!are_native, "it is traced, and in 32-bit code, or its tracer is"),
        (
            thread.is_filtered() || tracer.is_filtered(),
            "it is traced, and has a filter of system calls, or its tracer has",
        ),
        (thread.processor.traced().is_none(), "no tracee can have its registers"),
        (traced.options & !OPTIONS != 0, "there are no such options of ptrace"),
        (
            traced.signal.len() > SIGINFO_BYTES || !(1..=64).contains(&signal),
            "it stands for no signal",
        ),
        (
            registers != 0 && registers != DEBUG_REGISTERS.len(),
            "its debug registers are not those of this processor",
        ),
    ];
    rules.into_iter().find(|(is, _)| *is).map(|(_, wrong)| wrong)
}
