//! `iter/task`: what the end of a thread will undo in sets of System V semaphores (`SEM_UNDO`).

use aya_ebpf::bindings::seq_file;
use stasis_ebpf_common::offsets::{self as o, ABSENT};
use stasis_ebpf_common::{Header, KIND_UNDO, UNDO_SEMAPHORES, UndoHead, UndoRecord};

use crate::read::{at, field, many_at, offset};
use crate::task::TaskContext;
use crate::{emit, numbers};

/// Sets of a thread that are told, for the verifier has to see an end.
const SETS: u32 = 64;

#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn task_undo(context: *mut TaskContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task) = unsafe { ((*context).meta, (*context).task as u64) };
    if task == 0 || offset(o::SEM_UNDO_LIST) == ABSENT || offset(o::SEM_UNDO_NEXT) == ABSENT {
        return 0;
    }
    let list: u64 = field(task, o::TASK_SEM_UNDO);
    if list == 0 {
        return 0;
    }
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    let end = list + u64::from(offset(o::SEM_UNDO_LIST));
    let mut node: u64 = at(end);
    // Once, and not for each set: the verifier goes through it each time.
    let tid = numbers::of(field(task, o::TASK_THREAD_PID));
    let users: u32 = field(list, o::SEM_UNDO_USERS);
    for place in 1..=SETS {
        // (Not as comparisons of pointers: the verifier has them for numbers.)
        if node == 0 || node ^ end == 0 {
            break;
        }
        let next: u64 = at(node);
        let more = u32::from(place == SETS && next ^ end != 0);
        let undo = node - u64::from(offset(o::SEM_UNDO_NEXT));
        let set = field(undo, o::SEM_UNDO_SET);
        let bytes = size_of::<UndoRecord>() as u32;
        let header = Header { kind: KIND_UNDO, bytes };
        emit(seq, &UndoHead { header, list, users, tid, set, more });
        emit_adjustments(seq, adjustments(undo));
        node = next;
    }
    0
}

// A function of its own, with a stack frame of its own.
#[inline(never)]
fn emit_adjustments(seq: *mut seq_file, place: u64) {
    emit(seq, &many_at::<[i16; UNDO_SEMAPHORES]>(place));
}

/// Where the adjustments are: in the structure behind the set's number, or, before Linux 5.16, where it points to.
#[inline(always)]
fn adjustments(undo: u64) -> u64 {
    let place = offset(o::SEM_UNDO_ADJUSTMENTS);
    if place == offset(o::SEM_UNDO_SET) + size_of::<i32>() as u32 {
        return undo + u64::from(place);
    }
    field(undo, o::SEM_UNDO_ADJUSTMENTS)
}
