//! What workloads do with mounts, and what they ask of them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::stage::Findings;

/// Names of sockets in it.
const SOCKETS: [&str; 2] = ["socket", "another socket"];

pub(crate) const NONE: Option<&str> = None;

pub(crate) fn attach(source: &str, at: &Path, kind: &str, flags: MsFlags, options: &str) {
    mount(Some(source), at, Some(kind), flags, Some(options))
        .unwrap_or_else(|error| panic!("mount {kind} on {}: {error}", at.display()));
}

pub(crate) fn bind(from: &Path, at: &Path) {
    mount(Some(from), at, NONE, MsFlags::MS_BIND, NONE)
        .unwrap_or_else(|error| panic!("bind {} on {}: {error}", from.display(), at.display()));
}

pub(crate) fn propagate(at: &Path, how: MsFlags) {
    mount(NONE, at, NONE, how, NONE).expect("set the propagation");
}

/// The number of the mount that a file is on.
pub(crate) fn mount_of(file: &File) -> String {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = fs::read_to_string(path).expect("fdinfo");
    text.lines().find(|line| line.starts_with("mnt_id:")).expect("a mount").to_owned()
}

/// Whether the calling process is in another user namespace than the machine's first.
pub(crate) fn is_in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("uid_map");
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Things without a name, of a directory that has gone.
pub(crate) struct Lost {
    at: PathBuf,
    fifo: File,
    directory: File,
    link: File,
    sockets: Option<[UnixListener; 2]>,
}

impl Lost {
    pub(crate) fn make(at: &Path, has_sockets: bool) -> Self {
        fs::create_dir_all(at.join("directory")).expect("mkdir");
        nix::unistd::mkfifo(&at.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        symlink("/somewhere", at.join("link")).expect("symlink");
        let handle = libc::O_PATH | libc::O_NOFOLLOW;
        let link = File::options().read(true).custom_flags(handle).open(at.join("link"));
        let lost = Self {
            at: at.to_owned(),
            fifo: File::options().read(true).write(true).open(at.join("fifo")).expect("open"),
            directory: File::open(at.join("directory")).expect("open"),
            link: link.expect("open"),
            sockets: has_sockets
                .then(|| SOCKETS.map(|name| UnixListener::bind(at.join(name)).expect("bind"))),
        };
        fs::remove_dir_all(at).expect("remove");
        lost
    }

    pub(crate) fn check(mut self, found: &mut Findings) {
        found.works("write", self.fifo.write_all(b"x"));
        found.works("read", self.fifo.read_exact(&mut [0]));
        let kind = |file: &File| file.metadata().map(|is| (is.file_type(), is.nlink()));
        found.must(
            "a fifo",
            kind(&self.fifo).is_ok_and(|(kind, links)| kind.is_fifo() && links == 0),
        );
        found.must("a directory", kind(&self.directory).is_ok_and(|(kind, _)| kind.is_dir()));
        found.must("it is gone", fs::metadata(&self.at).is_err());
        let target = nix::fcntl::readlinkat(&self.link, "");
        found.same("a link", &Ok("/somewhere".into()), &target);
        for (socket, name) in self.sockets.iter().flatten().zip(SOCKETS) {
            let address = socket.local_addr().ok();
            let address = address.as_ref().and_then(|address| address.as_pathname());
            found.same("a socket", &Some(&*self.at.join(name)), &address);
        }
    }
}
