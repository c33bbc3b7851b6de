//! Trees in user namespaces of their own: with ids that are others outside, with the namespaces that belong to it, and
//! what may be done in these.

use std::ffi::CStr;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid, setsid};

use crate::nameless::{attribute, set_attribute};
use crate::stage::{Findings, Outcome, Stage, check};
use crate::tree::child;

/// The id that 0 of inside is outside.
const ROOT: u32 = 100_000;

/// Two ranges, so that no sum of ids is right for both.
const MAP: &str = "0 100000 1000\n1000 300000 70000\n";

/// The user who has logged in.
const LOGIN: &str = "/proc/self/loginuid";

/// Lets others find the way into the stage, and gives it to who is root inside.
pub(crate) fn open_stage(stage: &Stage) {
    let directory = stage.dir();
    for above in directory.ancestors().skip(1) {
        let mode = fs::metadata(above).expect("stat").mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(above, Permissions::from_mode(mode & 0o7777 | 0o011))
                .expect("chmod");
        }
    }
    chown(&directory, Some(ROOT), Some(ROOT)).expect("chown");
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("chmod");
}

/// Has a child do `work` as the first process in namespaces of its own. What is dumped is that.
fn inside(
    stage: &Stage,
    others: CloneFlags,
    denied: bool,
    work: impl FnOnce() -> Outcome,
) -> Outcome {
    open_stage(stage);
    let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
    // SAFETY: the program has one thread, so the child may use everything.
    if let ForkResult::Parent { child: maker } = unsafe { fork() }.expect("fork") {
        drop(theirs);
        ours.read_exact(&mut [0]).expect("hear of the namespace");
        let write = |name: &str, text: &str| {
            fs::write(format!("/proc/{maker}/{name}"), text)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        };
        if denied {
            write("setgroups", "deny");
        }
        write("gid_map", MAP);
        write("uid_map", MAP);
        ours.write_all(&[0]).expect("go on");
        let mut root = [0; 4];
        ours.read_exact(&mut root).expect("hear of the root");
        // The test looks for the tree below this process.
        waitpid(maker, None).expect("wait");
        // SAFETY: ends the process; the result is the root's.
        unsafe { libc::_exit(0) }
    }
    drop(ours);
    let groups = if denied { vec![Gid::from_raw(ROOT + 5)] } else { Vec::new() };
    setgroups(&groups).expect("setgroups");
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare the user namespace");
    theirs.write_all(&[0]).expect("tell");
    theirs.read_exact(&mut [0]).expect("hear");
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group).expect("setresgid");
    setresuid(user, user, user).expect("setresuid");
    unshare(others).expect("unshare the others");
    // SAFETY: as above.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            theirs.write_all(&child.as_raw().to_ne_bytes()).expect("tell");
            let _ended = waitpid(child, None).expect("wait");
            // SAFETY: ends the process; the result is the child's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Child => {
            drop(theirs);
            setsid().expect("setsid");
            nix::sys::prctl::set_dumpable(true).expect("dumpable");
            work()
        }
    }
}

/// Ids, groups, capabilities and the namespace of the calling process, as they are seen inside.
pub(crate) fn own() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    let files = ["uid_map", "gid_map", "setgroups", "loginuid", "coredump_filter", "oom_score_adj"]
        .map(|name| fs::read_to_string(format!("/proc/self/{name}")).expect("read"));
    lines.map(str::to_owned).chain(files).collect()
}

fn number(file: &File) -> u64 {
    file.metadata().expect("stat").ino()
}

/// Whether the namespace of a kind belongs to the user namespace of the calling process.
pub(crate) fn is_owned(name: &str) -> bool {
    use std::os::fd::FromRawFd;
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let namespace = File::open(format!("/proc/self/ns/{name}")).expect("open");
    // SAFETY: the request takes no argument and gives a descriptor.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        return false;
    }
    // SAFETY: nobody else has it.
    let owner = unsafe { File::from_raw_fd(owner) };
    number(&owner) == number(&File::open("/proc/self/ns/user").expect("open"))
}

/// A process that has given up being root there.
fn user(stage: &Stage) -> Pid {
    let pid = child(stage, "user", || {
        let (user, group) = (Uid::from_raw(1007), Gid::from_raw(1003));
        setgroups(&[Gid::from_raw(7), Gid::from_raw(1009)]).expect("setgroups");
        setresgid(group, group, group).expect("setresgid");
        setresuid(user, Uid::from_raw(5), user).expect("setresuid");
        // Only who has no login user yet may choose one.
        nix::sys::prctl::set_dumpable(true).expect("dumpable");
        if fs::read_to_string(LOGIN).is_ok_and(|login| login.trim() == u32::MAX.to_string()) {
            fs::write(LOGIN, "1008").expect("log in");
        }
        let before = own();
        stage.publish("user", "");
        stage.wait();
        let mut found = Findings::default();
        found.same("what a user is", &before, &own());
        found.must("no right to be root", setgroups(&[]).is_err());
        found.outcome()
    });
    while !stage.path("user").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    pid
}

