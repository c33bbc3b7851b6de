//! What containers have: a volume in which something else is mounted, a root of layers in which files are watched, and a
//! daemon of lesser rights with a socket that was bound for it in a directory in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::{await_file, enter_root_with, mount_of, table};
use crate::mounting::{NONE, attach};
use crate::stage::{Findings, Outcome, Stage};
use crate::tree::child;

/// The directory `volume` of the stage, with what is mounted in it, is at `/bound`.
pub(crate) fn run(stage: &Stage) -> Outcome {
    enter_root_with(stage, "volumes_inside", MsFlags::MS_PRIVATE, |root| {
        let (volume, at) = (stage.path("volume"), root.join("bound"));
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&volume), &at, NONE, flags, NONE).expect("bind the volume");
    })
}

/// Directories and a file that are watched, none of which the file system of the layers opens by its handle.
const WATCHED: [&str; 3] = ["/lay/over", "/lay/over/deep/er", "/lay/over/deep/file"];

fn watch_layers() -> (Inotify, Vec<nix::sys::inotify::WatchDescriptor>) {
    for directory in ["low/deep/er", "up", "work", "over"] {
        fs::create_dir_all(Path::new("/lay").join(directory)).expect("mkdir");
    }
    fs::write("/lay/low/deep/file", "below").expect("write");
    let options = "lowerdir=/lay/low,upperdir=/lay/up,workdir=/lay/work";
    attach("layers", Path::new("/lay/over"), "overlay", MsFlags::empty(), options);
    let watcher = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    let events = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ATTRIB;
    let watch = |path: &str| watcher.add_watch(path, events).expect("watch");
    let watches = WATCHED.map(watch).into();
    (watcher, watches)
}

pub(crate) fn inside(stage: &Stage) -> Outcome {
    let (watcher, watches) = watch_layers();
    let mut kept = OpenOptions::new().append(true).open("/bound/inner/kept").expect("open");
    attach("memory", Path::new("/tmp"), "tmpfs", MsFlags::empty(), "mode=755");
    fs::create_dir("/tmp/daemon").expect("mkdir");
    let socket = UnixListener::bind("/tmp/daemon/socket").expect("bind");
    let anybody = fs::Permissions::from_mode(0o666);
    fs::set_permissions("/tmp/daemon/socket", anybody).expect("chmod");
    fs::create_dir_all(stage.path("daemon")).expect("mkdir");
    let of_daemon = fs::Permissions::from_mode(0o777);
    fs::set_permissions(stage.path("daemon"), of_daemon).expect("chmod");
    child(stage, "daemon", || {
        setgroups(&[]).expect("setgroups");
        setresgid(Gid::from_raw(65534), Gid::from_raw(65534), Gid::from_raw(65534)).expect("group");
        setresuid(Uid::from_raw(65534), Uid::from_raw(65534), Uid::from_raw(65534)).expect("user");
        File::create(stage.path("daemon/there")).expect("create");
        let (mut caller, _) = socket.accept().expect("accept");
        caller.write_all(b"it is me").expect("answer");
        Ok(())
    });
    await_file(stage, "daemon/there");
    let before = table();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the mounts", &before, &table());
    found.works("write to the volume", kept.write_all(b"and after"));
    let anew = File::open("/bound/inner/kept").expect("open");
    found.same("the mount of what is open", &mount_of(&anew), &mount_of(&kept));
    let text = fs::read_to_string("/bound/inner/kept").ok();
    found.same("what is mounted in the volume", &Some("before, and after".to_owned()), &text);
    found.works("add to the volume", fs::write("/bound/inner/new", "inside"));
    found.works("create", File::create("/lay/over/new"));
    found.works("create", File::create("/lay/over/deep/er/new"));
    let readable = fs::Permissions::from_mode(0o600);
    found.works("chmod", fs::set_permissions("/lay/over/deep/file", readable));
    let events = watcher.read_events().unwrap_or_default();
    let told: Vec<_> = events.iter().map(|event| event.wd).collect();
    found.same("what is watched", &watches, &told);
    let mut answer = String::new();
    let asked = UnixStream::connect("/tmp/daemon/socket")
        .and_then(|mut daemon| daemon.read_to_string(&mut answer));
    found.works("ask the daemon", asked);
    found.same("its answer", &"it is me".to_owned(), &answer);
    found.outcome()
}
