//! What filters of system calls answer to a call, as far as that can be told beforehand.
//!
//! A filter (seccomp(2)) is a program of classic BPF over `struct seccomp_data`: the number of the call, the
//! architecture, the address that it is made from, its six arguments. It only jumps forward, and ends with an
//! action. What is not known of a call may be anything: where a jump depends on it, both ways are gone. So the
//! answer holds whatever the call's addresses turn out to be, and it is "no" where it cannot be told.

use std::collections::HashSet;

use arch::kernel::AUDIT_ARCH;
use arch::regs::Abi;
use arch::syscall::nr;
use kernel::seccomp::{Filter, INSTRUCTION_BYTES};

/// A system call that is going to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: &'static str,
    number: usize,
    /// What filters see as its architecture.
    architecture: u32,
    /// Its arguments, those that are known.
    args: [Option<u64>; 6],
}

impl Call {
    /// With arguments that may be anything.
    pub(crate) const fn any(name: &'static str, number: usize) -> Self {
        Self::with(name, number, [None; 6])
    }

    /// With a first argument that says what is asked.
    pub(crate) const fn of(name: &'static str, number: usize, first: u64) -> Self {
        Self::with(name, number, [Some(first), None, None, None, None, None])
    }

    /// With these arguments.
    pub(crate) const fn with(name: &'static str, number: usize, args: [Option<u64>; 6]) -> Self {
        Self { name, number, architecture: AUDIT_ARCH, args }
    }

    /// The same, made at an instruction of a task's own code ([`arch::sigframe::codes`]).
    pub(crate) fn made_at(self, abi: Abi) -> Self {
        let compat = match abi {
            Abi::Native => None,
            Abi::Compat => arch::syscall::compat_number(self.number),
        };
        compat.map_or(self, |number| Self {
            number: number as usize,
            architecture: arch::compat::AUDIT_ARCH,
            ..self
        })
    }

    /// The word at this place of `struct seccomp_data`, if it is known. (Little endian.)
    fn word(&self, offset: u32) -> Option<u32> {
        const FIRST_ARGUMENT: u32 = 16;
        match offset {
            0 => u32::try_from(self.number).ok(),
            4 => Some(self.architecture),
            FIRST_ARGUMENT.. => {
                let place = offset - FIRST_ARGUMENT;
                let argument = (*self.args.get(place as usize / 8)?)?;
                Some((argument >> (8 * (place % 8))) as u32)
            }
            // Where it is made from.
            _ => None,
        }
    }
}

/// The call by which a task gets its registers back, of whoever runs something in it.
pub(crate) const RETURN: Call = Call::any("rt_sigreturn", nr::RT_SIGRETURN);

/// The first of these calls that filters may not let pass as if they were not there.
pub(crate) fn first_denied<'a>(filters: &[Filter], calls: &'a [Call]) -> Option<&'a Call> {
    let mut patience = PATIENCE;
    calls.iter().find(|call| !all_answer(filters, call, passes, &mut patience))
}

/// Whether a call at worst fails: filters let it pass, or give it an error number.
pub(crate) fn at_worst_fails(filters: &[Filter], call: &Call) -> bool {
    // With the number 0 it would seem to have been made.
    let fails = |value: u32| {
        value & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO
            && value & libc::SECCOMP_RET_DATA != 0
    };
    all_answer(filters, call, |value| passes(value) || fails(value), &mut { PATIENCE })
}

const fn passes(value: u32) -> bool {
    let action = value & libc::SECCOMP_RET_ACTION_FULL;
    matches!(action, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG)
}

/// Whether all filters answer a call by what `is_fine`. None of them does so for another: what one of them forbids is forbidden.
fn all_answer(
    filters: &[Filter],
    call: &Call,
    is_fine: impl Fn(u32) -> bool + Copy,
    patience: &mut usize,
) -> bool {
    filters.iter().all(|filter| answers(filter, call, is_fine, patience))
}

/// How many instructions are followed in all: a few milliseconds' worth. Filters have no more than 4096 each, and few of them
/// depend on an address; what takes longer is not told.
const PATIENCE: usize = 1 << 18;

/// Words of memory that a filter has (`BPF_MEMWORDS`).
const MEMORY_WORDS: usize = 16;

