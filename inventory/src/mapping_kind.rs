//! What a mapping of a running process is, by the name that the kernel has for it.

use arch::memory::GATE;
use images::MappingKind;

use crate::VmFlags;

/// What a mapping is that has this name in `/proc/PID/maps`.
#[must_use]
pub fn mapping_kind(name: &[u8], inode: u64, flags: VmFlags) -> MappingKind {
    let shared = flags.contains(VmFlags::MAY_SHARE);
    match name {
        b"" if inode == 0 => MappingKind::Anonymous,
        b"[heap]" => MappingKind::Heap,
        b"[stack]" => MappingKind::Stack,
        b"[vdso]" => MappingKind::Vdso,
        b"[vvar]" | b"[vvar_vclock]" => MappingKind::Vvar,
        b"[uprobes]" => MappingKind::Uprobes,
        b"/anon_hugepage (deleted)" if flags.contains(VmFlags::HUGE_TLB) => {
            MappingKind::HugePages { shared }
        }
        GATE => MappingKind::Vsyscall,
        _ if name.starts_with(b"socket:[") => MappingKind::PacketRing { shared },
        _ if is_shared_anonymous(name) && shared => MappingKind::SharedAnonymous,
        _ if is_shared_anonymous(name) => MappingKind::PrivateOfSharedAnonymous,
        _ if is_system_v(name) && shared => MappingKind::SystemV,
        _ if is_system_v(name) => MappingKind::PrivateOfSharedAnonymous,
        _ => by_beginning(name).unwrap_or(match inode {
            0 => MappingKind::Anonymous,
            _ => MappingKind::File { shared },
        }),
    }
}

/// Whether this is the name of shared memory that no file has ever been opened for. A process may give it one.
#[must_use]
pub fn is_shared_anonymous(name: &[u8]) -> bool {
    name == b"/dev/zero (deleted)" || name.starts_with(b"[anon_shmem:")
}

/// Whether the kernel calls a System V segment so: by its key. It says nothing of the device, which whoever reads it
/// compares: a file may have such a name.
#[must_use]
pub fn is_system_v(name: &[u8]) -> bool {
    const DIGITS: usize = 8;
    let key = name.strip_prefix(b"/SYSV").and_then(|rest| rest.strip_suffix(b" (deleted)"));
    key.is_some_and(|key| key.len() == DIGITS && key.iter().all(u8::is_ascii_hexdigit))
}

fn by_beginning(name: &[u8]) -> Option<MappingKind> {
    const NAMES: [(&[u8], MappingKind); 5] = [
        (b"/secretmem", MappingKind::Secret),
        (b"/[aio]", MappingKind::AioRing),
        (b"anon_inode:[io_uring]", MappingKind::IoUringRing),
        (b"anon_inode:[perf_event]", MappingKind::PerfRing),
        (b"anon_inode:", MappingKind::Pathless),
    ];
    NAMES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kinds() {
        let kind = |name: &str, inode, flags| mapping_kind(name.as_bytes(), inode, flags);
        let (private, shared) = (VmFlags::READ, VmFlags::READ | VmFlags::MAY_SHARE);
        assert_eq!(kind("", 0, private), MappingKind::Anonymous);
        assert_eq!(kind("[anon:a name]", 0, private), MappingKind::Anonymous);
        assert_eq!(kind("/dev/zero (deleted)", 9, shared), MappingKind::SharedAnonymous);
        assert_eq!(kind("[anon_shmem:a name]", 9, shared), MappingKind::SharedAnonymous);
        let huge = "/anon_hugepage (deleted)";
        let of_huge_pages = MappingKind::HugePages { shared: true };
        assert_eq!(kind(huge, 9, shared | VmFlags::HUGE_TLB), of_huge_pages);
        assert_eq!(kind(huge, 9, shared), MappingKind::File { shared: true });
        let other = MappingKind::PrivateOfSharedAnonymous;
        assert_eq!(kind("/dev/zero (deleted)", 9, private), other);
        assert_eq!(kind("/tmp/f", 9, shared), MappingKind::File { shared: true });
        assert_eq!(kind("/tmp/f", 9, private), MappingKind::File { shared: false });
        assert_eq!(kind("/SYSV0052e2c1 (deleted)", 9, shared), MappingKind::SystemV);
        assert_eq!(kind("/SYSV0052e2c1 (deleted)", 9, private), other);
        assert_eq!(kind("/SYSV0052e2c1", 9, shared), MappingKind::File { shared: true });
        assert_eq!(kind("/SYSVthing (deleted)", 9, shared), MappingKind::File { shared: true });
        assert_eq!(kind("anon_inode:[x]", 9, shared), MappingKind::Pathless);
    }
}
