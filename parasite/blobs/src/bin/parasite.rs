//! The parasite: asks a frozen task what only the task can know, and goes away.
//!
//! It only reads (or makes a descriptor for its host to take, and closes it). It runs on its own stack in its own region, with every signal but the bell
//! blocked, and depends on nobody: traced or not, it reports, rings and leaves. See
//! [`parasite::task`] for the layout and the contract.
#![no_std]
#![no_main]

use core::ptr::{addr_of, addr_of_mut};

use arch::blob::unmap_and_return;
use arch::memory::{self, PAGE_SIZE};
use arch::regs::Abi;
use arch::settings;
use arch::syscall::{nr, syscall};
use parasite::task::{Parasite, SIGNALS, TimerState};
use stasis_blobs as _;

const SIGSET_BYTES: usize = 8;
const ITIMERS: usize = 3;

const PR_GET_PDEATHSIG: usize = 2;
const PR_GET_DUMPABLE: usize = 3;
const PR_GET_SECUREBITS: usize = 27;
const PR_GET_TIMERSLACK: usize = 30;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS`.
const GET_REGISTRATIONS: usize = 1 << 9;
const PR_GET_CHILD_SUBREAPER: usize = 37;
const PR_GET_TID_ADDRESS: usize = 40;
const PR_GET_THP_DISABLE: usize = 42;

arch::blob_entry!(parasite);

/// Reports, and goes home: the last call unmaps the region that all of this runs in.
///
/// # Safety
/// `state` is the struct that the host laid out, followed by its timers.
unsafe extern "C" fn parasite(state: *mut Parasite) -> ! {
    // SAFETY: the host's promises of what it laid out; nothing of the region is needed after this.
    unsafe {
        report(state);
        let region = ((*state).region_start as usize, (*state).region_bytes as usize);
        let (back, return_frame) =
            ((*state).syscall_return as usize, (*state).return_frame as usize);
        let door = if (*state).compat == 0 { Abi::Native } else { Abi::Compat };
        unmap_and_return(door, region, back, return_frame)
    }
}

/// The report, in whose place errors are noted.
struct Answers(*mut Parasite);

impl Answers {
    /// Makes a system call that only reads and writes its answer into the report.
    fn ask(&self, number: usize, args: [usize; 6]) -> usize {
        // SAFETY: every call made here is a getter whose pointers lie in the region.
        match unsafe { syscall(number, args) } {
            Ok(value) => value,
            Err(error) => {
                // SAFETY: the report is the host's struct in the region, valid until we leave.
                unsafe {
                    if (*self.0).error == 0 {
                        (*self.0).error = error;
                        (*self.0).failed_call = number as i32;
                    }
                }
                0
            }
        }
    }

    fn prctl(&self, option: usize, argument: usize) -> usize {
        self.ask(nr::PRCTL, [option, argument, 0, 0, 0, 0])
    }
}

/// The memory protection keys that are taken. The kernel looks at the key before it looks for a mapping,
/// and finds none at an address that is its own.
fn protection_keys() -> u32 {
    const ENOMEM: i32 = 12;
    const NOWHERE: usize = usize::MAX - 2 * PAGE_SIZE as usize + 1;
    let is_taken = |key: &usize| {
        let args = [NOWHERE, PAGE_SIZE as usize, 0, *key, 0, 0];
        // SAFETY: no mapping is changed where there is none.
        unsafe { syscall(nr::PKEY_MPROTECT, args) == Err(ENOMEM) }
    };
    (1..memory::PROTECTION_KEYS).filter(is_taken).fold(0, |keys, key| keys | 1 << key)
}

/// Fills in the report and rings.
///
/// # Safety
/// `state` is the struct that the host laid out, followed by its timers.
unsafe fn report(state: *mut Parasite) {
    let report = Answers(state);
    // SAFETY: `state` is valid for the whole run, and only this thread and (while it is stopped)
    // the host touch it.
    unsafe {
        if (*state).uffd_handover != 0 {
            let flags = (*state).donated_flags as usize;
            let fd = report.ask(nr::USERFAULTFD, [flags, 0, 0, 0, 0, 0]);
            if (*state).error == 0 {
                report.ask(nr::CLOSE, [fd, 0, 0, 0, 0, 0]);
            }
            return;
        }
        for signal in 1..=SIGNALS {
            let slot = addr_of_mut!((*state).actions).cast::<[u64; 4]>().add(signal - 1);
            report.ask(nr::RT_SIGACTION, [signal, 0, slot as usize, SIGSET_BYTES, 0, 0]);
        }
        for which in 0..ITIMERS {
            let slot = addr_of_mut!((*state).interval_timers).cast::<[u64; 4]>().add(which);
            report.ask(nr::GETITIMER, [which, slot as usize, 0, 0, 0, 0]);
        }
        let timers = state.add(1).cast::<TimerState>();
        for index in 0..(*state).timer_count as usize {
            let timer = timers.add(index);
            let id = (*timer).id as usize;
            let setting = addr_of_mut!((*timer).setting) as usize;
            report.ask(nr::TIMER_GETTIME, [id, setting, 0, 0, 0, 0]);
            (*timer).overrun = report.ask(nr::TIMER_GETOVERRUN, [id, 0, 0, 0, 0, 0]) as i32;
        }
        report.ask(nr::SIGALTSTACK, [0, addr_of!((*state).alt_stack) as usize, 0, 0, 0, 0]);
        (*state).program_break = report.ask(nr::BRK, [0; 6]) as u64;
        report.prctl(PR_GET_TID_ADDRESS, addr_of!((*state).clear_child_tid) as usize);
        report.prctl(PR_GET_PDEATHSIG, addr_of!((*state).parent_death_signal) as usize);
        report.prctl(PR_GET_CHILD_SUBREAPER, addr_of!((*state).child_subreaper) as usize);
        (*state).dumpable = report.prctl(PR_GET_DUMPABLE, 0) as i32;
        (*state).thp_disable = report.prctl(PR_GET_THP_DISABLE, 0) as i32;
        (*state).securebits = report.prctl(PR_GET_SECUREBITS, 0) as i32;
        // An older kernel refuses.
        let registrations = syscall(nr::MEMBARRIER, [GET_REGISTRATIONS, 0, 0, 0, 0, 0]);
        (*state).membarrier = registrations.unwrap_or(0) as u32;
        (*state).timer_slack = report.prctl(PR_GET_TIMERSLACK, 0) as u64;
        (*state).identification_faults = settings::identification_faults().into();
        (*state).permitted = settings::permitted_components();
        (*state).clock_faults = settings::clock_faults().into();
        (*state).protection_keys = protection_keys();
        if (*state).bell != 0 {
            // In its own pid namespace, of which the host may know other numbers.
            let (pid, tid) = (report.ask(nr::GETPID, [0; 6]), report.ask(nr::GETTID, [0; 6]));
            report.ask(nr::TGKILL, [pid, tid, (*state).bell as usize, 0, 0, 0]);
        }
    }
}
