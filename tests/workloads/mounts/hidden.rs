//! Sockets whose names another mount hides.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, umount2};

use crate::mounting::{attach, is_in_user_namespace};
use crate::stage::{Findings, Outcome, Stage};

/// One in the namespace that the program was started in, which has to be nobody else's.
pub(crate) fn socket_hidden(stage: &Stage) -> Outcome {
    let hidden = stage.path("hidden");
    fs::create_dir(&hidden).expect("mkdir");
    let _socket = UnixListener::bind(hidden.join("socket")).expect("bind");
    attach("over", &hidden, "tmpfs", MsFlags::empty(), "size=1m");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("umount", &Ok(()), &umount2(&hidden, MntFlags::empty()));
    found.works("connect", UnixStream::connect(hidden.join("socket")));
    found.outcome()
}

/// Some in a directory and below it, by their names.
pub(crate) struct HiddenSockets {
    directory: PathBuf,
    sockets: Vec<(PathBuf, UnixListener)>,
}

impl HiddenSockets {
    /// Binds them by whole names and by others; the caller has the directory hidden.
    pub(crate) fn make(directory: &Path) -> Self {
        let here = std::env::current_dir().expect("directory");
        std::env::set_current_dir(directory).expect("chdir");
        let names = [
            directory.join("below/whole"),
            "from-there".into(),
            "./dotted".into(),
            "below/from-there".into(),
        ];
        let bound = names.map(|name| (name.clone(), UnixListener::bind(&name).expect("bind")));
        std::env::set_current_dir(here).expect("chdir");
        Self { directory: directory.to_owned(), sockets: bound.into() }
    }

    pub(crate) fn check(self, found: &mut Findings) {
        for (name, socket) in &self.sockets {
            let bound = socket.local_addr().ok();
            let bound = bound.as_ref().and_then(|address| address.as_pathname());
            found.same("name of a hidden socket", &Some(name.as_path()), &bound);
        }
        // What has been mounted from outside stays there.
        if is_in_user_namespace() {
            return;
        }
        found.works("uncover", umount2(&self.directory, MntFlags::empty()));
        for (name, socket) in &self.sockets {
            found.works("connect", UnixStream::connect(self.directory.join(name)));
            found.works("accept", socket.accept());
        }
    }
}
