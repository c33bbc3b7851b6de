//! Mounts of mount namespaces that are not those of stasis.

use std::path::Path;

use ids::HostPid;

use crate::unsupported::{Refusal, word};

/// The value of a dump's option that names what is mounted there.
fn named(mount_point: &Path) -> String {
    word(&format!("mnt[{}]:NAME", mount_point.display()))
}

fn external(mount_point: &Path) -> String {
    format!(
        "give --external {} to the dump, and --external 'mnt[NAME]:PATH' to the restore",
        named(mount_point)
    )
}

/// A file system that a restore cannot make.
#[must_use]
pub fn unknown_kind(kind: &str, mount_point: &Path) -> Refusal {
    let kind = word(kind);
    Refusal::new(
        format!("a mount of a file system of kind {kind} cannot be made again"),
        external(mount_point),
    )
}

/// An overlay that cannot be made again, for this reason.
#[must_use]
pub fn overlay(what: &str, mount_point: &Path) -> Refusal {
    Refusal::new(format!("the overlay cannot be made again: {what}"), external(mount_point))
}

/// An overlay of which an engine deletes some layers when the container ends.
#[must_use]
pub fn overlay_for_one_run(mount_point: &Path) -> Refusal {
    Refusal::new(
        "its engine deletes some layers of the overlay with the container (a volume of Podman with :O, or of an image)",
        format!("run the container with a volume that stays, or {}", external(mount_point)),
    )
}

/// A file system of a kind that the caller says a restore can just mount.
#[must_use]
pub fn is_served(mount_point: &Path) -> Refusal {
    Refusal::new(
        "its file system is served by a process (FUSE), which cannot be carried",
        external(mount_point),
    )
}

/// A part of a file system of which the whole is mounted nowhere in the tree's namespaces.
#[must_use]
pub fn unreachable(mount_point: &Path) -> Refusal {
    Refusal::new(
        "a part of a file system is mounted there that is mounted nowhere else in the tree's namespaces",
        external(mount_point),
    )
}

/// The POSIX message queues of an IPC namespace that the root of the tree is not in.
#[must_use]
pub fn queues_of_others(mount_point: &Path) -> Refusal {
    Refusal::new(
        "it shows the POSIX message queues of another IPC namespace than the root of the tree is in, and a restore would mount those \
         of that one",
        external(mount_point),
    )
}

/// A `proc` whose pid namespace is empty; process `inside` is in the mount namespace.
#[must_use]
pub fn of_nobody(mount_point: &Path, inside: HostPid) -> Refusal {
    let place = word(&mount_point.to_string_lossy());
    Refusal::new(
        "it is a /proc of a pid namespace that has ended",
        format!("before the dump: nsenter --mount --target {inside} umount {place}"),
    )
}

/// A `proc` of a pid namespace below that of the root, which shares mounts with others; process `inside` is in the mount namespace.
#[must_use]
pub fn proc_spreads(inside: HostPid) -> Refusal {
    Refusal::new(
        "it is a /proc of a pid namespace below that of the tree's root, and it, or what it is mounted on, shares mounts with \
         others",
        format!("before the dump: nsenter --mount --target {inside} mount --make-rprivate /"),
    )
}

/// Something is mounted that has been deleted since, and is no directory or small file; process `inside` is in the namespace.
#[must_use]
pub fn deleted(mount_point: &Path, inside: HostPid) -> Refusal {
    let place = word(&mount_point.to_string_lossy());
    Refusal::new(
        "what is mounted there has been deleted, and is neither a directory nor a file of 1 MiB at most that can be read",
        format!("before the dump: nsenter --mount --target {inside} umount {place}"),
    )
}

/// A file of a mount of which what is mounted has been deleted.
pub const ON_DELETED: Refusal = Refusal::fixed(
    "it is open by a mount of something that has been deleted since, which a restore makes anew",
    "close it before the checkpoint, or open it by another mount",
);

/// A file system in memory that others use, too.
#[must_use]
pub fn shared_memory(mount_point: &Path) -> Refusal {
    Refusal::new(
        "its file system lives in memory and is mounted outside of the tree's namespaces as well: a restore \
         would cut it in two",
        external(mount_point),
    )
}

/// A file system in memory that cannot be looked into.
pub const HIDDEN: Refusal = Refusal::fixed(
    "its file system lives in memory, and all its mounts are hidden below others, so that its contents cannot be read",
    "unmount what hides it for the time of the dump: nsenter --mount --target PID umount PLACE",
);

/// A mount that receives mounts from outside; process `inside` is in the namespace.
#[must_use]
pub fn master_outside(mount_point: &Path, inside: HostPid) -> Refusal {
    Refusal::new(
        "it receives what is mounted at a place outside of the tree's namespaces",
        format!(
            "before the dump: nsenter --mount --target {inside} mount --make-private {}; or dump and restore with \
             --external 'mnt[]:m'",
            word(&mount_point.to_string_lossy())
        ),
    )
}

/// A mount that gives ids another meaning, or has an option that is not known.
#[must_use]
pub fn unknown_option(option: &str) -> Refusal {
    Refusal::new(
        format!("it is mounted with an option that cannot be carried ({})", word(option)),
        "mount it without that option",
    )
}