/// The state of the machine that a filter runs on: its registers and its memory, where they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    /// The next instruction.
    at: usize,
    accumulator: Option<u32>,
    index: Option<u32>,
    memory: [Option<u32>; MEMORY_WORDS],
}

/// What comes of an instruction, beside what it does to the state.
enum Step {
    /// The next one.
    Goes,
    /// The next one, or another.
    Forks(State),
    /// An action.
    Ends(u32),
    /// That cannot be told.
    Unknown,
}

/// Whether a filter answers a call by what `is_fine`, whatever of it is not known.
fn answers(
    filter: &Filter,
    call: &Call,
    is_fine: impl Fn(u32) -> bool,
    patience: &mut usize,
) -> bool {
    let mut open = vec![State { accumulator: Some(0), index: Some(0), ..State::default() }];
    let mut seen = HashSet::new();
    while let Some(mut state) = open.pop() {
        loop {
            if *patience == 0 {
                return false;
            }
            *patience -= 1;
            match step(filter, call, &mut state) {
                Step::Goes => {}
                Step::Forks(other) => {
                    if seen.insert(other) {
                        open.push(other);
                    }
                    if !seen.insert(state) {
                        break;
                    }
                }
                Step::Ends(value) => {
                    if !is_fine(value) {
                        return false;
                    }
                    break;
                }
                Step::Unknown => return false,
            }
        }
    }
    true
}

/// An instruction (`struct sock_filter`).
#[derive(Clone, Copy)]
struct Instruction {
    code: u32,
    if_true: u8,
    if_false: u8,
    k: u32,
}

impl Instruction {
    fn of(filter: &Filter, at: usize) -> Option<Self> {
        let bytes = filter.instructions.chunks_exact(INSTRUCTION_BYTES).nth(at)?;
        let (code, rest) = bytes.split_first_chunk()?;
        let ([if_true, if_false], k) = rest.split_first_chunk()?;
        Some(Self {
            code: u16::from_ne_bytes(*code).into(),
            if_true: *if_true,
            if_false: *if_false,
            k: u32::from_ne_bytes(k.try_into().ok()?),
        })
    }
}

fn step(filter: &Filter, call: &Call, state: &mut State) -> Step {
    let Some(instruction) = Instruction::of(filter, state.at) else { return Step::Unknown };
    let Instruction { code, k, .. } = instruction;
    state.at += 1;
    // What a load gives, by its mode.
    let loaded = |state: &State| match code & 0xe0 {
        libc::BPF_IMM => Some(k),
        libc::BPF_MEM => state.memory.get(k as usize).copied().flatten(),
        libc::BPF_LEN => Some(64),
        libc::BPF_ABS => call.word(k),
        _ => None,
    };
    match code & 0x07 {
        libc::BPF_LD => state.accumulator = loaded(state),
        libc::BPF_LDX => state.index = loaded(state),
        kind @ (libc::BPF_ST | libc::BPF_STX) => {
            let value = if kind == libc::BPF_ST { state.accumulator } else { state.index };
            let Some(place) = state.memory.get_mut(k as usize) else { return Step::Unknown };
            *place = value;
        }
        libc::BPF_ALU => match calculated(instruction, state) {
            Some(accumulator) => state.accumulator = accumulator,
            None => return Step::Unknown,
        },
        libc::BPF_JMP => return jump(instruction, state),
        libc::BPF_RET => {
            let value = if code & 0x18 == libc::BPF_A { state.accumulator } else { Some(k) };
            return value.map_or(Step::Unknown, Step::Ends);
        }
        _ if code & 0xf8 == libc::BPF_TXA => state.accumulator = state.index,
        _ => state.index = state.accumulator,
    }
    Step::Goes
}

/// The second operand.
fn operand(instruction: Instruction, state: &State) -> Option<u32> {
    if instruction.code & libc::BPF_X != 0 { state.index } else { Some(instruction.k) }
}

