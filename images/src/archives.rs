//! What archives of file systems in memory ([`names::tmpfs`](crate::names::tmpfs)) call what tar(1) has no field for: records of pax(1), as
//! other programs write them.

/// What an archive of a file system in memory calls an attribute of a file, before its name.
pub const ATTRIBUTE: &str = "SCHILY.xattr.";

/// An attribute's name as it is in the key of a record, which ends in `=`; as tar(1) has it.
pub fn attribute_in_key(name: &str) -> String {
    name.replace('%', "%25").replace('=', "%3D")
}

/// The name that is so in the key.
pub fn attribute_of_key(name: &[u8]) -> Vec<u8> {
    let (mut found, mut left) = (Vec::new(), name);
    while let Some((first, rest)) = left.split_first() {
        let (byte, after) = match left {
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            [b'%', b'3', b'D' | b'd', after @ ..] => (b'=', after),
            _ => (*first, rest),
        };
        found.push(byte);
        left = after;
    }
    found
}

/// What an archive of a file system in memory calls the flags of a file (chattr), as other programs do that keep them:
/// names with commas between them, of these bits of `FS_*_FL`.
pub const FILE_FLAGS: (&str, [(&str, u32); 4]) =
    ("SCHILY.fflags", [("schg", 0x10), ("sappnd", 0x20), ("nodump", 0x40), ("noatime", 0x80)]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attributes_are_in_keys() {
        for name in ["user.a", "user.a=b", "user.100%", "user.%3D=%25", "user.="] {
            let key = attribute_in_key(name);
            assert!(!key.contains('='), "{key}");
            assert_eq!(attribute_of_key(key.as_bytes()), name.as_bytes());
        }
        assert_eq!(attribute_of_key(b"user.%zz%2"), b"user.%zz%2");
    }
}
