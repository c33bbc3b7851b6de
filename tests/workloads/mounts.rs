//! Processes in mount namespaces of their own: with their own root, with file systems that live in memory, with groups
//! of mounts that share what is mounted below them, with mounts that hide files.

pub(crate) mod hidden;
pub(crate) mod overlays;
pub(crate) mod read_only;
pub(crate) mod volumes;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::mounting::{Lost, NONE, is_in_user_namespace, mount_of};
pub(crate) use crate::mounting::{attach, bind, propagate};
use crate::stage::{Findings, Outcome, Stage};
use crate::tree::child;
use hidden::HiddenSockets;
use read_only::LostOnReadOnly;

/// Copies the program and its libraries below a directory.
fn copy_program(root: &Path) {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let program = std::env::current_exe().expect("a program");
    fs::copy(&program, root.join("program")).expect("copy");
    for file in files.filter(|file| Path::new(file) != program) {
        let copy = root.join(&file[1..]);
        if !copy.exists() {
            fs::create_dir_all(copy.parent().expect("a directory")).expect("mkdir");
            fs::copy(file, copy).expect("copy");
        }
    }
    // The program names its interpreter by a path with a link.
    let interpreter = Path::new("/lib64/ld-linux-x86-64.so.2");
    if interpreter.exists() && !root.join("lib64").exists() {
        fs::create_dir_all(root.join("lib64")).expect("mkdir");
        fs::copy(interpreter, root.join("lib64/ld-linux-x86-64.so.2")).expect("copy");
    }
}

/// Makes a namespace with a root of its own, in which only the stage and `/dev/shm` are of the outside, and goes on
/// there.
pub(crate) fn enter_root(stage: &Stage, then: &str) -> ! {
    enter_root_as(stage, then, MsFlags::MS_PRIVATE)
}

pub(crate) fn enter_root_as(stage: &Stage, then: &str, received: MsFlags) -> ! {
    enter_root_with(stage, then, received, |_| {})
}

