//! Open files of network devices of programs (`/dev/net/tun`): which device each is attached to, as a queue of it.
//!
//! A device of a namespace of the tree comes with that ([`crate::namespaces`]). One of the dumper's own namespace stays there,
//! as files do, if it is one that stays without its program.

use std::os::fd::{AsFd, OwnedFd};

use collector::{OpenFile, Process};
use images::messages::{FileEntry, TunLinkEntry, TunfileEntry, fd_type};
use kernel::namespaces::{id, within_network};
use kernel::sockets::is_readable;
use kernel::tun::{self, Device};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem};
use super::survey::Survey;

/// An open file of such a device.
#[derive(Debug)]
pub(super) struct Tun;

impl FileKind for Tun {
    fn types(&self) -> &'static [u32] {
        &[fd_type::TUNF]
    }

    fn is_device(&self, device: u64) -> bool {
        (libc::major(device), libc::minor(device)) == tun::NUMBER
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let (pid, id) = (process.pid, entry.id);
        if survey.context.for_user {
            return Err(Problem::Refused(support::networks::PROGRAM_OF_ROOT));
        }
        // Nothing tells that it is as it was.
        survey.to_keep = false;
        let found = survey.find(pid, file)?;
        let opened = survey.held.borrow(pid, file.fd)?;
        let stat = nix::sys::stat::fstat(&opened).doing("stat")?;
        if !self.is_device(stat.st_rdev) {
            return Err(Problem::Gone);
        }
        let fown = survey.owner(pid, file)?;
        // The position of such a file counts the bytes that have passed; it cannot be set.
        let reg = survey.regular(&found, id, file.flags, 0, fown)?;
        let usual = survey.held.networks.add_process(process);
        let network = survey.held.networks.of_opened(opened.as_fd(), usual)?;
        let ns_id = network.map(|number| number as u32);
        let mut own = TunfileEntry { id, ns_id, ..TunfileEntry::default() };
        if let Some(attached) = tun::attached(&opened).doing("ask for the network device of")? {
            survey.attached(&opened, &attached, network, &mut own)?;
            if let Some(network) = network {
                let key = (network, attached.name);
                survey.held.networks.attached.entry(key).or_default().insert(file.description);
            }
        }
        Ok(FileEntry { r#type: fd_type::TUNF, reg: Some(reg), tunf: Some(own), ..entry })
    }

    /// CRIU has the path in an entry of its own, before it.
    fn in_two(&self, entry: &FileEntry) -> Option<[FileEntry; 2]> {
        let mut rest = entry.clone();
        let reg = rest.reg.take();
        let path = FileEntry { id: entry.id, r#type: fd_type::REG, reg, ..FileEntry::default() };
        Some([path, rest])
    }
}

impl Survey<'_> {
    /// What a file is attached to, and what that is like.
    fn attached(
        &mut self,
        opened: &OwnedFd,
        attached: &tun::Attached,
        network: Option<u64>,
        own: &mut TunfileEntry,
    ) -> Result<(), Problem> {
        let refused = |refusal| Err(Problem::Refused(refusal));
        // Older kernels do not tell where it is by now.
        let place = tun::opened_in(opened).and_then(id).ok();
        let now = tun::device_in(opened).and_then(id).ok();
        if place.is_some() && now.is_some() && place != now {
            return refused(support::networks::PROGRAM_MOVED);
        }
        let name = &attached.name;
        let look = || Ok((Device::find(name)?, tun::offloads(name)?));
        let looked = match network.and_then(|number| self.held.networks.others().get(&number)) {
            Some(namespace) => within_network(&**namespace, look).flatten(),
            None => look(),
        };
        let (device, offloads) = match looked {
            // Renamed, or removed.
            Ok((None, _)) | Err(_) if !self.frozen => return Err(Problem::Gone),
            looked => looked.doing("look at the network device of")?,
        };
        let device = device.ok_or(Problem::Gone)?;
        if network.is_none() && device.flags & tun::PERSISTENT == 0 {
            return refused(support::networks::program_outside(name));
        }
        if device.flags & tun::TAP != 0 && tun::has_filter(opened).doing("ask for the filter of")? {
            return refused(support::networks::PROGRAM_FILTER);
        }
        if self.frozen && is_readable(opened).doing("look for packets in")? {
            self.out.left_behind += 1;
        }
        let id = |id: Option<u32>| id.map_or(-1, u32::cast_signed);
        let of_file = attached.flags & tun::SAID & !(0x1000 | 0x4000);
        let (little, big) = tun::order(opened).doing("ask for the order of bytes of")?;
        own.netdev = Some(name.clone());
        own.detached = (attached.flags & tun::DETACHED != 0).then_some(true);
        own.link = Some(TunLinkEntry {
            flags: device.flags | of_file,
            owner: id(device.owner),
            group: id(device.group),
            vnethdr: tun::header(opened).doing("ask for the header of")?,
            sndbuf: tun::send_buffer(opened).doing("ask for the send buffer of")?,
        });
        own.offloads = Some(offloads);
        own.little_endian = little.then_some(true);
        own.big_endian = big.then_some(true);
        Ok(())
    }
}
