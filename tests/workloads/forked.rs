//! Private memory that processes share since a fork, page by page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, eventually, pattern};
use crate::tree::child;

const PAGE: usize = 4096;
const PAGES: usize = 600;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE;

/// What happens to page N after the fork is a matter of N modulo eight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Shared,
    OfChild,
    OfParent,
    OfBoth,
    GivenBackByChild,
    GivenBackByParent,
    /// Nobody has ever touched it.
    Untouched,
    /// Both write the same.
    Equal,
}

fn fate(page: usize) -> Fate {
    match page % 8 {
        0 => Fate::OfChild,
        1 => Fate::OfParent,
        2 => Fate::OfBoth,
        3 => Fate::GivenBackByChild,
        4 => Fate::GivenBackByParent,
        5 => Fate::Untouched,
        6 => Fate::Equal,
        _ => Fate::Shared,
    }
}

#[derive(Clone, Copy)]
enum Side {
    Parent,
    Child,
}

/// What a page holds; nothing if it is as it was mapped.
fn wanted(page: usize, side: Side) -> Option<Vec<u8>> {
    let seed = page as u64;
    let of = |seed| Some(pattern(seed, PAGE));
    match (fate(page), side) {
        (Fate::Untouched, _)
        | (Fate::GivenBackByChild, Side::Child)
        | (Fate::GivenBackByParent, Side::Parent) => None,
        (Fate::OfChild | Fate::OfBoth, Side::Child) => of(10_000 + seed),
        (Fate::OfParent | Fate::OfBoth, Side::Parent) => of(20_000 + seed),
        (Fate::Equal, _) => of(30_000 + seed),
        _ => of(seed),
    }
}

/// Memory that is shared by a fork, between pages without access, so that no other mapping becomes one with it.
struct Memory {
    region: Region,
    mapped: Vec<u8>,
}

impl Memory {
    fn new(file: Option<&File>) -> Self {
        let region = Region::map((PAGES + 2) * PAGE, RW, PRIVATE, file.map(|file| (file, 0)));
        let mut mapped = vec![0; PAGES * PAGE];
        if let Some(file) = file {
            file.read_exact_at(&mut mapped, PAGE as u64).expect("read");
        }
        for page in [0, PAGES + 1] {
            protect(region.addr() + page * PAGE, PAGE, libc::PROT_NONE).expect("mprotect");
        }
        let memory = Self { region, mapped };
        for page in (0..PAGES).filter(|&page| fate(page) != Fate::Untouched) {
            memory.page(page).copy_from_slice(&pattern(page as u64, PAGE));
        }
        memory
    }

    #[allow(clippy::mut_from_ref, reason = "one thread looks at a page at a time")]
    fn page(&self, page: usize) -> &mut [u8] {
        // SAFETY: the pages between the two without access can be read and written, by one thread.
        unsafe { std::slice::from_raw_parts_mut(self.address(page) as *mut u8, PAGE) }
    }

    fn address(&self, page: usize) -> usize {
        self.region.addr() + (1 + page) * PAGE
    }

    /// Does what happens after the fork.
    fn change(&self, side: Side) {
        for page in 0..PAGES {
            match (fate(page), side, wanted(page, side)) {
                (Fate::OfChild, Side::Parent, _) | (Fate::OfParent, Side::Child, _) => {}
                (Fate::OfChild | Fate::OfParent | Fate::OfBoth | Fate::Equal, _, Some(bytes)) => {
                    self.page(page).copy_from_slice(&bytes);
                }
                (Fate::GivenBackByChild | Fate::GivenBackByParent, _, None) => {
                    let address = self.address(page) as *mut _;
                    // SAFETY: a page of the region, which nothing refers to.
                    unsafe { libc::madvise(address, PAGE, libc::MADV_DONTNEED) };
                }
                _ => {}
            }
        }
    }

    fn verify(&self, side: Side, found: &mut Findings) {
        for page in 0..PAGES {
            let untouched = &self.mapped[page * PAGE..(page + 1) * PAGE];
            let wanted = wanted(page, side);
            let holds = *self.page(page) == *wanted.as_deref().unwrap_or(untouched);
            found.must(&format!("page {page}, of kind {}", page % 8), holds);
        }
    }

