//! Which pages of a process hold what: `PAGEMAP_SCAN` (Linux 6.7), or `/proc/PID/pagemap` itself.
//!
//! See `Documentation/admin-guide/mm/pagemap.rst`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use ids::HostPid;

pub use arch::memory::PAGE_SIZE;

/// A run of pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRun {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    categories: u64,
}

impl PageRun {
    /// The run from `start` to `end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end, categories: 0 }
    }

    /// Number of pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_SIZE
    }

    /// Number of bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

const PAGE_IS_WPALLOWED: u64 = 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// Guarded by `MADV_GUARD_INSTALL`; such a page is `SWAPPED` and `WRITTEN`, too. Since Linux 6.15.
const PAGE_IS_GUARD: u64 = 1 << 8;

// Bits of an entry of `/proc/PID/pagemap`.
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;
/// Of a file, or shared.
const ENTRY_FILE: u64 = 1 << 61;
/// As [`PAGE_IS_GUARD`].
const ENTRY_GUARD: u64 = 1 << 58;
/// Mapped once: by this process alone.
const ENTRY_ALONE: u64 = 1 << 56;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// Write-protect what matches, in the same step in which it is reported.
const PM_SCAN_WP_MATCHING: u64 = 1;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// The page map of one process, open while it runs and read while it is frozen.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    /// The kernel has no `PAGEMAP_SCAN`.
    without_scan: bool,
    /// The kernel's scan does not tell of guard regions.
    without_guards: bool,
    /// Guard regions that scans have met.
    guards: Vec<PageRun>,
    /// Reused between scans.
    runs: Vec<PageRun>,
}

/// Runs that one call of the scan can report.
const RUNS: usize = 4096;

