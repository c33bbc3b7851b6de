//! What the images say of every System V object.

use images::id_map::IdMap;
use images::messages::IpcDescEntry;
use kernel::sysv::Owner;

/// The entry of an object with this id, with user and group ids as `ids` has them inside.
pub(crate) fn desc(id: i32, owner: &Owner, ids: &IdMap) -> IpcDescEntry {
    let Owner { key, uid, gid, cuid, cgid, mode } = *owner;
    let mut desc = IpcDescEntry { key, uid, gid, cuid, cgid, mode, id: id.cast_unsigned() };
    ids.enter(&mut desc);
    desc
}
