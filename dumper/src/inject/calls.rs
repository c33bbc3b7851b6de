//! Single system calls made in threads: what is asked of each thread when no inventory knows it.

use ::parasite::plain::bytes_of_mut;
use ::parasite::task::AltStack;
use arch::regs::Abi;
use arch::syscall::nr;
use arch::{compat, settings};
use ids::HostPid;
use kernel::ptrace::{Running, Stop, Stopped};

use crate::filters::{Call, RETURN};

use super::return_frame::SCRATCH;
use super::{Bits, Error, Gadgets, Original, ReturnFrame, Room, expect_stop};

const SS_DISABLE: u32 = 2;
const PR_GET_PDEATHSIG: u64 = 2;
const PR_GET_SECUREBITS: u64 = 27;
const PR_GET_TIMERSLACK: u64 = 30;
const PR_GET_TID_ADDRESS: u64 = 40;

/// How many questions there are, and which are answered by the call's own value.
const QUESTIONS: usize = 7;
const BY_VALUE: usize = 4;
const TIMER_SLACK: usize = 5;
const SECUREBITS: usize = 6;

/// Where the answers go, in bytes from the scratch area.
const AT_ALT_STACK: u64 = 0;
const AT_CLEAR_CHILD_TID: u64 = size_of::<AltStack>() as u64;
const AT_PARENT_DEATH_SIGNAL: u64 = AT_CLEAR_CHILD_TID + 8;
const AT_TSC: u64 = AT_PARENT_DEATH_SIGNAL + 4;

/// What a thread said of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadState {
    pub(crate) alt_stack: AltStack,
    pub(crate) clear_child_tid: u64,
    pub(crate) parent_death_signal: i32,
    /// The instruction that identifies the processor is a fault.
    pub(crate) identification_faults: bool,
    /// Reading the processor's clock is one.
    pub(crate) clock_faults: bool,
    /// `PR_GET_TIMERSLACK`.
    pub(crate) timer_slack: u64,
    /// `PR_GET_SECUREBITS`.
    pub(crate) securebits: u32,
}

impl ThreadState {
    /// As the kernel's structures tell it.
    pub(crate) fn known(known: &collector::InTask, bits: &Bits) -> Self {
        // sigaltstack(2) reports SS_DISABLE where there is no stack.
        let disabled = if known.alt_stack_bytes == 0 { SS_DISABLE } else { 0 };
        Self {
            alt_stack: AltStack {
                start: known.alt_stack_start,
                flags: known.alt_stack_flags | disabled,
                pad: 0,
                bytes: known.alt_stack_bytes,
            },
            clear_child_tid: known.clear_child_tid,
            parent_death_signal: known.parent_death_signal,
            identification_faults: known.kernel_flags & bits.identification_faults != 0,
            clock_faults: known.kernel_flags & bits.clock_faults != 0,
            timer_slack: known.settings.timer_slack,
            securebits: known.securebits,
        }
    }
}

/// Every call that is made in a thread that is asked ([`Asked::questions`]), and the return.
pub(crate) fn calls(abi: Abi) -> [Call; QUESTIONS + 1] {
    let calls = [
        Call::any("sigaltstack", nr::SIGALTSTACK),
        Call::of("prctl", nr::PRCTL, PR_GET_TID_ADDRESS),
        Call::of("prctl", nr::PRCTL, PR_GET_PDEATHSIG),
        Call::of("prctl", nr::PRCTL, settings::ask_clock(0).1[0]),
        Call::of("arch_prctl", nr::ARCH_PRCTL, settings::ASK_IDENTIFICATION.1[0]),
        Call::of("prctl", nr::PRCTL, PR_GET_TIMERSLACK),
        Call::of("prctl", nr::PRCTL, PR_GET_SECUREBITS),
        RETURN,
    ];
    calls.map(|call| call.made_at(abi))
}

/// A thread that is being asked.
struct Asked {
    original: Original,
    return_frame: ReturnFrame,
    pid: HostPid,
    gadgets: Gadgets,
    identification_faults: bool,
    timer_slack: u64,
    securebits: u32,
    /// A call that is made in place of the first question.
    call: Option<(usize, [u64; 6])>,
}

