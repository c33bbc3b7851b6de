//! The numbers that the dumper's own namespaces have in the images.

/// Names in `/proc/PID/ns`, in the order of the numbers of the dumper's own.
pub(crate) const KINDS: [&str; 8] = ["pid", "net", "ipc", "uts", "time", "mnt", "user", "cgroup"];

/// The number that the dumper's own namespace of a kind has in the images.
pub(crate) fn own_number(name: &str) -> Option<u32> {
    Some(KINDS.iter().position(|kind| *kind == name)? as u32 + 1)
}
