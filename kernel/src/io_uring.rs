//! io_urings (io_uring(7)): made, and brought to where another one stood.
//!
//! The kernel counts what it has taken from the submission queue and what it has put into the completion queue, and
//! nothing but requests moves these counts on. So requests that do nothing are submitted until they are what they are to be.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::shared_mapping::SharedMapping;

/// `IORING_SETUP_*` (include/uapi/linux/io_uring.h).
pub mod setup {
    #![allow(missing_docs, reason = "each is the kernel's of that name")]
    pub const IOPOLL: u32 = 1 << 0;
    pub const SQPOLL: u32 = 1 << 1;
    pub const SQ_AFF: u32 = 1 << 2;
    pub const CQSIZE: u32 = 1 << 3;
    pub const CLAMP: u32 = 1 << 4;
    pub const ATTACH_WQ: u32 = 1 << 5;
    pub const R_DISABLED: u32 = 1 << 6;
    pub const SUBMIT_ALL: u32 = 1 << 7;
    pub const COOP_TASKRUN: u32 = 1 << 8;
    pub const TASKRUN_FLAG: u32 = 1 << 9;
    pub const SQE128: u32 = 1 << 10;
    pub const CQE32: u32 = 1 << 11;
    pub const SINGLE_ISSUER: u32 = 1 << 12;
    pub const DEFER_TASKRUN: u32 = 1 << 13;
    pub const NO_MMAP: u32 = 1 << 14;
    pub const REGISTERED_FD_ONLY: u32 = 1 << 15;
    pub const NO_SQARRAY: u32 = 1 << 16;
}

/// Where what is mapped of a ring begins (`IORING_OFF_*`).
pub mod place {
    /// The head of both queues, the completions, and the order of the submissions.
    pub const QUEUES: u64 = 0;
    /// The same, by the name that is meant for completions.
    pub const COMPLETIONS: u64 = 0x0800_0000;
    /// The submissions.
    pub const SUBMISSIONS: u64 = 0x1000_0000;
}

/// `struct io_sqring_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Submissions {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    address: u64,
}

/// `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Completions {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    address: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Parameters {
    submission_entries: u32,
    completion_entries: u32,
    flags: u32,
    processor: u32,
    idle: u32,
    features: u32,
    workers: u32,
    reserved: [u32; 3],
    submissions: Submissions,
    completions: Completions,
}

/// What a ring is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `IORING_SETUP_*`.
    pub flags: u32,
    /// Entries of the submission queue, a power of two.
    pub submissions: u32,
    /// Entries of the completion queue, a power of two.
    pub completions: u32,
}

/// The most entries of a submission queue, and half of those of a completion queue.
pub const MOST: u32 = 1 << 15;

/// Where the parts of a ring's memory are, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the head of both queues with all that is behind it.
    pub queues: usize,
    /// Bytes of the submissions.
    pub submissions: usize,
    head: [usize; 2],
    tail: [usize; 2],
    signal_flags: usize,
    array: Option<usize>,
    completions: usize,
    submission_bytes: usize,
    completion_bytes: usize,
}

impl Layout {
    /// Bytes of a submission.
    #[must_use]
    pub const fn submission_bytes(&self) -> usize {
        self.submission_bytes
    }

    /// Where the heads of the submissions and of the completions are.
    #[must_use]
    pub fn heads(&self) -> [u32; 2] {
        self.head.map(|at| at as u32)
    }

    /// Where their tails are.
    #[must_use]
    pub fn tails(&self) -> [u32; 2] {
        self.tail.map(|at| at as u32)
    }

    /// Where the order of the submissions is; 0 for none.
    #[must_use]
    pub fn array(&self) -> u32 {
        self.array.map_or(0, |at| at as u32)
    }

    /// Where the word is that says whether an eventfd is told of completions.
    #[must_use]
    pub const fn signal_flags(&self) -> u32 {
        self.signal_flags as u32
    }
}

impl Shape {
    /// Whether there can be such a ring.
    #[must_use]
    pub const fn is_possible(&self) -> bool {
        self.submissions.is_power_of_two()
            && self.completions.is_power_of_two()
            && self.submissions <= MOST
            && self.completions <= 2 * MOST
            && self.submissions <= self.completions
    }

