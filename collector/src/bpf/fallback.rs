//! What the programs cannot tell, asked of /proc: names too long for a record, and files of stacked
//! file systems.

use std::ffi::OsString;

use ids::HostPid;
use kernel::procfs::{self, Dir, FileStat};

use super::BpfError;
use crate::Mapping;

/// File systems that tell `stat` another device, and perhaps another inode number, than the kernel
/// itself uses: overlayfs, btrfs, bcachefs.
pub(super) const OWN_NUMBERS: [u64; 3] = [0x794c_7630, 0x9123_683e, 0xca45_1a4e];

/// The folder of a thread.
fn dir(pid: HostPid, tid: HostPid) -> Result<Dir, procfs::Error> {
    Dir::open(pid).and_then(|dir| if tid == pid { Ok(dir) } else { dir.thread(tid) })
}

/// What `stat` says of an open file; `None` if it has gone.
pub(super) fn stat(pid: HostPid, tid: HostPid, fd: i32) -> Result<Option<FileStat>, BpfError> {
    let stat = dir(pid, tid).and_then(|dir| dir.stat_behind(&format!("fd/{fd}")));
    present(stat).map_err(|source| BpfError::Proc { pid, source })
}

/// The mappings as /proc tells them.
pub(super) fn mappings(pid: HostPid, tid: HostPid) -> Result<Vec<Mapping>, BpfError> {
    let mappings =
        dir(pid, tid).and_then(|dir| crate::proc_mappings::mappings(&dir, &mut Vec::new()));
    Ok(present(mappings).map_err(|source| BpfError::Proc { pid, source })?.unwrap_or_default())
}

/// The text of a link that was too long for a record; `None` if what it names has gone.
pub(super) fn link(pid: HostPid, tid: HostPid, name: &str) -> Result<Option<OsString>, BpfError> {
    let text = dir(pid, tid).and_then(|dir| dir.link(name));
    present(text).map_err(|source| BpfError::Proc { pid, source })
}

fn present<T>(answer: Result<T, procfs::Error>) -> Result<Option<T>, procfs::Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}
