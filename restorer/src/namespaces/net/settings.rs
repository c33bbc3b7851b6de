//! Settings of a network namespace (`/proc/sys/net`): those of the one that this thread is in.

use std::io;
use std::path::Path;

use images::messages::{NamedSysctl, NetnsEntry, SYSCTL_TEXT, SysctlEntry};
use images::network_settings::{IPV4, IPV6, OF_IPV4, OTHERS, UNIX};

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
    // Some have bounds that are settings themselves. So all are written twice: in the second turn the bounds are in place.
    for entry in &entry.others {
        set_other(entry, weak).ok();
    }
    entry.others.iter().try_for_each(|entry| set_other(entry, weak))
}

/// Sets one that CRIU does not carry.
fn set_other(entry: &NamedSysctl, weak: bool) -> Result<(), Error> {
    if !OTHERS.contains(&&*entry.name) {
        return Err(Error::image(format!("setting {}", entry.name), "it is not one of a network"));
    }
    let path = format!("/proc/sys/net/{}", entry.name);
    if !Path::new(&path).exists() {
        tracing::warn!("{path} was {}, and this kernel has no such setting", entry.value);
        return Ok(());
    }
    let value = SysctlEntry { r#type: SYSCTL_TEXT, iarg: None, sarg: Some(entry.value.clone()) };
    set(&path, &value, weak)
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
            let entry = NamedSysctl { name: name.to_owned(), value: "x".to_owned() };
            let error = set_other(&entry, true).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
