//! A task that another thread traces, and that stands in a stop of it: that one has read for us what ptrace tells.

use std::cell::Cell;
use std::marker::PhantomData;

use arch::regs::GeneralRegs;
use ids::HostPid;

use super::{RawSigInfo, Stop, Stopped};

/// What its tracer has read of a task.
#[derive(Clone, Debug)]
pub struct OfOther {
    /// General registers.
    pub registers: GeneralRegs,
    /// Extended state, as [`Stopped::extended_state`] gives it.
    pub extended: Vec<u8>,
    /// Blocked signals, signal 1 at bit 0.
    pub mask: u64,
    /// Signals pending for the thread, oldest first.
    pub own_pending: Vec<RawSigInfo>,
    /// Signals pending for its process, oldest first.
    pub shared_pending: Vec<RawSigInfo>,
    /// The signal in whose stop it stands.
    pub signal: RawSigInfo,
}

impl Stopped {
    /// A task of which its tracer has said this. It is read from here; all that would change it fails, as the kernel has it for whoever
    /// traces it not.
    #[must_use]
    pub fn of_other(tid: HostPid, told: OfOther) -> Self {
        let number = told.signal.first_chunk().map_or(0, |word| i32::from_ne_bytes(*word));
        Self {
            tid,
            stop: Stop::Signal(number),
            settled: Cell::new(true),
            told: Some(Box::new(told)),
            not_send: PhantomData,
        }
    }

    /// Whether another thread traces it.
    #[must_use]
    pub const fn is_of_other(&self) -> bool {
        self.told.is_some()
    }
}
