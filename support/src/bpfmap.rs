//! BPF maps.

use crate::unsupported::Refusal;

/// The most bytes of keys and values, of all the elements that there may be.
pub const LARGEST: u64 = 64 << 20;

/// The same of all maps of a tree together.
pub const LARGEST_TOGETHER: u64 = 1 << 30;

/// The flags that a map may have been made with: how its memory is got, who may write it, that it can be mapped.
pub const FLAGS: u32 = 1 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10;

const CLOSE: &str = "have the program close it before the dump";

/// Whether an array or a hash.
const KIND: Refusal = Refusal::fixed(
    "a BPF map of another kind than arrays and hashes: what is in it cannot be read as a whole, or put back",
    CLOSE,
);

/// It says more of how it was made than can be told again.
const MADE_OTHERWISE: Refusal = Refusal::fixed(
    "a BPF map with types of its own (BTF), of a network device or with other flags than can be given again",
    CLOSE,
);

/// `BPF_F_NUMA_NODE`.
pub const NUMA_NODE: u32 = 1 << 2;

/// The kernel does not say which node.
pub const OF_NODE: Refusal = Refusal::fixed(
    "a BPF map in the memory of one NUMA node (BPF_F_NUMA_NODE), and of the nodes of this machine the kernel does not tell which",
    CLOSE,
);

/// There is too much in it.
const TOO_LARGE: Refusal = Refusal::fixed(
    "a BPF map that has room for more than 64 MiB, which would have to be read while the program stands still",
    "make it smaller (max_entries), or have the program close it before the dump",
);

/// There is too much in all of them.
pub const TOO_LARGE_TOGETHER: Refusal = Refusal::fixed(
    "BPF maps that have room for more than 1 GiB together, which would have to be read while the program stands still",
    "make them smaller (max_entries), or have the program close some before the dump",
);

/// The bytes that a map has room for, by those of a key and a value, and the most elements.
#[must_use]
pub fn room(key: u32, value: u32, most: u32) -> Option<u64> {
    (u64::from(key) + u64::from(value)).checked_mul(most.into())
}

/// Nobody can read it by this descriptor.
pub const WRITE_ONLY: Refusal = Refusal::fixed(
    "a BPF map that is open to be written only (BPF_F_WRONLY)",
    "open it to be read and written, or have the program close it before the dump",
);

/// Restored for a user.
pub const OF_ROOT: Refusal = Refusal::fixed(
    "a BPF map, which takes rights of root to make",
    "have it dumped and restored by root, or have the program close it before the dump",
);

/// Why a map is not carried, by what it is.
#[must_use]
pub fn of_map(kind: u32, flags: u32, bytes: Option<u64>, made_otherwise: bool) -> Option<Refusal> {
    const HASH: u32 = 1;
    const ARRAY: u32 = 2;
    if ![HASH, ARRAY].contains(&kind) {
        return Some(KIND);
    }
    if flags & !(FLAGS | NUMA_NODE) != 0 || made_otherwise {
        return Some(MADE_OTHERWISE);
    }
    bytes.is_none_or(|bytes| bytes > LARGEST).then_some(TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_made_again() {
        assert_eq!(of_map(1, 1, Some(4096), false), None);
        assert_eq!(of_map(2, 1 << 10, Some(LARGEST), false), None);
        assert_eq!(of_map(5, 0, Some(1), false), Some(KIND));
        assert_eq!(of_map(1, NUMA_NODE, Some(1), false), None);
        assert_eq!(of_map(1, 8, Some(1), false), Some(MADE_OTHERWISE));
        assert_eq!(of_map(1, 0, Some(1), true), Some(MADE_OTHERWISE));
        assert_eq!(of_map(1, 0, Some(LARGEST + 1), false), Some(TOO_LARGE));
        assert_eq!(of_map(1, 0, None, false), Some(TOO_LARGE));
    }
}
