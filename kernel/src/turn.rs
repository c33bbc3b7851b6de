//! Turns of processes that have one memory, this program's: as they have its allocator and what it keeps for a thread (errno) as
//! well, only one of them runs at a time.
//!
//! A futex of three values. No call here touches what the C library keeps.

use std::sync::atomic::{AtomicU32, Ordering};

use arch::syscall::{nr, syscall};

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
