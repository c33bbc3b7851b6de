//! Fingerprints.

use stasis_ebpf_common::offsets::ABSENT;

use crate::read::{many_at, offset};

/// Words that are read at a time: what the stack has room for.
const WORDS: usize = 8;

/// A fingerprint in the making. Each word is multiplied in: a cheap mixture, since the kernel's own
/// structures are no adversary, and a change of one word changes the result for certain.
pub(crate) struct Mark(u64);

/// Odd, with its bits spread evenly.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Mark {
    pub(crate) const fn new() -> Self {
        Self(FACTOR)
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(FACTOR);
    }

    #[inline(always)]
    pub(crate) fn add_all(&mut self, words: &[u64]) {
        for word in words {
            self.add(*word);
        }
    }

    /// Adds `COUNT` chunks of 8 words from an address; the same as zeros where it cannot be read.
    #[inline(always)]
    pub(crate) fn add_chunks<const COUNT: usize>(&mut self, address: u64) {
        for chunk in 0..COUNT as u64 {
            self.add_words::<WORDS>(address + chunk * (WORDS as u64 * 8));
        }
    }

    /// Adds `COUNT` words from an address, 8 at most.
    #[inline(always)]
    pub(crate) fn add_words<const COUNT: usize>(&mut self, address: u64) {
        let words: [u64; COUNT] = many_at(address);
        for word in words {
            self.add(word);
        }
    }

    /// Adds `COUNT` words from a field of the structure at `base`; nothing if this kernel lacks it.
    #[inline(always)]
    pub(crate) fn add_field<const COUNT: usize>(&mut self, base: u64, index: usize) {
        let offset = offset(index);
        if offset != ABSENT {
            self.add_words::<COUNT>(base + u64::from(offset));
        }
    }

    /// Never 0, which stands for none.
    #[inline(always)]
    pub(crate) fn finish(&self) -> u64 {
        self.0 | 1
    }
}