impl Asked {
    /// The questions: each a system call whose answer lands in the scratch area.
    fn questions(&self) -> [(usize, [u64; 6]); QUESTIONS] {
        let at = |offset| self.return_frame.scratch + offset;
        [
            (nr::SIGALTSTACK, [0, at(AT_ALT_STACK), 0, 0, 0, 0]),
            (nr::PRCTL, [PR_GET_TID_ADDRESS, at(AT_CLEAR_CHILD_TID), 0, 0, 0, 0]),
            (nr::PRCTL, [PR_GET_PDEATHSIG, at(AT_PARENT_DEATH_SIGNAL), 0, 0, 0, 0]),
            settings::ask_clock(at(AT_TSC)),
            settings::ASK_IDENTIFICATION,
            (nr::PRCTL, [PR_GET_TIMERSLACK, 0, 0, 0, 0, 0]),
            (nr::PRCTL, [PR_GET_SECUREBITS, 0, 0, 0, 0, 0]),
        ]
    }

    fn ask(&self, stopped: Stopped, question: usize) -> Result<Running, Error> {
        let (call, args) = self.call.unwrap_or(self.questions()[question]);
        let registers = self.return_frame.call(
            &self.original,
            &self.gadgets,
            call,
            args,
            self.return_frame.frame,
        );
        stopped.set_registers(&registers)?;
        stopped.set_signal_mask(u64::MAX)?;
        Ok(stopped.resume_to_syscall()?)
    }

    fn answered(&mut self, stopped: &Stopped, question: usize) -> Result<(), Error> {
        let answer = stopped.registers()?.return_value();
        if self.call.is_some() {
            // Whatever it says.
            return Ok(());
        }
        if question == BY_VALUE {
            // An error: there is no such thing.
            self.identification_faults = settings::is_identification_fault(answer);
            return Ok(());
        }
        if question == TIMER_SLACK && answer >= 0 {
            self.timer_slack = answer.cast_unsigned();
            return Ok(());
        }
        if question == SECUREBITS && answer >= 0 {
            self.securebits = answer as u32;
            return Ok(());
        }
        if answer < 0 {
            return Err(Error::Call {
                call: self.questions()[question].0 as i32,
                tid: stopped.tid(),
                source: std::io::Error::from_raw_os_error(-answer as i32),
            });
        }
        Ok(())
    }

    /// The alternate signal stack, in the form of the code that the call was made for.
    fn alt_stack(&self, scratch: &[u8; SCRATCH as usize]) -> AltStack {
        match (self.gadgets.abi, scratch.first_chunk()) {
            (Abi::Compat, Some(bytes)) => {
                let (start, flags, bytes) = compat::alt_stack(bytes);
                AltStack { start, flags, pad: 0, bytes }
            }
            _ => {
                let mut alt_stack = [AltStack::default()];
                let answer = &scratch[..AT_CLEAR_CHILD_TID as usize];
                bytes_of_mut(&mut alt_stack).copy_from_slice(answer);
                alt_stack[0]
            }
        }
    }

    fn answers(&self, tid: HostPid) -> Result<ThreadState, Error> {
        let mut scratch = [0u8; SCRATCH as usize];
        kernel::memory::read_exact(self.pid, self.return_frame.scratch, &mut scratch)
            .map_err(|source| Error::Memory { operation: "read the answers", tid, source })?;
        let alt_stack = self.alt_stack(&scratch);
        let word = |at: u64| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&scratch[at as usize..at as usize + 8]);
            u64::from_le_bytes(bytes)
        };
        Ok(ThreadState {
            alt_stack,
            clear_child_tid: word(AT_CLEAR_CHILD_TID),
            parent_death_signal: word(AT_PARENT_DEATH_SIGNAL) as i32,
            identification_faults: self.identification_faults,
            clock_faults: settings::is_clock_fault(word(AT_TSC) as u32),
            timer_slack: self.timer_slack,
            securebits: self.securebits,
        })
    }
}

/// A thread that is to be asked.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) stopped: Stopped,
    /// Its process.
    pub(crate) pid: HostPid,
    /// Its own state.
    pub(crate) original: Original,
    /// The code that its process has.
    pub(crate) gadgets: Gadgets,
    /// Where its frames may lie. Its alternate stack is not known: that is being asked for.
    pub(crate) room: Room<'a>,
}

/// Asks many threads at once. The answers come in the same order, with the threads stopped and as
/// they were.
pub(crate) fn ask_threads(
    threads: Vec<Asking<'_>>,
    postponed: &mut Vec<(HostPid, i32)>,
) -> Result<Vec<(Stopped, ThreadState)>, Error> {
    let mut asked = Vec::with_capacity(threads.len());
    let mut stopped_threads = Vec::with_capacity(threads.len());
    for Asking { stopped, pid, original, gadgets, room } in threads {
        let return_frame = ReturnFrame::lay(&stopped, pid, &original, &room, &gadgets, None)?;
        let (identification_faults, timer_slack, securebits, call) = (false, 0, 0, None);
        asked.push(Asked {
            original,
            return_frame,
            pid,
            gadgets,
            identification_faults,
            timer_slack,
            securebits,
            call,
        });
        stopped_threads.push(stopped);
    }
    for question in 0..QUESTIONS {
        stopped_threads = wave(&mut asked, stopped_threads, postponed, question)?;
    }
    let mut answers = Vec::with_capacity(asked.len());
    for (asked, stopped) in asked.iter().zip(&stopped_threads) {
        answers.push(asked.answers(stopped.tid())?);
    }
    let cured = give_back(&asked, stopped_threads, postponed)?;
    Ok(cured.into_iter().zip(answers).collect())
}

