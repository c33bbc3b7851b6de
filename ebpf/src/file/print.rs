//! A fingerprint of what can be changed of an open file by its name: for whoever only wants to know
//! whether that has been done.

use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;

use crate::mark::Mark;
use crate::read::{load, offset};

/// Folders above a file; of one that lies deeper there is no print.
const DEPTH: u32 = 32;

/// The print of a file, 0 for none. It covers owner, rights, size, number of names, and the path up
/// to the root of the file system: of each name on the way how often it has been moved or removed,
/// which the kernel counts (`d_seq`). What is mounted where is no part of it.
#[inline(never)]
pub(super) fn print(file: u64) -> u64 {
    if offset(o::DENTRY_SEQUENCE) == ABSENT {
        return 0;
    }
    let inode: u64 = load(file, o::FILE_INODE);
    let (names, mode): (u32, u16) = (load(inode, o::INODE_NLINK), load(inode, o::INODE_MODE));
    let (user, group): (u32, u32) = (load(inode, o::INODE_UID), load(inode, o::INODE_GID));
    let mut mark = Mark::new();
    mark.add(u64::from(names) << 32 | u64::from(mode));
    mark.add(u64::from(user) << 32 | u64::from(group));
    mark.add(load(inode, o::INODE_SIZE));
    let mut name: u64 = load(file, o::FILE_DENTRY);
    for _ in 0..DEPTH {
        let moves: u32 = load(name, o::DENTRY_SEQUENCE);
        mark.add(u64::from(moves));
        let above: u64 = load(name, o::DENTRY_PARENT);
        if above == name {
            return mark.finish();
        }
        name = above;
    }
    0
}