/// What an operation leaves in the accumulator; `None` where it may end the filter.
fn calculated(instruction: Instruction, state: &State) -> Option<Option<u32>> {
    let operation = instruction.code & 0xf0;
    let second = operand(instruction, state);
    if operation == libc::BPF_DIV && second.is_none_or(|second| second == 0) {
        return None;
    }
    let (Some(first), Some(second)) = (state.accumulator, second) else { return Some(None) };
    Some(match operation {
        libc::BPF_ADD => Some(first.wrapping_add(second)),
        libc::BPF_SUB => Some(first.wrapping_sub(second)),
        libc::BPF_MUL => Some(first.wrapping_mul(second)),
        libc::BPF_DIV => first.checked_div(second),
        libc::BPF_OR => Some(first | second),
        libc::BPF_AND => Some(first & second),
        libc::BPF_XOR => Some(first ^ second),
        libc::BPF_NEG => Some(first.wrapping_neg()),
        // By more bits than there are, processors differ.
        libc::BPF_LSH => first.checked_shl(second),
        libc::BPF_RSH => first.checked_shr(second),
        _ => None,
    })
}

/// From the next instruction, at which the state is already.
fn jump(instruction: Instruction, state: &mut State) -> Step {
    let Instruction { code, if_true, if_false, k } = instruction;
    let next = state.at;
    let second = operand(instruction, state);
    let is_true = |first: u32, second: u32| match code & 0xf0 {
        libc::BPF_JEQ => Some(first == second),
        libc::BPF_JGT => Some(first > second),
        libc::BPF_JGE => Some(first >= second),
        libc::BPF_JSET => Some(first & second != 0),
        _ => None,
    };
    if code & 0xf0 == libc::BPF_JA {
        state.at = next.saturating_add(k as usize);
        return Step::Goes;
    }
    let known = state.accumulator.zip(second).and_then(|(first, second)| is_true(first, second));
    state.at = next + usize::from(if known == Some(false) { if_false } else { if_true });
    if known.is_some() {
        return Step::Goes;
    }
    let mut other = *state;
    other.at = next + usize::from(if_false);
    Step::Forks(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN_K: u32 = libc::BPF_RET | libc::BPF_K;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const FAIL: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ARGUMENT: u32 = 16;

    fn filter(instructions: &[(u32, u8, u8, u32)]) -> Filter {
        let bytes = instructions.iter().flat_map(|(code, if_true, if_false, k)| {
            let code = (*code as u16).to_ne_bytes();
            [&code[..], &[*if_true, *if_false], &k.to_ne_bytes()].concat()
        });
        Filter { instructions: bytes.collect(), flags: 0 }
    }

    fn passes(instructions: &[(u32, u8, u8, u32)], call: Call) -> bool {
        first_denied(&[filter(instructions)], &[call]).is_none()
    }

    #[test]
    fn calls_are_told_by_their_numbers() {
        let only_seven =
            [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 7), (RETURN_K, 0, 0, ALLOW), (RETURN_K, 0, 0, FAIL)];
        assert!(passes(&only_seven, Call::any("seven", 7)));
        assert!(!passes(&only_seven, Call::any("eight", 8)));
        let logs = [(RETURN_K, 0, 0, libc::SECCOMP_RET_LOG)];
        assert!(passes(&logs, Call::any("seven", 7)));
        for denies in [FAIL, libc::SECCOMP_RET_TRACE, libc::SECCOMP_RET_KILL_PROCESS, 0] {
            assert!(!passes(&[(RETURN_K, 0, 0, denies)], Call::any("seven", 7)));
        }
        let fails = |action| at_worst_fails(&[filter(&[(RETURN_K, 0, 0, action)])], &RETURN);
        assert!(fails(ALLOW) && fails(FAIL));
        assert!(!fails(libc::SECCOMP_RET_TRAP) && !fails(libc::SECCOMP_RET_USER_NOTIF));
        assert!(!fails(libc::SECCOMP_RET_ERRNO), "that looks like success");
        let calls = [Call::any("seven", 7), Call::any("eight", 8)];
        let both = [filter(&logs), filter(&only_seven)];
        assert_eq!(first_denied(&both, &calls), Some(&calls[1]));
        assert_eq!(first_denied(&both[..1], &calls), None);
    }

    #[test]
    fn what_is_not_known_may_be_anything() {
        let not_forty = [
            (LOAD, 0, 0, ARGUMENT),
            (EQUAL, 1, 0, 40),
            (RETURN_K, 0, 0, ALLOW),
            (RETURN_K, 0, 0, FAIL),
        ];
        assert!(passes(&not_forty, Call::of("socket", 41, 1)));
        assert!(!passes(&not_forty, Call::of("socket", 41, 40)));
        assert!(!passes(&not_forty, Call::any("socket", 41)));
        // Both ways lead to the same.
        let all_the_same = [(LOAD, 0, 0, ARGUMENT), (EQUAL, 0, 0, 40), (RETURN_K, 0, 0, ALLOW)];
        assert!(passes(&all_the_same, Call::any("socket", 41)));
    }

    #[test]
    fn memory_that_can_be_written_and_executed_is_seen() {
        // As MemoryDenyWriteExecute= of systemd has it: (prot & 6) == 6.
        let and = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        let third = ARGUMENT + 16;
        let denied = [
            (LOAD, 0, 0, third),
            (and, 0, 0, 6),
            (EQUAL, 0, 1, 6),
            (RETURN_K, 0, 0, FAIL),
            (RETURN_K, 0, 0, ALLOW),
        ];
        let mapped =
            |protection| Call::with("mmap", 9, [None, None, Some(protection), None, None, None]);
        assert!(!passes(&denied, mapped(7)));
        assert!(passes(&denied, mapped(3)));
        // The upper half is a word of its own.
        let upper = [
            (LOAD, 0, 0, third + 4),
            (ANY_BIT, 0, 1, u32::MAX),
            (RETURN_K, 0, 0, FAIL),
            (RETURN_K, 0, 0, ALLOW),
        ];
        assert!(passes(&upper, mapped(7)));
        assert!(!passes(&upper, mapped(1 << 40)));
    }

    #[test]
    fn numbers_are_reckoned_with() {
        let store = (libc::BPF_ST, 0, 0, 3);
        let into_index = (libc::BPF_LDX | libc::BPF_MEM, 0, 0, 3);
        let alu = |operation: u32, source: u32| libc::BPF_ALU | operation | source;
        // (number + 1) * 2 - number == 9, and back through the registers.
        let program = [
            (LOAD, 0, 0, 0),
            store,
            into_index,
            (alu(libc::BPF_ADD, libc::BPF_K), 0, 0, 1),
            (alu(libc::BPF_LSH, libc::BPF_K), 0, 0, 1),
            (alu(libc::BPF_SUB, libc::BPF_X), 0, 0, 0),
            (libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
            (libc::BPF_LD | libc::BPF_IMM, 0, 0, 0),
            (libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0),
            (EQUAL, 0, 1, 9),
            (RETURN_K, 0, 0, ALLOW),
            (RETURN_K, 0, 0, FAIL),
        ];
        assert!(passes(&program, Call::any("seven", 7)));
        assert!(!passes(&program, Call::any("eight", 8)));
        // A division by nought ends a filter, and the task.
        let divides = [(alu(libc::BPF_DIV, libc::BPF_X), 0, 0, 0), (RETURN_K, 0, 0, ALLOW)];
        assert!(!passes(&divides, Call::any("seven", 7)));
        // What is returned is what was reckoned.
        let returns = [(LOAD, 0, 0, ARGUMENT), (libc::BPF_RET | libc::BPF_A, 0, 0, 0)];
        assert!(passes(&returns, Call::of("seven", 7, ALLOW.into())));
        assert!(!passes(&returns, Call::any("seven", 7)));
    }

    #[test]
    fn what_takes_too_long_or_leads_nowhere_is_not_told() {
        // Each jump doubles the ways, and what is stored keeps them apart.
        let mut ways = Vec::new();
        for place in 0..15 {
            ways.extend([(LOAD, 0, 0, 0); 4]);
            ways.extend([
                (LOAD, 0, 0, ARGUMENT),
                (EQUAL, 0, 2, place),
                (libc::BPF_LD | libc::BPF_IMM, 0, 0, 1),
                (libc::BPF_ST, 0, 0, place),
            ]);
        }
        ways.push((RETURN_K, 0, 0, ALLOW));
        assert!(!passes(&ways, Call::any("seven", 7)));
        assert!(!passes(&[(LOAD, 0, 0, 0)], Call::any("seven", 7)));
        let far = [(libc::BPF_JMP | libc::BPF_JA, 0, 0, u32::MAX)];
        assert!(!passes(&far, Call::any("seven", 7)));
        assert!(!passes(&[(libc::BPF_ST, 0, 0, 99), (RETURN_K, 0, 0, ALLOW)], RETURN));
    }
}