/// Has threads make a call that changes nothing: on the way out of it they do what the kernel has left to them, as
/// completing requests of io_urings. They are stopped and as they were afterwards. One with no room for that is left
/// alone. A ring that one thread alone completes, by its descriptor, is asked for what it has to say.
pub(crate) fn pass_through_kernel(
    threads: Vec<(Asking<'_>, Option<i32>)>,
    postponed: &mut Vec<(HostPid, i32)>,
) -> Result<Vec<Stopped>, Error> {
    let (mut asked, mut stopped_threads, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for (Asking { stopped, pid, original, gadgets, room }, ring) in threads {
        const GETEVENTS: u64 = 1;
        let ring = ring.map(|fd| [u64::from(fd.cast_unsigned()), 0, 0, GETEVENTS, 0, 0]);
        let call = ring.map(|args| (nr::IO_URING_ENTER, args));
        match ReturnFrame::lay(&stopped, pid, &original, &room, &gadgets, None) {
            Ok(return_frame) => {
                let identification_faults = false;
                asked.push(Asked {
                    original,
                    return_frame,
                    pid,
                    gadgets,
                    identification_faults,
                    timer_slack: 0,
                    securebits: 0,
                    call,
                });
                stopped_threads.push(stopped);
            }
            Err(_) => left.push(stopped),
        }
    }
    let stopped_threads = wave(&mut asked, stopped_threads, postponed, 0)?;
    left.extend(give_back(&asked, stopped_threads, postponed)?);
    Ok(left)
}

/// Makes threads what they were, back in the signal path, from where an interrupted call is restarted.
fn give_back(
    asked: &[Asked],
    stopped: Vec<Stopped>,
    postponed: &mut Vec<(HostPid, i32)>,
) -> Result<Vec<Stopped>, Error> {
    let mut running = Vec::with_capacity(stopped.len());
    for stopped in stopped {
        stopped.interrupt_again()?;
        running.push(stopped.resume(0)?);
    }
    let mut cured = Vec::with_capacity(running.len());
    for (asked, thread) in asked.iter().zip(running) {
        let stopped = wait(asked, thread, postponed, |stop| {
            matches!(stop, Stop::Interrupted | Stop::Group(_))
        })?;
        asked.original.give_back(&stopped)?;
        asked.return_frame.uncover()?;
        cured.push(stopped);
    }
    Ok(cured)
}

/// One question to every thread: all to the call's entry, then all to its exit.
fn wave(
    asked: &mut [Asked],
    stopped: Vec<Stopped>,
    postponed: &mut Vec<(HostPid, i32)>,
    question: usize,
) -> Result<Vec<Stopped>, Error> {
    let mut running = Vec::with_capacity(stopped.len());
    for (asked, stopped) in asked.iter().zip(stopped) {
        running.push(asked.ask(stopped, question)?);
    }
    let mut inside = Vec::with_capacity(running.len());
    for (asked, running) in asked.iter().zip(running) {
        let entry = wait(asked, running, postponed, |stop| stop == Stop::Syscall)?;
        inside.push(entry.resume_to_syscall()?);
    }
    let mut done = Vec::with_capacity(inside.len());
    for (asked, running) in asked.iter_mut().zip(inside) {
        let exit = wait(asked, running, postponed, |stop| stop == Stop::Syscall)?;
        asked.answered(&exit, question)?;
        done.push(exit);
    }
    Ok(done)
}

fn wait(
    asked: &Asked,
    running: Running,
    postponed: &mut Vec<(HostPid, i32)>,
    wanted: impl Fn(Stop) -> bool,
) -> Result<Stopped, Error> {
    let mut late = Vec::new();
    let stopped = expect_stop(
        running,
        "while it was asked for its state",
        &mut late,
        wanted,
        Stopped::resume_to_syscall,
    )?;
    postponed.extend(late.into_iter().map(|signal| (asked.pid, signal)));
    Ok(stopped)
}
