//! Turns of processes that have one memory, this program's: as they have its allocator and what it keeps for a thread (errno) as
//! well, only one of them runs at a time.
//!
//! A futex of three values. No call here touches what the C library keeps, and none allocates: neither do those by which a process
//! waits for something while another one has the turn.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use arch::syscall::{nr, syscall};
use ids::ImagePid;
use nix::errno::Errno;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const WAITED_FOR: u32 = 2;

/// A turn that one of several processes has.
#[derive(Debug, Default)]
pub struct Turn(AtomicU32);

impl Turn {
    /// Waits for it.
    pub fn take(&self) {
        if self.0.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while self.0.swap(WAITED_FOR, Ordering::Acquire) != FREE {
            wait_while(&self.0, WAITED_FOR);
        }
    }

    /// Lets another one have it.
    pub fn give(&self) {
        if self.0.swap(FREE, Ordering::Release) == WAITED_FOR {
            wake(&self.0);
        }
    }
}

/// What a process waits for without its turn. The error is made of a number alone: a text is for who has the turn again.
#[derive(Clone, Copy, Debug)]
pub enum Wait<'w> {
    /// Until an eventfd that is a semaphore has been counted up so many times.
    Told {
        /// The eventfd.
        by: BorrowedFd<'w>,
        /// How often.
        times: u32,
    },
    /// Until a child has ended (waitid(2)).
    Ended {
        /// Its number in the pid namespace of the caller.
        pid: ImagePid,
        /// Whether it stays a zombie.
        leave: bool,
    },
    /// Until a tracer has seen the calling thread stop by a signal that it sends itself, and has let it go on.
    Seen {
        /// The signal.
        signal: i32,
    },
}

impl Wait<'_> {
    /// Waits. A call that a signal interrupted is made again.
    ///
    /// # Errors
    /// As read(2), waitid(2) and tgkill(2).
    pub fn over(self) -> nix::Result<()> {
        match self {
            Self::Told { by, times } => (0..times).try_for_each(|_| {
                let mut count = [0_u8; 8];
                let to =
                    [by.as_raw_fd() as usize, count.as_mut_ptr() as usize, count.len(), 0, 0, 0];
                // SAFETY: the kernel writes to eight bytes of this frame.
                match made_again(|| unsafe { syscall(nr::READ, to) })? {
                    8 => Ok(()),
                    _ => Err(Errno::EIO),
                }
            }),
            Self::Ended { pid, leave } => {
                let options = libc::WEXITED | if leave { libc::WNOWAIT } else { 0 };
                let which = [libc::P_PID as usize, pid.get() as usize, 0, options as usize, 0, 0];
                // SAFETY: neither the information nor the usage is asked for.
                made_again(|| unsafe { syscall(nr::WAITID, which) }).map(drop)
            }
            Self::Seen { signal } => raise(signal),
        }
    }
}

/// Sends `signal` to the calling thread, by its true number, which a process that was made by a call of our own cannot ask the C library
/// for.
///
/// # Errors
/// `EINVAL` when there is no such signal.
pub fn raise(signal: i32) -> nix::Result<()> {
    // SAFETY: these take integers only.
    let sent = unsafe {
        let own = |number| syscall(number, [0; 6]);
        let (pid, tid) = (own(nr::GETPID), own(nr::GETTID));
        pid.and_then(|pid| syscall(nr::TGKILL, [pid, tid?, signal as usize, 0, 0, 0]))
    };
    sent.map(drop).map_err(Errno::from_raw)
}

fn made_again(call: impl Fn() -> Result<usize, i32>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(libc::EINTR) => {}
            answer => return answer.map_err(Errno::from_raw),
        }
    }
}

/// How many of several processes are so far.
#[derive(Debug, Default)]
pub struct SoFar(AtomicU32);

impl SoFar {
    /// One more is.
    pub fn tell(&self) {
        self.0.fetch_add(1, Ordering::Release);
        wake(&self.0);
    }

    /// Waits until so many are.
    pub fn wait(&self, count: u32) {
        loop {
            let now = self.0.load(Ordering::Acquire);
            if now >= count {
                return;
            }
            wait_while(&self.0, now);
        }
    }
}

/// Waits as long as a futex has a value, or for less: whoever waits looks again.
fn wait_while(futex: &AtomicU32, value: u32) {
    let args = [futex.as_ptr() as usize, libc::FUTEX_WAIT as usize, value as usize, 0, 0, 0];
    // SAFETY: the kernel reads the word, which lives as long as the reference. That the word has another value, or a signal came, is no
    // error here.
    if unsafe { syscall(nr::FUTEX, args) }.is_err() {
        std::hint::spin_loop();
    }
}

fn wake(futex: &AtomicU32) {
    let args = [futex.as_ptr() as usize, libc::FUTEX_WAKE as usize, i32::MAX as usize, 0, 0, 0];
    // SAFETY: the kernel uses the address as a name.
    if unsafe { syscall(nr::FUTEX, args) }.is_err() {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn one_at_a_time_has_the_turn() {
        let (turn, so_far) = (Arc::new(Turn::default()), Arc::new(SoFar::default()));
        let count = Arc::new(AtomicU32::new(0));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (turn, so_far, count) = (turn.clone(), so_far.clone(), count.clone());
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        turn.take();
                        // What is no single step stays whole.
                        let now = count.load(Ordering::Relaxed);
                        std::thread::yield_now();
                        count.store(now + 1, Ordering::Relaxed);
                        turn.give();
                    }
                    so_far.tell();
                })
            })
            .collect();
        so_far.wait(4);
        assert_eq!(count.load(Ordering::Relaxed), 8000);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}
