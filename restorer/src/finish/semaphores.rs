//! Has threads do once more what their end is to undo in System V semaphores, when all else of them is as it stays.

use std::collections::VecDeque;
use std::io;

use arch::regs::SYSCALL_INSTRUCTION_LEN;
use arch::syscall::nr;
use kernel::ptrace::Stopped;
use kernel::sysv::is_gone;
use kernel::sysv::semaphores::Set;
use support::ipc::{UNDO, UndoConflict, undo_conflict};

use super::inject::{Parked, inject, lay_out, take};
use crate::error::Error;
use crate::load::Checkpoint;
use crate::pids::Pids;
use crate::prepare::Region;
use crate::semaphore_undo::{Adjustment, OfThread, Operation};
use crate::task::PreparedTask;

/// Does it for all threads: first what adds to semaphores, so that what another takes of them is there.
pub(super) fn redo(
    checkpoint: &Checkpoint,
    pids: &Pids,
    prepared: &[Option<PreparedTask>],
    parked: &mut Parked,
) -> Result<(), Error> {
    let all = &checkpoint.semaphore_undo;
    all.iter().filter(|thread| !thread.is_made).try_for_each(check)?;
    let region = |thread: &OfThread| {
        let index = checkpoint.processes.iter().position(|it| it.pid == thread.process)?;
        Some(&prepared[index].as_ref()?.region)
    };
    for thread in all.iter().filter(|thread| thread.is_own) {
        let Some(region) = region(thread) else { continue };
        with(parked, pids, thread, |stopped| part(stopped, region, thread))?;
    }
    for adds in [true, false] {
        for thread in all {
            let Some(region) = region(thread) else { continue };
            let chosen = thread.operations.iter().filter(|it| (it.by < 0) == adds);
            for adjustment in chosen {
                with(parked, pids, thread, |stopped| adjust(stopped, region, thread, adjustment))?;
            }
        }
    }
    Ok(())
}

/// Finds out whether the sets in a namespace that has not been made are those of the images.
fn check(thread: &OfThread) -> Result<(), Error> {
    let boot = kernel::boot::boot();
    for entry in &thread.sets {
        let there = match Set::read(entry.set.cast_signed()) {
            Ok(set) => Some(set),
            Err(error) if is_gone(&error) => None,
            Err(error) => {
                return Err(Error::kernel(format!("look at set {} of semaphores", entry.set))(
                    error,
                ));
            }
        };
        let is_it = |set: &Set| {
            let semaphores = set.values.len();
            boot.is_some()
                && entry.boot == boot
                && set.owner.key == entry.key
                && semaphores == entry.semaphores as usize
        };
        if !there.as_ref().is_some_and(is_it) {
            return Err(refused(thread, entry.set, UndoConflict::Gone));
        }
    }
    Ok(())
}

fn refused(thread: &OfThread, set: u32, conflict: UndoConflict) -> Error {
    Error::refused(undo_conflict(set, conflict).of(thread.process.get(), UNDO))
}

/// Has a parked thread do something.
fn with(
    parked: &mut Parked,
    pids: &Pids,
    thread: &OfThread,
    work: impl FnOnce(Stopped) -> Result<Stopped, Error>,
) -> Result<(), Error> {
    let tid = pids.host(thread.tid)?;
    let stopped = work(take(parked, tid)?)?;
    parked.insert(tid, stopped);
    Ok(())
}

/// Makes a thread have for itself what its end undoes.
fn part(stopped: Stopped, region: &Region, thread: &OfThread) -> Result<Stopped, Error> {
    let at = stopped.registers()?.instruction() - SYSCALL_INSTRUCTION_LEN;
    let how = libc::CLONE_SYSVSEM.cast_unsigned().into();
    let (stopped, answer) = inject(stopped, region, at, nr::UNSHARE, [how, 0, 0, 0, 0, 0])?;
    if answer < 0 {
        let operation =
            format!("part the semaphore adjustments of thread {} from others", thread.tid);
        return Err(Error::kernel(operation)(io::Error::from_raw_os_error(-answer as i32)));
    }
    Ok(stopped)
}

fn adjust(
    mut stopped: Stopped,
    region: &Region,
    thread: &OfThread,
    adjustment: &Adjustment,
) -> Result<Stopped, Error> {
    let at = stopped.registers()?.instruction() - SYSCALL_INSTRUCTION_LEN;
    let set = adjustment.set.cast_unsigned();
    let mut calls = VecDeque::from(adjustment.calls(thread.is_made));
    while let Some(call) = calls.pop_front() {
        let bytes: Vec<u8> = call.iter().flat_map(operation).collect();
        let place = lay_out(&stopped, region, &bytes)?;
        let args = [set.into(), place, call.len() as u64, 0, 0, 0];
        let (next, answer) = inject(stopped, region, at, nr::SEMOP, args)?;
        stopped = next;
        let (semaphore, by) = (adjustment.semaphore.into(), adjustment.by);
        let conflict = match -(answer as i32) {
            0 => continue,
            // The namespace lets in one operation a call. Nobody else in it runs yet.
            libc::E2BIG if call.len() > 1 => {
                call.iter().rev().for_each(|it| calls.push_front(vec![*it]));
                continue;
            }
            libc::EAGAIN | libc::ERANGE => UndoConflict::Taken { semaphore, by },
            libc::EINVAL | libc::EIDRM | libc::EFBIG => UndoConflict::Gone,
            libc::EACCES => UndoConflict::Forbidden,
            error => {
                let operation =
                    format!("take semaphore {semaphore} of set {set} for thread {}", thread.tid);
                return Err(Error::kernel(operation)(io::Error::from_raw_os_error(error)));
            }
        };
        return Err(refused(thread, set, conflict));
    }
    Ok(stopped)
}

/// `struct sembuf`.
fn operation(it: &Operation) -> [u8; 6] {
    let flags = libc::IPC_NOWAIT | if it.is_undone { libc::SEM_UNDO } else { 0 };
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&it.semaphore.to_ne_bytes());
    bytes[2..4].copy_from_slice(&it.by.to_ne_bytes());
    bytes[4..].copy_from_slice(&(flags as i16).to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_as_the_c_library_has_it() {
        let bytes = operation(&Operation { semaphore: 3, by: -2, is_undone: true });
        assert_eq!(size_of::<libc::sembuf>(), bytes.len());
        assert_eq!(bytes[2..4], (-2i16).to_ne_bytes());
        assert_eq!(std::mem::offset_of!(libc::sembuf, sem_num), 0);
        assert_eq!(std::mem::offset_of!(libc::sembuf, sem_op), 2);
        assert_eq!(std::mem::offset_of!(libc::sembuf, sem_flg), 4);
    }
}
