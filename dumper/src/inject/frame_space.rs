//! Where signal frames may lie: memory of the task that nobody uses.
//!
//! The kernel answers the same question for every signal: on the alternate signal stack, else below
//! the stack pointer. Its answer does not always do here. A frame of ours may be larger than the
//! rest of a small stack, a thread may already be on its alternate stack, and a stack pointer may
//! point to anything (coroutines keep their stacks among other data). So there is a last place: the
//! far end of the process's initial stack, which the kernel lets grow on demand.

use arch::fpu::Layout;
use arch::regs::RED_ZONE;
use collector::{Mapping, Process, VmFlags};
use ids::HostPid;
use images::MappingKind;

/// What is known of the places in a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room<'a> {
    /// Where this processor keeps its extended state.
    pub(crate) layout: &'a Layout,
    /// Bytes of extended state that the kernel puts into the thread's signal frames.
    pub(crate) extended_bytes: Option<usize>,
    /// The thread's alternate signal stack: start, bytes.
    pub(crate) alt_stack: Option<(u64, u64)>,
    /// The process's mappings, ascending.
    pub(crate) mappings: &'a [Mapping],
    /// Counts the threads in this memory that are asked at once.
    pub(crate) slot: u64,
    /// Whether other threads run meanwhile: nothing is used then that could be theirs.
    pub(crate) others_run: bool,
}

impl<'a> Room<'a> {
    /// Of a thread of a process that stands still, as far as the inventory knows; `memory` is the process that has the mappings.
    pub(crate) fn of(
        layout: &'a Layout,
        (process, memory): (&'a Process, &'a Process),
        tid: HostPid,
        slot: u64,
    ) -> Self {
        let known = process.threads.get(&tid).and_then(|thread| thread.in_task);
        Self {
            layout,
            extended_bytes: known.and_then(|known| known.extended_bytes),
            alt_stack: known.map(|known| (known.alt_stack_start, known.alt_stack_bytes)),
            mappings: &memory.mappings,
            slot,
            others_run: false,
        }
    }
}

/// A place for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameSpace {
    /// Address below which they may lie.
    pub(crate) top: u64,
    /// Lowest address that they may have.
    pub(crate) floor: u64,
    /// Whether the kernel has to make the stack grow for them.
    pub(crate) grows: bool,
    /// Bytes from `floor` on that have to be zero, so that it is believed that nobody uses them.
    pub(crate) zeros: u64,
}

/// Between frames at the end of the initial stack and what may be in use of it: a stack grows by
/// pages, and a task that has been abandoned reads its frames at once.
const DISTANCE: u64 = 64 << 10;
/// The ends of stacks that are given to threads are multiples of this long.
const SLOT: u64 = 16 << 10;

/// Where `bytes` of frames may lie, best first. `sp` is the thread's stack pointer.
pub(crate) fn frame_spaces(sp: u64, bytes: u64, room: &Room<'_>) -> Vec<FrameSpace> {
    let mut frame_spaces = Vec::new();
    let fixed = |top, floor| FrameSpace { top, floor, grows: false, zeros: 0 };
    let on_alt_stack = match room.alt_stack {
        Some((start, bytes)) if bytes > 0 => {
            let on = sp.wrapping_sub(start) < bytes;
            let top = if on { sp.saturating_sub(RED_ZONE) } else { start.saturating_add(bytes) };
            frame_spaces.push(fixed(top, start));
            on
        }
        _ => false,
    };
    if !on_alt_stack && let Some(mapping) = stack_of(sp, room) {
        let top = sp - RED_ZONE.min(sp);
        frame_spaces.push(match is_initial_stack(mapping) {
            true => FrameSpace { grows: true, ..fixed(top, 0) },
            false => fixed(top, mapping.start),
        });
    }
    if let Some(stack) = room.mappings.iter().rev().find(|mapping| is_initial_stack(mapping)) {
        frame_spaces.extend(far_end(stack, bytes, room.slot));
    }
    frame_spaces.retain(|space| {
        space.top.checked_sub(bytes).is_some_and(|start| start >= space.floor)
            && !waits_for_somebody(space, bytes, room.mappings)
    });
    frame_spaces
}

