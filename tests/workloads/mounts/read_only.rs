//! What is on mounts that have become read-only.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::mounting::{Lost, NONE, bind, mount_of, propagate};
use crate::stage::{Findings, Outcome, Stage};

/// Things without a name on a mount that is read-only, of a file system that is not.
pub(crate) struct LostOnReadOnly {
    mount: PathBuf,
    file: File,
    others: Lost,
}

impl LostOnReadOnly {
    pub(crate) fn make(bound: &Path) -> Self {
        let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(NONE, bound, NONE, remount, NONE).expect("remount");
        fs::write(bound.join("gone too"), "gone, too").expect("write");
        let file = File::open(bound.join("gone too")).expect("open");
        fs::remove_file(bound.join("gone too")).expect("remove");
        let others = Lost::make(&bound.join("lost"), false);
        mount(NONE, bound, NONE, remount | MsFlags::MS_RDONLY, NONE).expect("remount");
        Self { mount: bound.to_owned(), file, others }
    }

    pub(crate) fn check(mut self, found: &mut Findings) {
        let mount = File::open(&self.mount).map(|bound| mount_of(&bound));
        found.same("its mount", &mount.ok(), &Some(mount_of(&self.file)));
        found.must("it has no name", self.file.metadata().is_ok_and(|is| is.nlink() == 0));
        let path = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        found.same("its path", &Some(self.mount.join("gone too (deleted)")), &path.ok());
        let mut text = String::new();
        found.works("read", self.file.read_to_string(&mut text));
        found.same("its contents", &"gone, too", &text.as_str());
        self.others.check(found);
    }
}

/// A read-only mount in the namespace that the program was started in, which has to be nobody else's.
fn read_only(stage: &Stage) -> (PathBuf, LostOnReadOnly) {
    let bound = stage.path("bound");
    fs::create_dir(&bound).expect("mkdir");
    bind(&bound, &bound);
    let lost = LostOnReadOnly::make(&bound);
    (bound, lost)
}

/// Deleted files on it.
pub(crate) fn ghosts_read_only(stage: &Stage) -> Outcome {
    let (bound, lost) = read_only(stage);
    stage.ready_then_wait();
    let mut found = Findings::default();
    lost.check(&mut found);
    found.must("it is read-only", File::create(bound.join("new")).is_err());
    found.must("nothing is left", fs::read_dir(bound).is_ok_and(|entries| entries.count() == 0));
    found.outcome()
}

/// The same on one that cannot be copied.
pub(crate) fn ghosts_unbindable(stage: &Stage) -> Outcome {
    let (bound, lost) = read_only(stage);
    propagate(&bound, MsFlags::MS_UNBINDABLE);
    stage.ready_then_wait();
    let mut found = Findings::default();
    lost.check(&mut found);
    found.outcome()
}

/// A socket that is bound to a name on a mount that has become read-only.
pub(crate) fn socket_read_only(stage: &Stage) -> Outcome {
    let bound = stage.path("bound");
    fs::create_dir(&bound).expect("mkdir");
    bind(&bound, &bound);
    let socket = UnixListener::bind(bound.join("socket")).expect("bind");
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, &bound, NONE, remount, NONE).expect("remount");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.works("connect", UnixStream::connect(bound.join("socket")));
    found.works("accept", socket.accept());
    found.outcome()
}
