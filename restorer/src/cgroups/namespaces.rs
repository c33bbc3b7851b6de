//! The roots of cgroup namespaces: which groups are those of a namespace is told by how much of the paths of its tasks
//! is above them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use images::messages::CgroupEntry;
use kernel::cgroup::GroupDirectories;
use kernel::namespaces::new_cgroup;
use kernel::passing;
use kernel::process::{exit_now, fork_any, wait_status};
use kernel::sockets::create_pair;
use kernel::user_namespaces::Inside;
use support::cgroups::{ELSEWHERE, LEAVE};

use super::PROCESSES;
use super::number::number;
use crate::error::Error;
use crate::load::Checkpoint;

/// By the number of a namespace and by hierarchy: the group.
type Roots = BTreeMap<u32, BTreeMap<String, Vec<u8>>>;

/// The roots of the namespaces that processes of the checkpoint are in.
fn roots(checkpoint: &Checkpoint, entry: &CgroupEntry) -> Result<Roots, Error> {
    let mut roots = Roots::new();
    for process in &checkpoint.processes {
        let namespace = checkpoint.namespaces.number(process.pid, "cgroup");
        let (Some(namespace), Some(set)) = (namespace, number(process)) else { continue };
        let of_namespace = roots.entry(namespace).or_default();
        let members = entry.sets.iter().filter(|it| it.id == set).flat_map(|set| &set.ctls);
        for member in members {
            let prefix = member.cgns_prefix.unwrap_or(0) as usize;
            let Some(root) = member.path.get(..prefix).filter(|root| !root.is_empty()) else {
                continue;
            };
            let known = of_namespace.entry(member.name.clone()).or_insert_with(|| root.to_vec());
            if known != root {
                let object = format!("cgroup namespace {namespace}");
                return Err(Error::image(object, "its tasks do not agree on its root"));
            }
        }
    }
    Ok(roots)
}

/// Makes the cgroup namespaces of which the images tell the roots. Where a hierarchy has none, it is where the restore is.
pub(super) fn make(
    checkpoint: &mut Checkpoint,
    entry: &CgroupEntry,
    directories: &GroupDirectories,
) -> Result<(), Error> {
    for (namespace, groups) in roots(checkpoint, entry)? {
        let mut doors = Vec::new();
        for (hierarchy, group) in &groups {
            let object = || format!("control group {hierarchy}:{}", String::from_utf8_lossy(group));
            let directory = directories
                .directory(hierarchy, group)
                .ok_or_else(|| Error::refused(ELSEWHERE.of(0, object())))?;
            let door = directory.join(PROCESSES);
            let doing = format!("open {} ({LEAVE})", door.display());
            let opened = OpenOptions::new().write(true).open(&door);
            doors.push(opened.map_err(Error::kernel(doing))?);
        }
        let roots: Vec<_> = groups.values().map(|group| String::from_utf8_lossy(group)).collect();
        let doing = format!("make a cgroup namespace in {} ({LEAVE})", roots.join(", "));
        let users = checkpoint.namespaces.users().filter(|users| users.owns(namespace));
        let inside = users.map(|users| users.inside(&[])).transpose()?;
        let inside = inside.or_else(|| checkpoint.namespaces.nested_users().inside(namespace));
        let made = make_in(&doors, inside.as_ref()).map_err(Error::kernel(doing))?;
        checkpoint.namespaces.is_made(namespace, "cgroup", made);
    }
    Ok(())
}

/// Makes a namespace whose roots are groups that are entered by these files. The roots are where its maker is: so a
/// process goes there, makes it, hands it over, and ends.
fn make_in(doors: &[File], inside: Option<&Inside<'_>>) -> io::Result<OwnedFd> {
    let (ours, theirs) = create_pair(libc::SOCK_SEQPACKET)?;
    let Some(maker) = fork_any()? else {
        exit_now(match hand_over(doors, inside, &theirs) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        })
    };
    drop(theirs);
    let made = passing::receive(&ours, &mut [0]).map(|fds| fds.into_iter().next());
    let status = wait_status(maker)?;
    match (made, libc::WEXITSTATUS(status)) {
        (Ok(Some(namespace)), _) => Ok(namespace),
        (_, 0) => Err(io::Error::other("the process that was to make it has ended")),
        (_, errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn hand_over(doors: &[File], inside: Option<&Inside<'_>>, channel: &OwnedFd) -> io::Result<()> {
    for mut door in doors {
        door.write_all(b"0")?;
    }
    inside.map_or(Ok(()), |inside| inside.enter(&[]))?;
    passing::send(channel, b".", &[&new_cgroup()?])
}