impl PageMap {
    /// Opens the page map of a process.
    ///
    /// # Errors
    /// When there is no such process, or no right to read it.
    pub fn open(pid: HostPid) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self::of(file, false, false))
    }

    /// The same, so many times, for other threads to read at the same time.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn clones(&self, count: usize) -> io::Result<Vec<Self>> {
        let clone =
            |_| Ok(Self::of(self.file.try_clone()?, self.without_scan, self.without_guards));
        (0..count).map(clone).collect()
    }

    const fn of(file: File, without_scan: bool, without_guards: bool) -> Self {
        Self { file, without_scan, without_guards, guards: Vec::new(), runs: Vec::new() }
    }

    /// Takes over what other maps of the process have met.
    pub fn join(&mut self, others: Vec<Self>) {
        self.guards.extend(others.into_iter().flat_map(|other| other.guards));
    }

    /// The guard regions that scans have met since they were last taken, by rising address. Pages in
    /// them are in none of the runs that scans report.
    pub fn take_guards(&mut self) -> Vec<PageRun> {
        let mut met = std::mem::take(&mut self.guards);
        met.sort_unstable_by_key(|run| run.start);
        let mut guards: Vec<PageRun> = Vec::with_capacity(met.len());
        for run in met {
            match guards.last_mut() {
                Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
                _ => guards.push(run),
            }
        }
        guards
    }

    /// Looks for guard regions where no other scan does. None are met on a kernel that does not tell.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn look_for_guards(&mut self, span: PageRun) -> io::Result<()> {
        let arguments = ScanArguments {
            category_mask: PAGE_IS_GUARD,
            return_mask: PAGE_IS_GUARD,
            ..ScanArguments::default()
        };
        match self.walk(span, arguments, &mut Vec::new()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => {
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// The runs inside `spans` (ascending, without overlap) whose pages belong to the process
    /// alone and may hold anything: anonymous, in memory or swapped out, and not the zero page.
    ///
    /// In a private file mapping these are the pages that no longer are the file's.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn private_pages(&mut self, spans: &[PageRun]) -> io::Result<Vec<PageRun>> {
        let mut found = Vec::new();
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Ok(found) };
        if !self.without_scan {
            // One walk over everything: the kernel passes over holes faster than it takes calls.
            match self.scan(first.start, last.end, &mut found) {
                Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                    self.without_scan = true;
                    found.clear();
                }
                done => return done.map(|()| clip(&found, spans)),
            }
        }
        for span in spans {
            self.read_entries(span.start, span.end, &mut found)?;
        }
        Ok(found)
    }

    fn scan(&mut self, start: u64, end: u64, found: &mut Vec<PageRun>) -> io::Result<()> {
        let arguments = ScanArguments {
            category_inverted: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArguments::default()
        };
        self.walk(PageRun::new(start, end), arguments, found).map(drop)
    }

    /// The runs inside `span` that hold anything. Only for spans of anonymous memory: there no
    /// page can be a file's, and not to ask for that makes it several times as fast.
    ///
    /// # Errors
    /// When the process is gone, or the kernel has no scan (`ENOTTY`).
    pub fn anonymous_pages(&mut self, span: PageRun, found: &mut Vec<PageRun>) -> io::Result<()> {
        let arguments = ScanArguments {
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArguments::default()
        };
        self.walk(span, arguments, found).map(drop)
    }

    /// The pages of tracked anonymous memory in `span` that hold anything and were written since
    /// they were last protected (or since they came to be). With `protect` they are protected in
    /// the same step. Stops after `limit` pages (0 for no limit); returns where it stopped.
    ///
    /// # Errors
    /// When the process is gone, or the kernel has no scan.
    pub fn written(
        &mut self,
        span: PageRun,
        protect: bool,
        limit: u64,
        found: &mut Vec<PageRun>,
    ) -> io::Result<u64> {
        let arguments = ScanArguments {
            flags: if protect { PM_SCAN_WP_MATCHING } else { 0 },
            max_pages: limit,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArguments::default()
        };
        self.walk(span, arguments, found)
    }

    /// The pages of tracked anonymous memory in `span` that are not write-protected, whether they
    /// hold anything or not. Holes as large as a page table may be left out. This is a walk for
    /// which the kernel has a short cut: a tenth of the time of the others.
    ///
    /// # Errors
    /// When the process is gone, or the kernel has no scan.
    pub fn unprotected(&mut self, span: PageRun, found: &mut Vec<PageRun>) -> io::Result<()> {
        let arguments = ScanArguments {
            category_mask: PAGE_IS_WRITTEN,
            return_mask: PAGE_IS_WRITTEN,
            ..ScanArguments::default()
        };
        self.walk(span, arguments, found).map(drop)
    }

    /// Whether there is anything at an address, in memory or swapped out.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn holds_page(&self, address: u64) -> io::Result<bool> {
        let mut entry = [0; 8];
        self.file.read_exact_at(&mut entry, address / PAGE_SIZE * 8)?;
        Ok(u64::from_ne_bytes(entry) & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0)
    }

    /// Whether all pages of anonymous memory in `span` that hold anything are in memory, and mapped
    /// by this process alone: it shares none of them with its kin since a fork.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn is_alone(&self, span: PageRun) -> io::Result<bool> {
        const ENTRY: usize = 8;
        let mut entries = [0; 512 * ENTRY];
        let mut at = span.start / PAGE_SIZE;
        let end = span.end / PAGE_SIZE;
        while at < end {
            let count = ((end - at) as usize).min(entries.len() / ENTRY);
            let bytes = &mut entries[..count * ENTRY];
            self.file.read_exact_at(bytes, at * ENTRY as u64)?;
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            let alone = |entry: &[u8; ENTRY]| match u64::from_ne_bytes(*entry) {
                entry if entry & ENTRY_SWAPPED != 0 => false,
                entry => entry & ENTRY_PRESENT == 0 || entry & ENTRY_ALONE != 0,
            };
            if !entries.iter().all(alone) {
                return Ok(false);
            }
            at += count as u64;
        }
        Ok(true)
    }

    /// Has a scan for what pages hold leave out guard regions.
    const fn without_guards(&self, what: ScanArguments) -> ScanArguments {
        if self.without_guards || what.category_anyof_mask == 0 {
            return what;
        }
        // One that is met is told apart; but a mark of write protection would hide it.
        match what.flags & PM_SCAN_WP_MATCHING {
            0 => ScanArguments { return_mask: what.return_mask | PAGE_IS_GUARD, ..what },
            _ => ScanArguments {
                category_inverted: what.category_inverted | PAGE_IS_GUARD,
                category_mask: what.category_mask | PAGE_IS_GUARD,
                ..what
            },
        }
    }

    /// Walks a span, adding to `found`; returns where it ended.
    fn walk(
        &mut self,
        span: PageRun,
        what: ScanArguments,
        found: &mut Vec<PageRun>,
    ) -> io::Result<u64> {
        self.runs.resize(RUNS, PageRun::default());
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start: span.start,
            end: span.end,
            vec: self.runs.as_mut_ptr() as u64,
            vec_len: self.runs.len() as u64,
            ..self.without_guards(what)
        };
        let mut left = what.max_pages;
        while arguments.start < span.end {
            arguments.max_pages = left;
            // SAFETY: the argument struct is the kernel's, and `vec` points to `vec_len` regions
            // that this value owns.
            let seen =
                unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
            let Ok(seen) = usize::try_from(seen) else {
                let error = io::Error::last_os_error();
                // What it does not know it refuses before it begins.
                if error.raw_os_error() == Some(libc::EINVAL) && !self.without_guards {
                    self.without_guards = true;
                    let rest = PageRun::new(arguments.start, span.end);
                    return self.walk(rest, ScanArguments { max_pages: left, ..what }, found);
                }
                return Err(error);
            };
            let mut seen_to = arguments.start;
            for run in &self.runs[..seen.min(RUNS)] {
                match run.categories & PAGE_IS_GUARD {
                    0 => push(found, run.start, run.end),
                    _ => self.guards.push(PageRun::new(run.start, run.end)),
                }
                left = left.saturating_sub(run.pages());
                seen_to = run.end;
            }
            if what.max_pages > 0 && left == 0 {
                arguments.start = arguments.walk_end.max(seen_to);
                break;
            }
            // The kernel reports in batches of 512, and leaves `walk_end` where the last full one
            // ended when it comes to the end of the span behind it (6.7 to 6.18 at least).
            let next = if seen < RUNS { span.end } else { arguments.walk_end.max(seen_to) };
            if next <= arguments.start {
                break;
            }
            arguments.start = next;
        }
        Ok(arguments.start)
    }

    /// The pages in `span` that are there, those of zeros as well, without those of files.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn pages_there(&self, span: PageRun, found: &mut Vec<PageRun>) -> io::Result<()> {
        self.read_entries(span.start, span.end, found)
    }

    /// The way of kernels without the scan: eight bytes a page, from which the zero page cannot
    /// be told, so that it counts as content.
    fn read_entries(&self, start: u64, end: u64, found: &mut Vec<PageRun>) -> io::Result<()> {
        let mut entries = vec![0u8; 64 * 1024];
        let mut at = start;
        while at < end {
            let pages = ((end - at) / PAGE_SIZE).min(entries.len() as u64 / 8);
            let bytes = &mut entries[..pages as usize * 8];
            self.file.read_exact_at(bytes, at / PAGE_SIZE * 8)?;
            for entry in bytes.chunks_exact(8) {
                let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
                if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0
                    && entry & (ENTRY_FILE | ENTRY_GUARD) == 0
                {
                    push(found, at, at + PAGE_SIZE);
                }
                at += PAGE_SIZE;
            }
        }
        Ok(())
    }
}

