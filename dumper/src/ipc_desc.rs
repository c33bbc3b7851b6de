//! What the images say of every System V object.

use images::messages::IpcDescEntry;
use kernel::sysv::Owner;

/// The entry of an object with this id.
pub(crate) fn desc(id: i32, owner: &Owner) -> IpcDescEntry {
    let Owner { key, uid, gid, cuid, cgid, mode } = *owner;
    IpcDescEntry { key, uid, gid, cuid, cgid, mode, id: id.cast_unsigned() }
}
