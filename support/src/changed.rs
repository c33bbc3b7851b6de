//! Files that are not what they were when a tree was dumped.

use std::path::Path;

use ids::ImagePid;

use crate::unsupported::{Refusal, Unsupported, word};

/// Which remedy there always is.
const TRUST: &str =
    "to give the tasks whatever has the name, restore with `stasis restore --trust-paths`";

const COMPARE_SIZES: &str = "`stasis restore --file-validation filesize` compares nothing but sizes, and \
                             the process may crash";

const PUT_BACK: &str = "put it back, as it was when it was dumped";

/// A file that is no longer there.
#[must_use]
pub fn of_gone(path: &Path) -> Unsupported {
    of_file(path, Refusal::fixed("it is not there any more", PUT_BACK))
}

/// A watched file that is known by its handle alone.
pub const WATCHED_GONE: Refusal = Refusal::fixed(
    "it is not there any more, or on another file system, and the images have no name of it",
    "dump again when the program watches it by a name that it has",
);

fn of_file(path: &Path, refusal: Refusal) -> Unsupported {
    refusal.of(0, format!("file {}", path.display()))
}

/// The mode (`st_mode`) and the size of a file, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Was {
    /// Type and permissions.
    pub mode: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
}

/// What differs between a file, which has this mode and size, and what the images say of it, as far as they
/// do.
#[must_use]
pub fn of_change(path: &Path, was: Was, mode: u32, is: u64) -> Option<Unsupported> {
    let name = word(&path.to_string_lossy());
    let same_kind = was.mode.is_none_or(|was| was & libc::S_IFMT == mode & libc::S_IFMT);
    if let Some(was) = was.size.filter(|was| *was != is && same_kind) {
        let reason = format!("it has {is} bytes, and had {was} when it was dumped");
        let refusal = match is > was {
            true => Refusal::new(
                reason,
                format!("cut off what was added since: truncate -s {was} {name}"),
            ),
            false => Refusal::new(reason, PUT_BACK),
        };
        return Some(of_file(path, refusal));
    }
    let was = was.mode.filter(|was| *was != mode)?;
    let reason = format!("its mode is {mode:o}, and was {was:o} when it was dumped");
    let refusal = match same_kind {
        true => Refusal::new(
            reason,
            format!("give it the mode that it had: chmod {:o} {name}", was & 0o7777),
        ),
        false => Refusal::new(reason, PUT_BACK),
    };
    Some(of_file(path, refusal))
}

/// What tells that a file has other contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents<'a> {
    /// Its build id, if it has one, and that which it had.
    BuildId {
        /// Now.
        now: Option<&'a str>,
        /// Then.
        was: &'a str,
    },
    /// Its checksum.
    Checksum,
    /// Its times: it has been written to.
    Written,
    /// It is another file, of which there is no checksum.
    Replaced,
}

/// The directory that a socket is bound in, if it is another one and its holder may not write there.
#[must_use]
pub fn directory_taken(pid: ImagePid) -> Refusal {
    Refusal::new(
        format!(
            "its directory is another one than when it was dumped, and process {pid} may not make \
                         files in it"
        ),
        format!("put the directory back, or {TRUST}"),
    )
}

/// A path that leads through a link.
#[must_use]
pub fn link_in_the_way(link: &Path) -> Refusal {
    Refusal::new(
        format!(
            "there is a symbolic link, {}, that was not there when it was dumped",
            link.display()
        ),
        format!("take the link away, or, {TRUST}"),
    )
}

/// A file that is not the one that was dumped, of a holder (with these users) that may not have it.
/// `owners` are who owned the file that was dumped, if that is known, and who owns this one.
#[must_use]
pub fn other_file(
    owners: Option<(u32, u32)>,
    pid: ImagePid,
    users: &[u32],
    doing: &str,
) -> Refusal {
    let which = match owners {
        Some((was, is)) if was != is => format!(
            "it is another file than the one that was dumped (it is user {is}'s, and was user {was}'s)"
        ),
        Some(_) => "it is another file than the one that was dumped".to_owned(),
        None => "the images do not say which file it was".to_owned(),
    };
    let users: Vec<_> = users.iter().map(u32::to_string).collect();
    let users = users.join(", ");
    Refusal::new(
        format!("{which}, and process {pid} (user {users}) may not {doing}"),
        format!("put the file back, or give the process the right to it; or, {TRUST}"),
    )
}

