//! Settings of a network namespace (`/proc/sys/net`): those of the one that this thread is in.

use std::io;
use std::path::Path;

use images::messages::{NamedSysctl, NetnsEntry, SYSCTL_TEXT, SysctlEntry};
use images::network_settings::{
    IPV4, IPV6, OF_IPV4, UNIX, device_of, is_below, is_plain, owner_of,
};

use crate::error::Error;

/// This one is written last: writing another setting changes it.
const LAST: &str = "accept_redirects";

/// Sets those of the namespace; `weak` leaves out what cannot be set.
pub(super) fn of_namespace(entry: &NetnsEntry, weak: bool) -> Result<(), Error> {
    // `all` comes first, since writing it changes the settings of devices as well.
    of_device("ipv4", "all", (&entry.all_conf4, &entry.all_conf), weak)?;
    of_device("ipv4", "default", (&entry.def_conf4, &entry.def_conf), weak)?;
    of_device("ipv6", "all", (&entry.all_conf6, &[]), weak)?;
    of_device("ipv6", "default", (&entry.def_conf6, &[]), weak)?;
    for (directory, names, values) in
        [("unix", &UNIX[..], &entry.unix_conf), ("ipv4", &OF_IPV4[..], &entry.ipv4_sysctl)]
    {
        for (name, value) in names.iter().zip(values) {
            set(&format!("/proc/sys/net/{directory}/{name}"), value, weak)?;
        }
    }
    // Devices are born with these.
    let (of_all, _) = in_order(&entry.others)?;
    of_all.into_iter().for_each(|entry| drop(set_other(entry)));
    Ok(())
}

/// Sets those that have no place of their own, when all devices are there.
///
/// Some have bounds that are settings themselves, some are two views of one value, and what is set for all devices is set of each. So
/// all are written again until none changes. What is not as it was in the end is told by [`tell_of_others`].
pub(super) fn others(entry: &NetnsEntry) -> Result<(), Error> {
    const TURNS: usize = 4;
    let (of_all, of_devices) = in_order(&entry.others)?;
    let all = || of_all.iter().chain(&of_devices).copied();
    for _ in 0..TURNS {
        if all().all(is_set) {
            break;
        }
        all().for_each(|entry| drop(set_other(entry)));
    }
    Ok(())
}

/// Tells of those that are not what they were: a kernel may lack what another one had by itself, and some come with a module. Values may
/// be secrets, and are not told.
pub(super) fn tell_of_others(entry: &NetnsEntry) {
    let (known, unknown): (Vec<_>, Vec<_>) =
        entry.others.iter().partition(|entry| is_below(&entry.name));
    // Those of devices go with devices.
    let is_missing = |entry: &&NamedSysctl| {
        device_of(&entry.name).is_none() && !Path::new(&path(entry)).exists()
    };
    let name = |entry: &NamedSysctl| entry.name.clone();
    let missing: Vec<String> = known.iter().copied().filter(is_missing).map(name).collect();
    let unknown: Vec<String> = unknown.into_iter().map(name).collect();
    for (names, what) in [
        (missing, "that this kernel does not have"),
        (unknown, "that are none of a network namespace's own, and are left as they are"),
    ] {
        if !names.is_empty() {
            tracing::warn!("settings of the network {what}: {}", names.join(", "));
        }
    }
    for entry in known.into_iter().filter(|entry| !is_set(entry)) {
        let path = path(entry);
        match set_other(entry) {
            Err(error) => tracing::warn!("{path} is not what it was: {error}"),
            Ok(()) => tracing::warn!("{path} is not what it was"),
        }
    }
}

/// Settings by whether they are of a device; of the others those for all devices come first, then those for new ones.
fn in_order(entries: &[NamedSysctl]) -> Result<(Vec<&NamedSysctl>, Vec<&NamedSysctl>), Error> {
    if let Some(entry) = entries.iter().find(|entry| !is_plain(&entry.name)) {
        return Err(Error::image(format!("setting {}", entry.name), "it is not one of a network"));
    }
    let entries = entries.iter().filter(|entry| is_below(&entry.name));
    let (of_devices, mut of_all): (Vec<_>, Vec<_>) =
        entries.partition(|entry| device_of(&entry.name).is_some());
    of_all.sort_by_key(|entry| (owner_of(&entry.name), &entry.name));
    Ok((of_all, of_devices))
}