    const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// A ring of this process.
#[derive(Debug)]
pub struct Ring {
    fd: OwnedFd,
    shape: Shape,
    layout: Layout,
}

impl Ring {
    /// Makes one.
    ///
    /// # Errors
    /// If the kernel makes none, or makes one of another shape.
    pub fn new(shape: Shape) -> io::Result<Self> {
        // Whose threads work for it is no part of its shape, and that one's descriptor is not known here.
        let sized = setup::CQSIZE | shape.flags & !(setup::CLAMP | setup::ATTACH_WQ);
        let mut parameters = Parameters {
            flags: sized,
            completion_entries: shape.completions,
            ..Parameters::default()
        };
        // SAFETY: the kernel reads and writes the parameters, a structure of its own shape.
        let fd = unsafe {
            libc::syscall(libc::SYS_io_uring_setup, shape.submissions, &raw mut parameters)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let made = (parameters.submission_entries, parameters.completion_entries);
        if made != (shape.submissions, shape.completions) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { fd, shape, layout: layout(&shape, &parameters) })
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// How its memory is laid out.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Its memory, and that of any other ring of this shape.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn map(&self) -> io::Result<Memory> {
        Memory::of(&self.fd, self.shape, self.layout)
    }

    /// Asks to be told when there is something to be read.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn poll(&self, file: &impl AsFd) -> io::Result<()> {
        const POLL_ADD: u8 = 6;
        let mut memory = self.map()?;
        let mut request = vec![0; self.layout.submission_bytes];
        request[0] = POLL_ADD;
        request[4..8].copy_from_slice(&file.as_fd().as_raw_fd().to_ne_bytes());
        request[28..32].copy_from_slice(&i32::from(libc::POLLIN).to_ne_bytes());
        memory.fill(&request, false);
        let Layout { tail, .. } = self.layout;
        memory.store(tail[0], memory.load(tail[0]).wrapping_add(1));
        match enter(&self.fd, 1)? {
            1 => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Brings the kernel's counts to those of `counts`, so that the last `unread` completions have not been taken. What is
    /// in the memory afterwards makes no sense.
    ///
    /// # Errors
    /// If the kernel does not do as it should.
    pub fn advance(&self, memory: &mut Memory, counts: Counts) -> io::Result<()> {
        let Counts { submitted, completed, unread, no_drain } = counts;
        let head = completed.wrapping_sub(unread);
        let mut before = 0;
        // The kernel notes how far there is room, by the head of that moment: so that never goes back.
        let taken = submitted.min(head);
        self.submit(memory, &mut before, taken, Kind::Taken)?;
        self.post(memory, head - taken, true)?;
        let kept = (submitted - taken).min(unread);
        self.submit(memory, &mut before, kept, Kind::Kept)?;
        self.post(memory, unread - kept, false)?;
        self.submit(memory, &mut before, submitted - taken - kept, Kind::Silent { no_drain })?;
        let reached = memory.load(self.layout.tail[1]) == completed
            && memory.load(self.layout.head[0]) == submitted
            && memory.load(self.layout.head[1]) == head;
        if reached { Ok(()) } else { Err(io::Error::other("it counts otherwise")) }
    }

    /// Submits so many requests that do nothing.
    fn submit(
        &self,
        memory: &mut Memory,
        before: &mut u32,
        count: u32,
        kind: Kind,
    ) -> io::Result<()> {
        /// `IOSQE_CQE_SKIP_SUCCESS`.
        const SKIP: u8 = 1 << 6;
        let Layout { head, tail, array, .. } = self.layout;
        let one_by_one = matches!(kind, Kind::Silent { no_drain: false }) && array.is_some();
        let flags = if matches!(kind, Kind::Silent { .. }) { SKIP } else { 0 };
        memory.fill_submissions(flags, one_by_one);
        let most = if one_by_one { 1 } else { self.shape.submissions };
        let mut left = count;
        while left > 0 {
            let now = left.min(most);
            memory.store(tail[0], before.wrapping_add(now));
            let taken = enter(&self.fd, now)?;
            // What names no submission is dropped, and counts as taken.
            if memory.load(head[0]) != before.wrapping_add(now) || taken > now {
                return Err(io::Error::other("it does not take what is submitted"));
            }
            *before = before.wrapping_add(now);
            left -= now;
            if kind == Kind::Taken {
                memory.store(head[1], memory.load(tail[1]));
            }
        }
        Ok(())
    }

    /// Has so many completions posted by another ring.
    fn post(&self, memory: &mut Memory, count: u32, take: bool) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let shape = Shape { flags: 0, submissions: 64, completions: 128 };
        let by = Self::new(shape)?;
        let mut own = by.map()?;
        own.fill_messages(&self.fd);
        let (mut left, mut sent) = (count, 0_u32);
        while left > 0 {
            let now = left.min(shape.submissions).min(self.shape.completions);
            sent = sent.wrapping_add(now);
            own.store(by.layout.tail[0], sent);
            let before = memory.load(self.layout.tail[1]);
            enter(&by.fd, now)?;
            let end = own.load(by.layout.tail[1]);
            own.store(by.layout.head[1], end);
            if memory.load(self.layout.tail[1]) != before.wrapping_add(now) {
                return Err(io::Error::other("it takes no completions from another one"));
            }
            if take {
                memory.store(self.layout.head[1], before.wrapping_add(now));
            }
            left -= now;
        }
        Ok(())
    }
}

/// Requests that do nothing, and what becomes of their completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// They are taken.
    Taken,
    /// They wait to be taken.
    Kept,
    /// There are none.
    Silent {
        /// A request may ask for none.
        no_drain: bool,
    },
}

