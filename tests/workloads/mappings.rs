//! The map itself: places, protections, advice, names; `/proc/self/maps` must read the same.

use std::collections::BTreeMap;
use std::fs;

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// One line of `/proc/self/maps`, without what may rightly differ.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    start: u64,
    end: u64,
    rights: String,
    offset: String,
    name: String,
}

/// The map, with neighbours joined that only history keeps apart (a restored mapping has no
/// history), and the stack by its upper end (it grows).
fn map() -> Vec<Line> {
    let text = fs::read_to_string("/proc/self/maps").expect("read maps");
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let range = words.next().expect("range");
        let (start, end) = range.split_once('-').expect("range");
        let hex = |text| u64::from_str_radix(text, 16).expect("address");
        let mut new = Line {
            start: hex(start),
            end: hex(end),
            rights: words.next().expect("rights").to_owned(),
            offset: words.next().expect("offset").to_owned(),
            name: words.skip(2).collect::<Vec<_>>().join(" "),
        };
        if new.name == "[stack]" {
            new.start = 0;
        }
        match lines.last_mut() {
            Some(last)
                if new.name.is_empty()
                    && last.name.is_empty()
                    && last.end == new.start
                    && last.rights == new.rights =>
            {
                last.end = new.end;
            }
            _ => lines.push(new),
        }
    }
    lines
}

/// The two-letter flags that `/proc/self/smaps` gives the mapping at `addr`.
fn flags_at(addr: usize) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/smaps").expect("read smaps");
    let mut inside = false;
    for line in text.lines() {
        if let Some((range, _)) = line.split_once(' ')
            && let Some((start, end)) = range.split_once('-')
            && let (Ok(start), Ok(end)) =
                (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            inside = (start..end).contains(&addr);
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_ascii_whitespace().map(str::to_owned).collect();
        }
    }
    Vec::new()
}

/// Mappings of rare kinds: sealed ones, and memory that the kernel may drop. Where the kernel has none, there are
/// none.
pub(crate) fn rare(stage: &Stage) -> Outcome {
    const MAP_DROPPABLE: i32 = 0x08;
    const SYS_MSEAL: libc::c_long = 462;
    let sealed = Region::map(64 << 10, RW, libc::MAP_PRIVATE, None);
    sealed.bytes().fill(5);
    let half = (sealed.addr(), 32 << 10);
    // SAFETY: nobody changes these mappings after this.
    let has_seals = unsafe { libc::syscall(SYS_MSEAL, half.0, half.1, 0) } == 0;
    // SAFETY: a new mapping.
    let droppable = unsafe {
        libc::mmap(std::ptr::null_mut(), 8192, RW, MAP_DROPPABLE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if droppable != libc::MAP_FAILED {
        // SAFETY: a byte of the mapping that has just been made.
        unsafe { droppable.cast::<u8>().write(9) };
    }
    let flags = || [sealed.addr(), sealed.addr() + half.1, droppable as usize].map(flags_at);
    let before = flags();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("seals", &has_seals, &before[0].iter().any(|flag| flag == "sl"));
    found.same("flags", &before, &flags());
    found.must("contents", sealed.bytes().iter().all(|byte| *byte == 5));
    // SAFETY: the pages are our own; a sealed mapping stays as it is, and an other one was to be read before.
    let protect =
        |start: usize| unsafe { libc::mprotect(start as *mut libc::c_void, 4096, libc::PROT_READ) };
    found.same("the sealed half cannot be changed", &has_seals, &(protect(half.0) < 0));
    found.same("the other can", &0, &protect(half.0 + half.1));
    if droppable != libc::MAP_FAILED {
        // SAFETY: a byte of that mapping.
        let byte = unsafe { droppable.cast::<u8>().read() };
        // It must not come to be in two processes.
        let may_be = if stage.path("restored").exists() { 0 } else { 9 };
        found.must("what may be dropped is gone after a restore", byte == 0 || byte == may_be);
    }
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let advice: BTreeMap<&str, i32> = [
        ("hg", libc::MADV_HUGEPAGE),
        ("nh", libc::MADV_NOHUGEPAGE),
        ("dc", libc::MADV_DONTFORK),
        ("dd", libc::MADV_DONTDUMP),
        ("sr", libc::MADV_SEQUENTIAL),
        ("rr", libc::MADV_RANDOM),
    ]
    .into();
    let mut advised = Vec::new();
    for (letters, advice) in &advice {
        let region = Region::map(4 << 20, RW, libc::MAP_PRIVATE, None);
        if region.advise(*advice).is_ok() {
            region.bytes()[..8192].fill(7);
            advised.push((*letters, region));
        }
    }
    let down = Region::map(64 << 10, RW, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN, None);
    down.bytes().fill(9);
    // A mapping cut in pieces of different rights.
    let pieces = Region::map(64 << 10, RW, libc::MAP_PRIVATE, None);
    pieces.bytes().fill(3);
    for (index, rights) in
        [libc::PROT_NONE, libc::PROT_READ, RW, RW | libc::PROT_EXEC].iter().enumerate()
    {
        let start = pieces.addr() + index * (8 << 10);
        // SAFETY: the pages are in our own mapping; nothing refers to them now.
        let done = unsafe { libc::mprotect(start as *mut libc::c_void, 4096, *rights) };
        assert_eq!(done, 0);
    }
    std::hint::black_box(map());
    let before = map();
    let flags: Vec<_> = advised.iter().map(|(_, r)| flags_at(r.addr())).collect();

    stage.ready_then_wait();

    let mut found = Findings::default();
    let after = map();
    for line in &before {
        found.must(&format!("mapping {line:x?} is still there"), after.contains(line));
    }
    for line in &after {
        found.must(&format!("mapping {line:x?} was there before"), before.contains(line));
    }
    for ((letters, region), before) in advised.iter().zip(&flags) {
        found.same(
            &format!("flags of the mapping with {letters}"),
            before,
            &flags_at(region.addr()),
        );
        found.must("contents", region.bytes()[..8192].iter().all(|b| *b == 7));
    }
    found.must("growing mapping's contents", down.bytes().iter().all(|b| *b == 9));
    found.outcome()
}