/// Whether a look at the place may wait for who serves missing pages of it, and stands still himself.
fn waits_for_somebody(space: &FrameSpace, bytes: u64, mappings: &[Mapping]) -> bool {
    let start = if space.zeros == 0 { space.top.saturating_sub(bytes) } else { space.floor };
    let end = space.top.max(space.floor.saturating_add(space.zeros));
    let mut touched = mappings.iter().filter(|it| it.start < end && start < it.end);
    touched.any(|mapping| mapping.flags.contains(VmFlags::UFFD_MISSING))
}

/// The mapping that `sp` is in, if it is likely that what lies below is free: not in the heap, nor
/// in a file's memory.
fn stack_of<'a>(sp: u64, room: &Room<'a>) -> Option<&'a Mapping> {
    // A stack that is used to its first byte begins where it ends.
    let mapping = room.mappings.iter().find(|mapping| mapping.start < sp && sp <= mapping.end)?;
    let stack = mapping.inode == 0
        && mapping.kind != MappingKind::Heap
        && mapping.flags.contains(VmFlags::READ | VmFlags::WRITE);
    let known = !room.others_run || is_initial_stack(mapping);
    (stack && known).then_some(mapping)
}

fn is_initial_stack(mapping: &Mapping) -> bool {
    mapping.kind == MappingKind::Stack
}

