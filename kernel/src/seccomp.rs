//! The seccomp filters of a stopped thread (seccomp(2), `PTRACE_SECCOMP_GET_FILTER`).
//!
//! Who reads them needs CAP_SYS_ADMIN and no filters of its own.

use crate::ptrace::{Error, Result, Stopped, ptrace};

const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: u32 = 0x420d;

/// Bytes of an instruction (`struct sock_filter`).
pub const INSTRUCTION_BYTES: usize = 8;
/// The most instructions that a filter has (`BPF_MAXINSNS`).
pub const LONGEST: usize = 4096;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Its instructions, of [`INSTRUCTION_BYTES`] each, as they were installed.
    pub instructions: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_LOG`, if it was installed with that.
    pub flags: u32,
}

impl Filter {
    /// Whether it may hand a call to a supervisor (`SECCOMP_RET_USER_NOTIF`).
    #[must_use]
    pub fn notifies(&self) -> bool {
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        self.instructions.chunks_exact(INSTRUCTION_BYTES).any(|instruction| {
            let code = u16::from_ne_bytes([instruction[0], instruction[1]]);
            let value = [instruction[4], instruction[5], instruction[6], instruction[7]];
            let action = u32::from_ne_bytes(value) & libc::SECCOMP_RET_ACTION_FULL;
            code == RETURN && action == libc::SECCOMP_RET_USER_NOTIF
        })
    }
}

/// Whether this thread may read the filters of others.
#[must_use]
pub fn may_read() -> bool {
    let status = crate::procfs::Dir::open(ids::HostPid::own())
        .and_then(|dir| dir.thread(crate::process::own_thread()))
        .and_then(|dir| <crate::procfs::Status as crate::procfs::ProcFile>::read(&dir));
    let administers = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN);
    administers.unwrap_or(false) && status.is_ok_and(|status| status.seccomp == 0)
}

impl Stopped {
    /// The filters of a thread that is in the mode of filters, the one first that was installed first.
    ///
    /// # Errors
    /// [`Error::Gone`] when the task was killed; refused where this process has filters itself or lacks
    /// the right, and of filters that the kernel does not keep as they were installed.
    pub fn seccomp_filters(&self) -> Result<Vec<Filter>> {
        let mut filters = Vec::new();
        let mut buffer = vec![0_u8; LONGEST * INSTRUCTION_BYTES];
        loop {
            let operation = "read the seccomp filters of";
            let (number, data) = (filters.len(), buffer.as_mut_ptr().cast());
            // The kernel writes no more than the instructions of one filter, and counts them.
            match ptrace(operation, PTRACE_SECCOMP_GET_FILTER, self.tid(), number, data) {
                Ok(count) => filters.push(Filter {
                    instructions: buffer[..count as usize * INSTRUCTION_BYTES].to_vec(),
                    flags: self.seccomp_flags(number)?,
                }),
                Err(error) if error.is(nix::errno::Errno::ENOENT) => return Ok(filters),
                Err(error) => return Err(error),
            }
        }
    }

    /// The flags of a filter by its number. (Linux 4.16.)
    fn seccomp_flags(&self, number: usize) -> Result<u32> {
        // struct seccomp_metadata: the number of the filter, and its flags.
        let mut metadata = [number as u64, 0];
        let operation = "read the flags of a seccomp filter of";
        let (bytes, data) = (size_of_val(&metadata), metadata.as_mut_ptr().cast());
        match ptrace(operation, PTRACE_SECCOMP_GET_METADATA, self.tid(), bytes, data) {
            Ok(_) => Ok(metadata[1] as u32),
            Err(Error::Refused { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(instructions: &[(u16, u32)]) -> Filter {
        let bytes = instructions.iter().flat_map(|(code, value)| {
            [&code.to_ne_bytes()[..], &[0; 2], &value.to_ne_bytes()].concat()
        });
        Filter { instructions: bytes.collect(), flags: 0 }
    }

    #[test]
    fn supervisors_are_seen_in_what_is_returned() {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let (allow, notify) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_USER_NOTIF);
        assert!(!filter(&[(LOAD, notify), (RETURN, allow)]).notifies());
        assert!(filter(&[(LOAD, 0), (RETURN, allow), (RETURN, notify | 7)]).notifies());
    }
}
