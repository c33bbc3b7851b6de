//! Opens what CRIU 4.2 wrote of real programs, below a directory in which their files are made.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use images::messages::{EventfdFileEntry, RegFileEntry, fd_type};
use images::{Checkpoint, Images};
use kernel::procfs::{Detail, Dir, FdInfo};
use nix::sys::stat::Mode;

use super::super::changed;
use super::*;
use crate::files::{Holders, Refused, Trust};

fn images_of(name: &str) -> FileImages {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Images::open(&here.join("../tests/data/criu-4.2").join(name)).unwrap();
    let mut checkpoint = Checkpoint::load(dir).unwrap();
    let (pids, memory) = Default::default();
    FileImages::load(&mut checkpoint, pids, memory).unwrap()
}

/// Makes what the images find by a path, as they say that it was.
fn furnish(root: &Path, images: &FileImages) {
    for entry in images.files.values().filter_map(|file| file.reg.as_ref()) {
        let name = Path::new(std::ffi::OsStr::from_bytes(&entry.name));
        let path = root.join(name.strip_prefix("/").unwrap());
        let mode = entry.mode.unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match mode & libc::S_IFMT {
            _ if images.remaps.contains_key(&entry.id) => continue,
            libc::S_IFDIR => fs::create_dir_all(&path).unwrap(),
            libc::S_IFIFO => nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap(),
            libc::S_IFREG => {
                File::create(&path).unwrap().set_len(entry.size.unwrap_or(0)).unwrap();
            }
            // The null device.
            libc::S_IFCHR => {
                let (kind, device) = (nix::sys::stat::SFlag::S_IFCHR, libc::makedev(1, 3));
                match nix::sys::stat::mknod(&path, kind, Mode::S_IRWXU, device) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(errno) => panic!("make a device (needs root): {errno}"),
                }
            }
            _ => continue,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777)).unwrap();
    }
}

fn open_all(name: &str) -> (tempfile::TempDir, PathBuf, OpenFiles) {
    let images = images_of(name);
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    furnish(&root, &images);
    let context = OpenContext { root: Some(root.clone()), ..OpenContext::default() };
    let opened = open(images, &context).unwrap();
    (dir, root, opened)
}

fn by(files: &OpenFiles, what: impl Fn(&FileEntry) -> bool) -> &OwnedFd {
    let file = files.files.values().find(|file| what(file)).unwrap();
    files.opened.get(&file.id).unwrap()
}

fn info(fd: impl AsFd) -> FdInfo {
    let dir = Dir::open(ids::HostPid::own()).unwrap();
    FdInfo::read(&dir, fd.as_fd().as_raw_fd()).unwrap()
}

#[test]
fn a_program_with_one_of_everything() {
    let (_dir, _root, files) = open_all("busy");
    for (id, fd) in &files.opened {
        assert!(fd.as_raw_fd() >= files.base, "file {id} is in the way of the task");
    }
    let mut bytes = [0; 11];
    let pipe = by(&files, |file| file.pipe.as_ref().is_some_and(|pipe| pipe.flags & 3 == 0));
    assert_eq!(nix::unistd::read(pipe, &mut bytes).unwrap(), 11);
    assert_eq!(&bytes, b"in the pipe");
    let fifo = by(&files, |file| file.fifo.is_some());
    assert_eq!(nix::unistd::read(fifo, &mut bytes).unwrap(), 11);
    assert_eq!(&bytes, b"in the fifo");
    let is = |counter| move |efd: &EventfdFileEntry| efd.counter == counter;
    let eventfd = by(&files, |file| file.efd.as_ref().is_some_and(is(5)));
    assert!(matches!(info(eventfd).detail, Detail::Eventfd { count: 5, .. }));
    let timer = by(&files, |file| file.tfd.is_some());
    assert!(matches!(info(timer).detail, Detail::Timerfd(timer) if timer.interval == (3600, 1)));
    let file = by(&files, |file| {
        file.reg.as_ref().is_some_and(|reg| reg.name.ends_with(b"/file") && reg.pos == 10)
    });
    assert_eq!(info(file).position, 10);
}

