//! What options say of network namespaces: which are not part of a checkpoint, and what stands for them.

use std::collections::BTreeMap;
use std::ffi::OsStr;

/// What has been read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Namespaces, by the kernel's ids, that are left out of a dump, with their names (`--external net[INODE]:NAME`).
    pub external: BTreeMap<u64, String>,
    /// They come back empty (`--empty-ns net`).
    pub empty: bool,
    /// What stands for the other ends of devices (`--external veth[IN]:OUT@BRIDGE`, `--veth-pair IN=OUT`), and
    /// for devices themselves (`--external netdev[IN]:OUT`).
    pub devices: BTreeMap<String, String>,
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
        let is_device = ["veth", "macvlan", "netdev"].into_iter().any(|kind| named(kind).is_some());
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
        assert!(read.take_external(OsStr::new("netdev[eth3]:enp4s0")));
        assert!(read.take_pair(OsStr::new("eth2=v2")));
        for other in ["mnt[/a]:b", "net[x]:y", "net[5]", "unix[7]", "dev[1/2]:x"] {
            assert!(!read.take_external(OsStr::new(other)), "{other}");
        }
        assert_eq!(read.external[&4_026_532_281], "extRootNetNS");
        let pairs = [
            ("macvlan[eth1]", "enp3s0"),
            ("netdev[eth3]", "enp4s0"),
            ("veth[eth0]", "v0@br0"),
            ("veth[eth2]", "v2"),
        ];
        assert!(read.devices.iter().map(|(a, b)| (&**a, &**b)).eq(pairs));
    }
}