/// The same, with `more` mounts below the new root.
pub(crate) fn enter_root_with(
    stage: &Stage,
    then: &str,
    received: MsFlags,
    more: impl FnOnce(&Path),
) -> ! {
    let root = stage.path("root");
    fs::create_dir(&root).expect("mkdir");
    copy_program(&root);
    let places = ["stage", "old", "proc", "tmp", "ro", "shared", "peer", "slave", "bound", "over"];
    for name in places.into_iter().chain(["memory", "unbindable", "covered"]) {
        fs::create_dir(root.join(name)).expect("mkdir");
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    propagate(Path::new("/"), MsFlags::MS_REC | received);
    bind(&root, &root);
    bind(&stage.dir(), &root.join("stage"));
    bind(Path::new("/dev/shm"), &root.join("memory"));
    more(&root);
    // In a user namespace it is only made where one can be seen.
    attach("proc", &root.join("proc"), "proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "");
    nix::unistd::pivot_root(&root, &root.join("old")).expect("pivot_root");
    std::env::set_current_dir("/").expect("chdir");
    umount2("/old", MntFlags::MNT_DETACH).expect("umount");
    let error = Command::new("/program").arg(then).arg("/stage").exec();
    panic!("execute the program again: {error}");
}

/// A root of its own, with all kinds of mounts.
pub(crate) fn run(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_inside")
}

/// The same, with files that have lost their names and have others.
pub(crate) fn links(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_links_inside")
}

/// The same, in which a process is in another namespace below.
pub(crate) fn nested(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_nested_inside")
}

/// The init of a pid namespace, with a process in another mount namespace below.
pub(crate) fn of_init(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_of_init_inside")
}

/// Both have `/proc`, upon a root that they share.
pub(crate) fn of_init_inside(stage: &Stage) -> Outcome {
    crate::init::inside(
        CloneFlags::CLONE_NEWPID,
        || {},
        || {
            attach("proc", Path::new("/proc"), "proc", MsFlags::MS_NOSUID, "");
            bind(Path::new("/proc/sys"), Path::new("/bound"));
            let ended = child(stage, "ended", || {
                loop {
                    std::thread::sleep(std::time::Duration::from_secs(1000));
                }
            });
            let open = |path: String| File::open(path).expect("open");
            let mut of_ended = open(format!("/proc/{ended}/status"));
            let namespaces =
                ["net", "mnt", "pid", "user"].map(|name| open(format!("/proc/self/ns/{name}")));
            let link =
                |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
            let own = |name| fs::read_link(format!("/proc/self/ns/{name}")).ok();
            nix::sys::signal::kill(ended, nix::sys::signal::Signal::SIGKILL).expect("kill");
            waitpid(ended, None).expect("wait");
            let of_ended_before = link(&of_ended);
            propagate(Path::new("/"), MsFlags::MS_SHARED);
            let member = child(stage, "nested", || {
                unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
                let lines = table();
                stage.publish("nested", "");
                stage.wait();
                let mut found = Findings::default();
                found.same("mounts", &lines, &table());
                stage.publish("checked", "");
                let mounted = || Path::new("/tmp/of the other").exists();
                found.must("what the other mounts", crate::stage::eventually(mounted));
                found.outcome()
            });
            await_file(stage, "nested");
            let of_member = open(format!("/proc/{member}/ns/mnt"));
            let lines = table();
            stage.ready_then_wait();
            let mut found = Findings::default();
            found.same("a file of who has ended", &of_ended_before, &link(&of_ended));
            let read = of_ended.read(&mut [0]).map_err(|error| error.raw_os_error());
            found.same("what is in it", &Err(Some(libc::ESRCH)), &read);
            for (file, name) in namespaces.iter().zip(["net", "mnt", "pid", "user"]) {
                found.same("the own namespace", &own(name), &link(file));
            }
            let of_other = fs::read_link(format!("/proc/{member}/ns/mnt")).ok();
            found.same("the namespace of a child", &of_other, &link(&of_member));
            found.must("two namespaces", of_other != own("mnt"));
            found.same("mounts", &lines, &table());
            await_file(stage, "checked");
            attach("new", Path::new("/tmp"), "tmpfs", MsFlags::empty(), "size=1m");
            fs::write("/tmp/of the other", "").expect("write");
            found.same(
                "end of a child",
                &Ok(WaitStatus::Exited(member, 0)),
                &waitpid(member, None),
            );
            found.outcome()
        },
    )
}

pub(crate) fn await_file(stage: &Stage, name: &str) {
    assert!(crate::stage::eventually(|| stage.path(name).exists()), "{name} does not come");
}

pub(crate) fn make_mounts() {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
    attach("some", Path::new("/tmp"), "tmpfs", quiet, "size=8m,mode=1777");
    fs::create_dir(Path::new("/tmp/directory")).expect("mkdir");
    bind(Path::new("/tmp/directory"), Path::new("/bound"));
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, "/bound", NONE, read_only, NONE).expect("remount");
    attach("ro", Path::new("/ro"), "tmpfs", MsFlags::empty(), "size=1m");
    fs::write("/ro/file", "not to be written").expect("write");
    mount(NONE, "/ro", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE).expect("remount");
    attach("unbindable", Path::new("/unbindable"), "tmpfs", MsFlags::empty(), "size=1m");
    fs::write("/unbindable/file", "not to be copied").expect("write");
    propagate(Path::new("/unbindable"), MsFlags::MS_UNBINDABLE);
    if !is_in_user_namespace() {
        let covered = Path::new("/covered");
        attach("covered", covered, "tmpfs", MsFlags::empty(), "size=1m");
        fs::create_dir(covered.join("below")).expect("mkdir");
        attach("below", &covered.join("below"), "tmpfs", MsFlags::empty(), "size=1m");
        for place in ["", "below"] {
            fs::write(covered.join(place).join("file"), place).expect("write");
        }
        attach("cover", covered, "tmpfs", MsFlags::empty(), "size=1m");
    }
    attach("shared", Path::new("/shared"), "tmpfs", MsFlags::empty(), "size=1m");
    for name in ["x", "y"] {
        fs::create_dir(Path::new("/shared").join(name)).expect("mkdir");
    }
    propagate(Path::new("/shared"), MsFlags::MS_SHARED);
    bind(Path::new("/shared"), Path::new("/peer"));
    bind(Path::new("/shared"), Path::new("/slave"));
    propagate(Path::new("/slave"), MsFlags::MS_SLAVE);
}

/// What `mountinfo` says, but for numbers that others give.
pub(crate) fn table() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = |line: &str| {
        let mut words = line.split(' ').skip(4);
        let (place, options) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let groups = words.by_ref().take_while(|word| *word != "-");
        let groups: Vec<&str> = groups.filter_map(|word| word.split(':').next()).collect();
        let kind = words.next().unwrap_or("");
        let about = words.collect::<Vec<_>>().join(" ");
        format!("{place} {options} {groups:?} {kind} {about}")
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines.sort();
    lines
}

/// What the files in memory are like.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/tmp")];
    while let Some(path) = waiting.pop() {
        let is = path.symlink_metadata().expect("stat");
        let (uid, gid) = (is.uid(), is.gid());
        let content = match is.file_type() {
            kind if kind.is_file() => format!("{:?}", fs::read(&path).map(|it| it.len())),
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path)),
            kind if kind.is_dir() => {
                let below = fs::read_dir(&path).expect("read");
                waiting.extend(below.map(|entry| entry.expect("an entry").path()));
                String::new()
            }
            _ => format!("{}", is.rdev()),
        };
        let times = format!("{}.{}", is.mtime(), is.mtime_nsec());
        let line = format!(
            "{} {:o} {uid} {gid} {} {times} {} {content}",
            path.display(),
            is.mode(),
            is.nlink(),
            if is.is_file() { is.blocks() } else { 0 },
        );
        found.push(line);
    }
    found.sort();
    found
}

