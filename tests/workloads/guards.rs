//! Guard regions (`MADV_GUARD_INSTALL`, Linux 6.13; of files 6.15) in memory of every kind, among pages that
//! hold something. Where the kernel has none, there are none.

use std::fs::OpenOptions;
use std::ops::Range;

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, pattern};

const PAGE: usize = 4096;
const INSTALL: libc::c_int = 102;
const REMOVE: libc::c_int = 103;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Whether the kernel has guard regions in memory of every kind (Linux 6.15).
fn knows_guards() -> bool {
    let kernel = nix::sys::utsname::uname().expect("uname");
    let release = kernel.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// A region whose pages are guarded in places.
struct Guarded {
    name: &'static str,
    region: Region,
    pages: usize,
    guards: Vec<Range<usize>>,
}

impl Guarded {
    /// Fills a region, but for its guards and every third page.
    fn new(name: &'static str, region: Region, pages: usize, guards: &[Range<usize>]) -> Self {
        let mut made = Self { name, region, pages, guards: Vec::new() };
        for guard in guards {
            match made.advise(guard, INSTALL) {
                Ok(_) => made.guards.push(guard.clone()),
                Err(error) if knows_guards() => panic!("guard {name}: {error}"),
                // An older kernel: its memory is carried without.
                Err(_) => {}
            }
        }
        made
    }

    fn filled(self) -> Self {
        for page in (0..self.pages).filter(|page| self.is_filled(*page)) {
            self.region.bytes()[page * PAGE..(page + 1) * PAGE].copy_from_slice(&content(page));
        }
        self
    }

    fn advise(&self, guard: &Range<usize>, advice: libc::c_int) -> std::io::Result<i32> {
        let start = (self.region.addr() + guard.start * PAGE) as *mut libc::c_void;
        // SAFETY: the pages are the region's, and no reference to their bytes is alive.
        check(unsafe { libc::madvise(start, guard.len() * PAGE, advice) })
    }

    fn is_guarded(&self, page: usize) -> bool {
        self.guards.iter().any(|guard| guard.contains(&page))
    }

    fn is_filled(&self, page: usize) -> bool {
        !self.is_guarded(page) && !page.is_multiple_of(3)
    }

    /// What is in a page; `None` of one that cannot be read.
    fn read(&self, page: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; PAGE];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: PAGE };
        let there = (self.region.addr() + page * PAGE) as *mut libc::c_void;
        let remote = libc::iovec { iov_base: there, iov_len: PAGE };
        let own = std::process::id().cast_signed();
        // SAFETY: the kernel writes a page at most, into a vector that has one.
        let read =
            unsafe { libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0) };
        (read == PAGE as isize).then_some(bytes)
    }

    fn check(&self, found: &mut Findings) {
        for page in 0..self.pages {
            let what = format!("page {page} of {}", self.name);
            match (self.read(page), self.is_guarded(page)) {
                (None, guarded) => found.must(&format!("{what} can be read"), guarded),
                (Some(_), true) => found.must(&format!("{what} is guarded"), false),
                (Some(bytes), false) => {
                    let filled = if self.is_filled(page) { content(page) } else { vec![0; PAGE] };
                    found.must(&format!("{what} holds what it did"), bytes == filled);
                }
            }
        }
    }
}

fn content(page: usize) -> Vec<u8> {
    pattern(page as u64, PAGE)
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let private = libc::MAP_PRIVATE;
    let anonymous = |pages, flags| Region::map(pages * PAGE, RW, flags, None);
    let few = [0..2, 8..9, 15..16];
    let small = Guarded::new("private memory", anonymous(16, private), 16, &few).filled();
    // Enough to be copied while the program runs.
    const MANY: usize = 2048;
    let large = [5..6, 1000..1003, 2040..2048];
    let large = Guarded::new("much memory", anonymous(MANY, private), MANY, &large).filled();
    let shared = anonymous(16, libc::MAP_SHARED);
    let shared = Guarded::new("shared memory", shared, 16, &few).filled();
    let path = stage.path("mapped");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = file.expect("make a file");
    file.set_len(16 * PAGE as u64).expect("make it longer");
    let of_file = |prot, flags| Region::map(16 * PAGE, prot, flags, Some((&file, 0)));
    let private_file = Guarded::new("a private file", of_file(RW, private), 16, &few).filled();
    // Nobody writes there, so that nothing of it is read when the program stands still.
    let zeros = stage.path("zeros");
    let zeros_file = OpenOptions::new().read(true).write(true).create_new(true).open(&zeros);
    let zeros_file = zeros_file.expect("make a file");
    zeros_file.set_len(3 * PAGE as u64).expect("make it longer");
    let read_only = Region::map(PAGE, libc::PROT_READ, private, Some((&zeros_file, 0)));
    let read_only = Guarded::new("a file to be read", read_only, 1, std::slice::from_ref(&(0..1)));
    // A guard that is taken away leaves its mark on the mapping.
    let mut freed = Guarded::new(
        "memory once guarded",
        anonymous(3, private),
        3,
        std::slice::from_ref(&(1..2)),
    );
    if let Some(guard) = freed.guards.pop() {
        freed.advise(&guard, REMOVE).expect("remove the guard");
    }
    let freed = freed.filled();
    let all = [small, large, shared, private_file, read_only, freed];
    let mut found = Findings::default();
    all.iter().for_each(|one| one.check(&mut found));
    stage.ready_then_wait();
    all.iter().for_each(|one| one.check(&mut found));
    found.outcome()
}
