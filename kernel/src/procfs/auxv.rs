//! `/proc/PID/auxv`: the auxiliary vector that the kernel gave the program.

use super::{Malformed, ProcFile};

/// The vector, in order, with the terminating `AT_NULL` entry (and, like the kernel's file, what
/// stands behind that).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auxv(pub Vec<u64>);

impl Auxv {
    /// The value of the first entry of a kind (`AT_*`).
    #[must_use]
    pub fn get(&self, kind: u64) -> Option<u64> {
        self.0
            .chunks_exact(2)
            .take_while(|pair| pair[0] != 0)
            .find(|pair| pair[0] == kind)
            .map(|pair| pair[1])
    }
}

impl ProcFile for Auxv {
    const NAME: &'static str = "auxv";

    /// The text is made of native words: 64-bit ones, as this is for 64-bit programs.
    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let (words, rest) = text.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(Malformed("a whole number of words"));
        }
        Ok(Self(words.iter().map(|word| u64::from_ne_bytes(*word)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;

    #[test]
    fn own_vector_has_the_page_size() {
        let own = super::super::Dir::open(HostPid::own()).unwrap();
        assert_eq!(Auxv::read(&own).unwrap().get(libc::AT_PAGESZ), Some(4096));
        assert!(Auxv::parse(&[0; 7]).is_err());
    }
}
