//! How a mount is called.

use kernel::procfs::Mount;

/// How errors and refusals call a mount.
pub(crate) fn shown(mount: &Mount) -> String {
    format!("mount {} ({})", mount.mount_point.to_string_lossy(), mount.kind())
}