/// What the tree has open and keeps, of which some belongs to others of the namespace.
struct Things {
    memory: File,
    lost: File,
    leased: File,
}

impl Things {
    fn make(stage: &Stage) -> Self {
        let memory = File::from(memfd_create("memory", MFdFlags::empty()).expect("memfd"));
        std::os::unix::fs::fchown(&memory, Some(1004), Some(6)).expect("chown");
        let path = stage.path("lost");
        let lost =
            File::options().create_new(true).write(true).read(true).open(&path).expect("create");
        std::os::unix::fs::fchown(&lost, Some(8), Some(1001)).expect("chown");
        fs::remove_file(path).expect("remove");
        fs::write(stage.path("kept"), "kept").expect("write");
        chown(stage.path("kept"), Some(1002), Some(3)).expect("chown");
        let leased = lease(stage);
        Self { memory, lost, leased }
    }

    fn lease(&self) -> i32 {
        // SAFETY: the call takes numbers.
        unsafe { libc::fcntl(self.leased.as_raw_fd(), libc::F_GETLEASE) }
    }

    fn owners(&self, stage: &Stage) -> Vec<(u32, u32)> {
        let of = |found: fs::Metadata| (found.uid(), found.gid());
        vec![
            of(self.memory.metadata().expect("stat")),
            of(self.lost.metadata().expect("stat")),
            of(fs::metadata(stage.path("kept")).expect("stat")),
        ]
    }
}

/// A file of somebody else, with a lease of him.
fn lease(stage: &Stage) -> File {
    let path = stage.path("leased");
    fs::write(&path, "leased").expect("write");
    chown(&path, Some(1006), Some(2)).expect("chown");
    let file = File::open(path).expect("open");
    // Of a process that has changed its ids the files in /proc are somebody else's.
    let as_him = |user| nix::unistd::setfsuid(Uid::from_raw(user));
    let us = as_him(1006);
    // SAFETY: the call takes numbers.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    check(taken).expect("lease");
    as_him(us.as_raw());
    nix::sys::prctl::set_dumpable(true).expect("dumpable");
    file
}

fn tree(
    stage: &Stage,
    owned: &[&str],
    with_user: bool,
    more: impl FnOnce(&mut Findings),
) -> Outcome {
    let things = Things::make(stage);
    let child = with_user.then(|| user(stage));
    let (before, owners) = (own(), things.owners(stage));
    let kinds = ["pid", "uts", "ipc", "net", "cgroup", "mnt", "time"];
    let is = || kinds.map(|name| (name, is_owned(name)));
    let of = is();
    let mut found = Findings::default();
    let expected = kinds.map(|name| (name, owned.contains(&name)));
    found.same("whose namespaces are at first", &expected, &of);
    stage.ready_then_wait();
    found.same("what root is", &before, &own());
    found.same("lease", &libc::F_RDLCK, &things.lease());
    found.same("owners", &owners, &things.owners(stage));
    found.same("whose namespaces are", &of, &is());
    found.works("give a file away", chown(stage.path("kept"), Some(1003), Some(4)));
    found.must("nobody of outside", chown(stage.path("kept"), Some(80_000), None).is_err());
    if let Some(child) = child {
        found.same("user", &Ok(WaitStatus::Exited(child, 0)), &waitpid(child, None));
    }
    more(&mut found);
    found.outcome()
}

/// With nothing but the pid namespace that it takes.
pub(crate) fn alone(stage: &Stage) -> Outcome {
    inside(stage, CloneFlags::CLONE_NEWPID, false, || {
        // What is opened when all are there.
        let watched = stage.path("watched");
        fs::create_dir(&watched).expect("mkdir");
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
        inotify.add_watch(&watched, AddWatchFlags::IN_CREATE).expect("watch");
        tree(stage, &["pid"], true, |found| {
            fs::write(watched.join("new"), "").expect("write");
            let seen = inotify.read_events().map(|events| events.len());
            found.same("events", &Ok(1), &seen);
        })
    })
}

/// Nobody may set supplementary groups.
pub(crate) fn denied(stage: &Stage) -> Outcome {
    inside(stage, CloneFlags::CLONE_NEWPID, true, || {
        tree(stage, &["pid"], false, |found| {
            found.must("no supplementary groups", setgroups(&[]).is_err());
        })
    })
}

/// One of its processes is in another one, as sandboxes of browsers have it.
pub(crate) fn nested(stage: &Stage) -> Outcome {
    inside(stage, CloneFlags::CLONE_NEWPID, false, || {
        child(stage, "nested", || {
            unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
            stage.publish("user", "");
            stage.wait();
            Ok(())
        });
        while !stage.path("user").exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        stage.ready_then_wait();
        Ok(())
    })
}