/// What the kernel counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Submissions that it has taken.
    pub submitted: u32,
    /// Completions that it has posted.
    pub completed: u32,
    /// How many of these the program has not taken.
    pub unread: u32,
    /// A request has asked for no completion.
    pub no_drain: bool,
}

impl Counts {
    /// How many requests it takes to come there.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        let (low, high) = match self.submitted < self.completed {
            true => (self.submitted, self.completed),
            false => (self.completed, self.submitted),
        };
        // What has no completion, or is only one, takes a call of its own.
        low as u64 + 4 * (high - low) as u64
    }
}

fn enter(ring: &impl AsFd, submit: u32) -> io::Result<u32> {
    let fd = ring.as_fd().as_raw_fd();
    // SAFETY: the requests have no buffers.
    let taken =
        unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, submit, 0, 0, 0_usize, 0_usize) };
    u32::try_from(taken).map_err(|_| io::Error::last_os_error())
}

fn layout(shape: &Shape, parameters: &Parameters) -> Layout {
    let Parameters { submissions, completions, .. } = parameters;
    let submission_bytes = if shape.has(setup::SQE128) { 128 } else { 64 };
    let completion_bytes = if shape.has(setup::CQE32) { 32 } else { 16 };
    let array = (!shape.has(setup::NO_SQARRAY)).then_some(submissions.array as usize);
    let cqes = completions.cqes as usize;
    let behind = cqes + shape.completions as usize * completion_bytes;
    let end = array.map_or(0, |array| array + shape.submissions as usize * size_of::<u32>());
    Layout {
        queues: behind.max(end),
        submissions: shape.submissions as usize * submission_bytes,
        head: [submissions.head as usize, completions.head as usize],
        tail: [submissions.tail as usize, completions.tail as usize],
        signal_flags: completions.flags as usize,
        array,
        completions: cqes,
        submission_bytes,
        completion_bytes,
    }
}

/// What the memory of a ring says of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Submissions that the kernel has taken.
    pub submitted: u32,
    /// Those that the program has put there.
    pub filled: u32,
    /// Completions that the program has taken.
    pub taken: u32,
    /// Those that the kernel has posted.
    pub completed: u32,
}

/// The memory of a ring, mapped here.
#[derive(Debug)]
pub struct Memory {
    shape: Shape,
    layout: Layout,
    queues: SharedMapping,
    submissions: SharedMapping,
}