    /// The pages that nobody has written to since must be one in both processes.
    fn is_shared(&self, child: Pid, found: &mut Findings) {
        let frames = |pid: Pid| {
            let map = File::open(format!("/proc/{pid}/pagemap"))?;
            let mut bytes = vec![0; 8 * PAGES];
            map.read_exact_at(&mut bytes, (self.address(0) / PAGE * 8) as u64)?;
            let words = bytes.chunks_exact(8);
            Ok::<_, io::Error>(words.map(frame).collect::<Vec<u64>>())
        };
        let (Some(own), Some(of_child)) = (
            found.works("read the page map", frames(Pid::this())),
            found.works("read the child's page map", frames(child)),
        ) else {
            return;
        };
        for page in (0..PAGES).filter(|&page| fate(page) == Fate::Shared) {
            let one = own[page] == of_child[page] && own[page] != 0;
            found.must(&format!("page {page} is one in both processes"), one);
        }
        for page in (0..PAGES).filter(|&page| fate(page) == Fate::OfBoth) {
            found.must(&format!("page {page} is each one's own"), own[page] != of_child[page]);
        }
    }
}

/// The number of the frame that a page is in.
fn frame(entry: &[u8]) -> u64 {
    const FRAME: u64 = (1 << 55) - 1;
    entry.try_into().map_or(0, u64::from_ne_bytes) & FRAME
}

fn protect(address: usize, bytes: usize, protection: i32) -> io::Result<()> {
    // SAFETY: the callers' own regions, and no reference to what loses its access is alive.
    crate::stage::check(unsafe { libc::mprotect(address as *mut _, bytes, protection) }).map(drop)
}

/// Waits for something to appear on the stage.
fn await_sign(stage: &Stage, name: &str) {
    while !stage.path(name).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn all_stand(stage: &Stage, names: &[&str]) {
    let stand = || names.iter().all(|name| stage.path(name).exists());
    assert!(eventually(stand), "{names:?} do not stand");
}

/// Ends the children, who check themselves.
fn join(stage: &Stage, children: &[Pid], found: &mut Findings) {
    stage.publish("checked", "");
    for &pid in children {
        found.same("a child's own check", &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    }
}

fn files(stage: &Stage) -> File {
    let path = stage.path("mapped");
    std::fs::write(&path, pattern(99, (PAGES + 2) * PAGE)).expect("write");
    File::options().read(true).write(true).open(path).expect("open")
}

/// A parent and its child.
pub(crate) fn run(stage: &Stage) -> Outcome {
    let (anonymous, of_file) = (Memory::new(None), Memory::new(Some(&files(stage))));
    let all = [&anonymous, &of_file];
    let pid = child(stage, "child", || {
        all.iter().for_each(|memory| memory.change(Side::Child));
        stage.publish("child-stands", "");
        await_sign(stage, "checked");
        let mut found = Findings::default();
        all.iter().for_each(|memory| memory.verify(Side::Child, &mut found));
        found.outcome()
    });
    all.iter().for_each(|memory| memory.change(Side::Parent));
    all_stand(stage, &["child-stands"]);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for memory in all {
        memory.is_shared(pid, &mut found);
        memory.verify(Side::Parent, &mut found);
    }
    join(stage, &[pid], &mut found);
    found.outcome()
}

/// Over several births, with one in a session of its own; and mappings that are one in the child and several in the parent.
pub(crate) fn deep(stage: &Stage) -> Outcome {
    let memory = Memory::new(None);
    let apart = Memory::new(None);
    let grandchild = || {
        let pid = child(stage, "grandchild", || {
            stage.publish("grandchild-stands", "");
            await_sign(stage, "checked");
            let mut found = Findings::default();
            memory.verify(Side::Child, &mut found);
            found.outcome()
        });
        stage.publish("grandchild", &pid.to_string());
        pid
    };
    let pid = child(stage, "child", || {
        setsid().expect("setsid");
        memory.change(Side::Child);
        apart.change(Side::Child);
        let grandchild = grandchild();
        stage.publish("child-stands", "");
        await_sign(stage, "checked");
        let mut found = Findings::default();
        memory.verify(Side::Child, &mut found);
        apart.verify(Side::Child, &mut found);
        found.same(
            "grandchild",
            &Ok(WaitStatus::Exited(grandchild, 0)),
            &waitpid(grandchild, None),
        );
        found.outcome()
    });
    memory.change(Side::Parent);
    apart.change(Side::Parent);
    let part = (apart.address(PAGES / 2), PAGE * PAGES / 4);
    protect(part.0, part.1, libc::PROT_READ).expect("mprotect");
    all_stand(stage, &["child-stands", "grandchild-stands"]);
    stage.ready_then_wait();
    let mut found = Findings::default();
    let text = std::fs::read_to_string(stage.path("grandchild")).unwrap_or_default();
    let grandchild = Pid::from_raw(text.parse().unwrap_or(0));
    for (memory, pid) in [(&memory, pid), (&memory, grandchild), (&apart, pid)] {
        memory.is_shared(pid, &mut found);
    }
    memory.verify(Side::Parent, &mut found);
    apart.verify(Side::Parent, &mut found);
    join(stage, &[pid], &mut found);
    found.outcome()
}