/// The end of the initial stack: inside, where it was never used, or else below.
fn far_end(stack: &Mapping, bytes: u64, slot: u64) -> Vec<FrameSpace> {
    let slot_bytes = bytes.next_multiple_of(SLOT);
    let Some(offset) = slot.checked_mul(slot_bytes) else { return Vec::new() };
    let inside = stack.start.checked_add(offset).map(|floor| FrameSpace {
        top: floor + slot_bytes,
        floor,
        grows: false,
        zeros: slot_bytes + DISTANCE,
    });
    let below = stack.start.checked_sub(DISTANCE).and_then(|start| start.checked_sub(offset));
    let below = below.map(|top| FrameSpace {
        top,
        floor: top.saturating_sub(slot_bytes),
        grows: true,
        zeros: 0,
    });
    inside.filter(|space| space.floor + space.zeros <= stack.end).into_iter().chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, name: &str) -> Mapping {
        Mapping {
            start,
            end,
            flags: VmFlags::READ | VmFlags::WRITE,
            offset: 0,
            device: 0,
            inode: 0,
            protection_key: 0,
            policy: None,
            locked: None,
            name: name.into(),
            kind: collector::mapping_kind(name.as_bytes(), 0, VmFlags::default()),
        }
    }

    const HEAP: u64 = 0x10_0000;
    const THREAD: u64 = 0x100_0000;
    const STACK: u64 = 0x7000_0000;
    /// What frames take on a processor with AVX-512, and on one with AMX.
    const SIZES: [u64; 2] = [3_500, 11_800];

    fn address_space() -> [Mapping; 3] {
        [
            mapping(HEAP, HEAP + 0x10_0000, "[heap]"),
            mapping(THREAD, THREAD + 0x1_0000, ""),
            mapping(STACK, STACK + 0x2_1000, "[stack]"),
        ]
    }

    fn with<T>(
        alt_stack: Option<(u64, u64)>,
        others_run: bool,
        test: impl Fn(&Room<'_>) -> T,
    ) -> T {
        let (mappings, layout) = (address_space(), Layout::of([]));
        test(&Room {
            layout: &layout,
            extended_bytes: None,
            alt_stack,
            mappings: &mappings,
            slot: 0,
            others_run,
        })
    }

    /// Tops of the places for frames of `bytes`, the far end of the initial stack as 0 (inside) and
    /// 1 (below).
    fn tops(sp: u64, bytes: u64, alt_stack: Option<(u64, u64)>) -> Vec<u64> {
        let frame_spaces = with(alt_stack, false, |room| frame_spaces(sp, bytes, room));
        let far = |space: &FrameSpace| match space {
            FrameSpace { zeros: 1.., .. } => 0,
            FrameSpace { top, grows: true, .. } if *top < STACK => 1,
            FrameSpace { top, .. } => *top,
        };
        frame_spaces.iter().map(far).collect()
    }

    #[test]
    fn memory_whose_missing_pages_somebody_serves_is_left_alone() {
        let (mut mappings, layout) = (address_space(), Layout::of([]));
        mappings[1].flags |= VmFlags::UFFD_MISSING;
        let alt = Some((THREAD + 0x4000, 0x8000));
        for (sp, alt_stack) in [(THREAD + 0xf000, None), (STACK + 0x2_0000, alt)] {
            let room = Room {
                layout: &layout,
                extended_bytes: None,
                alt_stack,
                mappings: &mappings,
                slot: 0,
                others_run: false,
            };
            let spaces = frame_spaces(sp, SIZES[0], &room);
            assert!(
                !spaces.is_empty() && spaces.iter().all(|space| space.top > STACK - DISTANCE - 1)
            );
        }
    }

    #[test]
    fn frames_lie_where_the_kernel_would_put_a_signal() {
        let sp = STACK + 0x2_0000;
        for bytes in SIZES {
            assert_eq!(tops(sp, bytes, None)[0], sp - RED_ZONE);
            assert_eq!(tops(sp, bytes, Some((HEAP, 0x8000)))[0], HEAP + 0x8000);
            assert_eq!(tops(sp, bytes, Some((HEAP, 0)))[0], sp - RED_ZONE);
            // Already on the alternate stack: below what is in use of it.
            let alt = Some((HEAP, 0x8000));
            assert_eq!(tops(HEAP + 0x7000, bytes, alt)[0], HEAP + 0x7000 - RED_ZONE);
        }
    }

    #[test]
    fn an_alternate_stack_that_is_too_small_is_passed_over() {
        for bytes in SIZES {
            let sp = STACK + 0x2_0000;
            assert_eq!(tops(sp, bytes, Some((HEAP, 2048))), [sp - RED_ZONE, 0, 1]);
            let sp = THREAD + 0x8000;
            assert_eq!(tops(sp, bytes, Some((HEAP, 2048))), [sp - RED_ZONE, 0, 1]);
            // On it, what is below it belongs to others.
            assert_eq!(tops(HEAP + 1024, bytes, Some((HEAP, 2048))), [0, 1]);
        }
        let sp = STACK + 0x2_0000;
        assert_eq!(tops(sp, SIZES[0], Some((HEAP, 3632)))[0], HEAP + 3632);
        assert_eq!(tops(sp, SIZES[1], Some((HEAP, 3632)))[0], sp - RED_ZONE);
    }

    #[test]
    fn what_may_not_be_a_stack_is_left_alone() {
        for bytes in SIZES {
            // Near a guard page, in the heap, nowhere.
            for sp in [THREAD + 0x800, HEAP + 0x8_0000, 0, 8, 0x5000, u64::MAX] {
                assert_eq!(tops(sp, bytes, None), [0, 1]);
            }
            // At its very end; and at its start, with nothing below.
            assert_eq!(tops(THREAD + 0x1_0000, bytes, None)[0], THREAD + 0x1_0000 - RED_ZONE);
            assert_eq!(tops(THREAD, bytes, None), [0, 1]);
        }
    }

    #[test]
    fn with_others_running_only_the_initial_stack_will_do() {
        let sp = THREAD + 0x8000;
        with(None, true, |room| assert!(frame_spaces(sp, SIZES[0], room)[0].zeros != 0));
        let sp = STACK + 0x2_0000;
        with(None, true, |room| assert_eq!(frame_spaces(sp, SIZES[0], room)[0].top, sp - RED_ZONE));
    }

    #[test]
    fn the_far_end_has_a_place_for_every_thread() {
        let stack = mapping(STACK, STACK + 0x80_0000, "[stack]");
        for bytes in SIZES {
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for slot in 0..100 {
                for space in far_end(&stack, bytes, slot) {
                    let range = (space.top - bytes, space.top);
                    assert!(space.top - space.floor >= bytes);
                    assert!(taken.iter().all(|other| range.1 <= other.0 || other.1 <= range.0));
                    taken.push(range);
                }
            }
            assert_eq!(taken.len(), 200);
        }
    }
}
