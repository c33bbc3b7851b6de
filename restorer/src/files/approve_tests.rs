//! Images without identities, as CRIU writes them. These need root: they take on the rights of others.

use super::*;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

const USER: u32 = 54_321;

fn holder(effective: u64, users: [u32; 4]) -> Credentials {
    Credentials { users, groups: users, effective, ..Credentials::default() }
}

/// Whether somebody with these credentials is given a file of a mode that is root's.
fn given(own: &[Credentials], mode: u32, flags: i32, identity: Option<FileIdentity>) -> bool {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let mut holders = Holders::default();
    for (pid, own) in (1..).zip(own) {
        holders.add(ids::ImagePid::new(pid).unwrap(), [own.clone()], 99, [(7, Some(3))]);
    }
    let name = path.as_os_str().as_bytes().to_vec();
    let entry = RegFileEntry { id: 7, name, identity, ..RegFileEntry::default() };
    let purpose = Purpose::Access(flags.cast_unsigned());
    let approver = Approver::new(None, Arc::default(), holders.clone(), Trust::Files).unwrap();
    let approved = approver.approve(&entry, purpose);
    // The rights are asked for again when it is opened.
    let opened = approved.and_then(|file| {
        let flags = OFlag::from_bits_retain(flags);
        let failed = |source| Error::Kernel { operation: String::new(), source };
        file.open(&approver, flags).map_err(failed)
    });
    let trusting = Approver::new(None, Arc::default(), holders, Trust::Paths).unwrap();
    assert!(trusting.approve(&entry, purpose).is_ok(), "paths are trusted");
    opened.is_ok()
}

#[test]
fn rights_decide_where_nobody_knows_which_file_it_was() {
    let user = || holder(0, [USER; 4]);
    let root = || holder(u64::MAX >> 23, [0; 4]);
    let (read, both) = (libc::O_RDONLY, libc::O_RDWR);
    assert!(given(&[root()], 0o600, both, None));
    assert!(!given(&[user()], 0o600, read, None));
    assert!(given(&[user()], 0o604, read, None));
    assert!(!given(&[user()], 0o604, both, None));
    // A capability, and the id for files.
    assert!(given(&[holder(CAP_DAC_OVERRIDE, [USER; 4])], 0o600, both, None));
    assert!(given(&[holder(0, [USER, USER, USER, 0])], 0o600, both, None));
    assert!(!given(&[holder(0, [0, 0, 0, USER])], 0o600, both, None));
    // Everybody who holds it has to have the right.
    assert!(!given(&[root(), user()], 0o600, read, None));
    assert!(!given(&[user(), root()], 0o600, read, None));
    let other = FileIdentity { device: 1, inode: 2, birth: 3, uid: 0, gid: 0 };
    assert!(!given(&[user()], 0o600, read, Some(other)));
}

#[test]
fn a_directory_on_the_way_asks_for_rights_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut holders = Holders::default();
    holders.add(ids::ImagePid::new(1).unwrap(), [holder(0, [USER; 4])], 99, [(7, Some(3))]);
    let name = path.as_os_str().as_bytes().to_vec();
    let mut entry = RegFileEntry { id: 7, name, ..RegFileEntry::default() };
    let approver = Approver::new(None, Arc::default(), holders, Trust::Files).unwrap();
    let purpose = Purpose::Access(libc::O_RDONLY.cast_unsigned());
    let error = approver.approve(&entry, purpose).unwrap_err().to_string();
    assert!(error.contains("do not say which file") && error.contains("user 54321"), "{error}");
    // The very file is given back all the same, if it is that.
    let handle = approver.directory(None, dir.path(), "").unwrap();
    let file = paths::find(&handle, Path::new("file"), Links::Refused).unwrap();
    let Attributes { device, inode, born, .. } = paths::attributes(&file).unwrap();
    let birth = nanoseconds(born.expect("a file system with times of birth"));
    let identity = FileIdentity { device, inode, birth, uid: 0, gid: 0 };
    entry.identity = Some(identity);
    assert!(approver.approve(&entry, purpose).unwrap().same);
    entry.identity = Some(FileIdentity { birth: birth - 1, ..identity });
    assert!(approver.approve(&entry, purpose).is_err());
}