/// The file system of a block device that nobody has given.
#[must_use]
pub fn no_device(name: &str) -> Refusal {
    Refusal::new(
        "it was of a block device that the dump left to the outside, and none is given for it",
        format!("give --external {}", word(&format!("dev[{name}]:/dev/DEVICE"))),
    )
}

fn automount_remedy(mount_point: &Path) -> String {
    format!("unmount it before the dump, or {}", external(mount_point))
}

/// An `autofs` that is seen outside of the tree as well.
#[must_use]
pub fn automount_outside(mount_point: &Path) -> Refusal {
    Refusal::new(
        "it is an autofs that others outside of the tree, or in another user namespace, have as well",
        automount_remedy(mount_point),
    )
}

/// An `autofs` that asks nobody of the tree.
#[must_use]
pub fn automount_unread(mount_point: &Path) -> Refusal {
    Refusal::new(
        "it is an autofs, and no process of the tree reads what is to be mounted there (the pipe `pipe_ino` of its options, in the \
         process group `pgrp`)",
        format!(
            "dump the tree of the automounter, or, if that has ended, {}",
            automount_remedy(mount_point)
        ),
    )
}

/// An `autofs` of a pid namespace below that of the root; process `reader` is asked.
#[must_use]
pub fn automount_of_pids(reader: HostPid) -> Refusal {
    Refusal::new(
        format!(
            "it is an autofs, and process {reader}, which is asked, is in a pid namespace below that of the tree's root"
        ),
        "run the automounter in the pid namespace of the root",
    )
}

/// An `autofs` that is set otherwise than is known.
#[must_use]
pub fn automount_options(options: &str, mount_point: &Path) -> Refusal {
    Refusal::new(
        format!("it is an autofs of which not all is known ({})", word(options)),
        automount_remedy(mount_point),
    )
}

/// The table of mounts is not what it was.
pub const CHANGED: Refusal = Refusal::fixed(
    "the mounts of its namespace have changed during the dump",
    "dump it when nothing is being mounted",
);

/// An open file of a mount that is in no namespace any more.
pub const UNMOUNTED: Refusal = Refusal::fixed(
    "it is on a mount that has been taken away (umount -l), or is in a namespace that no process of the tree is in",
    "have the program close it before the dump",
);

/// What inotify and fanotify watch.
pub const WATCHED: Refusal = Refusal::fixed(
    "what it watches is in another mount namespace than that of stasis, and is found there neither by its handle nor by its name",
    "have the program close it before the dump, or, if that namespace has very many files, name a directory that what it watches is \
     below (--irmap-scan-path DIR)",
);

/// A directory tree that is deeper than any path is long.
pub const TOO_DEEP: Refusal = Refusal::fixed(
    "it holds directories so deep that no path leads to them",
    "remove them before the dump",
);

/// A restore: no root directory was given.
pub const NO_ROOT: Refusal = Refusal::fixed(
    "the root file system of the tree's mount namespace is not known here",
    "restore with --root DIRECTORY, where its files are",
);

/// A restore: mounts of parts of a `proc` that are of one group, of which none holds all of the others.
pub const SHARED_WITH_PROC: Refusal = Refusal::fixed(
    "it shares what is mounted below it with a mount of another part of /proc, and with none that holds both",
    "before the dump: nsenter --mount --target PID mount --make-rprivate /proc",
);

/// A restore: what comes from outside was not given.
#[must_use]
pub fn no_external(key: &str) -> Refusal {
    Refusal::new(
        "it comes from outside of the tree's namespaces",
        format!("restore with --external {}", word(&format!("mnt[{key}]:PATH"))),
    )
}

/// A restore: nothing is mounted where it was, below what comes from outside; `key` is the name of it.
#[must_use]
pub fn no_more_below(path: &Path, key: &str) -> Refusal {
    Refusal::new(
        format!(
            "it was mounted below what comes from outside of the tree's namespaces, and nothing is mounted at {} now",
            word(&path.to_string_lossy())
        ),
        format!("mount it there, or restore with --external {}", word(&format!("mnt[{key}]:PATH"))),
    )
}

/// A restore: mounts that were found to come from outside.
pub const NOT_FOUND_OUTSIDE: Refusal = Refusal::fixed(
    "it was found to come from outside of the tree's namespaces",
    "restore with --external 'mnt[]', which takes it from the same path",
);

/// A restore: what is mounted where.
#[must_use]
pub fn no_way(mount_point: &Path) -> Refusal {
    Refusal::new(
        "what is mounted there is nowhere in the images",
        format!("dump again with --external {}", named(mount_point)),
    )
}

/// A restore: what is mounted below something of the machine's, at a place that is not there any more.
pub const PLACE_IS_GONE: Refusal = Refusal::fixed(
    "the directory or file that it was mounted on is not there any more",
    "make it again, or have `stasis criu restore --skip-mnt` leave out what is mounted there",
);

/// A restore: what comes from outside is not where it was.
pub const SOURCE_IS_GONE: Refusal = Refusal::fixed(
    "what it comes from, outside of the tree, is not there any more",
    "make it again, or have `stasis criu restore --skip-mnt` leave out what is mounted there",
);
