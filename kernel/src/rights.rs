//! What a user might do to a process by ptrace, asked of the kernel itself.
//!
//! A thread of its own takes on the user's ids for file accesses, keeps no capability in effect, and
//! opens files of `/proc/PID` that the kernel gives to whoever may trace the process. So the answer
//! has all of the kernel's rule: equal real, effective and saved ids, no capabilities that the user
//! has not, nothing that is not dumpable, and what security modules say (Yama lets nobody attach who
//! is no ancestor). The real and effective ids of the thread stay ours, so that the user cannot
//! signal or trace it; what they alone would grant, as the owner of another user namespace, is
//! refused: a process must be in our own user namespace.
//!
//! The answer is of the moment: who acts on it stops the process first, or asks again then.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::CapSet;
use ids::HostPid;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Capabilities by their numbers, as `/proc/PID/status` has them in its sets.
pub mod capability {
    use caps::Capability;

    macro_rules! numbers {
        ($($(#[$doc:meta])* $name:ident = $capability:ident;)*) => {
            $($(#[$doc])* pub const $name: u32 = Capability::$capability as u32;)*
        };
    }

    numbers! {
        /// To open files whatever their permissions.
        DAC_OVERRIDE = CAP_DAC_OVERRIDE;
        /// To read files whatever their permissions.
        DAC_READ_SEARCH = CAP_DAC_READ_SEARCH;
        /// To trace any process.
        SYS_PTRACE = CAP_SYS_PTRACE;
        /// All that has no capability of its own.
        SYS_ADMIN = CAP_SYS_ADMIN;
        /// To look at mapped files, and to choose process numbers.
        CHECKPOINT_RESTORE = CAP_CHECKPOINT_RESTORE;
    }
}

/// The names of the capabilities of a set.
#[must_use]
pub fn names_of(set: u64) -> String {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_unstable_by_key(|capability| *capability as u32);
    let known = all.iter().fold(0u64, |known, capability| known | capability.bitmask());
    let named = all.iter().filter(|capability| set & capability.bitmask() != 0);
    let unknown = (0..64).filter(|bit| set & !known & 1 << bit != 0);
    let names: Vec<String> = named
        .map(ToString::to_string)
        .chain(unknown.map(|bit| format!("capability {bit}")))
        .collect();
    names.join(", ")
}

/// A user, by id and primary group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Reading the process's memory layout and the like.
    Read,
    /// Attaching to it, which gives everything.
    Attach,
}

/// Those of `pids` of which the user has a right, to all their threads.
///
/// # Errors
/// If this process may not take on the user's ids (`CAP_SETUID`, `CAP_SETGID`).
pub fn held(user: User, right: Right, pids: &[HostPid]) -> io::Result<BTreeSet<HostPid>> {
    std::thread::scope(|scope| {
        let ask = || {
            let asker = Asker::become_user(user)?;
            Ok(pids.iter().copied().filter(|pid| asker.has(right, *pid)).collect())
        };
        let thread = std::thread::Builder::new().name("rights".to_owned());
        let asked = thread.spawn_scoped(scope, ask)?.join();
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// This thread, with a user's rights. It is never turned back: the thread ends.
struct Asker {
    namespace: (u64, u64),
}

impl Asker {
    fn become_user(user: User) -> io::Result<Self> {
        let namespace = user_namespace(Path::new("/proc/self"))?;
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        // These two report no error, only what was before.
        setfsgid(gid);
        setfsuid(uid);
        if setfsgid(gid) != gid || setfsuid(uid) != uid {
            let message = format!(
                "take on uid {} and gid {} for file accesses: it takes CAP_SETUID and CAP_SETGID",
                user.uid, user.gid
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        caps::clear(None, CapSet::Effective).map_err(io::Error::other)?;
        Ok(Self { namespace })
    }

    /// Whether the user has the right to every thread of a process; not to what has gone.
    fn has(&self, right: Right, pid: HostPid) -> bool {
        let process = format!("/proc/{pid}");
        let threads = || {
            let listed = fs::read_dir(format!("{process}/task")).ok()?;
            listed.map(|entry| entry.ok().map(|entry| entry.path())).collect::<Option<Vec<_>>>()
        };
        let file = match right {
            Right::Read => "environ",
            Right::Attach => "mem",
        };
        user_namespace(Path::new(&process)).is_ok_and(|namespace| namespace == self.namespace)
            && threads().is_some_and(|threads| {
                !threads.is_empty()
                    && threads.iter().all(|thread| File::open(thread.join(file)).is_ok())
            })
    }
}

/// Names the user namespace of a process; it takes the right to read it.
fn user_namespace(process: &Path) -> io::Result<(u64, u64)> {
    let namespace = fs::metadata(process.join("ns/user"))?;
    Ok((namespace.dev(), namespace.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    const USER: User = User { uid: 65_534, gid: 65_534 };

    struct Sleeper(Child);

    impl Sleeper {
        fn of(uid: u32, gid: u32) -> Self {
            Self(Command::new("sleep").arg("60").uid(uid).gid(gid).spawn().unwrap())
        }

        fn pid(&self) -> HostPid {
            HostPid::from(&self.0)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_user_has_the_rights_to_what_is_his() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let (his, roots) = (Sleeper::of(USER.uid, USER.gid), Sleeper::of(0, 0));
        let other_group = Sleeper::of(USER.uid, 1);
        let other_user = Sleeper::of(1, USER.gid);
        let others = [1, i32::MAX].map(|number| HostPid::new(number).unwrap());
        let own = [his.pid(), roots.pid(), other_group.pid(), other_user.pid()];
        let pids = [&own[..], &others].concat();
        for right in [Right::Read, Right::Attach] {
            let held = held(USER, right, &pids).unwrap();
            assert_eq!(held.into_iter().collect::<Vec<_>>(), [his.pid()], "{right:?}");
        }
        // This thread is as it was.
        assert!(File::open(format!("/proc/{}/environ", roots.pid())).is_ok());
    }

    #[test]
    fn what_is_not_dumpable_is_nobodys() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        // Without the right to read its program, a process is not dumpable.
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let mode = |path, mode| {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(directory.path(), 0o755);
        mode(&program, 0o711);
        let mut command = Command::new(&program);
        let child = command.arg("60").uid(USER.uid).gid(USER.gid).spawn().unwrap();
        let hidden = Sleeper(child);
        assert_eq!(held(USER, Right::Read, &[hidden.pid()]).unwrap(), BTreeSet::new());
    }
}