/// The parts of `runs` that lie in `spans`; both ascend.
#[must_use]
pub fn clip(runs: &[PageRun], spans: &[PageRun]) -> Vec<PageRun> {
    let mut clipped = Vec::with_capacity(runs.len());
    let mut spans = spans.iter().peekable();
    for run in runs {
        while spans.next_if(|span| span.end <= run.start).is_some() {}
        for span in spans.clone().take_while(|span| span.start < run.end) {
            push(&mut clipped, run.start.max(span.start), run.end.min(span.end));
        }
    }
    clipped
}

/// Appends a run, joined to the last one where they touch.
pub fn push(found: &mut Vec<PageRun>, start: u64, end: u64) {
    match found.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => found.push(PageRun::new(start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    #[test]
    fn runs_are_clipped_to_spans() {
        let run = |start, end| PageRun::new(start * PAGE_SIZE, end * PAGE_SIZE);
        let spans = [run(2, 4), run(6, 8), run(8, 9), run(20, 30)];
        let runs = [run(0, 1), run(3, 7), run(8, 10), run(15, 40)];
        assert_eq!(clip(&runs, &spans), [run(3, 4), run(6, 7), run(8, 9), run(20, 30)]);
        assert_eq!(clip(&runs, &[]), []);
    }

    /// More runs than the kernel or this reader take at once, in numbers around the limits of both.
    #[test]
    fn many_runs_are_seen_once_each() {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
        for count in [511, 512, 513, 4095, 4096, 4097, 5000, 8192] {
            let bytes = NonZeroUsize::new(2 * count * PAGE_SIZE as usize).unwrap();
            let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: a new anonymous mapping; nothing else uses it.
            let region = unsafe { mmap_anonymous(None, bytes, rights, MapFlags::MAP_PRIVATE) };
            let region = region.unwrap();
            let start = region.as_ptr() as u64;
            // SAFETY: the range is ours.
            unsafe { libc::madvise(region.as_ptr(), bytes.get(), libc::MADV_NOHUGEPAGE) };
            let expected: Vec<_> = (0..count as u64)
                .map(|index| start + 2 * index * PAGE_SIZE)
                .map(|page| PageRun::new(page, page + PAGE_SIZE))
                .collect();
            for run in &expected {
                // SAFETY: inside the mapping.
                unsafe { (run.start as *mut u8).write_volatile(1) };
            }
            let mut map = PageMap::open(HostPid::own()).unwrap();
            let span = PageRun::new(start, start + bytes.get() as u64);
            let found = map.private_pages(&[span]).unwrap();
            assert_eq!(found, expected, "{count} runs");
            let mut found = Vec::new();
            map.anonymous_pages(span, &mut found).unwrap();
            let ends = |runs: &[PageRun]| runs.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
            assert_eq!(ends(&found), ends(&expected), "{count} runs");
            // SAFETY: the mapping is ours and not used any more.
            unsafe { munmap(region, bytes.get()) }.unwrap();
        }
    }

    /// Needs Linux 6.15; on one before, the test says so.
    #[test]
    #[allow(clippy::print_stdout, reason = "nothing is skipped without a word")]
    fn guard_regions_hold_nothing_and_are_met() {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
        const MADV_GUARD_INSTALL: i32 = 102;
        let bytes = NonZeroUsize::new(16 * PAGE_SIZE as usize).unwrap();
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping; nothing else uses it.
        let region = unsafe { mmap_anonymous(None, bytes, rights, MapFlags::MAP_PRIVATE) }.unwrap();
        let start = region.as_ptr() as u64;
        let run = |from, to| PageRun::new(start + from * PAGE_SIZE, start + to * PAGE_SIZE);
        for page in [3u64, 9] {
            // SAFETY: inside the mapping.
            unsafe { (run(page, page).start as *mut u8).write_volatile(1) };
        }
        for (page, pages) in [(0, 2), (4, 1), (8, 1)] {
            let at = run(page, page).start as *mut libc::c_void;
            // SAFETY: nothing is kept in these pages of the mapping, which is ours.
            let done = unsafe { libc::madvise(at, pages * PAGE_SIZE as usize, MADV_GUARD_INSTALL) };
            if done != 0 {
                println!("skipped: this kernel has no guard regions");
                return;
            }
        }
        let mut map = PageMap::open(HostPid::own()).unwrap();
        let guards = [run(0, 2), run(4, 5), run(8, 9)];
        let span = run(0, 16);
        assert_eq!(map.private_pages(&[span]).unwrap(), [run(3, 4), run(9, 10)]);
        assert_eq!(map.take_guards(), guards);
        let mut found = Vec::new();
        map.anonymous_pages(span, &mut found).unwrap();
        assert_eq!(found, [run(3, 4), run(9, 10)]);
        let mut other = map.clones(1).unwrap();
        other[0].look_for_guards(span).unwrap();
        map.join(other);
        assert_eq!(map.take_guards(), guards);
        assert_eq!(map.take_guards(), []);
        // SAFETY: the mapping is ours and not used any more.
        unsafe { munmap(region, bytes.get()) }.unwrap();
    }

    #[test]
    fn both_ways_see_the_same_touched_pages() {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
        let bytes = NonZeroUsize::new(64 * PAGE_SIZE as usize).unwrap();
        // SAFETY: a new anonymous mapping; nothing else uses it.
        let region = unsafe {
            mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .unwrap();
        let start = region.as_ptr() as u64;
        // No huge pages: the test counts small ones.
        // SAFETY: the range is ours.
        unsafe { libc::madvise(region.as_ptr(), bytes.get(), libc::MADV_NOHUGEPAGE) };
        for page in [3u64, 4, 9] {
            // SAFETY: inside the mapping.
            unsafe { ((start + page * PAGE_SIZE) as *mut u8).write_volatile(1) };
        }
        // A read of an untouched page maps the zero page, which is no content.
        // SAFETY: inside the mapping.
        let _ = unsafe { ((start + 20 * PAGE_SIZE) as *const u8).read_volatile() };
        let mut map = PageMap::open(HostPid::own()).unwrap();
        let end = start + bytes.get() as u64;
        let scanned = map.private_pages(&[PageRun::new(start, end)]).unwrap();
        let expected =
            [(3, 5), (9, 10)].map(|(a, b)| (start + a * PAGE_SIZE, start + b * PAGE_SIZE));
        let seen: Vec<_> = scanned.iter().map(|run| (run.start, run.end)).collect();
        assert_eq!(seen, expected);
        let mut read = Vec::new();
        map.read_entries(start, end, &mut read).unwrap();
        assert!(
            expected.iter().all(|&(a, b)| read.iter().any(|run| run.start <= a && run.end >= b))
        );
        // SAFETY: the mapping is ours and not used again.
        unsafe { munmap(region, bytes.get()) }.unwrap();
    }
}