#[test]
fn ghosts() {
    let (_dir, root, files) = open_all("ghosts");
    let remapped: Vec<u32> = images_of("ghosts").remaps.into_keys().collect();
    assert!(!remapped.is_empty());
    for id in remapped.iter().filter_map(|id| files.opened.get(id)) {
        let link = fs::read_link(format!("/proc/self/fd/{}", id.as_raw_fd())).unwrap();
        assert!(link.starts_with(&root), "{}", link.display());
        assert!(link.as_os_str().as_bytes().ends_with(b" (deleted)"), "{}", link.display());
    }
}

#[test]
fn a_tree_that_shares() {
    let (_dir, _root, files) = open_all("family");
    assert!(files.tables.len() > 1);
    for entry in files.tables.values().flatten() {
        assert!(files.opened.contains_key(&entry.id));
    }
}

#[test]
fn a_terminal_is_refused_unless_asked_for() {
    let error = open(images_of("terminal"), &OpenContext::default()).unwrap_err().to_string();
    assert!(error.contains("--shell-job"), "{error}");
}

#[test]
fn all_that_has_changed_is_named_at_once_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |id, name: &str, size| {
        let mode = libc::S_IFREG | 0o600;
        let name = dir.path().join(name).as_os_str().as_bytes().to_vec();
        let reg =
            RegFileEntry { id, name, size: Some(size), mode: Some(mode), ..Default::default() };
        (id, Box::new(FileEntry { id, r#type: fd_type::REG, reg: Some(reg), ..Default::default() }))
    };
    let named = [
        entry(1, "grown", 3),
        entry(2, "as it was", 5),
        entry(3, "gone", 5),
        entry(4, "mapped", 7),
    ];
    for name in ["grown", "as it was", "mapped"] {
        fs::write(dir.path().join(name), "12345").unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(dir.path().join(name), mode).unwrap();
    }
    let opened =
        (1..4).map(|id| FdinfoEntry { id, fd: id, r#type: fd_type::REG, ..Default::default() });
    let tables = BTreeMap::from([(9, opened.collect::<Vec<_>>())]);
    let images =
        || FileImages { files: named.clone().into(), tables: tables.clone(), ..Default::default() };
    let refused = |error| match error {
        Error::Refused(found) => {
            found.into_iter().map(|it| it.into_found().object).collect::<Vec<_>>()
        }
        other => panic!("{other}"),
    };
    let expected =
        ["grown", "gone", "mapped"].map(|name| format!("file {}", dir.path().join(name).display()));
    // What somebody has is named by who has it.
    let mut holders = Holders::default();
    let pid = ids::ImagePid::new(12).unwrap();
    holders.add(pid, [], 99, [(1, Some(5)), (4, None)]);
    let context = OpenContext { holders, trust: Trust::Paths, ..OpenContext::default() };
    let Error::Refused(found) = OpenFiles::open(images(), &context).unwrap_err() else {
        panic!("refused")
    };
    let found: Vec<_> = found.into_iter().map(Refused::into_found).collect();
    let named = [
        (12, format!("descriptor 5 ({})", expected[0])),
        (0, expected[1].clone()),
        (12, expected[2].clone()),
    ];
    assert_eq!(found.into_iter().map(|it| (it.task, it.object)).collect::<Vec<_>>(), named);
    // What is opened is found changed when it is opened; then all else is looked at, too.
    let found = refused(open(images(), &OpenContext::default()).unwrap_err());
    assert_eq!(found, expected);
    // What no descriptor refers to is looked at before.
    let found =
        refused(changed::check(&images(), None, false, changed::Which::Undescribed).unwrap_err());
    assert_eq!(found, expected);
    fs::write(dir.path().join("mapped"), "1234567").unwrap();
    assert!(changed::check(&images(), None, false, changed::Which::Undescribed).is_ok());
    assert_eq!(refused(open(images(), &OpenContext::default()).unwrap_err()), expected[..2]);
}
