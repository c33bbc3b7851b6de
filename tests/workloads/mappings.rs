//! The map itself: places, protections, advice, names; `/proc/self/maps` must read the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::sync::mpsc;

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check};

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

/// Shared memory of which a page is mapped twice, another one not at all, and the end neither, which has more than
/// holes in it or not: all of it can be mapped again.
pub(crate) fn rearranged(stage: &Stage) -> Outcome {
    const PAGE: usize = 4096;
    const PAGES: u8 = 8;
    let page = |region: &Region, index: u8| region.addr() + usize::from(index) * PAGE;
    let arrange = |address: usize, to: u8| {
        // SAFETY: nobody has a reference into these pages.
        check(unsafe {
            libc::remap_file_pages(address as *mut libc::c_void, PAGE, 0, to.into(), 0)
        })
        .expect("remap_file_pages");
    };
    let regions = [false, true].map(|ends_in_hole| {
        let bytes = usize::from(PAGES) * PAGE;
        let region = Region::map(bytes, RW, libc::MAP_SHARED, None);
        let written = if ends_in_hole { PAGES - 1 } else { PAGES };
        for index in 0..written {
            region.bytes()[usize::from(index) * PAGE] = index + 1;
        }
        arrange(page(&region, 2), 1);
        // SAFETY: nobody has a reference into these pages.
        check(unsafe { libc::munmap(page(&region, 4) as *mut libc::c_void, 4 * PAGE) })
            .expect("munmap");
        region
    });
    // SAFETY: a page of the region that is mapped at the time.
    let first = |address: usize| unsafe { (address as *const u8).read_volatile() };

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (region, end) in regions.iter().zip([8, 0]) {
        let seen = [0, 1, 2, 3].map(|index| first(page(region, index)));
        found.same("as it was arranged", &[1, 2, 2, 4], &seen);
        arrange(page(region, 2), 2);
        found.same("a page that was not mapped", &3, &first(page(region, 2)));
        let bytes = usize::from(PAGES) * PAGE;
        let flags = libc::MREMAP_MAYMOVE;
        // SAFETY: the first pages are one mapping, and nobody has a reference into them.
        let grown = unsafe { libc::mremap(region.addr() as *mut _, 4 * PAGE, bytes, flags) };
        let grown = if grown == libc::MAP_FAILED { None } else { Some(grown as usize) };
        found.must("it grows", grown.is_some());
        let Some(grown) = grown else { continue };
        let seen = [4, 5, 6, 7].map(|index| first(grown + index * PAGE));
        found.same("the end", &[5, 6, 7, end], &seen);
        // SAFETY: what has just been made, to which nobody refers.
        unsafe { libc::munmap(grown as *mut libc::c_void, bytes) };
    }
    found.outcome()
}

/// A key of which the calling thread has the `rights` (`PKEY_DISABLE_*`), if there are any.
fn key_with(rights: i32) -> Option<i32> {
    // SAFETY: takes integers.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, rights) };
    i32::try_from(key).ok().filter(|key| *key > 0)
}

/// A page of fives with a key and a protection.
fn page_with(key: i32, protection: i32) -> Region {
    let page = Region::map(4096, RW, libc::MAP_PRIVATE, None);
    page.bytes().fill(5);
    // SAFETY: nobody has a reference into this page.
    let given =
        unsafe { libc::syscall(libc::SYS_pkey_mprotect, page.addr(), 4096, protection, key) };
    assert_eq!(given, 0, "pkey_mprotect: {}", std::io::Error::last_os_error());
    page
}

/// Whether the calling thread may read there, and write: the kernel copies by the thread's rights.
fn may(page: usize) -> (bool, bool) {
    let (from, to) = nix::unistd::pipe().expect("pipe");
    let five = [5_u8];
    nix::unistd::write(&to, &five).expect("write to a pipe");
    let at = page as *mut libc::c_void;
    // SAFETY: the kernel writes the byte that is there already, if it may.
    let writes = unsafe { libc::read(from.as_raw_fd(), at, 1) } == 1;
    // SAFETY: the kernel reads a byte of a mapping, if it may.
    let reads = unsafe { libc::write(to.as_raw_fd(), at, 1) } == 1;
    (reads, writes)
}

fn key_at(addr: usize) -> Option<String> {
    let text = fs::read_to_string("/proc/self/smaps").expect("read smaps");
    let from = text.find(&format!("{addr:x}-")).expect("the mapping");
    let line = text[from..].lines().find_map(|line| line.strip_prefix("ProtectionKey:"));
    line.map(|key| key.trim().to_owned())
}

/// Protection keys: such as some mapping has, one that none has, one that was given back while a
/// mapping had it, and the kernel's own for code that may not be read. Where the processor has none, there are none.
pub(crate) fn keys(stage: &Stage) -> Outcome {
    const NO_ACCESS: i32 = 1;
    const NO_WRITE: i32 = 2;
    let (ask, asked) = mpsc::channel::<[usize; 5]>();
    let (say, said) = mpsc::channel();
    // Born before there are keys: it has no rights by any.
    let thread = std::thread::spawn(move || {
        for pages in asked {
            say.send(pages.map(may)).expect("answer");
        }
    });
    let Some(first) = key_with(0) else {
        stage.ready_then_wait();
        return Ok(());
    };
    let given_back = key_with(0).expect("a key");
    let code = Region::map(4096, libc::PROT_EXEC, libc::MAP_PRIVATE, None);
    let read_only = key_with(NO_WRITE).expect("a key");
    let closed = key_with(NO_ACCESS).expect("a key");
    let of_no_mapping = key_with(0).expect("a key");
    let of_old = page_with(given_back, RW);
    // SAFETY: a mapping keeps it.
    let freed = unsafe { libc::syscall(libc::SYS_pkey_free, given_back) };
    assert_eq!(freed, 0, "pkey_free: {}", std::io::Error::last_os_error());
    let mapped = [
        page_with(first, RW),
        page_with(read_only, RW),
        page_with(closed, RW),
        page_with(first, libc::PROT_EXEC),
        of_old,
    ];
    let pages = [0, 1, 2, 3, 4].map(|n: usize| mapped[n].addr());
    let look = || {
        ask.send(pages).expect("ask");
        let elsewhere = said.recv().expect("an answer");
        (pages.map(may), elsewhere, pages.map(key_at), key_at(code.addr()))
    };
    let before = look();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("keys and rights", &before, &look());
    found.must("a thread has rights of its own", before.0[0] != before.1[0]);
    found.same("what is free", &Some(given_back), &key_with(0));
    found.same("what is free next", &Some(of_no_mapping + 1), &key_with(0));
    // SAFETY: nobody has a reference into this page.
    let opened = unsafe { libc::syscall(libc::SYS_pkey_mprotect, pages[2], 4096, RW, first) };
    found.same("a key that is still ours can be given", &0, &opened);
    found.must("contents", [0, 1, 2].iter().all(|n| mapped[*n].bytes()[0] == 5));
    drop(ask);
    thread.join().expect("the thread");
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
