//! Who holds which file of the images, with which rights. Pure.

use std::collections::{BTreeMap, BTreeSet};

use images::id_map::IdMap;
use images::messages::CredsEntry;
use kernel::credentials::Credentials;

use crate::files::Holders;
use crate::load::{Body, Checkpoint, Process, Thread, capability_set};

/// Everybody's files, by the images; `ids` are those of the user namespace.
pub(crate) fn holders(checkpoint: &Checkpoint, ids: &IdMap) -> Holders {
    let mut holders = Holders::default();
    for (process, body) in checkpoint.living() {
        let credentials = body.threads.iter().filter_map(|thread| of_thread(thread, ids));
        holders.add(process.pid, credentials, body.mm.exe_file_id, files(checkpoint, body));
    }
    holders
}

/// The rights of a process's threads.
pub(crate) fn of_threads(body: &Body, ids: &IdMap) -> BTreeSet<Credentials> {
    body.threads.iter().filter_map(|thread| of_thread(thread, ids)).collect()
}

fn of_thread(thread: &Thread, ids: &IdMap) -> Option<Credentials> {
    let mut creds = thread.core.creds.clone()?;
    ids.leave(&mut creds);
    // A capability in a user namespace is none outside.
    let effective = if ids.is_plain() { capability_set(&creds.cap_eff) } else { 0 };
    Some(Credentials { effective, ..credentials(&creds) })
}

/// The supplementary groups of the first task, as they are called outside.
pub(crate) fn groups_of_first(checkpoint: &Checkpoint, ids: &IdMap) -> Vec<u32> {
    let first = checkpoint.living().next().and_then(|(_, body)| body.threads.first());
    let credentials = first.and_then(|thread| of_thread(thread, ids));
    credentials.map(|credentials| credentials.supplementary).unwrap_or_default()
}

/// The supplementary groups of a process whose ids are those of outside.
pub(crate) fn groups_around(process: &Process) -> Vec<u32> {
    let leader = process.body.as_ref().and_then(|body| body.threads.first());
    let creds = leader.and_then(|leader| leader.core.creds.as_ref());
    creds.map(|creds| creds.groups.clone()).unwrap_or_default()
}

fn credentials(creds: &CredsEntry) -> Credentials {
    Credentials {
        users: [creds.uid, creds.euid, creds.suid, creds.fsuid],
        groups: [creds.gid, creds.egid, creds.sgid, creds.fsgid],
        supplementary: creds.groups.clone(),
        effective: 0,
    }
}

/// The files of a process: its descriptors', with what is on its way to these and what they refer to, its
/// mappings' and directories. With each the descriptor that it is, if it is one.
fn files<'a>(
    checkpoint: &'a Checkpoint,
    body: &'a Body,
) -> impl Iterator<Item = (u32, Option<u32>)> + 'a {
    let descriptors = checkpoint.files.tables.get(&body.ids.files_id).into_iter().flatten();
    let ids = checkpoint.files.with_sent(descriptors.clone().map(|descriptor| descriptor.id));
    let numbers: BTreeMap<u32, u32> =
        descriptors.rev().map(|descriptor| (descriptor.id, descriptor.fd)).collect();
    let opened = ids.into_iter().flat_map(move |id| {
        let number = numbers.get(&id).copied();
        let path = checkpoint.files.files.get(&id).and_then(|file| file.body()?.path());
        [Some((id, number)), path.map(|path| (path, number))]
    });
    opened.flatten().chain(without_descriptors(checkpoint, body).map(|id| (id, None)))
}

/// The files of a process's mappings, and its directories.
fn without_descriptors<'a>(
    checkpoint: &'a Checkpoint,
    body: &'a Body,
) -> impl Iterator<Item = u32> + 'a {
    let mapped = checkpoint.mappings(body).iter().filter(|mapping| mapping.kind.is_of_file());
    let mapped = mapped.filter_map(|mapping| u32::try_from(mapping.vma.shmid).ok());
    mapped.chain([body.fs.cwd_id, body.fs.root_id])
}

/// Files that processes have otherwise than by descriptors.
pub(crate) fn lasting(checkpoint: &Checkpoint) -> BTreeSet<u32> {
    let living = checkpoint.living();
    let files = living
        .flat_map(|(_, body)| without_descriptors(checkpoint, body).chain([body.mm.exe_file_id]));
    files.collect()
}
