//! What options say of network namespaces: which are not part of a checkpoint, and what stands for them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What has been read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Namespaces, by the kernel's ids, that are left out of a dump, with their names (`--external net[INODE]:NAME`).
    pub external: BTreeMap<u64, String>,
    /// They come back empty (`--empty-ns net`).
    pub empty: bool,
    /// What stands for the other ends of devices (`--external veth[IN]:OUT@BRIDGE`, `--veth-pair IN=OUT`).
    pub devices: BTreeMap<String, String>,
    /// The namespace that a tree joins which had none of its own (`--join-ns net:PID`).
    pub join: Option<PathBuf>,
    /// Settings that cannot be set are left out (`--weak-sysctls`).
    pub weak_settings: bool,
}

impl Networks {
    /// Takes the value of `--external`; whether it is one of those.
    pub(crate) fn take_external(&mut self, value: &OsStr) -> bool {
        let Some((key, rest)) = value.to_str().and_then(|value| value.split_once(':')) else {
            return false;
        };
        let named = |kind: &str| key.strip_prefix(kind)?.strip_prefix('[')?.strip_suffix(']');
        if let Some(inode) = named("net").and_then(|inode| inode.parse().ok()) {
            self.external.insert(inode, rest.to_owned());
            return true;
        }
        let is_device = ["veth", "macvlan"].into_iter().any(|kind| named(kind).is_some());
        if is_device {
            self.devices.insert(key.to_owned(), rest.to_owned());
        }
        is_device
    }

    /// Takes `IN=OUT`.
    pub(crate) fn take_pair(&mut self, value: &OsStr) -> bool {
        let pair = value.to_str().and_then(|value| value.split_once('='));
        let Some((inside, outside)) = pair else { return false };
        self.devices.insert(format!("veth[{inside}]"), outside.to_owned());
        true
    }

    /// Takes `net:PID` or `net:PATH`.
    pub(crate) fn take_joined(&mut self, value: &OsStr) -> bool {
        let place = value.to_str().and_then(|value| value.strip_prefix("net:"));
        let Some(place) = place.filter(|place| !place.is_empty()) else { return false };
        self.join = Some(match place.parse::<u32>() {
            Ok(pid) => format!("/proc/{pid}/ns/net").into(),
            Err(_) => place.into(),
        });
        true
    }

    /// Moves this process into the namespace that it is to join, and returns the one that it was in.
    pub(crate) fn join(&self) -> io::Result<Option<OwnedFd>> {
        let Some(place) = &self.join else { return Ok(None) };
        let joined = || {
            let own = kernel::namespaces::own("net")?;
            kernel::namespaces::enter("net", File::open(place)?)?;
            Ok(Some(own))
        };
        joined().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("--join-ns net:{}: {error}", place.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let mut read = Networks::default();
        assert!(read.take_external(OsStr::new("net[4026532281]:extRootNetNS")));
        assert!(read.take_external(OsStr::new("veth[eth0]:v0@br0")));
        assert!(read.take_external(OsStr::new("macvlan[eth1]:enp3s0")));
        assert!(read.take_pair(OsStr::new("eth2=v2")));
        assert!(read.take_joined(OsStr::new("net:7")));
        for other in ["mnt[/a]:b", "net[x]:y", "net[5]", "unix[7]", "dev[1/2]:x"] {
            assert!(!read.take_external(OsStr::new(other)), "{other}");
        }
        assert_eq!(read.external[&4_026_532_281], "extRootNetNS");
        let pairs = [("macvlan[eth1]", "enp3s0"), ("veth[eth0]", "v0@br0"), ("veth[eth2]", "v2")];
        assert!(read.devices.iter().map(|(a, b)| (&**a, &**b)).eq(pairs));
        assert_eq!(read.join, Some("/proc/7/ns/net".into()));
    }
}