fn path(entry: &NamedSysctl) -> String {
    format!("/proc/sys/net/{}", entry.name)
}

/// Whether one is as it should be, or not there.
fn is_set(entry: &NamedSysctl) -> bool {
    match kernel::sysctl::read(path(entry)) {
        Ok(now) => now.split_whitespace().eq(entry.value.split_whitespace()),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Sets one that has no place of its own.
fn set_other(entry: &NamedSysctl) -> io::Result<()> {
    if is_set(entry) { Ok(()) } else { std::fs::write(path(entry), &entry.value) }
}

/// Sets the settings of a device, or of `default` or `all`, from the first list; old images have the second one instead.
pub(super) fn of_device(
    protocol: &str,
    device: &str,
    (values, old): (&[SysctlEntry], &[i32]),
    weak: bool,
) -> Result<(), Error> {
    /// In old images, of a setting that the kernel did not have.
    const NONE: i32 = -1;
    let names: &[&str] = if protocol == "ipv4" { &IPV4 } else { &IPV6 };
    let of_old = |value: &i32| SysctlEntry {
        iarg: Some(*value).filter(|value| *value != NONE),
        ..SysctlEntry::default()
    };
    let old: Vec<SysctlEntry> = old.iter().map(of_old).collect();
    let values = if values.is_empty() { &old } else { values };
    let (last, first): (Vec<_>, Vec<_>) =
        names.iter().zip(values).partition(|(name, _)| **name == LAST);
    for (name, value) in first.into_iter().chain(last) {
        set(&format!("/proc/sys/net/{protocol}/conf/{device}/{name}"), value, weak)?;
    }
    Ok(())
}

/// Sets how a device gets addresses of IPv6 by itself; some ways need the secret that is among its settings.
pub(super) fn address_mode(device: &str, mode: u32, weak: bool) -> Result<(), Error> {
    let value = SysctlEntry { iarg: i32::try_from(mode).ok(), ..SysctlEntry::default() };
    let path = format!("/proc/sys/net/ipv6/conf/{device}/addr_gen_mode");
    // A machine without IPv6 has no such settings.
    if !Path::new(&path).exists() {
        return Ok(());
    }
    set(&path, &value, weak)
}

/// Sets one, if it is not as it should be.
fn set(path: &str, entry: &SysctlEntry, weak: bool) -> Result<(), Error> {
    let value = match entry.r#type {
        SYSCTL_TEXT => entry.sarg.as_deref().map(|text| text.trim().to_owned()),
        _ => entry.iarg.map(|number| number.to_string()),
    };
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(()) };
    match kernel::sysctl::read(path) {
        Ok(now) if now.split_whitespace().eq(value.split_whitespace()) => return Ok(()),
        Err(error) if weak && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    match std::fs::write(path, &value) {
        Err(error) if weak => {
            tracing::warn!("{path} stays as it is: {error}");
            Ok(())
        }
        written => written.map_err(Error::kernel(format!("write {value} to {path}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_settings_of_networks_is_written() {
        for name in ["../kernel/core_pattern", "ipv4/../../kernel/core_pattern", "/etc/passwd"] {
            let others = vec![NamedSysctl { name: name.to_owned(), value: "x".to_owned() }];
            let entry = NetnsEntry { others, ..NetnsEntry::default() };
            let error = super::others(&entry).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_for_all_devices_comes_first() {
        let names = ["ipv4/neigh/br0/locktime", "ipv4/conf/default/x", "ipv4/conf/all/x", "core/x"];
        let entry = |name: &&str| NamedSysctl { name: (*name).to_owned(), value: "1".to_owned() };
        let entries: Vec<NamedSysctl> = names.iter().map(entry).collect();
        let (of_all, of_devices) = in_order(&entries).unwrap();
        let name = |entry: &&NamedSysctl| entry.name.clone();
        assert_eq!(of_all.iter().map(name).collect::<Vec<_>>(), [names[3], names[2], names[1]]);
        assert_eq!(of_devices.iter().map(name).collect::<Vec<_>>(), [names[0]]);
    }
}