/// A mapped file with other contents.
#[must_use]
pub fn other_contents(known: Contents<'_>) -> Refusal {
    let reason = match known {
        Contents::BuildId { now: Some(now), was } => {
            format!("it has the build id {now}, and had {was} when it was dumped")
        }
        Contents::BuildId { now: None, was } => {
            format!("it had the build id {was} when it was dumped")
        }
        Contents::Checksum => "there is something else in it than when it was dumped".to_owned(),
        Contents::Written => {
            "it has been written to since it was dumped, and the images have no checksum of it"
                .to_owned()
        }
        Contents::Replaced => {
            "it is another file than when it was dumped, and the images have no checksum of it"
                .to_owned()
        }
    };
    Refusal::new(
        format!("{reason}, and a process has it in its memory"),
        format!("put back the version that was dumped, or take the risk: {COMPARE_SIZES}"),
    )
}

/// A Unix socket whose path was led away while it was bound.
pub const SOCKET_STRAYED: Refusal = Refusal::fixed(
    "its name led into another directory, by a link, while it was bound",
    "put the directory back, and restore again",
);

/// Something that has the name of a terminal and is none.
pub const NO_TERMINAL: Refusal =
    Refusal::fixed("what has its name is no terminal", "put the device back, and restore again");

/// Something that has the name of a Unix socket's file and is no socket.
pub const NO_SOCKET: Refusal = Refusal::fixed("what has its name is no socket", "move it away");

/// A socket that has the name of another, and may not be removed by those who would have to, as the kernel
/// says.
#[must_use]
pub fn other_socket(error: &str) -> Refusal {
    Refusal::new(
        format!("another socket has its name, and the tasks may not remove it ({error})"),
        "move it away",
    )
}

/// A socket outside of the tree that one of its sockets is to be connected to again, and cannot be, as the
/// kernel says.
#[must_use]
pub fn outside_socket(name: &str, error: &str) -> Refusal {
    Refusal::new(
        format!("it was connected to {name} outside the tree, and cannot be again ({error})"),
        format!("start what listens at {name}, and let the tasks' users write to it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> ImagePid {
        ImagePid::new(number).unwrap()
    }

    #[test]
    fn each_change_has_its_command() {
        let found = |size, mode| {
            let was = Was { mode: Some(libc::S_IFREG | mode), size: Some(size) };
            of_change(Path::new("/a log"), was, libc::S_IFREG | 0o640, 5)
        };
        assert_eq!(found(5, 0o640), None);
        assert!(found(3, 0o640).unwrap().remedy.ends_with(": truncate -s 3 '/a log'"));
        assert!(found(7, 0o640).unwrap().remedy.starts_with("put it back"));
        assert!(found(5, 0o600).unwrap().remedy.ends_with(": chmod 600 '/a log'"));
        let other = Was { mode: Some(libc::S_IFDIR | 0o640), size: None };
        let found = of_change(Path::new("/a"), other, libc::S_IFREG | 0o640, 5).unwrap();
        assert_eq!(found.remedy, PUT_BACK);
        assert!(of_gone(Path::new("/a")).reason.contains("not there"));
    }

    #[test]
    fn who_owned_a_file_is_said_if_it_matters() {
        let reason = |owners| other_file(owners, pid(7), &[3, 4], "run it").reason;
        assert!(reason(Some((0, 1))).contains("(it is user 1's, and was user 0's), and process 7"));
        assert!(reason(Some((1, 1))).ends_with("and process 7 (user 3, 4) may not run it"));
        assert!(reason(None).starts_with("the images do not say"));
    }
}
