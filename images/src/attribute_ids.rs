//! Users and groups in extended attributes: access lists and capabilities of files, which a dump reads outside of the tree's user
//! namespace, and a restore sets inside.
//!
//! The layouts are those of `linux/posix_acl_xattr.h` and `linux/capability.h`, in little endian.

use std::io;

use crate::id_map::{Id, IdMap, NOBODY};

const ACCESS_LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const CAPABILITIES: &[u8] = b"security.capability";

const ACL_VERSION_BYTES: usize = 4;
const ACL_ENTRY_BYTES: usize = 8;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
/// Of revision 2. Revision 3 has the id of the namespace's root behind that.
const CAPABILITY_BYTES: usize = 20;

/// The value that an attribute has in the user namespace.
///
/// # Errors
/// With what is wrong, and what helps, of a user or group that has no number there; for a value that is none.
pub fn inside(ids: &IdMap, name: &[u8], value: Vec<u8>) -> io::Result<Vec<u8>> {
    if ids.is_plain() {
        return Ok(value);
    }
    if ACCESS_LISTS.contains(&name) {
        return access_list(ids, value);
    }
    if name == CAPABILITIES {
        return capabilities(ids, value);
    }
    Ok(value)
}

fn access_list(ids: &IdMap, mut value: Vec<u8>) -> io::Result<Vec<u8>> {
    let entries = value.get_mut(ACL_VERSION_BYTES..).unwrap_or_default();
    for entry in entries.as_chunks_mut::<ACL_ENTRY_BYTES>().0 {
        let [low, high, _, _, number @ ..] = *entry;
        let kind = match u16::from_le_bytes([low, high]) {
            ACL_USER => Id::User,
            ACL_GROUP => Id::Group,
            _ => continue,
        };
        let number = known(ids, kind, u32::from_le_bytes(number), "its access list names")?;
        entry[4..].copy_from_slice(&number.to_le_bytes());
    }
    Ok(value)
}

fn capabilities(ids: &IdMap, mut value: Vec<u8>) -> io::Result<Vec<u8>> {
    let word = |at: usize| {
        let bytes = value.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let Some((head, Some(root))) = word(0).map(|head| (head, word(CAPABILITY_BYTES))) else {
        return Ok(value);
    };
    if head & REVISION != REVISION_3 {
        return Ok(value);
    }
    let root = known(ids, Id::User, root, "its capabilities are those of")?;
    if root == 0 {
        // Those of the namespace's own root have no number there.
        value[..4].copy_from_slice(&(head & !REVISION | REVISION_2).to_le_bytes());
        value.truncate(CAPABILITY_BYTES);
    } else {
        value[CAPABILITY_BYTES..].copy_from_slice(&root.to_le_bytes());
    }
    Ok(value)
}

fn known(ids: &IdMap, kind: Id, number: u32, what: &str) -> io::Result<u32> {
    match ids.inside(kind, number) {
        NOBODY => Err(io::Error::other(format!(
            "{what} {number}, who has no number in the user namespace of the tree; before the dump take that away (setfacl, setcap)"
        ))),
        inside => Ok(inside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{UidGidExtent, UsernsEntry};

    fn ids() -> IdMap {
        let range = || vec![UidGidExtent { first: 0, lower_first: 100_000, count: 10 }];
        let entry = UsernsEntry { uid_map: range(), gid_map: range(), ..UsernsEntry::default() };
        IdMap::of(&entry).unwrap()
    }

    fn acl(user: u32, group: u32) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [(0x01, u32::MAX), (ACL_USER, user), (ACL_GROUP, group), (0x20, 7)] {
            value.extend(tag.to_le_bytes());
            value.extend([7, 0]);
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn access_lists_name_those_of_inside() {
        let [access, _] = ACCESS_LISTS;
        assert_eq!(inside(&ids(), access, acl(100_003, 100_009)).unwrap(), acl(3, 9));
        assert!(inside(&ids(), access, acl(100_010, 100_000)).is_err());
        assert_eq!(inside(&IdMap::default(), access, acl(5, 6)).unwrap(), acl(5, 6));
        assert_eq!(inside(&ids(), b"user.other", acl(1, 1)).unwrap(), acl(1, 1));
        for cut in [0, 3, 11] {
            let value = acl(100_000, 100_000)[..cut].to_vec();
            assert_eq!(inside(&ids(), access, value.clone()).unwrap(), value);
        }
    }

    #[test]
    fn capabilities_are_those_of_a_root_inside() {
        let three = |root: u32| {
            let mut value = (REVISION_3 | 1).to_le_bytes().to_vec();
            value.extend([7; 16]);
            value.extend(root.to_le_bytes());
            value
        };
        let mut two = (REVISION_2 | 1).to_le_bytes().to_vec();
        two.extend([7; 16]);
        assert_eq!(inside(&ids(), CAPABILITIES, three(100_000)).unwrap(), two);
        assert_eq!(inside(&ids(), CAPABILITIES, three(100_004)).unwrap(), three(4));
        assert_eq!(inside(&ids(), CAPABILITIES, two.clone()).unwrap(), two);
        assert!(inside(&ids(), CAPABILITIES, three(5)).is_err());
        assert_eq!(inside(&ids(), CAPABILITIES, vec![3; 5]).unwrap(), vec![3; 5]);
    }
}
