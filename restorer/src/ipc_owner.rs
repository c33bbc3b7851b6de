//! Whose a System V object is to be, by what the images say of it.

use images::messages::IpcDescEntry;
use kernel::sysv::Owner;

/// The owner that an entry names.
pub(crate) fn owner(desc: &IpcDescEntry) -> Owner {
    let IpcDescEntry { key, uid, gid, cuid, cgid, mode, .. } = *desc;
    Owner { key, uid, gid, cuid, cgid, mode }
}