impl Memory {
    /// Maps the memory of a ring that was made with `shape`, and is laid out as `layout` says.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn of(ring: &impl AsFd, shape: Shape, layout: Layout) -> io::Result<Self> {
        let queues = SharedMapping::new(ring, place::QUEUES, layout.queues)?;
        let submissions = SharedMapping::new(ring, place::SUBMISSIONS, layout.submissions)?;
        Ok(Self { shape, layout, queues, submissions })
    }

    /// All of it: first the queues, then the submissions.
    #[must_use]
    pub fn read(&self) -> (Vec<u8>, Vec<u8>) {
        (self.queues.read(), self.submissions.read())
    }

    /// Puts all of it back.
    ///
    /// # Errors
    /// If it is of another size.
    pub fn write(&mut self, queues: &[u8], submissions: &[u8]) -> io::Result<()> {
        self.submissions.write(0, submissions)?;
        self.queues.write(0, queues)
    }

    /// Where the queues begin and end.
    #[must_use]
    pub fn ends(&self) -> Ends {
        let Layout { head, tail, .. } = self.layout;
        Ends {
            submitted: self.load(head[0]),
            filled: self.load(tail[0]),
            taken: self.load(head[1]),
            completed: self.load(tail[1]),
        }
    }

    fn word(&self, at: usize) -> Option<&AtomicU32> {
        self.queues.word(at)
    }

    fn load(&self, at: usize) -> u32 {
        self.word(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// Makes every submission one that does nothing, or has the order name none.
    fn fill_submissions(&mut self, flags: u8, none: bool) {
        let bytes = self.layout.submission_bytes;
        let mut nothing = vec![0; bytes];
        nothing[1] = flags;
        self.fill(&nothing, none);
    }

    /// Makes every submission one that has `to` be told something.
    fn fill_messages(&mut self, to: &impl AsFd) {
        const MSG_RING: u8 = 40;
        let mut message = vec![0; self.layout.submission_bytes];
        message[0] = MSG_RING;
        message[4..8].copy_from_slice(&to.as_fd().as_raw_fd().to_ne_bytes());
        self.fill(&message, false);
    }

    fn fill(&mut self, submission: &[u8], none: bool) {
        for index in 0..self.shape.submissions {
            let at = index as usize * submission.len();
            // Every place is inside.
            self.submissions.write(at, submission).unwrap_or_default();
            if let Some(array) = self.layout.array {
                let number = if none { u32::MAX } else { index };
                self.store(array + index as usize * size_of::<u32>(), number);
            }
        }
    }
}

/// `IORING_REGISTER_*`.
mod register {
    pub(super) const EVENTFD: u32 = 4;
    pub(super) const EVENTFD_ASYNC: u32 = 7;
    pub(super) const FILES2: u32 = 13;
    pub(super) const FILE_ALLOC_RANGE: u32 = 25;
}

fn register(ring: &impl AsFd, what: u32, argument: usize, count: u32) -> io::Result<()> {
    let fd = ring.as_fd().as_raw_fd();
    // SAFETY: the callers below hand over what the kernel reads for each.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, what, argument, count) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has an eventfd be told of completions; `later` of those alone that come later than the call.
///
/// # Errors
/// If the kernel does not take it.
pub fn register_eventfd(ring: &impl AsFd, eventfd: &impl AsFd, later: bool) -> io::Result<()> {
    let fd = eventfd.as_fd().as_raw_fd();
    let what = if later { register::EVENTFD_ASYNC } else { register::EVENTFD };
    register(ring, what, (&raw const fd).addr(), 1)
}

/// Registers files (-1 for none), each with its tag.
///
/// # Errors
/// If the kernel does not take them.
pub fn register_files(ring: &impl AsFd, files: &[i32], tags: &[u64]) -> io::Result<()> {
    if files.len() != tags.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let count = u32::try_from(files.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // `struct io_uring_rsrc_register`: number, flags, reserved, files, tags.
    let argument = [u64::from(count), 0, files.as_ptr().addr() as u64, tags.as_ptr().addr() as u64];
    register(ring, register::FILES2, argument.as_ptr().addr(), size_of_val(&argument) as u32)
}

/// Says in which places the kernel may put files that it opens.
///
/// # Errors
/// If the kernel does not take it.
pub fn choose_places(ring: &impl AsFd, [first, end]: [u32; 2]) -> io::Result<()> {
    // `struct io_uring_file_index_range`: first, number, reserved.
    let argument = [first, end.saturating_sub(first), 0, 0];
    register(ring, register::FILE_ALLOC_RANGE, argument.as_ptr().addr(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(flags: u32, counts: Counts) -> (Ring, Memory) {
        let ring = Ring::new(Shape { flags, submissions: 8, completions: 32 }).unwrap();
        let mut memory = ring.map().unwrap();
        ring.advance(&mut memory, counts).unwrap();
        (ring, memory)
    }

    #[test]
    fn counts_are_brought_to_where_they_were() {
        for flags in [0, setup::NO_SQARRAY, setup::SQE128 | setup::CQE32] {
            for (submitted, completed, unread) in [
                (0, 0, 0),
                (1000, 1000, 0),
                (1000, 1000, 32),
                (7, 7, 7),
                (50, 20, 3),
                (20, 50, 3),
                (20, 50, 32),
                (20, 500, 3),
                (3, 20, 19),
            ] {
                let counts = Counts { submitted, completed, unread, no_drain: false };
                let (ring, mut memory) = made(flags, counts);
                let ends = memory.ends();
                assert_eq!(
                    ends,
                    Ends { submitted, filled: submitted, taken: completed - unread, completed },
                    "{flags:#x} {counts:?}"
                );
                // It goes on from there, and nothing that waits is written over.
                let (queues, submissions) = memory.read();
                memory.write(&queues, &submissions).unwrap();
                let mut before = submitted;
                ring.submit(&mut memory, &mut before, 8.min(32 - unread), Kind::Kept).unwrap();
                assert_eq!(memory.ends().completed, completed + 8.min(32 - unread));
            }
        }
    }
}
