//! Memory whose faults a program serves itself (userfaultfd(2)).

use crate::unsupported::Refusal;

const CLOSE: &str =
    "have the program close the userfaultfd before the dump, which ends its service";

/// What the kernel does not tell without eBPF: which userfaultfd serves which memory.
pub const UNSEEN: Refusal = Refusal::fixed(
    "only eBPF programs see which userfaultfd serves which memory",
    "dump with CAP_BPF and CAP_PERFMON (`stasis programs` says what is loaded), or have the program close the userfaultfd before \
     the dump",
);

/// A descriptor of a userfaultfd that serves another process.
pub const OF_ANOTHER: Refusal = Refusal::fixed(
    "a userfaultfd that serves the memory of another process than the one that has it, or of one that has ended, which cannot be \
     carried yet",
    CLOSE,
);

/// One that several processes have.
pub const SHARED: Refusal = Refusal::fixed(
    "a userfaultfd that several processes have, which cannot be carried yet",
    "have all processes but the one whose memory it serves close it before the dump",
);

/// Memory that is served by nobody who is known.
pub const BY_ANOTHER: Refusal = Refusal::fixed(
    "its page faults are served by a userfaultfd that the process does not have",
    "have the program unregister it (UFFDIO_UNREGISTER), or end who serves it, before the dump",
);

/// Memory of a kind that cannot be brought back without being touched.
pub const OTHER_MEMORY: Refusal = Refusal::fixed(
    "its page faults are served by userfaultfd, and it is the heap, a stack, shared, of a file, locked or of huge pages, which \
     cannot be carried yet",
    "have the program unregister it (UFFDIO_UNREGISTER) before the dump",
);

/// Modes of which more than faults is to be carried: page tables say what was written, and which pages are poisoned.
const MODES: Refusal = Refusal::fixed(
    "a userfaultfd that write-protects memory which is not there or without telling, or poisons pages \
     (UFFD_FEATURE_WP_UNPOPULATED, UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_POISON), which cannot be carried yet",
    CLOSE,
);

/// One of which a process is signalled.
pub const SIGNALS: Refusal = Refusal::fixed(
    "a userfaultfd that has an owner to be signalled (F_SETOWN), whom the kernel never signals",
    "have the program take the owner away before the dump (F_SETOWN with 0)",
);

/// Dumped or restored for a user.
pub const OF_USER: Refusal = Refusal::fixed(
    "it is a userfaultfd, and a restore would make it with rights that a user has not",
    "have it dumped and restored by root",
);

/// Why one with these features is not carried.
#[must_use]
pub fn of_features(features: u64) -> Option<Refusal> {
    const WP_UNPOPULATED: u64 = 1 << 13;
    const POISON: u64 = 1 << 14;
    const WP_ASYNC: u64 = 1 << 15;
    (features & (WP_UNPOPULATED | POISON | WP_ASYNC) != 0).then_some(MODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_tell_faults_are_carried() {
        assert_eq!(of_features(0x101), None);
        for feature in 13..=15 {
            assert_eq!(of_features(1 << feature), Some(MODES));
        }
        assert_eq!(of_features(1 << 16), None);
    }
}
