//! Open files of network devices of programs (`/dev/net/tun`): opened in their network namespaces, and attached to their
//! devices again.
//!
//! A device of a namespace of the tree has been made with that, to stay until all are attached to it. Any other must be there:
//! what attaches to a device that is not there would make a new one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use images::Checkpoint;
use images::messages::{FileEntry, RegFileEntry, TunLinkEntry, TunfileEntry, fd_type};
use kernel::tun::{self, Device, Settings};

use support::Refusal;

use super::Error;
use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::opening::Opening;
use super::user::User;

/// What the images say of devices, by the numbers of their namespaces and their names.
#[derive(Debug, Default)]
struct Devices(BTreeMap<(u32, String), TunLinkEntry>);

impl Part for Devices {}

/// An open file of such a device.
#[derive(Debug)]
pub(super) struct Tun;

impl FileKind for Tun {
    fn r#type(&self) -> u32 {
        fd_type::TUNF
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let all = &mut beside.of::<Devices>().0;
        for (number, network) in &checkpoint.networks {
            for device in &network.devices {
                all.extend(device.tun.map(|tun| ((*number, device.name.clone()), tun)));
            }
        }
        Ok(())
    }

    fn beyond(&self, file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        Some((support::networks::PROGRAM_OF_ROOT, format!("file {}", file.id)))
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let networks = opening.opener.networks.clone();
        for file in files {
            let entry = file.tunf.as_ref().ok_or_else(|| missing(file))?;
            // The position of such a file counts the bytes that have passed; it cannot be set.
            let path = file.reg.as_ref().map(|path| RegFileEntry { pos: 0, ..path.clone() });
            let path = path.ok_or_else(|| missing(file))?;
            let number = entry.ns_id.or(networks.usual).unwrap_or_default();
            let opened = networks.within(entry.ns_id, || {
                let opened = opening.opener.open(&path)?;
                if let Some(name) = &entry.netdev {
                    let devices = &opening.beside.of::<Devices>().0;
                    let of_namespace = devices.get(&(number, name.clone())).copied();
                    attach(&opened, entry, name, of_namespace)?;
                }
                Ok(opened)
            })?;
            opening.add(file.id, opened)?;
            opening.opener.opened(path.id);
        }
        Ok(())
    }
}

/// Attaches a file to the device `name`, which is that of `of_namespace` if it came with its namespace.
fn attach(
    file: &OwnedFd,
    entry: &TunfileEntry,
    name: &str,
    of_namespace: Option<TunLinkEntry>,
) -> Result<(), Error> {
    let object = || format!("network device {name}");
    let failed = |doing: &str| {
        let operation = format!("{doing} {}, which file {} was attached to", object(), entry.id);
        move |source| Error::Kernel { operation, source }
    };
    let gone = |is_another| {
        let refusal = support::networks::program_gone(name, is_another);
        Err(Error::refused(entry.id, refusal, object()))
    };
    let Some(link) = entry.link.or(of_namespace) else {
        return Err(Error::image(object(), "nothing is said of it"));
    };
    match Device::find(name).map_err(failed("look for"))? {
        None => return gone(false),
        Some(device) if !is_same(&device, &link) => return gone(true),
        Some(_) => {}
    }
    tun::attach(file, name, link.flags, None).map_err(failed("attach to"))?;
    let settings =
        Settings { header: link.vnethdr, send_buffer: link.sndbuf, ..Settings::default() };
    tun::change(file, settings).map_err(failed("set"))?;
    if let Some(offloads) = entry.offloads {
        tun::set_offloads(file, offloads).map_err(failed("set the offloads of"))?;
    }
    let order = (entry.little_endian == Some(true), entry.big_endian == Some(true));
    tun::set_order(file, order).map_err(failed("set the order of bytes of"))?;
    if of_namespace.is_some() && link.flags & tun::PERSISTENT == 0 {
        // It goes with the last file that is attached.
        tun::persist(file, false).map_err(failed("let go of"))?;
    }
    match entry.detached {
        Some(true) => tun::detach_queue(file).map_err(failed("detach a queue of")),
        _ => Ok(()),
    }
}

/// Whether a device is of the kind that it was, and is for those who it was for.
fn is_same(device: &Device, link: &TunLinkEntry) -> bool {
    let kind = tun::TUN | tun::TAP | tun::MULTI_QUEUE;
    let id = |id: i32| Some(id.cast_unsigned()).filter(|_| id != -1);
    device.flags & kind == link.flags & kind
        && (device.owner, device.group) == (id(link.owner), id(link.group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_others_is_another() {
        let link = TunLinkEntry {
            flags: tun::TAP | 0x1000,
            owner: -1,
            group: 7,
            ..TunLinkEntry::default()
        };
        let device = Device { flags: tun::TAP, group: Some(7), ..Device::default() };
        assert!(is_same(&device, &link));
        assert!(!is_same(&Device { owner: Some(0), ..device }, &link));
        assert!(!is_same(&Device { group: None, ..device }, &link));
        assert!(!is_same(&Device { flags: tun::TUN, ..device }, &link));
        assert!(!is_same(&Device { flags: tun::TAP | tun::MULTI_QUEUE, ..device }, &link));
    }
}
