//! Files by their names: those that are gone, and those that lead elsewhere.

use std::path::{Component, Path};

use crate::unsupported::{Refusal, word};

/// A deleted file that grows while it is read.
#[must_use]
pub fn deleted_and_grows(limit: u64, bytes: u64) -> Refusal {
    Refusal::new(
        format!(
            "it has been deleted, and has grown beyond {limit} bytes, which is the limit for \
                         what goes into the images"
        ),
        raise(bytes),
    )
}

/// A path that the kernel cannot say from where we are.
pub const OUTSIDE_OF_ROOT: Refusal = Refusal::fixed(
    "its path does not start at our root directory",
    "run stasis in the mount namespace of the target",
);

/// A deleted file that no restore makes.
pub const DELETED_KIND: Refusal = Refusal::fixed(
    "it has been deleted and is of a kind that cannot be made anew (a socket or a block device)",
    "have the program close it before the dump",
);

/// A deleted file that is too large for the images.
#[must_use]
pub fn deleted_and_large(allocated: u64, limit: u64) -> Refusal {
    Refusal::new(
        format!(
            "it has been deleted and holds {allocated} bytes: more than {limit}, which is the limit \
                 for what goes into the images"
        ),
        raise(allocated),
    )
}

/// A deleted file where nothing can be made any more.
#[must_use]
pub fn deleted_and_read_only(why: &str) -> Refusal {
    Refusal::new(
        format!("it has been deleted, and where it was nothing can be made anew: {why}"),
        "make its file system one that can be written to for the dump and the restore (nsenter --mount --target PID mount -o \
         remount,rw MOUNT_POINT), or \
         have the program close it",
    )
}

/// A path under which there is another file.
pub const LEADS_ELSEWHERE: Refusal = Refusal::fixed(
    "its path leads to another file now",
    "undo the mount or the rename that hides it, or have the program close it before the dump",
);

/// Whether a path is more than the root, or than the directory that it counts from.
#[must_use]
pub fn has_parts(path: &Path) -> bool {
    path.components().any(|part| matches!(part, Component::Normal(_)))
}

/// Whether a restore can lead a name to what was its directory before that was hidden by a mount: that is not the root, and no part
/// goes up. (A name alone counts from the directory itself.)
#[must_use]
pub fn can_be_led(name: &Path) -> bool {
    let plain =
        |part| matches!(part, Component::RootDir | Component::CurDir | Component::Normal(_));
    name.components().all(plain) && (name.is_relative() || name.parent().is_some_and(has_parts))
}

/// A path outside of the root directory that was asked for.
#[must_use]
pub fn outside_of_tree(root: &Path) -> Refusal {
    Refusal::new(
        format!("it is not below the root directory {}", root.display()),
        "dump with the root directory of the target, or without one",
    )
}

/// What helps with a deleted file of so many bytes.
fn raise(bytes: u64) -> String {
    let mebibytes = bytes.div_ceil(1 << 20) + 1;
    format!("give --ghost-limit {mebibytes}M, or have the program close it before the dump")
}

/// A file that has lost the name that it had, and has others. `link` leads to it, a path that the shell may
/// have to complete; `needs_directory` says whether what the name was in has gone, too.
#[must_use]
pub fn lost(link: &str, path: &Path, needs_directory: bool) -> Refusal {
    let word = |path: &Path| word(&path.to_string_lossy());
    let directory = match path.parent().filter(|_| needs_directory) {
        Some(parent) => format!("mkdir -p {} && ", word(parent)),
        None => String::new(),
    };
    Refusal::new(
        "its name has been deleted, while the file has other names (hard links)",
        format!(
            "dump with --link-remap, or give it that name again: {directory}ln -L {link} {}",
            word(path)
        ),
    )
}

/// A file that has lost the name that it had, and could be given no other beside it.
#[must_use]
pub fn not_linked(path: &Path, why: &str) -> Refusal {
    let shown = word(&path.to_string_lossy());
    let directory = word(&path.parent().unwrap_or(path).to_string_lossy());
    Refusal::new(
        format!("its name has been deleted, and it cannot be given another one beside that: {why}"),
        format!("have the program close it, or let a link to it be made in {directory} ({shown})"),
    )
}

/// A file of `memfd_secret`.
pub const SECRET_MEMORY: Refusal = Refusal::fixed(
    "memory that nobody but the process may read (memfd_secret)",
    "have the program close and unmap it before the dump",
);

/// A file of hugetlbfs without a name.
pub const HUGE_PAGES: Refusal = Refusal::fixed(
    "memory of hugetlbfs cannot be carried",
    "have the program close and unmap it before the dump",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_go_up_or_begin_at_the_root_are_not_led() {
        let can_be = ["/a/b", "./a/./b", "a/b", "./b", "b"];
        assert!(can_be.iter().all(|name| can_be_led(Path::new(name))));
        let cannot = ["/b", "/./b", "/a/../b/c", "../a/b"];
        assert!(!cannot.iter().any(|name| can_be_led(Path::new(name))));
        assert!(has_parts(Path::new("./a")) && !has_parts(Path::new("./")));
    }

    #[test]
    fn a_name_is_given_again_by_a_command() {
        let remedy = |path: &str, gone| lost("/proc/7/fd/3", Path::new(path), gone).remedy;
        assert_eq!(
            remedy("/a", false),
            "dump with --link-remap, or give it that name again: ln -L /proc/7/fd/3 /a"
        );
        assert_eq!(
            remedy("/a b/c", true),
            "dump with --link-remap, or give it that name again: mkdir -p '/a b' && ln -L /proc/7/fd/3 '/a b/c'"
        );
    }

    #[test]
    fn the_limit_that_helps_is_above_what_there_is() {
        let remedy = deleted_and_large(3 << 20, 1 << 20).remedy;
        assert!(remedy.starts_with("give --ghost-limit 4M,"), "{remedy}");
    }
}