/// Which file system is mounted that lives in memory and is of the outside.
fn outside_memory() -> u64 {
    Path::new("/memory").metadata().expect("stat").dev()
}

fn make_files() {
    let in_memory = Path::new("/tmp/directory");
    fs::write(in_memory.join("file"), "contents").expect("write");
    fs::hard_link(in_memory.join("file"), in_memory.join("second")).expect("link");
    symlink("/nowhere/at/all", in_memory.join("link")).expect("symlink");
    let sparse = File::create(in_memory.join("sparse")).expect("create");
    sparse.write_all_at(b"far", 3 << 20).expect("write");
    sparse.set_len(4 << 20).expect("truncate");
    let mode = fs::Permissions::from_mode(0o4751);
    std::os::unix::fs::chown(in_memory.join("sparse"), Some(1234), Some(70_000)).expect("chown");
    fs::set_permissions(in_memory.join("sparse"), mode).expect("chmod");
    nix::unistd::mkfifo(&in_memory.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let long = in_memory.join("a".repeat(120)).join("b".repeat(120));
    fs::create_dir_all(&long).expect("mkdir");
    fs::write(long.join("file"), "deep").expect("write");
}

/// The second half: in the new root, with nothing of the outside but the stage.
pub(crate) fn inside(stage: &Stage) -> Outcome {
    make_mounts();
    make_files();
    carried(stage, |stage| stage.ready_then_wait())
}

/// The same, with a process that has a namespace below that one.
pub(crate) fn nested_inside(stage: &Stage) -> Outcome {
    make_mounts();
    make_files();
    let inherited = File::open("/tmp/directory/file").expect("open");
    let twice = ["/tmp/directory/once", "/tmp/directory/twice"];
    let once = File::create(twice[0]).expect("create");
    fs::hard_link(twice[0], twice[1]).expect("link");
    let member = child(stage, "nested", || {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        let same = File::open("/tmp/directory/file").expect("open");
        attach("own", Path::new("/old"), "tmpfs", MsFlags::empty(), "size=1m");
        fs::write("/old/file", "only here").expect("write");
        let mut open = File::open("/old/file").expect("open");
        let again = File::open(twice[1]).expect("open");
        let lines = table();
        let memory = outside_memory();
        stage.publish("nested", "");
        stage.wait();
        let mut found = Findings::default();
        found.must("a deleted file by both mounts", mount_of(&once) != mount_of(&again));
        found.same("the mount", &mount_of(&same), &mount_of(&again));
        let ids = [&once, &again].map(|file| file.metadata().map(|is| (is.ino(), is.nlink())).ok());
        found.must("one file without a name", ids[0].is_some_and(|(_, links)| links == 0));
        found.same("the file", &ids[0], &ids[1]);
        for (file, name) in [&once, &again].into_iter().zip(twice) {
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
            found.same("its name", &Some(format!("{name} (deleted)").into()), &path);
        }
        found.same("memory of the outside", &memory, &outside_memory());
        found.same("mounts", &lines, &table());
        found.must("a file of each namespace", mount_of(&inherited) != mount_of(&same));
        stage.publish("checked", "");
        let mut text = String::new();
        found.works("read", open.read_to_string(&mut text));
        found.same("own file", &"only here", &text.as_str());
        // The namespaces are peers still.
        let mounted = || Path::new("/shared/x/of the other").exists();
        found.must("what the other mounts", crate::stage::eventually(mounted));
        found.outcome()
    });
    await_file(stage, "nested");
    // What this watches is on a mount of the other namespace.
    let elsewhere = PathBuf::from(format!("/proc/{member}/root/old/file"));
    let watching = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    watching.add_watch(&elsewhere, AddWatchFlags::IN_ATTRIB).expect("watch");
    drop(once);
    for name in twice {
        fs::remove_file(name).expect("remove");
    }
    let outcome = carried(stage, |stage| {
        stage.ready_then_wait();
        // What is mounted here from now on is mounted there, too.
        await_file(stage, "checked");
    });
    let mut found = Findings::default();
    let mode = fs::Permissions::from_mode(0o640);
    found.works("chmod", fs::set_permissions(&elsewhere, mode));
    let told = watching.read_events().map(|events| events.len());
    found.same("events of the other namespace", &Ok(1), &told);
    found.works("checks", outcome);
    found.must("what is mounted below", !Path::new("/old/file").exists());
    attach("new", Path::new("/shared/x"), "tmpfs", MsFlags::empty(), "size=1m");
    fs::write("/shared/x/of the other", "").expect("write");
    found.same("end of a child", &Ok(WaitStatus::Exited(member, 0)), &waitpid(member, None));
    found.outcome()
}

/// What has been mounted outside with `nosuid` keeps it in a user namespace.
fn locks(found: &mut Findings) {
    let is_locked = |line: &String| line.starts_with("/stage ") && line.contains("nosuid");
    if is_in_user_namespace() && table().iter().any(is_locked) {
        let taken = mount(NONE, "/stage", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, NONE);
        found.same("take nosuid away", &Err(nix::errno::Errno::EPERM), &taken);
    }
}

/// An init whose `/proc` is one of a group of mounts that share what is mounted below them.
pub(crate) fn init_proc_groups(stage: &Stage) -> Outcome {
    crate::init::inside(CloneFlags::CLONE_NEWPID, || {}, || enter_root(stage, "proc_groups_inside"))
}

/// In the new root: what LXC makes, and more. The root shares, too, and a member of another group is below `/proc`.
pub(crate) fn proc_groups(stage: &Stage) -> Outcome {
    let (proc, shared) = (Path::new("/proc"), Path::new("/shared"));
    umount2("/memory", MntFlags::MNT_DETACH).expect("umount");
    propagate(Path::new("/"), MsFlags::MS_SHARED);
    propagate(proc, MsFlags::MS_SHARED);
    attach("shared", shared, "tmpfs", MsFlags::empty(), "size=1m");
    fs::create_dir_all("/shared/x/below").expect("mkdir");
    propagate(shared, MsFlags::MS_SHARED);
    bind(proc, Path::new("/slave"));
    propagate(Path::new("/slave"), MsFlags::MS_SLAVE);
    bind(Path::new("/proc/sys"), Path::new("/proc/sys"));
    bind(Path::new("/shared/x"), Path::new("/proc/fs"));
    attach("own", Path::new("/proc/irq"), "tmpfs", MsFlags::empty(), "size=1m");
    propagate(Path::new("/proc/irq"), MsFlags::MS_PRIVATE);
    let lines = table();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("mounts", &lines, &table());
    attach("new", Path::new("/proc/bus"), "tmpfs", MsFlags::empty(), "size=1m");
    found.works("write", File::create("/proc/bus/file"));
    found.must("received", Path::new("/slave/bus/file").exists());
    attach("new", Path::new("/slave/driver"), "tmpfs", MsFlags::empty(), "size=1m");
    found.works("write", File::create("/slave/driver/file"));
    found.must("not sent", !Path::new("/proc/driver/file").exists());
    attach("new", Path::new("/shared/x/below"), "tmpfs", MsFlags::empty(), "size=1m");
    found.works("write", File::create("/proc/fs/below/file"));
    found.must("shared", Path::new("/shared/x/below/file").exists());
    found.outcome()
}

fn carried(stage: &Stage, wait: impl FnOnce(&Stage)) -> Outcome {
    std::env::set_current_dir("/tmp/directory").expect("chdir");
    let mut open = File::open("file").expect("open");
    open.seek(SeekFrom::Start(3)).expect("seek");
    let ghost = File::options().read(true).write(true).create_new(true).open("gone").expect("open");
    ghost.write_all_at(b"gone", 0).expect("write");
    fs::remove_file("gone").expect("remove");
    fs::create_dir_all("/over/below").expect("mkdir");
    fs::write("/over/below/hidden", "hidden").expect("write");
    let mut hidden = File::open("/over/below/hidden").expect("open");
    let hidden_sockets = HiddenSockets::make(Path::new("/over"));
    attach("over", Path::new("/over"), "tmpfs", MsFlags::empty(), "size=1m");
    let watching = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    for place in ["/tmp/directory/file", "/ro", "/over"] {
        watching.add_watch(place, AddWatchFlags::IN_ATTRIB).expect("watch");
    }
    let by_descriptor = format!("/proc/self/fd/{}", ghost.as_raw_fd());
    watching.add_watch(by_descriptor.as_str(), AddWatchFlags::IN_ATTRIB).expect("watch");
    let bound = UnixListener::bind("/tmp/directory/socket").expect("bind");
    fs::write("/tmp/directory/told", "").expect("write");
    let watch = crate::fanotify::Watch::of;
    let watch =
        (!is_in_user_namespace()).then(|| watch("/tmp/directory/told".as_ref(), "/ro".as_ref()));
    let lost = Lost::make(Path::new("/tmp/directory/lost"), true);
    let on_read_only = LostOnReadOnly::make(Path::new("/bound"));
    let mut of_machine = File::open("/proc/meminfo").expect("open");
    of_machine.read_exact(&mut [0; 9]).expect("read");
    let (lines, in_memory, memory) = (table(), files(), outside_memory());
    wait(stage);
    let mut found = Findings::default();
    found.same("memory of the outside", &memory, &outside_memory());
    found.same("mounts", &lines, &table());
    let without_socket = |lines: &[String]| -> Vec<String> {
        let is_it =
            |line: &&String| !line.contains("/socket") && !line.starts_with("/tmp/directory ");
        lines.iter().filter(is_it).cloned().collect()
    };
    found.same("files in memory", &without_socket(&in_memory), &without_socket(&files()));
    for place in ["/tmp/directory/file", "/over"] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("chmod");
        let told = watching.read_events().map(|events| events.len());
        found.same("events of what is watched", &Ok(1), &told);
    }
    ghost.set_permissions(fs::Permissions::from_mode(0o600)).expect("chmod");
    let told = watching.read_events().map(|events| events.len());
    found.same("events of a deleted file", &Ok(1), &told);
    if let Some(watch) = watch {
        watch.check("file", &mut found);
    }
    let mut text = String::new();
    found.works("read", open.read_to_string(&mut text));
    found.same("open file", &"tents", &text.as_str());
    let mut gone = [0; 4];
    found.works("read", ghost.read_exact_at(&mut gone, 0));
    found.same("deleted file", b"gone", &gone);
    let mut text = String::new();
    found.works("read", hidden.read_to_string(&mut text));
    found.same("hidden file", &"hidden", &text.as_str());
    found.must("what hides it", fs::read_dir("/over").is_ok_and(|entries| entries.count() == 0));
    found.works("connect", UnixStream::connect("/tmp/directory/socket"));
    found.works("accept", bound.accept());
    let here = std::env::current_dir().ok();
    found.same("current directory", &Some("/tmp/directory".into()), &here);
    found.must("read-only file system", File::create("/ro/new").is_err());
    found.must("read-only mount", File::create("/bound/new").is_err());
    found.works("mount that can be written to", File::create("/tmp/directory/new"));
    found.must("a root of its own", !Path::new("/usr/bin/env").exists());
    lost.check(&mut found);
    on_read_only.check(&mut found);
    let mut text = String::new();
    found.works("read on", of_machine.read_to_string(&mut text));
    found.must("where it stopped", text.trim_start().starts_with(|it: char| it.is_ascii_digit()));
    found.must("to the end", text.contains("DirectMap"));
    let text = fs::read_to_string("/unbindable/file").ok();
    found.same("what cannot be copied", &Some("not to be copied"), &text.as_deref());
    let copied = mount(Some("/unbindable"), "/old", NONE, MsFlags::MS_BIND, NONE);
    found.same("copy it", &Err(nix::errno::Errno::EINVAL), &copied);
    if !is_in_user_namespace() {
        found.works("uncover", umount2("/covered", MntFlags::empty()));
        for (path, text) in [("/covered/file", ""), ("/covered/below/file", "below")] {
            found.same("what was hidden", &Some(text), &fs::read_to_string(path).ok().as_deref());
        }
    }
    hidden_sockets.check(&mut found);
    locks(&mut found);
    groups(&mut found);
    found.must("descriptor", open.as_raw_fd() >= 0);
    found.outcome()
}

/// What is mounted in one of a group is in the others.
fn groups(found: &mut Findings) {
    attach("new", Path::new("/peer/y"), "tmpfs", MsFlags::empty(), "size=1m");
    found.works("write", File::create("/peer/y/file").and_then(|mut file| file.write_all(b"x")));
    found.must("shared", Path::new("/shared/y/file").exists());
    found.must("received", Path::new("/slave/y/file").exists());
    attach("new", Path::new("/slave/x"), "tmpfs", MsFlags::empty(), "size=1m");
    found.works("write", File::create("/slave/x/file"));
    found.must("not sent", !Path::new("/shared/x/file").exists());
}
