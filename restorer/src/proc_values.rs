//! What a task sets of itself by its files in `/proc`.

use images::id_map::{Id, IdMap};
use kernel::procfs::{Autogroup, ProcFile};

use crate::error::Error;
use crate::load::Process;

/// How soon the kernel ends it for want of memory.
pub(crate) const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What can only be set through `/proc`, and only if it differs: setting it may take rights that
/// leaving it alone does not.
pub(crate) fn set(process: &Process, ids: &IdMap) -> Result<(), Error> {
    set_alone(process, ids)?;
    set_of_session(process)
}

fn set_alone(process: &Process, ids: &IdMap) -> Result<(), Error> {
    let core = &process.core;
    if let Some(adjustment) = core.oom_score_adj {
        write_if_other(OOM_SCORE, &adjustment.to_string())?;
    }
    if let Some(uid) = core.loginuid {
        // It is called there as in the namespace of who opens the file; who has no number, as nobody.
        write_login(ids.inside(Id::User, uid))?;
    }
    if let Some(filter) = core.core_dump_filter {
        let path = "/proc/self/coredump_filter";
        std::fs::write(path, format!("{filter:#x}"))
            .map_err(Error::kernel(format!("write {filter:#x} to {path}")))?;
    }
    Ok(())
}

/// Sets, in a process that passes, what the one has that it makes in a user namespace, where nobody may set it.
pub(crate) fn pass_on(process: &Process) -> Result<(), Error> {
    set_alone(process, &IdMap::default())
}

/// What a process sets as the leader of its session.
pub(crate) fn set_of_session(process: &Process) -> Result<(), Error> {
    // The leader of a session has begun a new scheduling group with it; that of a session outside
    // the tree is not ours.
    match process.core.autogroup_nice {
        Some(nice) if process.sid == Some(process.pid) => autogroup(nice),
        _ => Ok(()),
    }
}

/// Gives the session's scheduling group its nice value.
fn autogroup(nice: i32) -> Result<(), Error> {
    let path = "/proc/self/autogroup";
    let Ok(text) = std::fs::read(path) else {
        // Sessions have no groups here: then the value would have no effect.
        return Ok(());
    };
    if Autogroup::parse(&text).is_ok_and(|group| group.nice == nice) {
        return Ok(());
    }
    std::fs::write(path, nice.to_string()).map_err(Error::kernel(format!("write {nice} to {path}")))
}

/// Writes a login user, who is called as in the own user namespace.
pub(crate) fn write_login(user: u32) -> Result<(), Error> {
    write_if_other("/proc/self/loginuid", &user.to_string())
}

pub(crate) fn write_if_other(path: &str, wanted: &str) -> Result<(), Error> {
    match std::fs::read_to_string(path) {
        Ok(current) if current.trim_end() == wanted => Ok(()),
        // A kernel without audit has no login uid: then nobody had one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => {
            std::fs::write(path, wanted).map_err(Error::kernel(format!("write {wanted} to {path}")))
        }
    }
}
