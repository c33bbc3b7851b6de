//! A thread's registers, from the image's form to the one that ptrace takes: the refusals.

use arch::fpu::{self, Layout};
use arch::regs::GeneralRegs;
use arch::tls::Segment;

use super::Thread;
use crate::error::Error;

/// The general registers.
pub(crate) fn general(thread: &Thread) -> Result<GeneralRegs, Error> {
    thread.processor.general().ok_or_else(|| {
        let object = format!("registers of thread {}", thread.tid);
        Error::image(object, "no task can have them")
    })
}

/// The segments of a thread of 32-bit code, for its thread-local storage.
pub(crate) fn segments(thread: &Thread) -> Result<Vec<Segment>, Error> {
    thread.processor.segments().ok_or_else(|| {
        let object = format!("registers of thread {}", thread.tid);
        Error::image(object, "no thread has segments in these places")
    })
}

/// The extended state in the form of `current`, the state that the thread has at this moment,
/// whose length and components are those of this processor, as is `layout`.
pub(crate) fn extended(thread: &Thread, current: &[u8], layout: &Layout) -> Result<Vec<u8>, Error> {
    let state = thread.processor.extended(current, layout);
    let state = state.ok_or_else(|| Error::image("this processor", "it has no extended state"))?;
    let missing = thread.processor.missing(fpu::components_known(current));
    if missing == 0 {
        return Ok(state);
    }
    let names: Vec<_> = fpu::names(missing).collect();
    Err(Error::refused(
        support::host::processor_state(&names.join(" and "))
            .of(thread.tid.get(), "processor state"),
    ))
}