/// In the pid namespace of outside.
pub(crate) fn without_pids(stage: &Stage) -> Outcome {
    inside(stage, CloneFlags::empty(), false, || tree(stage, &[], true, |_| {}))
}

/// With all kinds of namespaces but for mounts.
pub(crate) fn all(stage: &Stage) -> Outcome {
    let others = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    inside(stage, others, false, || {
        nix::unistd::sethostname("inside").expect("host name");
        // SAFETY: these calls take numbers; the structure is the caller's own.
        let (segment, mut desc) = unsafe {
            let segment = libc::shmget(77, 8192, libc::IPC_CREAT | 0o600);
            let mut desc: libc::shmid_ds = std::mem::zeroed();
            check(libc::shmctl(segment, libc::IPC_STAT, &raw mut desc)).expect("stat");
            desc.shm_perm.uid = 1005;
            check(libc::shmctl(segment, libc::IPC_SET, &raw mut desc)).expect("set");
            (segment, desc)
        };
        let (socket, _other) = UnixStream::pair().expect("a pair");
        tree(stage, &["pid", "uts", "ipc", "net", "cgroup"], true, |found| {
            let name = nix::sys::utsname::uname().expect("uname").nodename().to_owned();
            found.same("host name", &std::ffi::OsString::from("inside"), &name);
            found.works("another host name", nix::unistd::sethostname("other"));
            // SAFETY: as above.
            let done = unsafe { libc::shmctl(segment, libc::IPC_STAT, &raw mut desc) };
            found.same("segment", &0, &done);
            found.same("owner of the segment", &1005, &desc.shm_perm.uid);
            found.works("a limit of its own", fs::write("/proc/sys/kernel/shmmni", "99"));
            let peer =
                nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials);
            let peer = peer.map(|peer| (peer.uid(), peer.gid()));
            found.same("who is at the other end", &Ok((0, 0)), &peer);
        })
    })
}

/// With mounts, among them a `proc`, and a root of its own.
pub(crate) fn mounts(stage: &Stage) -> Outcome {
    inside(stage, CloneFlags::CLONE_NEWPID, false, || {
        crate::mounts::enter_root_as(stage, "mounts_inside", MsFlags::MS_SLAVE)
    })
}

/// With a file system in memory that another one hides.
pub(crate) fn covered(stage: &Stage) -> Outcome {
    inside(stage, CloneFlags::CLONE_NEWPID, false, || {
        crate::mounts::enter_root_as(stage, "users_covered_inside", MsFlags::MS_SLAVE)
    })
}

/// It is there still, with what is in it.
pub(crate) fn covered_inside(stage: &Stage) -> Outcome {
    let tmpfs = |name| {
        let (none, kind) = (None::<&str>, Some("tmpfs"));
        mount(Some(name), "/old", kind, MsFlags::empty(), none).expect("mount");
    };
    tmpfs("lower");
    fs::write("/old/file", "covered").expect("write");
    chown("/old/file", Some(1007), Some(5)).expect("chown");
    let attributes = give_attributes("/old/file");
    tmpfs("upper");
    let before = crate::mounts::table();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("mounts", &before, &crate::mounts::table());
    found.must("nothing above", !std::path::Path::new("/old/file").exists());
    found.works("unmount", umount2("/old", MntFlags::empty()));
    found.same("below", &Some("covered".to_owned()), &fs::read_to_string("/old/file").ok());
    found.same("its owner", &Some(1007), &fs::metadata("/old/file").map(|is| is.uid()).ok());
    found.same("who may", &attributes, &attributes_of("/old/file"));
    found.outcome()
}

/// An access list that names a user and a group, and capabilities: who that is counts inside.
fn give_attributes(path: &str) -> Vec<Vec<u8>> {
    let mut list = 2u32.to_le_bytes().to_vec();
    let entries: [(u16, u16, u32); 6] = [
        (1, 6, u32::MAX),
        (2, 6, 1003),
        (4, 4, u32::MAX),
        (8, 4, 7),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ];
    for (tag, may, id) in entries {
        list.extend(tag.to_le_bytes().iter().chain(&may.to_le_bytes()));
        list.extend(id.to_le_bytes());
    }
    // Revision 2 and effective, CAP_NET_BIND_SERVICE alone.
    let words = [0x0200_0001u32, 1 << 10, 0, 0, 0];
    let capabilities = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let file = File::open(path).expect("open");
    let given = vec![capabilities, list];
    for (name, value) in ATTRIBUTES.iter().zip(&given) {
        set_attribute(&file, name, value);
    }
    assert_eq!(attributes_of(path), given);
    given
}

const ATTRIBUTES: [&CStr; 2] = [c"security.capability", c"system.posix_acl_access"];

fn attributes_of(path: &str) -> Vec<Vec<u8>> {
    let file = File::open(path).expect("open");
    ATTRIBUTES.iter().map(|name| attribute(&file, name)).collect()
}
