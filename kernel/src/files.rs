//! What becomes of the contents of files.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Has the disk begin with what was written to a file (sync_file_range(2)), and does not wait for it. Where that cannot be,
/// it begins later by itself; what goes wrong on the way is told by who waits for all of it (fsync(2)).
pub fn begin_to_write(file: &File) {
    // SAFETY: the call has no pointers. A length of 0 means up to the end.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
