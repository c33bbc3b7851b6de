//! What a process or thread sets of its processor for itself, by system calls that only it can
//! make.

use super::fpu;
use super::syscall::{Answer, nr, syscall};

const ARCH_GET_CPUID: usize = 0x1011;
const ARCH_SET_CPUID: usize = 0x1012;
const ARCH_GET_XCOMP_PERM: usize = 0x1022;
const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
const PR_GET_TSC: usize = 25;
const PR_SET_TSC: usize = 26;
const PR_TSC_ENABLE: u32 = 1;
const PR_TSC_SIGSEGV: u32 = 2;

/// The system call that asks a thread whether [`identification_faults`].
pub const ASK_IDENTIFICATION: (usize, [u64; 6]) =
    (nr::ARCH_PRCTL, [ARCH_GET_CPUID as u64, 0, 0, 0, 0, 0]);

/// Whether its answer says yes. (An error says that there is no such thing.)
#[must_use]
pub const fn is_identification_fault(answer: i64) -> bool {
    answer == 0
}

/// The system call that asks a thread whether [`clock_faults`], with the place of four bytes for the
/// answer.
#[must_use]
pub const fn ask_clock(place: u64) -> (usize, [u64; 6]) {
    (nr::PRCTL, [PR_GET_TSC as u64, place, 0, 0, 0, 0])
}

/// Whether its answer says yes.
#[must_use]
pub const fn is_clock_fault(answer: u32) -> bool {
    answer == PR_TSC_SIGSEGV
}

/// The system call that asks a process for [`permitted_components`], with the place of eight bytes for the answer.
#[must_use]
pub const fn ask_components(place: u64) -> (usize, [u64; 6]) {
    (nr::ARCH_PRCTL, [ARCH_GET_XCOMP_PERM as u64, place, 0, 0, 0, 0])
}

fn arch_prctl(option: usize, argument: usize) -> Answer {
    // SAFETY: a setting of the caller's own, or an answer into a place that its caller names.
    unsafe { syscall(nr::ARCH_PRCTL, [option, argument, 0, 0, 0, 0]) }
}

/// Whether the instruction that identifies the processor is a fault for this thread; `false` where
/// a kernel or processor cannot have it so.
#[inline(always)]
#[must_use]
pub fn identification_faults() -> bool {
    // SAFETY: a question without a pointer.
    let answer =
        unsafe { syscall(ASK_IDENTIFICATION.0, ASK_IDENTIFICATION.1.map(|word| word as usize)) };
    answer.is_ok_and(|answer| is_identification_fault(answer as i64))
}

/// What [`set_identification_faults`] is called in a report.
pub const IDENTIFICATION_FAULT: u64 = ARCH_SET_CPUID as u64;

/// Makes it a fault for this thread, or none.
///
/// # Errors
/// If the kernel or the processor cannot have it so.
#[inline(always)]
pub fn set_identification_faults(faults: bool) -> Answer {
    arch_prctl(ARCH_SET_CPUID, (!faults).into())
}

/// Whether reading the processor's clock is a fault for this thread.
#[inline(always)]
#[must_use]
pub fn clock_faults() -> bool {
    let mut access = 0_u32;
    let (number, args) = ask_clock(&raw mut access as u64);
    // SAFETY: the kernel writes a number into the place.
    let asked = unsafe { syscall(number, args.map(|word| word as usize)) };
    asked.is_ok() && is_clock_fault(access)
}

/// What [`set_clock_faults`] is called in a report.
pub const CLOCK_FAULT: u64 = PR_SET_TSC as u64;

/// Makes it a fault for this thread, or none.
///
/// # Errors
/// If the kernel has no such setting.
#[inline(always)]
pub fn set_clock_faults(faults: bool) -> Answer {
    let access = if faults { PR_TSC_SIGSEGV } else { PR_TSC_ENABLE };
    // SAFETY: a setting of the caller's own.
    unsafe { syscall(nr::PRCTL, [PR_SET_TSC, access as usize, 0, 0, 0, 0]) }
}

/// Components of the extended state that the process may use, as a mask; 0 where the kernel does
/// not tell.
#[inline(always)]
#[must_use]
pub fn permitted_components() -> u64 {
    let mut permitted = 0_u64;
    let (number, args) = ask_components(&raw mut permitted as u64);
    // SAFETY: the kernel writes a number into the place.
    match unsafe { syscall(number, args.map(|word| word as usize)) } {
        Ok(_) => permitted,
        Err(_) => 0,
    }
}

/// Asks for the use of a component, by its bit number.
///
/// # Errors
/// If the kernel does not permit it.
#[inline(always)]
pub fn permit_component(component: usize) -> Answer {
    arch_prctl(ARCH_REQ_XCOMP_PERM, component)
}

/// The component, by its bit number, for which the kernel makes room in a thread when that first uses
/// it.
pub const ROOM_ON_USE: u64 = fpu::XTILEDATA.bit as u64;

/// Uses that component for the first time, and leaves it in its initial state.
///
/// # Safety
/// The processor has it, and the process has the permission to use it.
#[inline(always)]
pub unsafe fn make_room() {
    // SAFETY: the caller's promise.
    unsafe { fpu::touch_tiles() }
}
