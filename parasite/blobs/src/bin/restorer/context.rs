//! What every stage works with: the arguments, the thread at hand, and one way to make a system
//! call that must succeed.

use core::sync::atomic::{AtomicU32, Ordering};

use arch::blob::trap;
use arch::syscall::{Answer, nr, syscall};
use parasite::restorer::{Arguments, Read, Segment, Step, Table, Thread};

/// What a new thread finds at the top of its stack.
#[repr(C)]
pub struct Seat {
    /// The arguments.
    pub arguments: *mut Arguments,
    /// The thread's own entry.
    pub thread: *mut Thread,
    /// Whether it has the numbers that it was to have: [`UNKNOWN`] until that is known. Kept by a futex.
    pub wanted: AtomicU32,
    /// Not 0 until a thread that was not wanted has ended. Kept by a futex.
    pub there: AtomicU32,
    /// So that the stack is aligned.
    pub pad: u64,
}

/// [`Seat::wanted`]: nobody knows yet.
pub const UNKNOWN: u32 = 0;
/// [`Seat::wanted`]: it goes on.
pub const WANTED: u32 = 1;
/// [`Seat::wanted`]: it ends.
pub const UNWANTED: u32 = 2;

impl Seat {
    /// One for a thread.
    pub const fn new(arguments: *mut Arguments, thread: *mut Thread, wanted: u32) -> Self {
        let (wanted, there) = (AtomicU32::new(wanted), AtomicU32::new(1));
        Self { arguments, thread, wanted, there, pad: 0 }
    }
}

/// The arguments and the thread at hand.
pub struct Context {
    arguments: *mut Arguments,
    thread: *mut Thread,
}

impl Context {
    /// For the leader.
    ///
    /// # Safety
    /// `arguments` points to what the host laid out; its first thread is the leader.
    pub unsafe fn leader(arguments: *mut Arguments) -> Self {
        // SAFETY: the caller's promise: the table lies behind the arguments, in the region.
        let thread = unsafe {
            arguments.cast::<u8>().add((*arguments).threads.offset as usize).cast::<Thread>()
        };
        Self { arguments, thread }
    }

    /// For a thread that starts at a [`Seat`].
    ///
    /// # Safety
    /// `seat` is the address of one.
    pub unsafe fn follower(seat: usize) -> Self {
        // SAFETY: the caller's promise.
        let seat = unsafe { &*(seat as *const Seat) };
        Self { arguments: seat.arguments, thread: seat.thread }
    }

    /// The arguments.
    pub fn arguments(&self) -> &Arguments {
        // SAFETY: they live as long as the region; what changes in them (`settled`) is only
        // touched through its address.
        unsafe { &*self.arguments }
    }

    /// How many threads of all processes that have this memory have given their credentials away.
    pub fn settled(&self) -> &AtomicU32 {
        let lender = match self.arguments().lender {
            0 => self.arguments,
            lender => lender as *mut Arguments,
        };
        // SAFETY: a field of the arguments, which stay until all are parked, that is touched in no other way.
        unsafe { AtomicU32::from_ptr(&raw mut (*lender).settled) }
    }

    /// Address of the arguments.
    pub fn base(&self) -> *mut Arguments {
        self.arguments
    }

    /// The thread at hand.
    pub fn thread(&self) -> &Thread {
        // SAFETY: as for the arguments; the report is only touched through its address.
        unsafe { &*self.thread }
    }

    /// The entries of a table.
    pub fn entries<T>(&self, table: Table<T>) -> &[T] {
        // SAFETY: the host laid out every table as it says, in the region, aligned.
        unsafe { core::slice::from_raw_parts(self.first(table), table.count as usize) }
    }

    /// Takes up the next read; none when all are taken.
    pub fn next_read(&self) -> Option<&Read> {
        // SAFETY: a field of the arguments that is touched in no other way.
        let next = unsafe { AtomicU32::from_ptr(&raw mut (*self.arguments).next_read) };
        let index = next.fetch_add(1, Ordering::Relaxed) as usize;
        self.entries(self.arguments().reads).get(index)
    }

    /// The segments of a read, to be changed by the one who has taken it up.
    #[allow(clippy::mut_from_ref, reason = "each read is taken up by one thread only")]
    pub fn segments(&self, read: &Read) -> &mut [Segment] {
        let first = self.first(self.arguments().segments).wrapping_add(read.first as usize);
        // SAFETY: the host laid out the segments that each read names, no two reads the same;
        // `next_read` gives each read to one thread.
        unsafe { core::slice::from_raw_parts_mut(first, read.segments as usize) }
    }

    /// Waits as long as a futex has this value.
    pub fn wait_while(&self, futex: &AtomicU32, value: u32) {
        const FUTEX_WAIT: usize = 0;
        while futex.load(Ordering::Acquire) == value {
            // An error means that the value has changed, or a signal: look again.
            let args = [futex.as_ptr() as usize, FUTEX_WAIT, value as usize, 0, 0, 0];
            if self.may(nr::FUTEX, args).is_err() {
                continue;
            }
        }
    }

    /// Not 0 while the helper is there.
    pub fn helping(&self) -> &AtomicU32 {
        // SAFETY: as for `settled`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.arguments).helping) }
    }

    /// What the helper could not read.
    pub fn helper_error(&self) -> &AtomicU32 {
        // SAFETY: as for `settled`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.arguments).helper_error) }
    }

    /// Address of a table's first entry.
    pub fn first<T>(&self, table: Table<T>) -> *mut T {
        self.arguments.cast::<u8>().wrapping_add(table.offset as usize).cast()
    }

    /// Notes what comes next, for the tracer should it crash.
    pub fn at(&self, step: Step, object: u64) {
        // SAFETY: the thread's own entry; only this thread writes to its report. Volatile, as
        // the reader is another process.
        unsafe {
            (&raw mut (*self.thread).report.step).write_volatile(step as u32);
            (&raw mut (*self.thread).report.object).write_volatile(object);
        }
    }

    /// Makes a system call that must succeed.
    pub fn must(&self, step: Step, object: u64, number: usize, args: [usize; 6]) -> usize {
        // SAFETY: every caller passes what its step needs: addresses in the region or in the new
        // address space, which nothing else uses yet.
        self.succeeds(step, object, || unsafe { syscall(number, args) })
    }

    /// Makes a system call whose failure is an answer.
    pub fn may(&self, number: usize, args: [usize; 6]) -> Result<usize, i32> {
        // SAFETY: as `must`.
        unsafe { syscall(number, args) }
    }

    /// Notes what comes next, and takes the answer of what must succeed.
    pub fn succeeds(&self, step: Step, object: u64, call: impl FnOnce() -> Answer) -> usize {
        self.at(step, object);
        call().unwrap_or_else(|error| self.fail(step, object, error))
    }

    /// `prctl` that must succeed.
    pub fn prctl(&self, step: Step, option: usize, argument: usize) -> usize {
        self.must(step, option as u64, nr::PRCTL, [option, argument, 0, 0, 0, 0])
    }

    /// Notes the failure and stops for the tracer.
    pub fn fail(&self, step: Step, object: u64, error: i32) -> ! {
        self.at(step, object);
        // SAFETY: the thread's own report, as in `at`.
        unsafe { (&raw mut (*self.thread).report.error).write_volatile(error) };
        trap()
    }
}
