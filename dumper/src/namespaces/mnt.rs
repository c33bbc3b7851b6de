//! Mount namespaces: what is mounted where (mount_namespaces(7)). What is in file systems that live in memory goes into the
//! images beside that, once for all namespaces.

use std::collections::BTreeMap;

use images::id_map::{Id, IdMap, owner_is_known};
use images::messages::{LostMountEntry, MntEntry};
use images::{ImageWriter, file_systems, names};
use kernel::mounts::kernel_device;
use kernel::procfs::Mount;

use super::{Described, Namespace};
use crate::error::Error;
use crate::mounts::{Origin, View};

/// What a mount namespace says of itself.
#[derive(Debug)]
struct Mnt(Vec<MntEntry>);

/// Describes a namespace, which has been looked into.
pub(super) fn read(namespace: &Namespace<'_>) -> Result<Box<dyn Described>, Error> {
    let view = namespace.mounts.get(namespace.id).ok_or_else(|| Error::Process {
        operation: "look into the mount namespace of",
        pid: namespace.member,
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    let ids = namespace.users.ids_of_mounts();
    let mut entries = entries(view);
    let devices = view.mounts.0.iter().map(|mount| mount.device);
    let of_device = |it| Some((kernel_device(it), namespace.mounts.shown_pids(it)?));
    let shown: BTreeMap<u32, u64> = devices.filter_map(of_device).collect();
    for entry in &mut entries {
        entry.options = options(&entry.options, &ids);
        let shown = shown.get(&entry.root_dev).filter(|_| entry.ext_key.is_none());
        entry.pid_ns_id = shown.and_then(|id| namespace.numbers.get(&("pid", *id))).copied();
        if entry.deleted == Some(true) {
            entry.lost = lost(view, entry, &ids).map_err(|source| {
                let operation = "read what is mounted, and has been deleted since, of";
                Error::Process { operation, pid: namespace.member, source }
            })?;
        }
    }
    Ok(Box::new(Mnt(entries)))
}

/// The directory or file that is mounted, if it has been deleted since. A mount that a restore is given is not looked at.
fn lost(view: &View, entry: &MntEntry, ids: &IdMap) -> std::io::Result<Option<LostMountEntry>> {
    let id = entry.mnt_id.cast_signed();
    let is_it = |(mount, origin): &(&Mount, &Option<Origin>)| {
        mount.id == id && *origin == &Some(Origin::Part)
    };
    let Some((mount, _)) = view.mounts.0.iter().zip(&view.origins).find(is_it) else {
        return Ok(None);
    };
    let mut lost = view.read_lost(mount)?;
    ids.enter(&mut lost);
    owner_is_known(lost.uid, lost.gid)?;
    Ok(Some(lost))
}

impl Described for Mnt {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_all(&names::mountpoints(number), &self.0)
    }
}

/// Options of a file system, of which some are ids.
fn options(options: &[u8], ids: &IdMap) -> Vec<u8> {
    let of = |option: &[u8]| {
        let kinds = [(&b"uid="[..], Id::User), (&b"gid="[..], Id::Group)];
        let (name, id, number) = kinds.into_iter().find_map(|(name, id)| {
            let number = std::str::from_utf8(option.strip_prefix(name)?).ok()?;
            Some((name, id, number.parse().ok()?))
        })?;
        let inside = ids.inside(id, number);
        Some([name, inside.to_string().as_bytes()].concat())
    };
    match ids.is_plain() {
        true => options.to_vec(),
        false => {
            let options = options.split(|byte| *byte == b',');
            let inside: Vec<_> =
                options.map(|option| of(option).unwrap_or_else(|| option.to_vec())).collect();
            inside.join(&b',')
        }
    }
}

fn entries(view: &View) -> Vec<MntEntry> {
    let mounts = view.mounts.0.iter().zip(&view.origins);
    mounts.filter_map(|(mount, origin)| Some(entry(mount, origin.as_ref()?))).collect()
}

fn entry(mount: &Mount, origin: &Origin) -> MntEntry {
    let (flags, _) = mount.flags();
    let (sb_flags, options) = mount.file_system_flags();
    let (shared, master) = (mount.shared(), mount.master());
    let mut propagation = 0;
    for (is, flag) in [
        (shared.is_some(), libc::MS_SHARED),
        (master.is_some(), libc::MS_SLAVE),
        (mount.is_unbindable(), libc::MS_UNBINDABLE),
    ] {
        propagation |= if is { flag } else { 0 };
    }
    if propagation == 0 {
        propagation = libc::MS_PRIVATE;
    }
    let kind = mount.kind();
    let is_overlay = kind == "overlay";
    let is_part = is_overlay && !matches!(origin, Origin::Made | Origin::Layered);
    let mut fstype = file_systems::number(&kind);
    // What is none of the numbering is a part of another mount, or what the caller says can be mounted.
    let is_new = matches!(origin, Origin::Made | Origin::Device(_));
    let named = fstype == file_systems::UNKNOWN && is_new;
    if named {
        fstype = file_systems::NAMED;
    }
    let of_device;
    let (ext_key, source) = match origin {
        Origin::Named(name) => (Some(name.clone()), None),
        Origin::Outside { path, .. } => {
            (Some(file_systems::FOUND_OUTSIDE.to_owned()), Some(path.as_os_str()))
        }
        Origin::Device(name) => {
            of_device = format!("dev[{name}]");
            (Some(file_systems::OF_DEVICE.to_owned()), Some(of_device.as_ref()))
        }
        Origin::Root | Origin::Made | Origin::Layered | Origin::Part => (None, None),
    };
    let is_apart = shared.is_some() && matches!(origin, Origin::Outside { is_apart: true, .. });
    let bytes = |text: &std::ffi::OsStr| text.as_encoded_bytes().to_vec();
    let root = bytes(&mount.root);
    let (root, deleted) = match root.strip_suffix(b"//deleted") {
        Some(root) => (root.to_vec(), true),
        None => (root, false),
    };
    MntEntry {
        fstype,
        mnt_id: mount.id.cast_unsigned(),
        root_dev: kernel_device(mount.device),
        parent_mnt_id: mount.parent.cast_unsigned(),
        flags: (flags | propagation) as u32,
        root,
        mountpoint: bytes(&mount.mount_point),
        source: bytes(source.unwrap_or(&mount.source)),
        options: options.join(&b','),
        shared_id: Some(shared.unwrap_or(0)),
        master_id: Some(master.unwrap_or(0)),
        with_plugin: None,
        ext_mount: None,
        fsname: named.then_some(kind),
        internal_sharing: is_apart.then_some(true),
        deleted: deleted.then_some(true),
        sb_flags: Some(sb_flags as u32),
        ext_key,
        pid_ns_id: None,
        lost: None,
        layers_elsewhere: is_part.then_some(true),
        layers_outside: (is_overlay && !is_part).then_some(*origin == Origin::Layered),
    }
}
