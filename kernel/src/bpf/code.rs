//! Programs of a few instructions, put together one by one: for what the compiler of the larger ones cannot express.

use std::os::fd::{AsFd, AsRawFd};

// Documentation/bpf/standardization/instruction-set.rst
const LOAD_WORD: u8 = 0x61;
const STORE_NUMBER: u8 = 0x62;
const ADD_NUMBER: u8 = 0x07;
const SET_NUMBER: u8 = 0xb7;
const SET_WIDE: u8 = 0x18;
const COPY: u8 = 0xbf;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const ALWAYS: u8 = 0x05;
const IF_WORD_IS: u8 = 0x16;
const IF_WORD_DIFFERS: u8 = 0x56;
const IF_NUMBER_IS: u8 = 0x15;
const IF_REGISTER_DIFFERS: u8 = 0x5e;

/// Says that an immediate value is the descriptor of a map.
const OF_MAP: u8 = 1;
/// Says that what is called is a function of the kernel's own (a kfunc).
const OF_KERNEL: u8 = 2;

/// The register with the address behind the stack's end.
pub const STACK: u8 = 10;

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

/// Instructions in the making. Registers are numbers from 0 to 10.
#[derive(Debug, Default)]
pub struct Code {
    words: Vec<u64>,
    /// Where the places are, as far as they are known.
    places: Vec<Option<usize>>,
    /// Jumps, and where they lead.
    jumps: Vec<(usize, Place)>,
}

impl Code {
    fn add(&mut self, code: u8, (to, from): (u8, u8), offset: i16, value: u32) -> &mut Self {
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        self.words.push(u64::from_ne_bytes([code, to | from << 4, low, high, a, b, c, d]));
        self
    }

    fn jump(&mut self, code: u8, registers: (u8, u8), value: u32, place: Place) -> &mut Self {
        self.jumps.push((self.words.len(), place));
        self.add(code, registers, 0, value)
    }

    /// A place that stands nowhere yet.
    pub fn place(&mut self) -> Place {
        self.places.push(None);
        Place(self.places.len() - 1)
    }

    /// Puts a place here.
    pub fn here(&mut self, place: Place) -> &mut Self {
        let end = self.words.len();
        if let Some(slot) = self.places.get_mut(place.0) {
            *slot = Some(end);
        }
        self
    }

    /// Sets a register to what another has.
    pub fn copy(&mut self, to: u8, from: u8) -> &mut Self {
        self.add(COPY, (to, from), 0, 0)
    }

    /// Sets a register to a number.
    pub fn set(&mut self, to: u8, value: i32) -> &mut Self {
        self.add(SET_NUMBER, (to, 0), 0, value.cast_unsigned())
    }

    /// Sets a register to an address on the stack, so many bytes before its end.
    pub fn on_stack(&mut self, to: u8, before: i32) -> &mut Self {
        self.copy(to, STACK).add(ADD_NUMBER, (to, 0), 0, (-before).cast_unsigned())
    }

    /// Sets a register to a map.
    pub fn map(&mut self, to: u8, map: impl AsFd) -> &mut Self {
        let fd = map.as_fd().as_raw_fd().cast_unsigned();
        self.add(SET_WIDE, (to, OF_MAP), 0, fd).add(0, (0, 0), 0, 0)
    }

    /// Loads a word of 4 bytes at an address and an offset.
    pub fn load(&mut self, to: u8, at: u8, offset: i16) -> &mut Self {
        self.add(LOAD_WORD, (to, at), offset, 0)
    }

    /// Stores a number of 4 bytes at an address and an offset.
    pub fn store(&mut self, at: u8, offset: i16, value: u32) -> &mut Self {
        self.add(STORE_NUMBER, (at, 0), offset, value)
    }

    /// Calls a helper (`BPF_FUNC_*`).
    pub fn call(&mut self, helper: u32) -> &mut Self {
        self.add(CALL, (0, 0), 0, helper)
    }

    /// Calls a function of the kernel's own, by its number in the type information.
    pub fn call_kernel(&mut self, function: u32) -> &mut Self {
        self.add(CALL, (0, OF_KERNEL), 0, function)
    }

    /// Goes to a place.
    pub fn go(&mut self, place: Place) -> &mut Self {
        self.jump(ALWAYS, (0, 0), 0, place)
    }

    /// Goes to a place if the lower word of a register is a number.
    pub fn go_if_word(&mut self, register: u8, is: u32, place: Place) -> &mut Self {
        self.jump(IF_WORD_IS, (register, 0), is, place)
    }

    /// Goes to a place if the lower word of a register is another number.
    pub fn go_unless_word(&mut self, register: u8, is: u32, place: Place) -> &mut Self {
        self.jump(IF_WORD_DIFFERS, (register, 0), is, place)
    }

    /// Goes to a place if a register is 0.
    pub fn go_if_zero(&mut self, register: u8, place: Place) -> &mut Self {
        self.jump(IF_NUMBER_IS, (register, 0), 0, place)
    }

    /// Goes to a place if the lower words of two registers differ.
    pub fn go_if_differ(&mut self, one: u8, other: u8, place: Place) -> &mut Self {
        self.jump(IF_REGISTER_DIFFERS, (one, other), 0, place)
    }

    /// Ends the program with a number.
    pub fn end(&mut self, with: i32) -> &mut Self {
        self.set(0, with).add(EXIT, (0, 0), 0, 0)
    }

    /// The instructions; `None` if a jump leads nowhere.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u64>> {
        for (jump, Place(place)) in self.jumps {
            let to = (*self.places.get(place)?)?;
            let distance = to.checked_signed_diff(jump + 1)?;
            let [low, high] = i16::try_from(distance).ok()?.to_ne_bytes();
            let mut bytes = self.words[jump].to_ne_bytes();
            (bytes[2], bytes[3]) = (low, high);
            self.words[jump] = u64::from_ne_bytes(bytes);
        }
        Some(self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_places() {
        let mut code = Code::default();
        let (back, on, nowhere) = (code.place(), code.place(), code.place());
        code.here(back).go_if_zero(1, on).go(back).here(on).end(-1);
        let words = code.finish().unwrap();
        let offset = |word: u64| i16::from_ne_bytes([word.to_ne_bytes()[2], word.to_ne_bytes()[3]]);
        assert_eq!((words.len(), offset(words[0]), offset(words[1])), (4, 1, -2));
        let mut code = Code::default();
        code.go(nowhere);
        assert_eq!(code.finish(), None);
    }
}
